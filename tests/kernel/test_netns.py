"""Namespaces: identity, entering, and what is left when something goes wrong half way."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from netd.errors import AlreadyExists, Invalid, KernelError, NotFound
from netd.kernel import netns
from tests.descriptors import descriptors

Shell = Callable[[str], str]


def own() -> tuple[int, int]:
    found = Path(netns.OWN).stat()
    return found.st_dev, found.st_ino


async def test_a_new_namespace_has_a_working_loopback(tmp_path: Path) -> None:
    made = await netns.create(tmp_path / "netns", "web")
    assert (made.device, made.inode) != own()

    def talk_to_myself() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            probe.sendto(b"hello", probe.getsockname())
            return probe.recv(16)

    assert await netns.inside(made, talk_to_myself) == b"hello"
    netns.delete(Path(made.path))


async def test_work_inside_never_changes_who_asked_for_it(tmp_path: Path) -> None:
    made = await netns.create(tmp_path / "netns", "web")
    before = own()
    assert await netns.inside(made, own) == (made.device, made.inode)
    assert own() == before
    assert await asyncio.to_thread(own) == before
    netns.delete(Path(made.path))


async def test_a_socket_opened_inside_works_outside(tmp_path: Path) -> None:
    made = await netns.create(tmp_path / "netns", "web")
    opened = await netns.inside(made, lambda: socket.create_server(("127.0.0.1", 0)))
    with opened:
        port = opened.getsockname()[1]

        def connect() -> None:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()

        await netns.inside(made, connect)
        with pytest.raises(ConnectionRefusedError):
            connect()
    netns.delete(Path(made.path))


async def test_what_work_raises_arrives(tmp_path: Path) -> None:
    made = await netns.create(tmp_path / "netns", "web")

    def fail() -> None:
        raise ZeroDivisionError("inside")

    with pytest.raises(ZeroDivisionError, match="inside"):
        await netns.inside(made, fail)
    with pytest.raises(ZeroDivisionError, match="inside"):
        netns.blocking(fail, "blocking")
    netns.delete(Path(made.path))


async def test_a_cancelled_caller_waits_for_the_work_to_end(tmp_path: Path) -> None:
    made = await netns.create(tmp_path / "netns", "web")
    entered, finish, finished = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        finish.wait(5)
        finished.set()

    async with asyncio.TaskGroup() as group:
        caller = group.create_task(netns.inside(made, work))
        await asyncio.to_thread(entered.wait, 5)
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
        finish.set()
        await asyncio.wait([caller])
    assert caller.cancelled()
    assert finished.is_set()
    netns.delete(Path(made.path))


@pytest.mark.parametrize("label", ["", "..", "a/b", "/etc/passwd", ".hidden", "x" * 200, "a b", "a\0b"])
async def test_a_label_that_cannot_be_a_file_name_is_refused(tmp_path: Path, label: str) -> None:
    with pytest.raises(Invalid, match="label"):
        await netns.create(tmp_path / "netns", label)
    assert not (tmp_path / "netns").exists()


async def test_a_creation_that_died_before_its_mount_is_no_obstacle(tmp_path: Path) -> None:
    directory = tmp_path / "netns"
    directory.mkdir()
    (directory / "web").touch(mode=0o444)
    made = await netns.create(directory, "web")
    assert netns.alive(made)
    with pytest.raises(AlreadyExists):
        await netns.create(directory, "web")
    assert netns.alive(made)
    netns.delete(Path(made.path))


async def test_a_file_of_somebody_elses_is_not_deleted(tmp_path: Path) -> None:
    directory = tmp_path / "netns"
    directory.mkdir()
    (directory / "web").write_text("precious")
    with pytest.raises(AlreadyExists):
        await netns.create(directory, "web")
    assert (directory / "web").read_text() == "precious"
    (directory / "web").unlink()


async def test_a_creation_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise KernelError(12, "no memory")

    monkeypatch.setattr("netd.kernel.fastnl.link_change", refuse)
    with pytest.raises(KernelError, match="no memory"):
        await netns.create(tmp_path / "netns", "web")
    assert list((tmp_path / "netns").iterdir()) == []


async def test_mounted_twice_it_is_still_let_go(tmp_path: Path, sh: Shell) -> None:
    made = await netns.create(tmp_path / "netns", "web")
    sh(f"mount --bind {made.path} {made.path}")
    netns.delete(Path(made.path))
    assert not netns.alive(made)
    assert not Path(made.path).exists()


async def test_letting_go_while_somebody_is_inside(tmp_path: Path) -> None:
    made = await netns.create(tmp_path / "netns", "web")
    inside = await asyncio.create_subprocess_exec(
        "nsenter", f"--net={made.path}", "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert inside.stdin is not None
    assert inside.stdout is not None
    inside.stdin.write(b"x")
    assert await inside.stdout.read(1) == b"x"
    netns.delete(Path(made.path))
    assert not Path(made.path).exists()
    same = replace(made, path=f"/proc/{inside.pid}/ns/net")
    assert netns.alive(same), "the process keeps its namespace, and it is found by its path in /proc"
    await inside.communicate(b"")


async def test_the_hosts_own_namespace_is_refused() -> None:
    for path in (netns.OWN, f"/proc/self/task/{threading.get_native_id()}/ns/net"):
        with pytest.raises(Invalid, match="host's own"):
            netns.identify(path, "web")


async def test_what_is_no_network_namespace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for path in ("/proc/thread-self/ns/mnt", str(tmp_path / "file"), str(tmp_path), str(tmp_path / "fifo")):
        with pytest.raises(Invalid, match="not a network namespace"):
            netns.identify(path, "web")
    for path in (str(tmp_path / "nothing"), str(tmp_path / "file" / "below"), "/proc/999999999/ns/net"):
        with pytest.raises(NotFound, match="gone"):
            netns.identify(path, "web")


async def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    made = await netns.create(tmp_path / "netns", "web")
    before = descriptors()
    for _ in range(20):
        await netns.inside(made, own)
        netns.identify(made.path, "web")
        assert netns.alive(made)
        assert not netns.alive(replace(made, inode=1))
        with pytest.raises(NotFound):
            await netns.inside(replace(made, inode=1), own)
        with pytest.raises(Invalid):
            netns.identify("/proc/thread-self/ns/mnt", "web")
    assert sorted(descriptors()) == before
    netns.delete(Path(made.path))


async def test_one_that_has_the_inode_of_another_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives the lowest inode that is free, so this is what a new namespace at an old path is."""
    made = await netns.create(tmp_path / "netns", "web")
    assert made.cookie
    assert netns.alive(made)
    before = replace(made, cookie=made.cookie + 1)
    assert not netns.alive(before)
    with pytest.raises(NotFound, match="another one that has its inode"):
        await netns.inside(before, own)
    assert netns.alive(replace(made, cookie=0)), "a record from before cookies were written down"
    # A kernel before 6.18 has no such ioctl; a socket inside says the same.
    monkeypatch.setattr(netns, "NS_GET_ID", 0xB7FF)
    assert netns.identify(made.path, "web").cookie == made.cookie
    assert not netns.alive(before)
    netns.delete(Path(made.path))
