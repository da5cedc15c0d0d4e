"""The command line's side of the API: blocking calls, and refusals as the errors the daemon raised.

The command line lives for a tenth of a second, so two things here are about time. A socket that
nobody listens on is found by connecting to it (a fifth of a millisecond, and the kernel's own
reason) instead of by gRPC's connection back-off. And grpc and protobuf are imported without what a
blocking client never uses (`UNUSED`).
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from netd.errors import BY_GRPC, EXIT_CODE_METADATA, NetdError, Unreachable
from netd.later import later

if TYPE_CHECKING:
    from google.protobuf.message import Message


UNUSED = (
    *("asyncio", "calendar", "inspect", "pkgutil", "traceback"),
    *("google.protobuf.internal.python_message", "google.protobuf.text_format"),
)
"""What grpc and protobuf import for others than a blocking client with protobuf's implementation in C: half
of what their import costs. grpc's own extension touches asyncio only when an asyncio channel or server is
made; grpc.aio, which is built on it, stays out until it is imported by name."""

# What gRPC has to say goes into the error that is raised, not onto the user's terminal.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

_without_aio = "grpc" not in sys.modules and "asyncio" not in sys.modules
with later(*UNUSED):
    if _without_aio:
        sys.modules["grpc.aio"] = types.ModuleType("grpc.aio")
    try:
        import grpc

        from netd.api import netd_pb2 as pb
        from netd.api import netd_pb2_grpc
    finally:
        if _without_aio:
            del sys.modules["grpc.aio"]
    if _without_aio:
        del grpc.aio

MESSAGE_LIMIT = 4 * 1024 * 1024
DEADLINE = 60.0
"""Seconds for a request that waits for nothing but the daemon. Its worst case, a thousand attachments
removed at once, takes a few."""

PLAIN = re.compile(r"[A-Za-z0-9/._-]+")
"""A path without characters that mean something else in a URI (RFC 3986, 2.3)."""

Reply = TypeVar("Reply")


def connect(path: str) -> Client:
    """A client of the daemon that listens at `path`. Raises `Unreachable` with the way out."""
    where = os.path.abspath(path)  # noqa: PTH100  (pathlib takes 3 ms to import)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(where)
    except OSError as error:
        raise Unreachable(_why_unreachable(where, error)) from error
    return Client(where)


def _quoted(path: str) -> str:
    """The path as part of a URI."""
    if PLAIN.fullmatch(path):
        return path
    from urllib.parse import quote

    return quote(path)


def _why_unreachable(where: str, error: OSError) -> str:
    match error.errno:
        case errno.EACCES:
            way_out = "run as root, or join the group that owns the socket"
        case errno.ENOENT | errno.ECONNREFUSED | errno.ENOTDIR:
            way_out = "is it running? start it with 'netd daemon', or name its socket with --socket"
        case _:
            way_out = "name the daemon's socket with --socket or NETD_SOCKET"
    return f"cannot reach the daemon at {where} ({error.strerror or error}): {way_out}"


class Client:
    """One connection to the daemon. Every method may raise any error of `netd.errors`.

    The generated stub has no types, so each call says what kind of message it is answered with.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._channel = grpc.insecure_channel(
            f"unix:{_quoted(path)}",
            options=[
                # Without it the authority is the socket's path, %-encoded, which is no host name.
                ("grpc.default_authority", "localhost"),
                ("grpc.enable_http_proxy", 0),
                ("grpc.enable_retries", 0),
                ("grpc.max_receive_message_length", MESSAGE_LIMIT),
            ],
        )
        self._stub = netd_pb2_grpc.NetdStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    def at(self, ref: str) -> Client:
        """The daemon that has a container: here there is one (see `netd.topology.daemon`)."""
        return self

    def seeing(self, target: str) -> list[tuple[Client, str]]:
        """The daemons that see the packets of a target; likewise."""
        return [(self, "")]

    def close(self) -> None:
        """End the connection and cancel what is still going on over it."""
        self._channel.close()

    def _call(
        self,
        kind: type[Reply],
        method: Callable[..., Any],
        request: Message,
        timeout: float | None = DEADLINE,
    ) -> Reply:
        with self._translated(timeout):
            reply: Reply = method(request, timeout=timeout)
        return reply

    def _stream(self, kind: type[Reply], method: Callable[..., Any], request: Any) -> Iterator[Reply]:
        with self._translated(None):
            call = method(request)
            try:
                yield from call
            finally:
                call.cancel()

    @contextmanager
    def _translated(self, timeout: float | None) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._error(error, timeout) from error

    def _error(self, error: Any, timeout: float | None) -> NetdError:
        text = " ".join((error.details() or "").split())
        status = error.code()
        metadata = dict(error.trailing_metadata() or ())
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unreachable(f"the daemon at {self.path} did not answer within {timeout:g} seconds")
        if status is grpc.StatusCode.UNAVAILABLE and EXIT_CODE_METADATA not in metadata:
            return Unreachable(f"lost the daemon at {self.path} ({text})")
        refusal = BY_GRPC.get(status.name, NetdError)(text or f"the daemon answered {status.name}")
        refusal.exit_code = int(metadata.get(EXIT_CODE_METADATA, refusal.exit_code))
        return refusal

    def version(self) -> pb.VersionReply:
        """The daemon's version and directories."""
        return self._call(pb.VersionReply, self._stub.Version, pb.VersionRequest())

    def doctor(self) -> list[pb.Check]:
        """What the daemon finds when it examines its host."""
        return list(self._call(pb.DoctorReply, self._stub.Doctor, pb.DoctorRequest()).checks)

    def watch(self) -> Iterator[pb.Event]:
        """Events from now on, without end."""
        return self._stream(pb.Event, self._stub.Watch, pb.WatchRequest())

    def create_network(self, request: pb.CreateNetworkRequest) -> pb.Network:
        """Make a network."""
        return self._call(pb.Network, self._stub.CreateNetwork, request)

    def networks(self) -> list[pb.Network]:
        """All networks, by name."""
        return list(self._call(pb.NetworkList, self._stub.ListNetworks, pb.ListNetworksRequest()).networks)

    def network(self, ref: str) -> pb.Network:
        """One network with its endpoints."""
        return self._call(pb.Network, self._stub.InspectNetwork, pb.NetworkRef(network=ref))

    def remove_network(self, ref: str) -> str:
        """Remove a network; answer its name."""
        return self._call(pb.NetworkRef, self._stub.RemoveNetwork, pb.NetworkRef(network=ref)).network

    def prune_networks(self) -> list[str]:
        """Remove all networks without endpoints; answer their names."""
        return list(
            self._call(pb.PruneNetworksReply, self._stub.PruneNetworks, pb.PruneNetworksRequest()).removed
        )

    def attach_network(self, container: str, attachment: pb.Attachment) -> pb.Endpoint:
        """Connect a container to one more network."""
        request = pb.ConnectRequest(container=container, attachment=attachment)
        return self._call(pb.Endpoint, self._stub.Connect, request)

    def detach_network(self, container: str, network: str, *, force: bool) -> None:
        """Disconnect a container from a network."""
        request = pb.DisconnectRequest(container=container, network=network, force=force)
        self._call(pb.DisconnectReply, self._stub.Disconnect, request)

    def update_endpoint(self, container: str, network: str, options: Mapping[str, str]) -> pb.Endpoint:
        """Change options of a container's attachment in place; an empty value takes one away."""
        request = pb.UpdateEndpointRequest(container=container, network=network, options=options)
        return self._call(pb.Endpoint, self._stub.UpdateEndpoint, request)

    def run(self, inputs: Iterable[pb.StreamInput]) -> Iterator[pb.StreamOutput]:
        """Create and start a container; the first input is the request."""
        return self._stream(pb.StreamOutput, self._stub.Run, iter(inputs))

    def exec(self, inputs: Iterable[pb.StreamInput]) -> Iterator[pb.StreamOutput]:
        """Run a further process in a container; the first input is the request."""
        return self._stream(pb.StreamOutput, self._stub.Exec, iter(inputs))

    def containers(self, *, all: bool) -> list[pb.Container]:
        """Running containers, or `all`."""
        return list(
            self._call(
                pb.ContainerList, self._stub.ListContainers, pb.ListContainersRequest(all=all)
            ).containers
        )

    def container(self, ref: str) -> pb.Container:
        """One container, with what was asked for when it was made."""
        return self._call(pb.Container, self._stub.InspectContainer, pb.ContainerRef(container=ref))

    def stop_container(self, ref: str, grace: float | None) -> pb.Container:
        """SIGTERM, then SIGKILL after `grace` seconds (None: the daemon's 10); answer when it has ended."""
        deadline = DEADLINE + (10 if grace is None else grace)
        return self._call(
            pb.Container, self._stub.StopContainer, pb.StopRequest(container=ref, timeout=grace), deadline
        )

    def kill_container(self, ref: str, signal: str) -> pb.Container:
        """Send a signal to a container's first process."""
        return self._call(
            pb.Container, self._stub.KillContainer, pb.KillRequest(container=ref, signal=signal)
        )

    def rename_container(self, ref: str, name: str) -> pb.Container:
        """Call a container `name` from now on."""
        request = pb.RenameRequest(container=ref, name=name)
        return self._call(pb.Container, self._stub.RenameContainer, request)

    def remove_container(self, ref: str, *, force: bool) -> str:
        """Remove a container (with `force` also a running one); answer its name or id."""
        request = pb.RemoveContainerRequest(container=ref, force=force)
        return self._call(pb.ContainerRef, self._stub.RemoveContainer, request).container

    def wait_container(self, ref: str) -> pb.Exit:
        """Answer when the container has ended, however long that takes."""
        return self._call(pb.Exit, self._stub.WaitContainer, pb.ContainerRef(container=ref), None)

    def logs(self, ref: str, *, follow: bool, tail: int, timestamps: bool) -> Iterator[pb.LogLine]:
        """Logged lines, the last `tail` of them (0: all), and with `follow` those to come."""
        request = pb.LogsRequest(container=ref, follow=follow, tail=tail, timestamps=timestamps)
        return self._stream(pb.LogLine, self._stub.Logs, request)

    def add_port(self, ref: str, spec: str) -> list[pb.PublishedPort]:
        """Publish a port of a running container; answer what it publishes now."""
        return list(
            self._call(pb.PortList, self._stub.AddPort, pb.PortRequest(container=ref, spec=spec)).ports
        )

    def remove_port(self, ref: str, spec: str) -> list[pb.PublishedPort]:
        """Take a published port back; answer what is still published."""
        return list(
            self._call(pb.PortList, self._stub.RemovePort, pb.PortRequest(container=ref, spec=spec)).ports
        )

    def trace(self, source: str, packet: bytes) -> pb.TraceReply:
        """Send a packet from a container or the host, and tell what the host's rules did to it.

        From "host:eth0" it is waited for, 20 s at most: the first packet of its flow that comes in there.
        """
        return self._call(pb.TraceReply, self._stub.Trace, pb.TraceRequest(source=source, packet=packet))

    def dns_lookup(self, container: str, name: str, types: Iterable[str]) -> pb.DnsLookupReply:
        """What a container would be told about a name."""
        request = pb.DnsLookupRequest(container=container, name=name, types=types)
        return self._call(pb.DnsLookupReply, self._stub.DnsLookup, request)

    def dns_dump(self) -> Iterator[pb.DnsName]:
        """Every name that the DNS answers."""
        return self._stream(pb.DnsName, self._stub.DnsDump, pb.DnsDumpRequest())

    def dns_metrics(self) -> list[pb.Metric]:
        """Counters of the DNS server."""
        return list(self._call(pb.DnsMetricsReply, self._stub.DnsMetrics, pb.DnsMetricsRequest()).metrics)

    def nodes(self) -> pb.NodeList:
        """The nodes of the cluster, and how the daemon stands with its memory."""
        return self._call(pb.NodeList, self._stub.ListNodes, pb.ListNodesRequest())

    def drain_node(self, name: str, *, undo: bool) -> pb.Node:
        """Let a node take no more containers, or again."""
        return self._call(pb.Node, self._stub.DrainNode, pb.DrainNodeRequest(node=name, undo=undo))

    def rotate_key(self) -> pb.Node:
        """Replace the WireGuard key of the daemon's own node."""
        return self._call(pb.Node, self._stub.RotateKey, pb.RotateKeyRequest())
