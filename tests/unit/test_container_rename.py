"""A container that is called otherwise, while it runs, when it has ended, and when things go wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from netd.errors import AlreadyExists, Exhausted, InUse, Invalid, NotFound
from netd.launch import Attachment
from netd.registry import Record
from tests.unit.house import FRONT, House, run
from tests.unit.paper import PaperStore


def test_a_container_is_renamed_running_or_ended(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        id = await it.run(networks=FRONT)
        hosts = it.runtime.directory(id) / "hosts"
        assert f"\t{id[:12]} web\n" in hosts.read_text()
        assert (await it.containers.rename("web", "shop")).name == "shop"
        assert f"\t{id[:12]} shop\n" in hosts.read_text()
        assert "web" not in hosts.read_text()
        assert it.engine.view.sandboxes[id].name == "shop"
        assert it.containers.find("shop").hostname == id[:12]
        with pytest.raises(NotFound):
            it.containers.find("web")

        # The name is free at once, and what the renamed one still holds is not in the way.
        other = await it.run("web", networks=FRONT)
        assert it.containers.find("web").id == other
        await it.restart()
        assert {record.name for record in it.containers.list(all=False)} == {"shop", "web"}
        await it.containers.remove("web", force=True)
        assert len(it.kernel.namespaces) == 1

        await it.containers.stop("shop", 0)
        assert (await it.containers.rename("shop", "late")).state == "exited"
        await it.restart()
        await it.containers.remove("late", force=False)
        assert it.is_empty()

    run(tmp_path, story)


def test_a_rename_is_told_and_the_end_has_the_new_name(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        id = await it.run(networks=FRONT)
        await it.containers.rename(id[:6], "shop")
        await it.containers.stop("shop", 0)
        assert it.happened() == [("start", "web"), ("rename", "shop"), ("exit", "shop")]
        (told,) = [event for event in it.watcher._unread if event.action == "rename"]
        assert (told.id, told.attributes) == (id, {"old": "web"})

    run(tmp_path, story)


@pytest.mark.parametrize("mode", ["none", "host"])
def test_a_container_without_networks_is_renamed_too(tmp_path: Path, mode: str) -> None:
    async def story(it: House) -> None:
        await it.run(networks=(Attachment(network=mode),))
        await it.containers.rename("web", "shop")
        await it.restart()
        assert it.containers.find("shop").state == "running"

    run(tmp_path, story)


def test_a_name_that_cannot_be_had_changes_nothing(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        id = await it.run(networks=FRONT)
        await it.run("db", networks=FRONT)
        before = dict(it.store.records)
        for name, error, complaint in (
            ("db", AlreadyExists, "'db' is taken"),
            ("web", AlreadyExists, "'web' is taken"),
            ("a b", Invalid, "'a b' is not valid"),
        ):
            with pytest.raises(error, match=complaint):
                await it.containers.rename("web", name)
        with pytest.raises(NotFound, match="'nobody'"):
            await it.containers.rename("nobody", "shop")
        it.engine.failing["rename"] = Exhausted("no memory")
        with pytest.raises(Exhausted):
            await it.containers.rename("web", "shop")
        assert it.store.records == before
        assert it.containers.find("web").id == id
        await it.run("shop", networks=FRONT)  # nobody holds it

    run(tmp_path, story)


def test_what_is_being_made_or_removed_is_not_renamed(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        it.runtime.hold("run")
        async with asyncio.TaskGroup() as group:
            making = group.create_task(it.run(networks=FRONT))
            await it.runtime.reached["run"].wait()
            with pytest.raises(InUse, match="'web' is still being made"):
                await it.containers.rename("web", "shop")
            it.runtime.holding.pop("run").set()
            await making
        it.runtime.hold("remove")
        removing = asyncio.gather(it.containers.remove("web", force=True))
        await it.runtime.reached["remove"].wait()
        renaming = asyncio.gather(it.containers.rename("web", "shop"), return_exceptions=True)
        await asyncio.sleep(0)
        it.runtime.holding.pop("remove").set()
        await removing
        (refusal,) = await renaming
        assert isinstance(refusal, InUse)
        assert "'web' is being removed" in str(refusal)
        assert it.is_empty()

    run(tmp_path, story)


def test_a_daemon_that_died_before_it_wrote_the_files_is_made_up_for(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        id = await it.run(networks=FRONT)
        hosts = it.runtime.directory(id) / "hosts"
        old = hosts.read_text()
        await it.containers.rename("web", "shop")
        new = hosts.read_text()
        hosts.write_text(old)
        await it.restart()
        assert hosts.read_text() == new
        hosts.write_text(new + "127.0.0.9\tmine\n")  # what the container adds is its own
        await it.restart()
        assert "mine" in hosts.read_text()

    run(tmp_path, story)


def test_a_half_made_container_is_undone_beside_one_that_had_its_name(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        alive = await it.run(networks=FRONT)
        await it.containers.rename("web", "shop")
        it.runtime.hold("create")
        abandoned = asyncio.ensure_future(it.run(networks=FRONT))  # noqa: TID251 (held by this test)
        await it.runtime.reached["create"].wait()
        early = {
            key: msgspec.msgpack.encode(msgspec.structs.replace(record, netns=None))
            if (record := msgspec.msgpack.decode(raw, type=Record)).state == "created"
            else raw
            for key, raw in it.store.records.items()
        }
        it.store = PaperStore(early)
        del it.runtime.holding["create"]
        assert len(it.kernel.namespaces) == 2
        await it.crash()
        assert [record.name for record in it.containers.list(all=True)] == ["shop"]
        netns = it.containers.find("shop").netns
        assert netns is not None
        assert list(it.kernel.namespaces.values()) == [netns]
        assert list(it.engine.view.sandboxes) == [alive]
        abandoned.cancel()

    run(tmp_path, story)
