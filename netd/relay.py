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

A port is first held (bound and listening: clients queue, nothing is accepted), then served once the
container can be reached, and dropped. While its container is in no network that leads out, clients
are refused. It costs two descriptors and no task: 200 ports take a few
milliseconds and no process. `netd.pipes` and `netd.flows` are what runs through.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from netd.errors import AlreadyExists, Exhausted, Invalid, NetdError, Unavailable
from netd.flows import ASK_LOCAL, BURST, DATAGRAM, Flow, Flows, local_address
from netd.model import IPAddress, PortMapping, Proto
from netd.pipes import Pipe, reset

log = logging.getLogger(__name__)

BACKLOG = 128
CONNECTIONS = 2048
"""TCP connections relayed at once, over all ports; two descriptors each. Beyond, clients are reset."""
FOR_ONE = CONNECTIONS // 4
"""How many of them one port may have, so that a flood of one leaves room for the others."""
PAUSE = 1.0
"""Seconds in which nothing is accepted after descriptors have run out."""
DNS_PORT = 53
"""What `netd.dns_process` listens on, on the gateways of all networks."""

Targets = Mapping[int, IPAddress]
"""Where a port leads: the container's address by family; none for nowhere."""

Holder = Callable[[Proto, IPAddress | None, int], Awaitable[str]]
"""Names the program that holds a port (`Kernel.holder`)."""

Bind = Callable[[PortMapping], Sequence[socket.socket]]
"""Takes a port on the host (`bind`); tests take it nowhere."""


def bind(mapping: PortMapping) -> list[socket.socket]:
    """The sockets of one port, bound and listening. Raises OSError, and then has bound nothing."""
    if mapping.host_ip is None:
        addresses = [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]
    else:
        family = socket.AF_INET if mapping.host_ip.version == 4 else socket.AF_INET6
        addresses = [(family, str(mapping.host_ip))]
    bound: list[socket.socket] = []
    try:
        for family, address in addresses:
            try:
                bound.append(_listener(mapping.proto, family, address, mapping.host_port))
            except OSError as error:
                # A kernel without IPv6 has no IPv6 clients either.
                if error.errno != errno.EAFNOSUPPORT or not bound:
                    raise
    except OSError:
        for each in bound:
            each.close()
        raise
    return bound


