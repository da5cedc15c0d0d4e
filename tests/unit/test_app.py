"""The daemon as a whole, with kernel, DNS and runtime of paper: how it starts, stops and refuses."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from netd import app, dirs
from netd.api import netd_pb2 as pb
from netd.api import netd_pb2_grpc
from netd.errors import Corrupt, Denied
from netd.kernel.fake import FakeKernel
from netd.settings import Settings
from netd.store.sqlite import SqliteStore
from tests.unit.host import Feed
from tests.unit.paper import PaperRuntime, no_survey

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class House:
    """A host of paper that several daemons can live on, one after the other."""

    def __init__(self, path: Path) -> None:
        self.settings = Settings(run_dir=str(path / "run"), state_dir=str(path / "state"))
        self.kernel = FakeKernel()
        self.runtime = PaperRuntime(path / "containers")

    def rooms(self, settings: Settings) -> app.Rooms:
        return app.Rooms(
            kernel=self.kernel,
            store=SqliteStore(settings.state, settings.run),
            feed=Feed(),
            runtime=self.runtime,
            survey=no_survey,
        )

    async def serve(self) -> None:
        await app.serve(self.settings, self.rooms)

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[netd_pb2_grpc.NetdStub]:
        """A running daemon and a client of it; SIGTERM ends it."""
        with Listener(self.settings.run.parent / "notify") as systemd:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(self.serve())
                assert (await systemd.hear()).startswith("READY=1")
                async with grpc.aio.insecure_channel(f"unix:{self.settings.socket}") as channel:
                    yield netd_pb2_grpc.NetdStub(channel)  # type: ignore[no-untyped-call]
                os.kill(os.getpid(), signal.SIGTERM)
                assert await systemd.hear() == "STOPPING=1"
                await serving


class Listener:
    """Plays systemd: hears what is sent to NOTIFY_SOCKET."""

    def __init__(self, address: Path | str) -> None:
        self.address = str(address)
        Path(self.address).unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self.address.replace("@", "\0", 1))

    async def hear(self) -> str:
        return (await asyncio.get_running_loop().sock_recv(self._socket, 4096)).decode()

    def __enter__(self) -> Listener:
        os.environ["NOTIFY_SOCKET"] = self.address
        return self

    def __exit__(self, *_: object) -> None:
        del os.environ["NOTIFY_SOCKET"]
        self._socket.close()


def run(path: Path, story: Callable[[House], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            await story(House(path))

    before = os.umask(0o022)
    try:
        asyncio.run(main())
    finally:
        os.umask(before)


@root
def test_it_serves_until_it_is_told_to_stop_and_leaves_everything(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        async with it.daemon() as stub:
            await stub.CreateNetwork(pb.CreateNetworkRequest(name="front"))
            request = pb.RunRequest(
                name="web", command=["true"], detach=True, networks=[pb.Attachment(network="front")]
            )
            call = stub.Run()
            await call.write(pb.StreamInput(run=request))
            assert (await call.read()).started.name == "web"
            rendered = it.kernel.render()
        assert not it.settings.socket.exists()
        assert it.kernel.render() == rendered
        assert stat.S_IMODE(it.settings.run.stat().st_mode) == 0o750
        assert stat.S_IMODE(it.settings.state.stat().st_mode) == 0o700

        writes = it.kernel.writes
        async with it.daemon() as stub:
            listed = await stub.ListContainers(pb.ListContainersRequest())
            assert [(c.name, c.state, c.endpoints[0].network) for c in listed.containers] == [
                ("web", "running", "front")
            ]
            assert it.kernel.writes == writes
            await stub.RemoveContainer(pb.RemoveContainerRequest(container="web", force=True))
            await stub.RemoveNetwork(pb.NetworkRef(network="front"))

    run(tmp_path, story)


@root
@pytest.mark.parametrize("shared", ["run", "state"])
def test_a_second_daemon_is_refused_and_the_first_goes_on(tmp_path: Path, shared: str) -> None:
    async def story(it: House) -> None:
        own = tmp_path / "own"
        run_dir = it.settings.run if shared == "run" else own
        state_dir = it.settings.state if shared == "state" else own
        async with it.daemon() as stub:
            # In a process of its own, since it would take over this one's signals.
            command = "from netd.cli.main import main; main()"
            flags = ["--run-dir", str(run_dir), "--state-dir", str(state_dir)]
            second = await asyncio.create_subprocess_exec(
                sys.executable, "-c", command, "daemon", *flags, stderr=asyncio.subprocess.PIPE
            )
            _, errors = await second.communicate()
            assert second.returncode == 1
            last = errors.decode().splitlines()[-1]
            assert f"another netd daemon (pid {os.getpid()}) uses {tmp_path / shared}" in last
            assert (await stub.Version(pb.VersionRequest())).pid == os.getpid()

    run(tmp_path, story)


@root
def test_a_signal_while_starting_unwinds_the_start(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        reached, kernel_start = asyncio.Event(), it.kernel.start

        async def start() -> None:
            await kernel_start()
            reached.set()

        async def never() -> None:
            await asyncio.Event().wait()

        it.kernel.start = start  # type: ignore[method-assign]
        it.runtime.start = never  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(it.serve())
            await reached.wait()
            while_starting = it.kernel.started
            os.kill(os.getpid(), signal.SIGINT)
            await serving
        assert (while_starting, it.kernel.started) == (True, False)
        assert not it.settings.socket.exists()
        lock = dirs.Lock(it.settings.run)
        lock.acquire()
        lock.release()

    run(tmp_path, story)


@root
def test_a_hangup_that_nohup_ignores_ends_nothing(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            async with it.daemon() as stub:
                os.kill(os.getpid(), signal.SIGHUP)
                assert (await stub.Version(pb.VersionRequest())).api == "v1"
        finally:
            signal.signal(signal.SIGHUP, before)

    run(tmp_path, story)


@root
def test_a_start_that_fails_unwinds_and_says_why(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        it.settings.state.mkdir(mode=0o700)
        broken = it.settings.state / "netd.db"
        broken.write_bytes(b"not a database" * 100)
        with pytest.raises(Corrupt, match=r"netd\.db"):
            await it.serve()
        assert broken.read_bytes() == b"not a database" * 100
        broken.unlink()
        async with it.daemon() as stub:
            assert (await stub.Version(pb.VersionRequest())).api == "v1"

    run(tmp_path, story)


@root
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        it.settings.run.mkdir()
        it.settings.run.chmod(0o777)
        with pytest.raises(Denied, match="writable by others"):
            await it.serve()
        assert not it.settings.state.exists()

    run(tmp_path, story)


def test_without_root_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    async def story(it: House) -> None:
        with pytest.raises(Denied, match="must run as root"):
            await it.serve()
        assert not it.settings.run.exists()

    run(tmp_path, story)


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_told(tmp_path: Path, kind: str) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@netd-test-{os.getpid()}"

    async def story() -> None:
        with Listener(address) as systemd:
            app.notify("READY=1")
            assert await systemd.hear() == "READY=1"

    asyncio.run(story())


def test_a_deaf_systemd_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        app.notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert "systemd was not told READY=1" in caplog.text
    app.notify("READY=1", {})
