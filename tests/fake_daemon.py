"""A daemon without a kernel: the generated servicer on a unix socket, scripted by what it is asked.

It keeps networks and containers in dictionaries, remembers every request, and plays the part of the
commands that its "containers" run, so that the real command line can be tested against it.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import grpc

from netd.api import netd_pb2 as pb
from netd.api import netd_pb2_grpc
from netd.errors import EXIT_CODE_METADATA

Inputs = Iterator[pb.StreamInput]
Outputs = Iterator[pb.StreamOutput]

STARTED = 1_700_000_000.0


def container(name: str, number: int, **fields: Any) -> pb.Container:
    """A container with an id that is easy to recognise."""
    given = {"state": "running", "created": STARTED, "started": STARTED, "command": ["sleep", "60"], **fields}
    return pb.Container(id=f"{number:02x}" * 32, name=name, **given)


def network(name: str, number: int, **fields: Any) -> pb.Network:
    """A network with an id that is easy to recognise."""
    subnets = [pb.Subnet(cidr=f"10.89.{number}.0/24", gateway=f"10.89.{number}.1", capacity="253")]
    given = {"driver": "bridge", "subnets": subnets, "mtu": 1500, "icc": True, "status": "ready", **fields}
    return pb.Network(id=f"{number:02x}" * 32, name=name, created=STARTED, **given)


class FakeDaemon(netd_pb2_grpc.NetdServicer):
    """Starts listening when it is made; `close` ends it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.networks: dict[str, pb.Network] = {}
        self.containers: dict[str, pb.Container] = {}
        self.checks: list[pb.Check] = []
        self.lookup = pb.DnsLookupReply()
        self.names: list[pb.DnsName] = []
        self.metrics: list[pb.Metric] = []
        self.nodes = pb.NodeList(connected=True)
        self.log: list[pb.LogLine] = []
        self.events: queue.SimpleQueue[pb.Event | None] = queue.SimpleQueue()
        self.refusal: tuple[str, str] | None = None
        self.requests: list[Any] = []
        self.inputs: list[pb.StreamInput] = []
        self.arrived = threading.Condition()
        self.stdin = b""
        self.sent = 0
        self.waiting = threading.Event()
        self.cancelled = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(64))
        netd_pb2_grpc.add_NetdServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self._server.add_insecure_port(f"unix:{path}")
        self._server.start()

    def close(self) -> None:
        """Stop at once; streams under way break."""
        stopped = self._server.stop(None)
        self.events.put(None)
        stopped.wait()

    def last(self) -> Any:
        """The latest request."""
        return self.requests[-1]

    def wait_for_input(self, kind: str, deadline: float = 10) -> pb.StreamInput:
        """The first message of `kind` that a Run or Exec sent, when it comes."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: self._of(kind), deadline), f"no {kind} came"
            return self._of(kind)[0]

    def _of(self, kind: str) -> list[pb.StreamInput]:
        return [each for each in self.inputs if each.WhichOneof("input") == kind]

    def Version(self, request: pb.VersionRequest, context: Any) -> pb.VersionReply:
        return pb.VersionReply(
            version="9.9", api="v1", pid=7, node="here", state_dir="/s", run_dir="/r", started=STARTED
        )

    def Doctor(self, request: pb.DoctorRequest, context: Any) -> pb.DoctorReply:
        return pb.DoctorReply(checks=self.checks)

    def Watch(self, request: pb.WatchRequest, context: Any) -> Iterator[pb.Event]:
        context.send_initial_metadata(())
        while (event := self.events.get()) is not None:
            yield event

    def CreateNetwork(self, request: pb.CreateNetworkRequest, context: Any) -> pb.Network:
        self.requests.append(request)
        if request.name in self.networks:
            refuse(context, "ALREADY_EXISTS", f"network {request.name!r} exists already")
        made = network(request.name, len(self.networks) + 1, labels=request.labels)
        self.networks[request.name] = made
        return made

    def ListNetworks(self, request: pb.ListNetworksRequest, context: Any) -> pb.NetworkList:
        return pb.NetworkList(networks=self.networks.values())

    def InspectNetwork(self, request: pb.NetworkRef, context: Any) -> pb.Network:
        if self.refusal:
            refuse(context, *self.refusal)
        return _find("network", self.networks, request.network, context)  # type: ignore[no-any-return]

    def RemoveNetwork(self, request: pb.NetworkRef, context: Any) -> pb.NetworkRef:
        found = _find("network", self.networks, request.network, context)
        if found.endpoints:
            refuse(context, "FAILED_PRECONDITION", f"network {found.name!r} is used by container 'web'")
        return pb.NetworkRef(network=self.networks.pop(found.name).name)

    def PruneNetworks(self, request: pb.PruneNetworksRequest, context: Any) -> pb.PruneNetworksReply:
        removed = [name for name, each in self.networks.items() if not each.endpoints]
        return pb.PruneNetworksReply(removed=[self.networks.pop(name).name for name in removed])

    def Connect(self, request: pb.ConnectRequest, context: Any) -> pb.Endpoint:
        self.requests.append(request)
        return pb.Endpoint(network=request.attachment.network)

    def Disconnect(self, request: pb.DisconnectRequest, context: Any) -> pb.DisconnectReply:
        self.requests.append(request)
        return pb.DisconnectReply()

    def DnsLookup(self, request: pb.DnsLookupRequest, context: Any) -> pb.DnsLookupReply:
        self.requests.append(request)
        _find("container", self.containers, request.container, context)
        return self.lookup

    def DnsDump(self, request: pb.DnsDumpRequest, context: Any) -> Iterator[pb.DnsName]:
        yield from self.names

    def DnsMetrics(self, request: pb.DnsMetricsRequest, context: Any) -> pb.DnsMetricsReply:
        return pb.DnsMetricsReply(metrics=self.metrics)

    def ListNodes(self, request: pb.ListNodesRequest, context: Any) -> pb.NodeList:
        return self.nodes

    def RotateKey(self, request: pb.RotateKeyRequest, context: Any) -> pb.Node:
        self.requests.append(request)
        return pb.Node(name="h1", wireguard_key="a2V5", self=True)

    def DrainNode(self, request: pb.DrainNodeRequest, context: Any) -> pb.Node:
        self.requests.append(request)
        return pb.Node(name=request.node, state="ready" if request.undo else "draining")

    def ListContainers(self, request: pb.ListContainersRequest, context: Any) -> pb.ContainerList:
        shown = [each for each in self.containers.values() if request.all or each.state == "running"]
        return pb.ContainerList(containers=shown)

    def InspectContainer(self, request: pb.ContainerRef, context: Any) -> pb.Container:
        return _find("container", self.containers, request.container, context)  # type: ignore[no-any-return]

    def StopContainer(self, request: pb.StopRequest, context: Any) -> pb.Container:
        self.requests.append(request)
        return self.InspectContainer(pb.ContainerRef(container=request.container), context)

    def KillContainer(self, request: pb.KillRequest, context: Any) -> pb.Container:
        self.requests.append(request)
        return self.InspectContainer(pb.ContainerRef(container=request.container), context)

    def RenameContainer(self, request: pb.RenameRequest, context: Any) -> pb.Container:
        self.requests.append(request)
        if request.name in self.containers:
            refuse(context, "ALREADY_EXISTS", f"container name {request.name!r} is taken")
        found: pb.Container = _find("container", self.containers, request.container, context)
        self.containers[request.name] = self.containers.pop(found.name)
        found.name = request.name
        return found

    def RemoveContainer(self, request: pb.RemoveContainerRequest, context: Any) -> pb.ContainerRef:
        found = _find("container", self.containers, request.container, context)
        if found.state == "running" and not request.force:
            refuse(context, "FAILED_PRECONDITION", f"container {found.name!r} is running: stop it, or use -f")
        return pb.ContainerRef(container=self.containers.pop(found.name).name)

    def WaitContainer(self, request: pb.ContainerRef, context: Any) -> pb.Exit:
        found = _find("container", self.containers, request.container, context)
        if found.state == "running":
            gone = threading.Event()
            context.add_callback(gone.set)
            self.waiting.set()
            gone.wait(30)
            self.cancelled.set()
        return pb.Exit(code=found.exit_code)

    def Logs(self, request: pb.LogsRequest, context: Any) -> Iterator[pb.LogLine]:
        self.requests.append(request)
        _find("container", self.containers, request.container, context)
        yield from self.log[-request.tail :]

    def AddPort(self, request: pb.PortRequest, context: Any) -> pb.PortList:
        self.requests.append(request)
        return pb.PortList(ports=[pb.PublishedPort(host_port=8080, container_port=80, proto="tcp")])

    def RemovePort(self, request: pb.PortRequest, context: Any) -> pb.PortList:
        self.requests.append(request)
        return pb.PortList()

    def Run(self, inputs: Inputs, context: Any) -> Outputs:
        request = next(inputs).run
        self.requests.append(request)
        if request.command[0] == "missing":
            text = "command 'missing' is not in the container's PATH"
            refuse(context, "INVALID_ARGUMENT", text, exit_code=127)
        yield pb.StreamOutput(started=container(request.name or "calm_hopper", 0xC0))
        if not request.detach:
            yield from self._play(list(request.command), inputs, context)

    def Exec(self, inputs: Inputs, context: Any) -> Outputs:
        request = getattr(next(inputs), "exec")  # noqa: B009  (a keyword of old)
        self.requests.append(request)
        _find("container", self.containers, request.container, context)
        if not request.detach:
            yield from self._play(list(request.command), inputs, context)

    def _received(self, inputs: Inputs) -> Iterator[pb.StreamInput]:
        with suppress(grpc.RpcError):  # the client has gone, which is for the test to judge
            for message in inputs:
                with self.arrived:
                    self.inputs.append(message)
                    self.stdin += message.stdin
                    self.arrived.notify_all()
                yield message

    def _play(self, command: list[str], inputs: Inputs, context: Any) -> Outputs:
        context.add_callback(self.cancelled.set)
        messages = self._received(inputs)
        match command:
            case ["exit", code]:
                yield pb.StreamOutput(exit=pb.Exit(code=int(code)))
            case ["both"]:
                yield pb.StreamOutput(stdout=b"\x00out\xff\n")
                yield pb.StreamOutput(stderr=b"err\n")
                yield pb.StreamOutput(exit=pb.Exit(code=3))
            case ["flood", chunks]:
                for _ in range(int(chunks)):
                    yield pb.StreamOutput(stdout=b"x" * 32768)
                    self.sent += 1
                yield pb.StreamOutput(exit=pb.Exit(code=0))
            case ["cat"]:
                yield from _echo(messages)
            case ["trap"]:
                yield pb.StreamOutput(stdout=b"ready\n")
                yield from _trap(messages)
            case ["yes", "until", "SIGPIPE"]:
                yield from self._yes(messages)
            case ["die"]:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            case ["truncated"]:
                yield pb.StreamOutput(stdout=b"so far\n")

    def _yes(self, messages: Iterator[pb.StreamInput]) -> Outputs:
        threading.Thread(target=list, args=(messages,), daemon=True).start()
        while not any(each.signal == "SIGPIPE" for each in self.inputs):
            yield pb.StreamOutput(stdout=b"y\n" * 1000)
        yield pb.StreamOutput(exit=pb.Exit(code=128 + signal.SIGPIPE))


def _echo(messages: Iterator[pb.StreamInput]) -> Outputs:
    for message in messages:
        match message.WhichOneof("input"):
            case "stdin":
                yield pb.StreamOutput(stdout=message.stdin)
                if message.stdin == b"\x04":
                    break
            case "stdin_closed":
                break
    yield pb.StreamOutput(exit=pb.Exit(code=0))


def _trap(messages: Iterator[pb.StreamInput]) -> Outputs:
    """Says what it is told, and ends on SIGTERM."""
    for message in messages:
        if message.WhichOneof("input") == "resize":
            size = message.resize
            yield pb.StreamOutput(stdout=f"{size.rows}x{size.columns}\n".encode())
        elif message.signal:
            yield pb.StreamOutput(stdout=f"{message.signal}\n".encode())
            if message.signal == "SIGTERM":
                break
    yield pb.StreamOutput(exit=pb.Exit(code=143))


def refuse(context: Any, code: str, text: str, exit_code: int = 1) -> NoReturn:
    """End a call as the daemon does when it refuses."""
    context.set_trailing_metadata(((EXIT_CODE_METADATA, str(exit_code)),))
    context.abort(grpc.StatusCode[code], text)
    raise AssertionError("abort returned")


def _find(kind: str, among: dict[str, Any], ref: str, context: Any) -> Any:
    for name, each in among.items():
        if ref == name or each.id.startswith(ref):
            return each
    refuse(context, "NOT_FOUND", f"{kind} {ref!r} does not exist: see 'netd {kind} ls'")
