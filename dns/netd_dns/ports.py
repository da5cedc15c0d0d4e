"""Ports towards upstream servers: each question gets a fresh one, chosen by the kernel at random.

Whoever wants a forged answer to be believed must guess the port that the question went out from, beside
its id (RFC 5452 section 9.2). So no two questions share a port, and each is connected, so that only the
server can answer there.

A new socket for each would be a quarter of what forwarding costs. But a socket is not a port: Linux takes
the port away when a datagram socket's peer is taken away (connect(2) with AF_UNSPEC; udp_disconnect in
net/ipv4/udp.c), and chooses another one at random when it is connected again. So sockets that have brought
their answer are kept without a port, and get a new one for the next question
(docs/adr/0020-sockets-are-kept-ports-are-not.md).
"""

from __future__ import annotations

import ctypes
import errno
import socket
from collections.abc import Callable
from typing import Protocol

from netd_dns.loop import Loop
from netd_dns.upstream import Server

IDLE_MOST = 64
"""Sockets that are kept, for each address family; as many questions are rarely in flight."""
ANSWER_MOST = 4096
"""Bytes; more than any answer over UDP that was asked for."""
_UNREAD = ctypes.create_string_buffer(1)
_NO_PEER = b"\0" * 16  # struct sockaddr with AF_UNSPEC, which is 0
_libc = ctypes.CDLL(None, use_errno=True)


class Borrower(Protocol):
    """Who has asked a question."""

    def received(self, data: bytes) -> bool:
        """Something came from the server. False: go on listening for the answer."""

    def unreachable(self) -> None:
        """The server's host said that nobody listens there."""


class Port:
    """A socket that is connected to a server from a port of its own while it has a `borrower`."""

    __slots__ = ("_receive", "borrower", "family", "send", "socket")

    def __init__(self, family: int) -> None:
        self.socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.family = family
        self.borrower: Borrower | None = None
        self.send: Callable[[bytes], int] = self.socket.send
        self._receive: Callable[[int], bytes] = self.socket.recv

    def ready(self) -> None:
        """Something came, or so it seems."""
        # More than one datagram in a turn only if somebody forges them: the budget is for that.
        for _ in range(8):
            borrower = self.borrower
            if borrower is None:
                return
            try:
                data = self._receive(ANSWER_MOST)
            except BlockingIOError:
                return
            except OSError:
                borrower.unreachable()
                return
            if borrower.received(data):
                return

    def leave(self) -> bool:
        """Give up the port; False if the socket is of no more use, as when something unread has come."""
        descriptor = self.socket.fileno()
        if _libc.connect(descriptor, _NO_PEER, len(_NO_PEER)):
            return False
        # Nothing can come any more. What came unread would be taken for the next question's answer. Not
        # `_receive`: it says "nothing there" by an exception, which costs more than the call.
        return _libc.recv(descriptor, _UNREAD, len(_UNREAD), 0) < 0 and ctypes.get_errno() == errno.EAGAIN


class Ports:
    """All ports of this process, and the sockets that have none at the moment."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._idle: dict[int, list[Port]] = {int(socket.AF_INET): [], int(socket.AF_INET6): []}

    def lend(self, server: Server, borrower: Borrower) -> Port:
        """A fresh port to ask `server` from. Raises OSError."""
        idle = self._idle[server.family]
        if idle:
            port = idle.pop()
        else:
            port = Port(server.family)
            self._loop.watch(port.socket.fileno(), port.ready, patient=True)
        try:
            port.socket.connect(server.address)
        except OSError:
            self.drop(port)
            raise
        port.borrower = borrower
        return port

    def give_back(self, port: Port) -> None:
        """It has brought the answer that it was lent for."""
        port.borrower = None
        idle = self._idle[port.family]
        if len(idle) < IDLE_MOST and port.leave():
            idle.append(port)
        else:
            self.drop(port)

    def drop(self, port: Port) -> None:
        """Whatever it may still bring is not wanted."""
        port.borrower = None
        self._loop.forget(port.socket.fileno(), closing=True)
        port.socket.close()

    def close(self) -> None:
        """Close all that are kept."""
        for idle in self._idle.values():
            for port in idle:
                self.drop(port)
            idle.clear()
