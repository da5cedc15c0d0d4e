"""The server as a client sees it: over a real unix socket, with an engine made of paper."""

from __future__ import annotations

import asyncio
import grp
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from netd.api import netd_pb2 as pb
from netd.api import netd_pb2_grpc
from netd.api.server import MESSAGE_LIMIT, Server, Service
from netd.containers import Containers
from netd.errors import AlreadyExists
from netd.events import Events
from netd.model import Network, NetworkRequest
from netd.settings import Settings
from tests.unit.paper import PaperEngine, PaperKernel, PaperRuntime, PaperStore, no_survey


class ThinEngine(PaperEngine):
    """Also fails in the ways that a server must survive."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = asyncio.Event()

    async def create_network(self, request: NetworkRequest) -> Network:
        if request.name == "boom":
            raise RuntimeError("the inside of netd")
        if request.name == "long":
            raise AlreadyExists(f"network 'long' exists\nand a second line {'x' * 5000}")
        if request.name == "hang":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return await super().create_network(request)


@dataclass
class House:
    stub: Any
    engine: ThinEngine
    runtime: PaperRuntime
    events: Events
    server: Server
    settings: Settings


@asynccontextmanager
async def house(path: Path, group: int | None = None) -> AsyncIterator[House]:
    settings = Settings(run_dir=str(path), state_dir=str(path))
    engine, events, runtime = ThinEngine(), Events(), PaperRuntime(path / "c")
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
    server = Server(service, settings.socket, group)
    await server.start()
    options = [("grpc.max_send_message_length", -1), ("grpc.default_authority", "localhost")]
    async with grpc.aio.insecure_channel(f"unix:{settings.socket}", options=options) as channel:
        stub = netd_pb2_grpc.NetdStub(channel)  # type: ignore[no-untyped-call]
        try:
            yield House(stub, engine, runtime, events, server, settings)
        finally:
            events.close()
            await server.stop(1)
            await containers.close()


def run(path: Path, story: Callable[[House], Awaitable[None]], group: int | None = None) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), house(path, group) as it:
            await story(it)

    asyncio.run(main())


def test_networks_are_made_listed_and_removed(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        made = await it.stub.CreateNetwork(pb.CreateNetworkRequest(name="front"))
        await it.stub.CreateNetwork(pb.CreateNetworkRequest(name="back"))
        listed = await it.stub.ListNetworks(pb.ListNetworksRequest())
        assert [network.name for network in listed.networks] == ["back", "front"]
        assert await it.stub.InspectNetwork(pb.NetworkRef(network=made.id)) == made
        assert (await it.stub.RemoveNetwork(pb.NetworkRef(network="front"))).network == "front"
        assert list((await it.stub.PruneNetworks(pb.PruneNetworksRequest())).removed) == ["back"]

    run(tmp_path, story)


def test_a_refusal_is_its_status_and_one_bounded_line(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.stub.CreateNetwork(pb.CreateNetworkRequest(name="long"))
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        details = caught.value.details() or ""
        assert details.startswith("network 'long' exists and a second line xxx")
        assert len(details) == 1024
        assert ("netd-exit-code", "1") in list(caught.value.trailing_metadata())

    run(tmp_path, story)


def test_a_defect_is_logged_and_its_inside_kept_inside(tmp_path: Path, caplog: Any) -> None:
    async def story(it: House) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.stub.CreateNetwork(pb.CreateNetworkRequest(name="boom"))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "the inside" not in (caught.value.details() or "")

    run(tmp_path, story)
    assert "RuntimeError: the inside of netd" in caplog.text


def test_an_empty_reference_is_invalid(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.stub.InspectNetwork(pb.NetworkRef())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(tmp_path, story)


def test_a_deadline_ends_the_call_on_both_sides(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.stub.CreateNetwork(pb.CreateNetworkRequest(name="hang"), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await it.engine.cancelled.wait()

    run(tmp_path, story)


def test_a_message_above_4_mib_is_refused(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        request = pb.CreateNetworkRequest(name="front", labels={"k": "v" * MESSAGE_LIMIT})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.stub.CreateNetwork(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not it.engine.view.networks

    run(tmp_path, story)


def test_watch_streams_until_the_daemon_stops(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        call = it.stub.Watch(pb.WatchRequest())
        await call.initial_metadata()
        it.events.emit("network", "create", "1", "front")
        assert (await call.read()).name == "front"
        it.events.close()
        assert (await call.read()).action == "stop"
        assert await call.read() is grpc.aio.EOF

    run(tmp_path, story)


def test_version_names_the_daemon(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        reply = await it.stub.Version(pb.VersionRequest())
        assert (reply.api, reply.pid, reply.run_dir) == ("v1", os.getpid(), str(tmp_path))
        assert reply.libraries["grpcio"] == grpc.__version__

    run(tmp_path, story)


def test_reflection_is_off(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        async with grpc.aio.insecure_channel(f"unix:{it.settings.socket}") as channel:
            reflect: Any = channel.stream_stream(
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            )
            call = reflect()
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.UNIMPLEMENTED

    run(tmp_path, story)


def test_the_socket_is_for_root_and_its_group(tmp_path: Path) -> None:
    group = grp.getgrall()[-1].gr_gid if os.geteuid() == 0 else os.getegid()

    async def story(it: House) -> None:
        found = it.settings.socket.stat()
        assert stat.S_IMODE(found.st_mode) == 0o660
        assert found.st_gid == group
        assert sorted(path.name for path in tmp_path.iterdir()) == ["netd.sock"]

    run(tmp_path, story, group)
    assert not list(tmp_path.iterdir())


def test_a_stale_socket_is_replaced_in_one_step(tmp_path: Path) -> None:
    (tmp_path / "netd.sock").touch()
    before = (tmp_path / "netd.sock").stat().st_ino

    async def story(it: House) -> None:
        assert it.settings.socket.stat().st_ino != before
        assert (await it.stub.Version(pb.VersionRequest())).pid == os.getpid()

    run(tmp_path, story)


async def start(it: House, **fields: Any) -> pb.Container:
    request = pb.RunRequest(**{"name": "web", "command": ["true"], "detach": True, **fields})
    call = it.stub.Run()
    await call.write(pb.StreamInput(run=request))
    started = (await call.read()).started
    assert await call.read() is grpc.aio.EOF
    return started  # type: ignore[no-any-return]


def test_a_container_from_run_to_rm(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        started = await start(it, publish=["8080:80"], labels={"a": "b"})
        assert (started.state, started.pid, started.labels["a"]) == ("running", 4711, "b")
        assert started.endpoints[0].network == "default"
        ref = pb.ContainerRef(container="web")
        assert list((await it.stub.ListContainers(pb.ListContainersRequest())).containers) == [started]
        inspected = await it.stub.InspectContainer(ref)
        assert (inspected.request.name, list(inspected.request.publish)) == ("web", ["8080:80"])

        ports = await it.stub.AddPort(pb.PortRequest(container="web", spec="9090:90/udp"))
        assert [(p.host_port, p.proto) for p in ports.ports] == [(8080, "tcp"), (9090, "udp")]
        ports = await it.stub.RemovePort(pb.PortRequest(container="web", spec="8080:80"))
        assert [port.host_port for port in ports.ports] == [9090]

        await it.stub.CreateNetwork(pb.CreateNetworkRequest(name="back"))
        attachment = pb.Attachment(network="back", ip="10.9.1.77", aliases=["w"])
        endpoint = await it.stub.Connect(pb.ConnectRequest(container="web", attachment=attachment))
        assert (endpoint.network, list(endpoint.addresses)) == ("back", ["10.9.1.77/24"])
        await it.stub.Disconnect(pb.DisconnectRequest(container="web", network="back"))
        assert len((await it.stub.InspectContainer(ref)).endpoints) == 1

        stopped = await it.stub.StopContainer(pb.StopRequest(container="web"))
        assert (stopped.state, stopped.exit_code) == ("exited", 143)
        assert (await it.stub.WaitContainer(ref)).code == 143
        assert not (await it.stub.ListContainers(pb.ListContainersRequest())).containers
        removed = await it.stub.RemoveContainer(pb.RemoveContainerRequest(container=started.id[:8]))
        assert removed.container == "web"
        assert not (await it.stub.ListContainers(pb.ListContainersRequest(all=True))).containers

    run(tmp_path, story)


def test_stop_takes_zero_for_an_answer_and_refuses_less(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        await start(it)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.stub.StopContainer(pb.StopRequest(container="web", timeout=-1))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await it.stub.StopContainer(pb.StopRequest(container="web", timeout=0))
        assert it.runtime.signals == [9]

    run(tmp_path, story)


def test_kill_and_logs(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        await start(it)
        logs = it.stub.Logs(pb.LogsRequest(container="web", follow=True))
        assert (await logs.read()).data == b"hello\n"
        await it.stub.KillContainer(pb.KillRequest(container="web", signal="INT"))
        assert (await logs.read()).stream == "stderr"
        assert await logs.read() is grpc.aio.EOF
        assert (await it.stub.WaitContainer(pb.ContainerRef(container="web"))).code == 130

    run(tmp_path, story)
