"""Run and Exec as a client sees them, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from netd.api import netd_pb2 as pb
from netd.api import netd_pb2_grpc
from netd.api.server import Server, Service
from netd.containers import Containers
from netd.events import Events
from netd.runtime.spec import Frame
from netd.settings import Settings
from tests.unit.paper import PaperAttached, PaperEngine, PaperKernel, PaperRuntime, PaperStore, no_survey


class House:
    def __init__(self, stub: Any, runtime: PaperRuntime, containers: Containers) -> None:
        self.stub = stub
        self.runtime = runtime
        self.containers = containers

    async def run(self, **fields: Any) -> tuple[Any, pb.Container, PaperAttached]:
        call = self.stub.Run()
        await call.write(pb.StreamInput(run=pb.RunRequest(**{"name": "web", "command": ["cat"], **fields})))
        started = (await call.read()).started
        return call, started, self.runtime.streams[started.id]


@asynccontextmanager
async def house(path: Path) -> AsyncIterator[House]:
    settings = Settings(run_dir=str(path), state_dir=str(path))
    engine, events, runtime = PaperEngine(), Events(), PaperRuntime(path / "c")
    containers = Containers(
        kernel=PaperKernel(),  # type: ignore[arg-type]
        runtime=runtime,
        engine=engine,  # type: ignore[arg-type]
        store=PaperStore(),  # type: ignore[arg-type]
        events=events,
        settings=settings,
    )
    service = Service(
        engine=engine,  # type: ignore[arg-type]
        containers=containers,
        events=events,
        settings=settings,
        survey=no_survey,
    )
    server = Server(service, settings.socket, None)
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{settings.socket}") as channel:
        stub = netd_pb2_grpc.NetdStub(channel)  # type: ignore[no-untyped-call]
        try:
            yield House(stub, runtime, containers)
        finally:
            await server.stop(0)
            await containers.close()


def run(path: Path, story: Callable[[House], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), house(path) as it:
            await story(it)

    asyncio.run(main())


async def heard(attached: PaperAttached, count: int) -> list[Frame]:
    """The first `count` frames that the process was told."""
    while len(attached.told) < count:
        attached.news.clear()
        await attached.news.wait()
    return attached.told


def test_output_and_the_exit_code_come_in_order(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        call, started, attached = await it.run()
        attached.said.put_nowait(Frame("stdout", b"out"))
        attached.said.put_nowait(Frame("stderr", b"err"))
        it.runtime.finish(started.id, 7, oom=True)
        assert (await call.read()).stdout == b"out"
        assert (await call.read()).stderr == b"err"
        last = (await call.read()).exit
        assert (last.code, last.oom_killed) == (7, True)
        assert await call.read() is grpc.aio.EOF
        assert attached.closed

    run(tmp_path, story)


def test_the_exit_code_comes_when_nothing_is_left(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        call, started, _ = await it.run(remove=True)
        it.runtime.hold("remove")
        it.runtime.finish(started.id, 0)
        await it.runtime.reached["remove"].wait()
        reading = asyncio.ensure_future(call.read())  # noqa: TID251 (awaited below)
        await asyncio.sleep(0.05)
        assert not reading.done()
        it.runtime.holding.pop("remove").set()
        assert (await reading).WhichOneof("output") == "exit"
        assert it.containers.list(all=True) == []

    run(tmp_path, story)


def test_what_is_typed_reaches_the_process(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        call, started, attached = await it.run(interactive=True, tty=True)
        await call.write(pb.StreamInput(stdin=b"hello"))
        await call.write(pb.StreamInput(resize=pb.WindowSize(rows=40, columns=132)))
        await call.write(pb.StreamInput(signal="SIGNONSENSE"))
        await call.write(pb.StreamInput(signal="SIGINT"))
        await call.done_writing()
        assert await heard(attached, 4) == [
            Frame("stdin", b"hello"),
            Frame("resize", code=40 << 16 | 132),
            Frame("signal", code=2),
            Frame("eof"),
        ]
        it.runtime.finish(started.id, 0)
        assert (await call.read()).WhichOneof("output") == "exit"

    run(tmp_path, story)


def test_input_that_was_not_asked_for_is_dropped(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        call, started, attached = await it.run()
        await call.write(pb.StreamInput(stdin=b"hello"))
        await call.write(pb.StreamInput(signal="TERM"))
        assert await heard(attached, 1) == [Frame("signal", code=15)]
        it.runtime.finish(started.id, 143)
        assert (await call.read()).exit.code == 143

    run(tmp_path, story)


def test_a_client_that_goes_away_leaves_the_container_running(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        call, _, attached = await it.run(interactive=True)
        call.cancel()
        while not attached.closed:  # noqa: ASYNC110 (a plain attribute of a fake)
            await asyncio.sleep(0.01)
        assert it.containers.find("web").state == "running"

    run(tmp_path, story)


@pytest.mark.parametrize("method", ["Run", "Exec"])
def test_the_first_message_says_what_to_run(tmp_path: Path, method: str) -> None:
    async def story(it: House) -> None:
        for message in (pb.StreamInput(stdin=b"x"), None):
            call = getattr(it.stub, method)()
            if message:
                await call.write(message)
            await call.done_writing()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(tmp_path, story)


def test_exec_inherits_and_carries_its_own_exit_code(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        _, started, _ = await it.run(env={"A": "1"}, workdir="/srv")
        call = it.stub.Exec()
        request = pb.ExecRequest(container="web", command=["ls"], env={"B": "2"})
        await call.write(pb.StreamInput(exec=request))
        while not it.runtime.executed:  # noqa: ASYNC110 (a plain attribute of a fake)
            await asyncio.sleep(0.01)
        process = it.runtime.executed[0]
        assert (process.argv, process.workdir, process.env["A"], process.env["B"]) == (
            ("ls",),
            "/srv",
            "1",
            "2",
        )
        it.runtime.streams[f"{started.id} exec"].said.put_nowait(Frame("exit", code=4))
        assert (await call.read()).exit.code == 4
        assert await call.read() is grpc.aio.EOF

    run(tmp_path, story)


def test_exec_detached_ends_at_once(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        await it.run()
        call = it.stub.Exec()
        request = pb.ExecRequest(container="web", command=["ls"], detach=True)
        await call.write(pb.StreamInput(exec=request))
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK

    run(tmp_path, story)