def _listener(proto: Proto, family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    kind = socket.SOCK_STREAM if proto is Proto.TCP else socket.SOCK_DGRAM
    listener = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if proto is Proto.TCP:
            # For the daemon that comes after us, while our connections are in TIME_WAIT. Not for
            # UDP: there it would let two programs have the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(BACKLOG)
        else:
            listener.setsockopt(*ASK_LOCAL[family], 1)
            listener.bind((address, port))
    except OSError:
        listener.close()
        raise
    return listener


class Relay:
    """All published ports of this host, on the side of the sockets."""

    def __init__(self, holder: Holder, bind: Bind = bind) -> None:
        self._holder = holder
        self._bind = bind
        self._ports: dict[PortMapping, _Port] = {}
        self.flows = Flows()
        self.connections = 0
        """TCP connections that run through now."""

    async def hold(self, mapping: PortMapping) -> None:
        """Take the port for ourselves. Clients that come now wait until it is served.

        Raises `AlreadyExists` naming the program that has it, `Invalid` where the address is not one
        of the host's, `Exhausted` when the daemon is out of descriptors.
        """
        if mapping in self._ports:
            return
        try:
            sockets = self._bind(mapping)
        except OSError as error:
            raise await self._refusal(mapping, error) from error
        self._ports[mapping] = _Port(self, mapping, sockets)

    def holds(self, mapping: PortMapping) -> bool:
        """Whether the port is ours."""
        return mapping in self._ports

    def serve(self, mapping: PortMapping, targets: Targets) -> None:
        """Let in whoever comes, and lead them to the container; without targets, refuse them."""
        self._ports[mapping].serve(targets)

    def drop(self, mapping: PortMapping) -> None:
        """Give the port back; what runs through it is cut. One that is not held is passed over."""
        if port := self._ports.pop(mapping, None):
            port.close()

    def close(self) -> None:
        """Give every port back."""
        for mapping in list(self._ports):
            self.drop(mapping)
        self.flows.close()

    async def _refusal(self, mapping: PortMapping, error: OSError) -> NetdError:
        address = mapping.host_ip
        host = "*" if address is None else f"[{address}]" if address.version == 6 else str(address)
        what = f"port {host}:{mapping.host_port}/{mapping.proto}"
        if error.errno == errno.EADDRINUSE:
            program = await self._holder(mapping.proto, address, mapping.host_port)
            return AlreadyExists(f"{what} is in use by {program}; {_way_out(mapping.host_port)}")
        if error.errno == errno.EADDRNOTAVAIL:
            return Invalid(f"{what} cannot be published: {address} is not an address of this host")
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            return Exhausted(f"{what} cannot be published: {error.strerror}; publish fewer ports")
        return Unavailable(f"{what} cannot be published: {error.strerror}")


def _way_out(port: int) -> str:
    if port == DNS_PORT:
        return "netd's own DNS has it on networks' gateways: name another address of the host, as IP:53:53"
    return "choose another port, or stop that program"


class _Port:
    """One published port: its sockets, and what runs through them."""

    def __init__(self, relay: Relay, mapping: PortMapping, sockets: Sequence[socket.socket]) -> None:
        self._relay = relay
        self._mapping = mapping
        self._sockets = sockets
        self._targets: Targets | None = None
        self._pipes: set[Pipe] = set()
        self._flows: dict[tuple[Any, bytes], Flow] = {}

    def serve(self, targets: Targets) -> None:
        """Lead clients to `targets` from now on; those that were led elsewhere are cut."""
        if targets == self._targets:
            return
        self._targets = targets
        self._cut()
        loop = asyncio.get_running_loop()
        arrived = self._accept if self._mapping.proto is Proto.TCP else self._receive
        for listener in self._sockets:
            # By its number: asyncio describes a socket that it does not know yet, only to forget the text.
            loop.add_reader(listener.fileno(), arrived, listener)

    def close(self) -> None:
        """Give the port back."""
        loop = asyncio.get_running_loop()
        for listener in self._sockets:
            loop.remove_reader(listener.fileno())
            listener.close()
        self._cut()

    def _cut(self) -> None:
        for pipe in list(self._pipes):
            pipe.abort()
        for flow in list(self._flows.values()):
            flow.close()

    def _target(self, listener: socket.socket) -> tuple[str, int]:
        """Where to lead a client of `listener`: within its family, if the container has it."""
        assert self._targets
        family = 6 if listener.family == socket.AF_INET6 else 4
        address = self._targets.get(family) or next(iter(self._targets.values()))
        return str(address), self._mapping.container_port

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BURST):
            try:
                client, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors: a listener that stays readable would spin, so look away.
                log.warning("port %d: %s", self._mapping.host_port, error.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener.fileno())
                loop.call_later(PAUSE, self._look_again, listener)
                return
            client.setblocking(False)
            if not self._targets or len(self._pipes) >= FOR_ONE or self._relay.connections >= CONNECTIONS:
                reset(client)
                continue
            self._relay.connections += 1
            self._pipes.add(Pipe(client, self._target(listener), self._ended))

    def _look_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def _ended(self, pipe: Pipe) -> None:
        self._relay.connections -= 1
        self._pipes.discard(pipe)

    def _receive(self, listener: socket.socket) -> None:
        for _ in range(BURST):
            try:
                data, ancillary, _, client = listener.recvmsg(DATAGRAM, 128)
            except OSError:
                return
            if not self._targets:
                continue
            key = (client, local_address(ancillary))
            flow = self._flows.get(key)
            if flow is None:
                try:
                    flow = self._new_flow(listener, key)
                except OSError as error:
                    log.debug("port %d: %s", self._mapping.host_port, error)
                    continue
            flow.forward(data)

    def _new_flow(self, listener: socket.socket, key: tuple[Any, bytes]) -> Flow:
        client, local = key
        flow = Flow(
            self._relay.flows,
            listener,
            client,
            local,
            self._target(listener),
            ended=lambda: self._flows.pop(key, None),
        )
        self._flows[key] = flow
        return flow
