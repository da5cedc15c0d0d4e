"""The datagrams of one client through one published UDP port, and the way back.

UDP has no connections, so each client gets a flow: a socket of its own towards the container, whose
answers are sent back from the address that the client asked, or a client that checks would refuse
them. A flow ends after a while of silence; `Flows` keeps them in the order of their last datagram,
and when there are too many the most silent one goes.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

LIMIT = 2048
"""Flows at once, over all ports; one descriptor each."""
IDLE = 90.0
"""Seconds of silence after which a flow is forgotten."""
DATAGRAM = 65535
BURST = 64
"""Datagrams taken from one socket before the others get their turn."""

IP_PKTINFO = 8  # include/uapi/linux/in.h; the socket module has only the IPv6 one
ASK_LOCAL = {
    socket.AF_INET: (socket.IPPROTO_IP, IP_PKTINFO),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
}
"""The option (level, name) that makes a socket tell to which address a datagram was sent."""
SAY_LOCAL = {
    socket.AF_INET: (socket.IPPROTO_IP, IP_PKTINFO),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO),
}
"""The control message that says from which address a datagram is to be sent."""


def local_address(ancillary: Sequence[tuple[int, int, bytes]]) -> bytes:
    """The address a datagram was sent to, in the form in which it is given back as the sender's."""
    for level, kind, data in ancillary:
        if (level, kind) == SAY_LOCAL[socket.AF_INET]:
            # struct in_pktinfo: interface, local address, destination. What is sent leaves from the
            # local address, by whatever interface the routes say (0), ip(7).
            return bytes(4) + data[4:8] + bytes(4)
        if (level, kind) == SAY_LOCAL[socket.AF_INET6]:
            # struct in6_pktinfo: address, interface. Only a link-local address means nothing alone.
            return data if data[:2] == b"\xfe\x80" else data[:16] + bytes(4)
    return b""


class Flows:
    """All flows of this host, the most silent first."""

    def __init__(self) -> None:
        self._flows: OrderedDict[Flow, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._flows)

    def admit(self, flow: Flow) -> None:
        """Count a new flow in; the most silent one makes room for it, if need be."""
        if len(self._flows) >= LIMIT:
            next(iter(self._flows)).close()
        self._flows[flow] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(IDLE / 8, self._sweep)

    def touch(self, flow: Flow) -> None:
        """A datagram went through `flow` just now."""
        flow.last = asyncio.get_running_loop().time()
        self._flows.move_to_end(flow)

    def forget(self, flow: Flow) -> None:
        """A flow was closed."""
        self._flows.pop(flow, None)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while self._flows and (silent := next(iter(self._flows))).last < loop.time() - IDLE:
            silent.close()
        self._timer = loop.call_later(IDLE / 8, self._sweep) if self._flows else None

    def close(self) -> None:
        """Stop the clock."""
        if self._timer:
            self._timer.cancel()
            self._timer = None


class Flow:
    """One client's datagrams. Raises OSError when the container cannot be addressed."""

    def __init__(
        self,
        flows: Flows,
        listener: socket.socket,
        client: Any,
        local: bytes,
        target: tuple[str, int],
        ended: Callable[[], object],
    ) -> None:
        self._flows, self._listener, self._client, self._ended = flows, listener, client, ended
        self.last = 0.0
        level, kind = SAY_LOCAL[socket.AddressFamily(listener.family)]
        self._source = [(level, kind, local)] if local else []
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(target)
        except OSError:
            self._socket.close()
            raise
        flows.admit(self)
        asyncio.get_running_loop().add_reader(self._socket, self._answer)

    def forward(self, data: bytes) -> None:
        """Client to container. What the socket will not take is lost, as it would be in a network."""
        self._flows.touch(self)
        try:
            self._socket.send(data)
        except ConnectionRefusedError:
            # Nobody listened for an earlier datagram. This one may still be heard.
            with suppress(OSError):
                self._socket.send(data)
        except OSError:
            return

    def _answer(self) -> None:
        """Container to client, until nothing is left or the others want their turn."""
        self._flows.touch(self)
        for _ in range(BURST):
            try:
                data = self._socket.recv(DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                self.close()  # nobody listens there; the next datagram of the client tries again
                return
            with suppress(OSError):
                self._listener.sendmsg([data], self._source, 0, self._client)

    def close(self) -> None:
        """Forget the client."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._flows.forget(self)
        self._ended()
