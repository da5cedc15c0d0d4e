"""Questions over TCP (RFC 7766): many on a connection, answered as they are ready, nobody waited for.

What a connection may take from others is bounded in every direction: how many a client has, how long
a question may dribble in, how long it may stay silent, how many of its questions wait, how many
answers it leaves unread. aardvark-dns lost to each of these once (CVE-2024-8418, CVE-2026-35406).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from netd_dns.counters import Counters
from netd_dns.loop import READ, WRITE, Loop
from netd_dns.resolve import Resolver
from netd_dns.wire import TCP_MOST, Query
from netd_dns.zone import View

CONNECTIONS_MOST = 1024
CLIENT_MOST = 64
IDLE = 5.0
"""Seconds that a connection may stay open without a question."""
LOOK_EVERY = 1.0
"""Seconds between looks at whether a connection is late; all these times are kept that exactly."""
READ_TIME = 3.0
"""Seconds from the first byte of a question to its last."""
WRITE_TIME = 5.0
"""Seconds in which a client must have taken something of what waits for it."""
WAITING_MOST = 64
"""Questions of one connection that may wait for an upstream; more are not read until then."""
UNREAD_MOST = 256 * 1024
"""Bytes of answers that a client may leave unread."""
QUESTION_MOST = 4096
CHUNK = 512
"""Bytes read at once: some twenty small questions, which take half a millisecond."""


class TcpServer:
    """All connections of all networks; counts what each client has."""

    def __init__(self, loop: Loop, resolver: Resolver, counters: Counters) -> None:
        self.loop = loop
        self.resolver = resolver
        self.counters = counters
        self._open: dict[str, int] = {}
        self._total = 0

    def admit(self, source: str) -> bool:
        """Whether one more connection of this client is welcome; if so it is counted."""
        count = self._open.get(source, 0)
        if count >= CLIENT_MOST or self._total >= CONNECTIONS_MOST:
            self.counters.drop("connections")
            return False
        self._open[source] = count + 1
        self._total += 1
        return True

    def closed(self, source: str) -> None:
        self._total -= 1
        count = self._open[source] - 1
        if count:
            self._open[source] = count
        else:
            del self._open[source]


class TcpListener:
    """One listening socket: a gateway address of a network, port 53."""

    def __init__(self, sock: socket.socket, view: Callable[[str], View | None], server: TcpServer) -> None:
        self.socket = sock
        self._view = view
        self._server = server

    def serve(self) -> None:
        """Accept what waits, some of it."""
        for _ in range(16):
            try:
                sock, peer = self.socket.accept()
            except BlockingIOError:
                return
            except OSError:
                # Descriptors ran out (or the client is gone already). The connection stays in the
                # queue and would wake us at once, for ever: look away for a moment.
                self._server.counters.drop("accept")
                descriptor = self.socket.fileno()
                self._server.loop.forget(descriptor)
                self._server.loop.after(0.2, self._again)
                return
            if self._server.admit(peer[0]):
                sock.setblocking(False)
                Connection(sock, peer[0], self._view, self._server)
            else:
                sock.close()

    def _again(self) -> None:
        if self.socket.fileno() >= 0:
            self._server.loop.watch(self.socket.fileno(), self.serve)


class Connection:
    """One client's connection. It is a `Client`: all its answers go the same way."""

    __slots__ = (
        "_closed", "_deadline", "_ended", "_input", "_output", "_reading", "_server", "_socket", "_view",
        "_waiting", "source",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, source: str, view: Callable[[str], View | None], server: TcpServer
    ) -> None:
        self.source = source
        self._socket = sock
        self._view = view
        self._server = server
        self._input = b""
        self._output = bytearray()
        self._waiting = 0
        self._reading = False
        self._ended = False
        """The client has said that no question will follow."""
        self._closed = False
        self._deadline = time.monotonic() + IDLE
        self._watch()
        server.loop.after(LOOK_EVERY, self._check)

    def limit(self, query: Query) -> int:
        return TCP_MOST

    def reply(self, answer: bytes) -> None:
        self._waiting -= 1
        if self._closed:
            return
        self._output += len(answer).to_bytes(2, "big") + answer
        if len(self._output) > UNREAD_MOST:
            self._server.counters.drop("unread")
            self._close()
        elif not self._reading:
            self._write()

    def _watch(self) -> None:
        """Readiness to ask for; none at all while we only wait for upstreams."""
        events = 0
        if not self._ended and self._waiting < WAITING_MOST:
            events |= READ
        if self._output:
            events |= WRITE
        self._server.loop.watch(self._socket.fileno(), self._serve, events, patient=True)

    def _serve(self) -> None:
        self._write()
        if not self._closed and not self._ended and self._waiting < WAITING_MOST:
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._close()
            return
        if not data:
            # Half-closed. Watching on would report it again and again (CVE-2026-35406).
            self._ended = True
            self._settle()
            return
        if not self._input:
            self._deadline = time.monotonic() + READ_TIME
        self._input += data
        self._questions()

    def _questions(self) -> None:
        view = self._view(self.source)
        data = self._input
        self._reading = True  # answers that are there at once go out together
        position = 0
        while not self._closed and len(data) - position >= 2:
            length = int.from_bytes(data[position : position + 2], "big")
            if length > QUESTION_MOST or length < 12:
                self._server.counters.drop("not a question")
                self._close()
                return
            if len(data) - position < length + 2:
                break
            self._server.counters.tcp += 1
            if data[position + 4] & 0x80:
                # A response. `Resolver` would be silent too, and we would wait for it to speak.
                self._server.counters.drop("not a question")
            else:
                self._waiting += 1
                message = data[position + 2 : position + 2 + length]
                self._server.resolver.question(message, view, self, keep=False)
            position += length + 2
            self._deadline = time.monotonic() + READ_TIME
        self._reading = False
        if not self._closed:
            self._input = data[position:]
            self._write()
            self._settle()

    def _write(self) -> None:
        if self._closed or not self._output:
            return
        try:
            sent = self._socket.send(self._output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close()
            return
        if sent:
            del self._output[:sent]
            self._deadline = time.monotonic() + (WRITE_TIME if self._output else IDLE)
        self._settle()

    def _settle(self) -> None:
        """Close when all is said, else wait for what is to come."""
        if self._closed:
            return
        if self._ended and not self._waiting and not self._output:
            self._close()
            return
        if not self._input and not self._output:
            self._deadline = max(self._deadline, time.monotonic() + IDLE)
        self._watch()

    def _check(self) -> None:
        if self._closed:
            return
        left = self._deadline - time.monotonic()
        if self._waiting and not self._output:
            left = max(left, 1.0)  # it waits for us
        if left <= 0:
            self._server.counters.drop("idle")
            self._close()
        else:
            self._server.loop.after(LOOK_EVERY, self._check)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._server.loop.forget(self._socket.fileno())
            self._socket.close()
            self._server.closed(self.source)
