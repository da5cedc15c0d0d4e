"""The API's server: thin methods over the engine and the containers, and one place for refusals.

Each method translates, calls and translates back. `Refusals` wraps all of them: a `NetdError` becomes
its gRPC status with its one-line message; anything else is a defect of ours, logged with its
traceback and answered as INTERNAL without details of the inside. Every handler is a plain coroutine
(streams write to their context), so the one wrapper fits all four kinds of call.

A client whose deadline passes or who goes away cancels its handler. Nothing is left half-made by
that: the engine and the containers shield what they began.

gRPC cannot tell who is at the other end of a unix socket (grpc #28755), so the socket's mode and the
directory it lies in are the access control.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

import netd
from netd import dns_lookup, doctor, launch
from netd.api import convert, netd_pb2_grpc, streams
from netd.api import netd_pb2 as pb
from netd.cluster.ports import Cluster
from netd.containers import Containers
from netd.dns_lookup import Names
from netd.engine import Engine
from netd.errors import EXIT_CODE_METADATA, Invalid, NetdError, Unavailable, used_up
from netd.events import Events
from netd.kernel.ports import Survey
from netd.registry import Record
from netd.settings import Settings
from netd.tracing import Tracer

log = logging.getLogger(__name__)

MESSAGE_LIMIT = 4 * 1024 * 1024
STATUS_LIMIT = 1024
"""Characters of a status message: it travels in an HTTP/2 trailer, of which peers accept 8 KiB."""

SOCKET_MODE = 0o660
STOP_TIMEOUT = 10.0
"""Seconds between SIGTERM and SIGKILL where the caller does not say."""

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Awaitable[Any]]


class Refusals(grpc.aio.ServerInterceptor):
    """Turns what a handler raises into a gRPC status."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            if behaviour := getattr(handler, kind):
                make = getattr(grpc, f"{kind}_rpc_method_handler")
                return make(
                    _guarded(behaviour, details.method),
                    handler.request_deserializer,
                    handler.response_serializer,
                )
        return handler


def _guarded(behaviour: Handler, method: str) -> Handler:
    async def guarded(request: Any, context: Context) -> Any:
        try:
            return await behaviour(request, context)
        except NetdError as error:
            code, text, exit_code = grpc.StatusCode[error.grpc], _one_line(str(error)), error.exit_code
            log.info("%s refused: %s: %s", method.rpartition("/")[2], code.name, text)
        except Exception as error:
            refusal: NetdError | None = used_up(error)
            if refusal:
                log.error("%s: %s", method.rpartition("/")[2], error)
            elif _went_away(error):
                log.info("%s: the client went away in the middle of an answer", method.rpartition("/")[2])
            else:
                log.exception("%s failed", method)
            refusal = refusal or NetdError("internal error of netd; its log has the details")
            code, text, exit_code = grpc.StatusCode[refusal.grpc], str(refusal), refusal.exit_code
        return await context.abort(code, text, ((EXIT_CODE_METADATA, str(exit_code)),))

    return guarded


