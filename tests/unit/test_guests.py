"""Containers that share another's network: whose files they have, how long, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from netd.errors import InUse, Invalid, NotFound
from netd.launch import Attachment
from netd.model import NetworkRequest, Want
from tests.unit.house import FRONT, House, run

GUEST = (Attachment(network="container:web"),)


def file(house: House, id: str, name: str) -> str:
    return (house.runtime.directory(id) / name).read_text()


def test_a_guest_has_the_others_namespace_name_and_files(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        web = await it.run("web", networks=FRONT, hosts={"db": "10.9.9.9"})
        guest = await it.run("guest", networks=GUEST)
        assert it.runtime.specs[guest].netns == it.runtime.specs[web].netns == "/run/netd/netns/web"
        assert it.runtime.specs[guest].netns_inode == it.runtime.specs[web].netns_inode
        assert it.containers.find("guest").hostname == it.containers.find("web").hostname
        for name in ("hosts", "hostname", "resolv.conf"):
            assert file(it, guest, name) == file(it, web, name)
        assert "10.9.9.9\tdb" in file(it, guest, "hosts")
        assert set(it.engine.view.sandboxes) == {web}

        await it.engine.create_network(NetworkRequest(name="back"))
        before = file(it, guest, "resolv.conf")
        await it.containers.connect("web", Want(network="back"))
        assert file(it, guest, "resolv.conf") == file(it, web, "resolv.conf") != before

        second = await it.run("second", networks=(Attachment(network="container:guest"),))
        assert it.containers.find("second").shares == web
        for ref in ("guest", "second"):
            with pytest.raises(InUse, match="--network container:"):
                await it.containers.connect(ref, Want(network="back"))
        for id in (second, guest):
            it.runtime.finish(id, 0)
            await it.containers.wait(id)
        assert set(it.engine.view.sandboxes) == {web}, "what a guest leaves behind is not its own"
        assert list(it.kernel.namespaces) == ["web"]
        for ref in ("second", "guest", "web"):
            await it.containers.remove(ref, force=True)
        assert it.is_empty()

    run(tmp_path, story)


def test_a_guest_outlives_the_other_and_a_restart(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        web = await it.run("web", networks=FRONT)
        await it.run("guest", networks=GUEST)
        it.runtime.finish(web, 0)
        await it.containers.wait("web")
        assert it.containers.find("guest").state == "running"
        with pytest.raises(InUse, match="container 'guest' is in the network of one that has ended"):
            await it.run("late", networks=(Attachment(network="container:guest"),))
        await it.containers.remove("web", force=False)
        await it.restart()
        assert it.containers.find("guest").state == "running"
        await it.containers.remove("guest", force=True)
        assert it.is_empty()

    run(tmp_path, story)


def test_who_cannot_be_joined(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        with pytest.raises(NotFound, match="container 'web' does not exist"):
            await it.run("guest", networks=GUEST)
        web = await it.run("web", networks=FRONT)
        it.runtime.finish(web, 0)
        await it.containers.wait("web")
        with pytest.raises(InUse, match="container 'web' is not running"):
            await it.run("guest", networks=GUEST)
        await it.run("bare", networks=(Attachment(network="host"),))
        with pytest.raises(Invalid, match="'bare' is in the host's own network: use --network host"):
            await it.run("guest", networks=(Attachment(network="container:bare"),))
        assert [record.name for record in it.containers.list(all=True)] == ["bare", "web"]
        for ref in ("web", "bare"):
            await it.containers.remove(ref, force=True)
        assert it.is_empty()

    run(tmp_path, story)


def test_a_guest_that_cannot_be_made_leaves_the_other_alone(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        web = await it.run("web", networks=FRONT)
        with pytest.raises(Invalid, match="nowhere"):
            await it.run("guest", networks=GUEST, rootfs="/nowhere")
        assert set(it.engine.view.sandboxes) == {web}
        assert list(it.kernel.namespaces) == ["web"]
        await asyncio.sleep(0)
        await it.containers.remove("web", force=True)
        assert it.is_empty()

    run(tmp_path, story)
