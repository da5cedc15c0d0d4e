"""Serves published ports where the kernel cannot translate, and holds them against other programs.

nftables carries the traffic of published ports; what is left are connections to loopback addresses
(::1 cannot be translated at all, 127.0.0.1 only with route_localnet, which exposes every loopback
service of the host) and those of a family that the container lacks. They arrive at a socket of the
daemon, which passes the bytes on to the container.

The same socket is the reservation: a port that it cannot bind belongs to another program, and one
that it has bound cannot be taken by another. So every published port has its sockets, whether or
not anything ever arrives at them:

    no address      0.0.0.0 and [::], the latter for IPv6 only
    an address      that one

A port is first `hold` (bound and listening: clients queue, nothing is accepted), then `serve`d once
the container can be reached, and `drop`ped. It costs two descriptors and no task: 200 ports take a
few milliseconds and no process.

TCP is relayed with half-close and back-pressure: whoever reads slowly makes the other side wait. UDP
has no connections, so each client gets a flow, a socket of its own towards the container, that ends
after a while of silence; the oldest goes when there are too many. Answers leave from the address
that was asked, or a client that checks would refuse them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from netd.errors import AlreadyExists, Exhausted, Invalid, NetdError, Unavailable
from netd.model import IPAddress, PortMapping, Proto
from netd.tasks import spawn

log = logging.getLogger(__name__)

BACKLOG = 128
CONNECTIONS = 2048
"""TCP connections relayed at once, over all ports; two descriptors each."""
FLOWS = 2048
"""UDP flows at once, over all ports; one descriptor each."""
CONNECT_TIMEOUT = 10.0
FLOW_IDLE = 90.0
"""Seconds of silence after which a UDP flow is forgotten."""
DATAGRAM = 65535
BURST = 64
"""Datagrams or connections taken from one socket before the others get their turn."""

Targets = Mapping[int, IPAddress]
"""Where a port leads: the container's address by family; at least one."""

Holder = Callable[[Proto, IPAddress | None, int], Awaitable[str]]
"""Names the program that holds a port (`Kernel.holder`)."""