def _went_away(error: BaseException) -> bool:
    """Whether gRPC could not write, which it says of nothing but a client that is gone."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_went_away, error.exceptions))
    return isinstance(error, grpc.aio.InternalError)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= STATUS_LIMIT else line[: STATUS_LIMIT - 1] + "…"


class Service(netd_pb2_grpc.NetdServicer):
    """The methods of `netd.v1.Netd`; `netd.proto` says what each of them means."""

    def __init__(
        self,
        *,
        engine: Engine,
        containers: Containers,
        events: Events,
        settings: Settings,
        survey: Callable[[], Awaitable[Survey]],
        names: Names | None = None,
        cluster: Cluster | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._names = names
        self._cluster = cluster
        self._engine = engine
        self._containers = containers
        self._events = events
        self._settings = settings
        self._survey = survey
        self._started = time.time()

    async def Version(self, request: pb.VersionRequest, context: Context) -> pb.VersionReply:
        return pb.VersionReply(
            version=netd.__version__,
            api="v1",
            pid=os.getpid(),
            state_dir=self._settings.state_dir,
            run_dir=self._settings.run_dir,
            started=self._started,
            node=platform.node(),
            libraries=_libraries(),
        )

    async def Doctor(self, request: pb.DoctorRequest, context: Context) -> pb.DoctorReply:
        view = self._engine.view
        here = doctor.Circumstances(
            settings=self._settings,
            networks=view.networks.values(),
            endpoints=len(view.endpoints),
            switched=self._engine.switched(),
            aside=[f"{record.table} {record.key}: {record.problem}" for record in view.quarantined],
            degraded={view.networks[id].name: problem for id, problem in view.degraded.items()},
            problems=self._engine.problems(),
        )
        checks = doctor.examine(await self._survey(), here)
        return pb.DoctorReply(checks=map(convert.check, checks))

    async def Watch(self, request: pb.WatchRequest, context: Context) -> None:
        with self._events.subscribe() as watcher:
            # The headers tell the client that from now on it misses nothing.
            await context.send_initial_metadata(())
            async for event in watcher:
                await context.write(convert.event(event))

    async def CreateNetwork(self, request: pb.CreateNetworkRequest, context: Context) -> pb.Network:
        network = await self._engine.create_network(convert.network_request(request))
        return convert.network(network, self._engine.view)

    async def ListNetworks(self, request: pb.ListNetworksRequest, context: Context) -> pb.NetworkList:
        view = self._engine.view
        networks = sorted(view.networks.values(), key=lambda network: network.name)
        return pb.NetworkList(networks=[convert.network(network, view) for network in networks])

    async def InspectNetwork(self, request: pb.NetworkRef, context: Context) -> pb.Network:
        network = self._engine.network(convert.required("network", request.network))
        return convert.network(network, self._engine.view)

    async def RemoveNetwork(self, request: pb.NetworkRef, context: Context) -> pb.NetworkRef:
        network = await self._engine.remove_network(convert.required("network", request.network))
        return pb.NetworkRef(network=network.name)

    async def PruneNetworks(
        self, request: pb.PruneNetworksRequest, context: Context
    ) -> pb.PruneNetworksReply:
        removed = await self._engine.prune_networks()
        return pb.PruneNetworksReply(removed=[network.name for network in removed])

    async def Connect(self, request: pb.ConnectRequest, context: Context) -> pb.Endpoint:
        container = convert.required("container", request.container)
        want = launch.want(convert.attachment(request.attachment))
        return convert.endpoint(await self._containers.connect(container, want), self._engine.view)

    async def Disconnect(self, request: pb.DisconnectRequest, context: Context) -> pb.DisconnectReply:
        container = convert.required("container", request.container)
        await self._containers.disconnect(container, convert.required("network", request.network))
        return pb.DisconnectReply()

    async def UpdateEndpoint(self, request: pb.UpdateEndpointRequest, context: Context) -> pb.Endpoint:
        container = convert.required("container", request.container)
        network = convert.required("network", request.network)
        changed = await self._containers.update(container, network, dict(request.options))
        return convert.endpoint(changed, self._engine.view)

    async def Run(self, request_iterator: Any, context: Context) -> None:
        await streams.run(self._containers, lambda: self._engine.view, context)

    async def Exec(self, request_iterator: Any, context: Context) -> None:
        await streams.exec(self._containers, context)

    async def ListContainers(self, request: pb.ListContainersRequest, context: Context) -> pb.ContainerList:
        return pb.ContainerList(containers=map(self._container, self._containers.list(all=request.all)))

    async def InspectContainer(self, request: pb.ContainerRef, context: Context) -> pb.Container:
        record = self._containers.find(convert.required("container", request.container))
        message = self._container(record)
        message.request.CopyFrom(convert.asked(record.request))
        return message

    async def StopContainer(self, request: pb.StopRequest, context: Context) -> pb.Container:
        timeout = request.timeout if request.HasField("timeout") else STOP_TIMEOUT
        if not 0 <= timeout <= 86400:
            raise Invalid(f"--time {timeout} must lie between 0 and 86400 seconds")
        container = convert.required("container", request.container)
        return self._container(await self._containers.stop(container, timeout))

    async def KillContainer(self, request: pb.KillRequest, context: Context) -> pb.Container:
        number = launch.signal_number(request.signal or "SIGKILL")
        container = convert.required("container", request.container)
        return self._container(await self._containers.kill(container, number))

    async def RenameContainer(self, request: pb.RenameRequest, context: Context) -> pb.Container:
        container = convert.required("container", request.container)
        name = convert.required("name", request.name)
        return self._container(await self._containers.rename(container, name))

    async def RemoveContainer(self, request: pb.RemoveContainerRequest, context: Context) -> pb.ContainerRef:
        container = convert.required("container", request.container)
        record = await self._containers.remove(container, force=request.force)
        return pb.ContainerRef(container=record.name)

    async def WaitContainer(self, request: pb.ContainerRef, context: Context) -> pb.Exit:
        record = await self._containers.wait(convert.required("container", request.container))
        return pb.Exit(code=record.exit_code, oom_killed=record.oom_killed)

    async def Logs(self, request: pb.LogsRequest, context: Context) -> None:
        container = convert.required("container", request.container)
        lines = self._containers.logs(container, follow=request.follow, tail=request.tail)
        async with aclosing(lines):
            async for line in lines:
                await context.write(pb.LogLine(time=line.time, stream=line.stream, data=line.data))

    async def AddPort(self, request: pb.PortRequest, context: Context) -> pb.PortList:
        container = convert.required("container", request.container)
        ports = await self._containers.publish(container, request.spec)
        return pb.PortList(ports=map(convert.port, ports))

    async def RemovePort(self, request: pb.PortRequest, context: Context) -> pb.PortList:
        container = convert.required("container", request.container)
        ports = await self._containers.unpublish(container, request.spec)
        return pb.PortList(ports=map(convert.port, ports))

    async def Trace(self, request: pb.TraceRequest, context: Context) -> pb.TraceReply:
        if self._tracer is None:
            raise Unavailable("this daemon runs without packets")
        source = convert.required("source", request.source)
        return convert.traced(await self._tracer.trace(source, request.packet))

    async def DnsLookup(self, request: pb.DnsLookupRequest, context: Context) -> pb.DnsLookupReply:
        record = self._containers.find(convert.required("container", request.container))
        name = convert.required("name", request.name)
        found = await dns_lookup.lookup(self._dns(), record.id, name, tuple(request.types))
        return convert.lookup(found, self._engine.view)

    async def DnsDump(self, request: pb.DnsDumpRequest, context: Context) -> None:
        async for row in dns_lookup.dump(self._dns()):
            await context.write(convert.dns_name(row, self._engine.view))

    async def DnsMetrics(self, request: pb.DnsMetricsRequest, context: Context) -> pb.DnsMetricsReply:
        return pb.DnsMetricsReply(metrics=map(convert.metric, await dns_lookup.metrics(self._dns())))

    async def ListNodes(self, request: pb.ListNodesRequest, context: Context) -> pb.NodeList:
        cluster = self._in_cluster()
        status = cluster.status()
        problems = [status.problem, *self._engine.problems()]
        status = replace(status, problem="; ".join(problem for problem in problems if problem))
        return convert.nodes(cluster.nodes(), status)

    async def DrainNode(self, request: pb.DrainNodeRequest, context: Context) -> pb.Node:
        cluster = self._in_cluster()
        name = convert.required("node", request.node)
        await cluster.drain(name, not request.undo)
        for node in cluster.nodes():
            if node.name == name:
                return convert.node(node)
        return pb.Node(name=name, state="down")

    async def RotateKey(self, request: pb.RotateKeyRequest, context: Context) -> pb.Node:
        cluster = self._in_cluster()
        await self._engine.rotate_key()
        return pb.Node(name=cluster.node.name, wireguard_key=cluster.node.wireguard_key, self=True)

    def _in_cluster(self) -> Cluster:
        if self._cluster is None:
            raise Unavailable("this daemon is in no cluster; start it with --cluster")
        return self._cluster

    def _dns(self) -> Names:
        if self._names is None:
            raise Unavailable("this daemon runs without a DNS")
        return self._names

    def _container(self, record: Record) -> pb.Container:
        return convert.container(record, self._engine.view, self._containers.directory(record))


def _libraries() -> dict[str, str]:
    found = {"python": platform.python_version(), "linux": platform.release()}
    for name in ("grpcio", "protobuf", "pyroute2", "msgspec", "pip-nftables", "pyseccomp", "dnslib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # e.g. Debian's python3-nftables instead of the index's wheel
            continue
    return found


class Server:
    """The gRPC server on a unix socket that appears, complete and with its mode, in one step."""

    def __init__(self, service: Service, path: Path, group: int | None) -> None:
        self._path = path
        self._group = group
        self._server = grpc.aio.server(
            interceptors=[Refusals()],
            options=[
                ("grpc.max_receive_message_length", MESSAGE_LIMIT),
                ("grpc.max_send_message_length", MESSAGE_LIMIT),
                ("grpc.so_reuseport", 0),
            ],
        )
        netd_pb2_grpc.add_NetdServicer_to_server(service, self._server)  # type: ignore[no-untyped-call]

    async def start(self) -> None:
        """Listen. A socket that a killed daemon left is replaced, with no moment without one.

        gRPC binds by itself, so it binds beside the place and the rename is ours. The caller holds
        the lock of the directory: nobody else lives there.
        """
        beside = self._path.with_name(f".{self._path.name}.new")
        beside.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{beside}")
        if self._group is not None:
            os.chown(beside, -1, self._group)
        beside.chmod(SOCKET_MODE)
        beside.rename(self._path)
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Take no more calls, give running ones `grace` seconds, remove the socket."""
        self._path.unlink(missing_ok=True)
        await self._server.stop(grace)
