"""The socket and the spool, with verbs that are played; frames as the real entrypoint makes them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
import struct
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from netd import cni_server
from netd.cni.spec import Call
from netd.cni_server import CniServer
from netd.errors import InUse
from netd.tasks import spawn
from tests.descriptors import descriptors
from tests.unit.host import until

ENTRYPOINT = Path(__file__).parents[2] / "cni" / "netd_cni" / "main.py"
CONFIG = b'{"cniVersion": "0.4.0", "name": "front", "type": "netd"}'
POD = {"CNI_CONTAINERID": "pod1", "CNI_NETNS": "/proc/self/ns/net", "CNI_IFNAME": "eth0"}


class FakeVerbs:
    """Remembers calls and answers as told; an exception is raised."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.reply: bytes | Exception = b"answer\n"
        self.release: asyncio.Event | None = None

    async def answer(self, call: Call) -> bytes:
        self.calls.append(call)
        if self.release:
            await self.release.wait()
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    async def sweep(self) -> None:
        pass


class House:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.verbs = FakeVerbs()
        self.path = directory / "run" / "cni.sock"
        self.server = CniServer(self.verbs, self.path, directory / "state")  # type: ignore[arg-type]

    def entrypoint(self, command: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        environment = {
            **POD,
            "CNI_COMMAND": command,
            "NETD_RUN_DIR": str(self.path.parent),
            "NETD_STATE_DIR": str(self.directory / "state"),
            **variables,
        }
        argv = ["python3", "-I", "-S", str(ENTRYPOINT)]
        return subprocess.run(
            argv, input=CONFIG, env={**os.environ, **environment}, capture_output=True, timeout=30
        )

    async def ask(self, command: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        return await asyncio.to_thread(self.entrypoint, command, **variables)

    def spooled(self) -> list[str]:
        return sorted(each.suffix for each in (self.directory / "state" / "cni-spool").glob("*"))


Story = Callable[[House], Awaitable[None]]


def tell(directory: Path, story: Story, *, started: bool = True) -> None:
    (directory / "run").mkdir()

    async def whole() -> None:
        house = House(directory)
        if started:
            await house.server.start()
        try:
            await story(house)
        finally:
            await house.server.stop(2.0)

    asyncio.run(whole())


def test_a_call_arrives_with_everything_and_is_answered(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        done = await it.ask("ADD", CNI_ARGS="K8S_POD_NAME=web", CNI_PATH="/a:/b")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"answer\n", b"")
        [call] = it.verbs.calls
        assert (call.command, call.sandbox, call.path) == ("ADD", "pod1/eth0", ("/a", "/b"))
        assert (call.config, call.args) == (CONFIG, {"K8S_POD_NAME": "web"})
        own = Path("/proc/self/ns/net").stat()
        assert call.namespace == (own.st_dev, own.st_ino)

    tell(tmp_path, story)


def test_what_is_no_namespace_has_no_identity(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        await it.ask("DEL", CNI_NETNS="/dev/null")
        await it.ask("DEL", CNI_NETNS="")
        assert [call.namespace for call in it.verbs.calls] == [None, None]

    tell(tmp_path, story)


def test_a_refusal_has_its_code_in_the_configurations_version(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        it.verbs.reply = InUse("somebody\nuses it")
        done = await it.ask("ADD")
        assert done.returncode == 1
        assert json.loads(done.stdout) == {
            "cniVersion": "0.4.0",
            "code": InUse.cni,
            "msg": "somebody uses it",
        }

    tell(tmp_path, story)


def test_a_defect_is_logged_and_its_inside_kept_inside(tmp_path: Path, caplog: Any) -> None:
    async def story(it: House) -> None:
        it.verbs.reply = RuntimeError("the inside")
        found = json.loads((await it.ask("ADD")).stdout)
        assert found["code"] == 100
        assert "inside" not in found["msg"]

    tell(tmp_path, story)
    assert "RuntimeError: the inside" in caplog.text


def test_what_is_used_up_is_told_and_no_defect(tmp_path: Path, caplog: Any) -> None:
    async def story(it: House) -> None:
        it.verbs.reply = OSError(errno.EMFILE, "no descriptor")
        found = json.loads((await it.ask("ADD")).stdout)
        assert found["code"] == 104
        assert "Too many open files" in found["msg"]

    tell(tmp_path, story)
    assert "Traceback" not in caplog.text


def test_a_namespace_whose_descriptor_is_lost_is_not_taken_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel drops descriptors that the receiver has no room for, and says so (MSG_CTRUNC)."""
    real = socket.recv_fds

    def full(sock: socket.socket, size: int, most: int) -> tuple[bytes, list[int], int, Any]:
        data, descriptors, flags, address = real(sock, size, most)
        for each in descriptors:
            os.close(each)
        return data, [], flags | socket.MSG_CTRUNC, address

    monkeypatch.setattr(socket, "recv_fds", full)

    async def story(it: House) -> None:
        done = await it.ask("ADD")
        assert json.loads(done.stdout)["code"] == 11  # try again later
        assert it.verbs.calls == []

    tell(tmp_path, story)


def test_calls_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        it.verbs.release = asyncio.Event()
        asked = [spawn(it.ask("ADD", CNI_CONTAINERID=f"p{n}"), name="test") for n in range(5)]
        await until(lambda: len(it.verbs.calls) == 5, seconds=20)
        it.verbs.release.set()
        assert {(await each).returncode for each in asked} == {0}

    tell(tmp_path, story)


def test_the_socket_is_roots_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        assert stat.S_IMODE(it.path.stat().st_mode) == 0o600
        await it.server.stop(0.1)
        assert not it.path.exists()

    tell(tmp_path, story)


def test_a_socket_that_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(it.path))
        await it.server.start()
        assert (await it.ask("ADD")).returncode == 0

    tell(tmp_path, story, started=False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"NCN1" + struct.pack("!I", 100) + b"cut off",
        b"NCN1" + b"\xff" * 4,
        b"NC",
    ],
)
def test_nonsense_is_hung_up_on_and_harms_nobody(tmp_path: Path, data: bytes) -> None:
    async def story(it: House) -> None:
        def talk() -> bytes:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(20)
                peer.connect(str(it.path))
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                return peer.recv(100)

        assert await asyncio.to_thread(talk) == b""
        assert (await it.ask("ADD")).returncode == 0
        assert len(it.verbs.calls) == 1

    tell(tmp_path, story)


def test_a_peer_that_says_nothing_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cni_server, "READING", 0.1)

    async def story(it: House) -> None:
        def wait() -> bytes:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(20)
                peer.connect(str(it.path))
                return peer.recv(100)

        assert await asyncio.to_thread(wait) == b""

    tell(tmp_path, story)


def test_descriptors_do_not_pile_up(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        await it.ask("ADD")
        before = len(descriptors())
        for _ in range(5):
            await it.ask("ADD")
        assert len(descriptors()) <= before

    tell(tmp_path, story)


def test_the_spool_is_drained_in_order_before_the_socket_is_there(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        for name in ("one", "two"):
            assert (await it.ask("DEL", CNI_CONTAINERID=name)).returncode == 0
        spool = tmp_path / "state" / "cni-spool"
        (spool / "0-1.del.new").write_bytes(b"NCN1 half")  # its writer was killed
        assert it.spooled() == [".del", ".del", ".new"]
        seen = []
        answer = it.verbs.answer

        async def note(call: Call) -> bytes:
            seen.append(it.path.exists())
            return await answer(call)

        it.verbs.answer = note  # type: ignore[method-assign]
        await it.server.start()
        assert [(call.command, call.container) for call in it.verbs.calls] == [("DEL", "one"), ("DEL", "two")]
        assert it.verbs.calls[0].config == CONFIG
        assert (seen, (tmp_path / "state" / "cni-spool").exists()) == ([False, False], False)

    tell(tmp_path, story, started=False)


def test_a_spooled_del_that_fails_stays_and_is_in_nobodys_way(tmp_path: Path, caplog: Any) -> None:
    async def story(it: House) -> None:
        await it.ask("DEL")
        (tmp_path / "state" / "cni-spool" / "ffff-1.del").write_bytes(b"nonsense")
        it.verbs.reply = InUse("not now")
        await it.server.start()
        assert it.spooled() == [".del", ".del"]
        assert (await it.ask("STATUS")).returncode == 1

    tell(tmp_path, story, started=False)
    assert "not now" in caplog.text


def test_stopping_waits_for_calls_under_way(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        it.verbs.release = asyncio.Event()
        asked = spawn(it.ask("ADD"), name="test")
        await until(lambda: bool(it.verbs.calls), seconds=20)
        stopping = spawn(it.server.stop(20.0), name="test")
        await asyncio.sleep(0)
        it.verbs.release.set()
        await stopping
        assert (await asked).stdout == b"answer\n"

    tell(tmp_path, story)