class Relay:
    """All published ports of this host, on the side of the sockets."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._ports: dict[PortMapping, _Port] = {}
        self.connections = 0
        self.flows: OrderedDict[_Flow, None] = OrderedDict()
        self._sweeper: asyncio.TimerHandle | None = None

    async def hold(self, mapping: PortMapping) -> None:
        """Take the port for ourselves. Clients that come now wait until it is served.

        Raises `AlreadyExists` naming the program that has it, `Invalid` where the address is not one
        of the host's, `Exhausted` when the daemon is out of descriptors.
        """
        if mapping in self._ports:
            return
        try:
            sockets = _bind(mapping)
        except OSError as error:
            raise await self._explain(mapping, error) from error
        self._ports[mapping] = _Port(self, mapping, sockets)

    def serve(self, mapping: PortMapping, targets: Targets) -> None:
        """Let in whoever comes, and lead them to the container; no targets closes the door again."""
        self._ports[mapping].serve(targets)

    def drop(self, mapping: PortMapping) -> None:
        """Give the port back; what runs through it is cut. One that is not held is passed over."""
        if port := self._ports.pop(mapping, None):
            port.close()

    def holds(self, mapping: PortMapping) -> bool:
        """Whether the port is ours."""
        return mapping in self._ports

    def close(self) -> None:
        """Give every port back."""
        for mapping in list(self._ports):
            self.drop(mapping)
        if self._sweeper:
            self._sweeper.cancel()
            self._sweeper = None

    def admit(self, flow: _Flow) -> None:
        """Make room for a new UDP flow, if need be at the cost of the one silent the longest."""
        if len(self.flows) >= FLOWS:
            next(iter(self.flows)).close()
        self.flows[flow] = None
        if self._sweeper is None:
            self._sweep()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while self.flows and (oldest := next(iter(self.flows))).seen < loop.time() - FLOW_IDLE:
            oldest.close()
        self._sweeper = loop.call_later(FLOW_IDLE / 8, self._sweep) if self.flows else None

    async def _explain(self, mapping: PortMapping, error: OSError) -> NetdError:
        host, port = mapping.host_ip, mapping.host_port
        what = f"port {f'[{host}]' if host and host.version == 6 else host or '*'}:{port}/{mapping.proto}"
        if error.errno == errno.EADDRINUSE:
            program = await self._holder(mapping.proto, host, port)
            return AlreadyExists(f"{what} is in use by {program}; choose another port, or stop that program")
        if error.errno == errno.EADDRNOTAVAIL:
            return Invalid(f"{what} cannot be published: {host} is not an address of this host")
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            return Exhausted(f"{what} cannot be published: {error.strerror}; publish fewer ports")
        return Unavailable(f"{what} cannot be published: {error.strerror}")


def _bind(mapping: PortMapping) -> list[socket.socket]:
    """The sockets of one port, bound; raises OSError, and then has bound nothing."""
    if mapping.host_ip is None:
        addresses = [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]
    else:
        family = socket.AF_INET if mapping.host_ip.version == 4 else socket.AF_INET6
        addresses = [(family, str(mapping.host_ip))]
    bound: list[socket.socket] = []
    try:
        for family, address in addresses:
            try:
                bound.append(_listen(mapping.proto, family, address, mapping.host_port))
            except OSError as error:
                # A kernel without IPv6 has no IPv6 clients either.
                if error.errno != errno.EAFNOSUPPORT or not bound:
                    raise
    except OSError:
        for sock in bound:
            sock.close()
        raise
    return bound


def _listen(proto: Proto, family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    kind = socket.SOCK_STREAM if proto is Proto.TCP else socket.SOCK_DGRAM
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if proto is Proto.TCP:
            # For the daemon that comes after us, while our connections are in TIME_WAIT. Not for
            # UDP: there it would let two programs have the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen(BACKLOG)
        else:
            level, option = _PKTINFO[family]
            sock.setsockopt(level, option, 1)
            sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


IP_PKTINFO = 8  # include/uapi/linux/in.h; the socket module has only the IPv6 one
_PKTINFO = {
    socket.AF_INET: (socket.IPPROTO_IP, IP_PKTINFO),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
}


class _Port:
    """One published port: its sockets, and what runs through them."""

    def __init__(self, relay: Relay, mapping: PortMapping, sockets: Sequence[socket.socket]) -> None:
        self.relay = relay
        self.mapping = mapping
        self.sockets = sockets
        self.targets: Targets = {}
        self.pipes: set[_Pipe] = set()
        self.flows: dict[tuple[Any, bytes], _Flow] = {}

    def serve(self, targets: Targets) -> None:
        moved = bool(self.targets) and targets != self.targets
        self.targets = targets
        if moved:
            self.cut()
        loop = asyncio.get_running_loop()
        for sock in self.sockets:
            if targets:
                loop.add_reader(
                    sock, self._accept if self.mapping.proto is Proto.TCP else self._receive, sock
                )
            else:
                loop.remove_reader(sock)

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self.sockets:
            loop.remove_reader(sock)
            sock.close()
        self.cut()

    def cut(self) -> None:
        """End what runs through: the container behind it is another one now, or none."""
        for pipe in list(self.pipes):
            pipe.abort()
        for flow in list(self.flows.values()):
            flow.close()

    def target(self, family: int) -> tuple[str, int]:
        """Where to lead a client of `family`: to the same family if the container has it."""
        address = self.targets.get(family) or next(iter(self.targets.values()))
        return str(address), self.mapping.container_port

    # --- TCP ---

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BURST):
            try:
                client, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors: a readable listener would spin, so look away for a moment.
                log.warning("port %d: %s", self.mapping.host_port, error.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(1.0, self._look_again, listener)
                return
            client.setblocking(False)
            if self.relay.connections >= CONNECTIONS:
                _reset(client)
                continue
            self.relay.connections += 1
            spawn(self._connect(client), name=f"relay {self.mapping.host_port}/tcp")

    def _look_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0 and self.targets:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def _connect(self, client: socket.socket) -> None:
        """Connect to the container and join the two ends; a client it does not want is reset."""
        loop = asyncio.get_running_loop()
        pipe = _Pipe(self)
        self.pipes.add(pipe)
        try:
            host, port = self.target(6 if client.family == socket.AF_INET6 else 4)
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await loop.create_connection(lambda: pipe.far, host, port)
            await loop.connect_accepted_socket(lambda: pipe.near, client)
        except (OSError, TimeoutError) as error:
            log.debug("port %d: %s", self.mapping.host_port, error)
            if client.fileno() >= 0:
                _reset(client)
            pipe.abort()
            pipe.ended()

    # --- UDP ---

    def _receive(self, listener: socket.socket) -> None:
        for _ in range(BURST):
            try:
                data, ancillary, _, client = listener.recvmsg(DATAGRAM, 128)
            except OSError:
                return
            local = _local(ancillary)
            flow = self.flows.get((client, local))
            if flow is None:
                try:
                    flow = _Flow(self, listener, client, local)
                except OSError as error:
                    log.debug("port %d: %s", self.mapping.host_port, error)
                    continue
            flow.forward(data)


def _reset(client: socket.socket) -> None:
    """Close with RST: the client learns at once that nobody is there, instead of reading an end."""
    with suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@dataclass(eq=False)
class _Pipe:
    """Two joined TCP connections: `near` to the client, `far` to the container."""

    port: _Port
    near: _End = field(init=False)
    far: _End = field(init=False)
    over: bool = False

    def __post_init__(self) -> None:
        self.near, self.far = _End(self), _End(self)
        self.near.other, self.far.other = self.far, self.near

    def abort(self) -> None:
        for end in (self.near, self.far):
            if end.transport:
                end.transport.abort()

    def ended(self) -> None:
        if not self.over:
            self.over = True
            self.port.pipes.discard(self)
            self.port.relay.connections -= 1


class _End(asyncio.Protocol):
    """One connection of a pipe: hands on what it reads, and its end, and its hesitation."""

    other: _End

    def __init__(self, pipe: _Pipe) -> None:
        self.pipe = pipe
        self.transport: asyncio.Transport | None = None
        self.waiting = bytearray()
        self.finished = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # The container may have spoken first (SSH, SMTP), before the client's end was ready.
        if self.other.waiting:
            transport.write(bytes(self.other.waiting))
            self.other.waiting.clear()
        if self.other.transport:
            self.other.transport.resume_reading()
        if self.other.finished:
            transport.write_eof()
        if self.other.lost:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.other.transport:
            self.other.transport.write(data)
        else:
            self.waiting += data
            if self.transport:
                self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.finished = True
        if self.other.transport and not self.other.transport.is_closing():
            self.other.transport.write_eof()
        # Stay open for the other direction, unless that one has ended before.
        return not self.other.finished

    def pause_writing(self) -> None:
        if self.other.transport:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self.other.transport is None:
            return
        if error is None and self.finished:
            self.other.transport.close()
        else:
            self.other.transport.abort()
        if self.other.lost:
            self.pipe.ended()


def _local(ancillary: Sequence[tuple[int, int, bytes]]) -> bytes:
    """The address a datagram was sent to, in the form in which it is given back as the sender's."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            # struct in_pktinfo: ifindex, local address, destination. The source of an answer is its
            # "local address", its route the kernel's business (index 0), ip(7).
            return bytes(4) + data[4:8] + bytes(4)
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            address, index = data[:16], data[16:20]
            # Only a link-local address means nothing without its interface.
            return address + (index if address[:2] == b"\xfe\x80" else bytes(4))
    return b""


class _Flow:
    """The datagrams of one client through one port, and the way back."""

    def __init__(self, port: _Port, listener: socket.socket, client: Any, local: bytes) -> None:
        self.port, self.listener, self.client, self.local = port, listener, client, local
        self.seen = 0.0
        host, number = port.target(6 if listener.family == socket.AF_INET6 else 4)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self.sock.connect((host, number))
        except OSError:
            self.sock.close()
            raise
        port.relay.admit(self)
        port.flows[client, local] = self
        asyncio.get_running_loop().add_reader(self.sock, self._answer)

    def forward(self, data: bytes) -> None:
        """Client to container. What the socket will not take is lost, as it would be in a network."""
        self._touch()
        try:
            self.sock.send(data)
        except BlockingIOError:
            pass
        except OSError:
            # ECONNREFUSED, for an earlier datagram: nobody listens there. This one may still be heard.
            with suppress(OSError):
                self.sock.send(data)

    def _answer(self) -> None:
        self._touch()
        for _ in range(BURST):
            try:
                data = self.sock.recv(DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            level, option = _PKTINFO[socket.AddressFamily(self.listener.family)]
            if level == socket.IPPROTO_IPV6:
                option = socket.IPV6_PKTINFO
            with suppress(OSError):
                self.listener.sendmsg([data], [(level, option, self.local)], 0, self.client)

    def _touch(self) -> None:
        self.seen = asyncio.get_running_loop().time()
        self.port.relay.flows.move_to_end(self)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.sock)
        self.sock.close()
        self.port.relay.flows.pop(self, None)
        self.port.flows.pop((self.client, self.local), None)
