"""Questions about other people's names: ask the upstream servers, once, and wait for nobody long.

A question in flight is a `Flight`: one socket an attempt, each with a port of the kernel's random
choice and connected, so that only the server asked can answer it, and a fresh random id. Servers are
tried one after another without waiting for the one before to give up: the next is asked after
`HEDGE` seconds, or at once when one refuses. The first good answer ends the flight for every client
that wants it.

What bounds it: `FLIGHTS_MOST` in all and a quota for each client, so that one that asks for names
nobody answers runs out of its own share and not of everybody's.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from array import array
from collections.abc import Callable, Iterator
from functools import partial

from netd_dns import wire
from netd_dns.cache import Cache, Entry, Key
from netd_dns.counters import Counters
from netd_dns.loop import WRITE, Loop, Timer
from netd_dns.loopcheck import LoopCheck
from netd_dns.ports import Port, Ports
from netd_dns.resolve import Client
from netd_dns.upstream import Server, Upstreams
from netd_dns.wire import Query, Reply
from netd_dns.zone import View

log = logging.getLogger(__name__)

HEDGE = 0.12
"""Seconds until the next server is asked as well."""
HEDGES = 0.2
"""Seconds in which all have been asked, however many there are: one that answers is heard within 300 ms."""
REPEAT = 0.6
"""Seconds after the last was asked until all are asked again, since packets get lost; and then until
nobody is waited for. Together 1.7 s: SERVFAIL has to be there within 2."""
STALE_AFTER = 0.4
"""Seconds after which a client gets a stale answer, if there is one, while the asking goes on."""
STALE_TTL = 5

FLIGHTS_MOST = 1024
CROWDED = FLIGHTS_MOST // 2
CLIENT_MOST = 128
"""Questions of one client that may wait at once, and while it is crowded:"""
CLIENT_CROWDED = 16


class Forwarder:
    """Answers from the cache, or by flights."""

    def __init__(self, loop: Loop, upstreams: Upstreams, cache: Cache, counters: Counters) -> None:
        self.loop = loop
        self.upstreams = upstreams
        self.cache = cache
        self.counters = counters
        self.ports = Ports(loop)
        self.loopcheck = LoopCheck(loop, upstreams)
        self._flights: dict[Key, Flight] = {}
        self._waiting: dict[str, int] = {}

    def ask(self, query: Query, view: View, client: Client) -> None:
        now = time.monotonic()
        servers = self.upstreams.choose(view.upstreams, now)
        if not servers or self.loopcheck.is_ours(query.name):
            self.fail(query, client)
            return
        key = (servers, query.asked)
        entry = self.cache.get(key, now)
        if entry is not None and now < entry.until:
            self.counters.cache_hits += 1
            self.counters.answered(entry.reply.rcode)
            client.reply(entry.reply.aged(query, int(now - entry.stored), client.limit(query)))
            return
        self.counters.cache_misses += 1
        flight = self._flights.get(key)
        if not self._admit(client, flight):
            self.counters.drop("quota")
            self.counters.answered(wire.REFUSED)
            client.reply(wire.respond(query, wire.REFUSED, limit=client.limit(query), authoritative=False))
            return
        if entry is not None and self.upstreams.all_away(servers, now):
            self.stale(entry, query, client)
            if flight is None:
                self._fly(key, query, servers, entry, now)
            return
        if flight is None:
            flight = self._fly(key, query, servers, entry, now)
        else:
            self.counters.coalesced += 1
        if not flight.ended:
            self._waiting[client.source] = self._waiting.get(client.source, 0) + 1
        flight.join(query, client)

    def _admit(self, client: Client, flight: Flight | None) -> bool:
        crowd = len(self._flights)
        if flight is None and crowd >= FLIGHTS_MOST:
            return False
        most = CLIENT_MOST if crowd < CROWDED else CLIENT_CROWDED
        return self._waiting.get(client.source, 0) < most

    def _fly(
        self, key: Key, query: Query, servers: tuple[str, ...], entry: Entry | None, now: float
    ) -> Flight:
        self.counters.forwarded += 1
        ordered = self.upstreams.ordered(servers, now)
        self.loopcheck.used(ordered, now)
        flight = self._flights[key] = Flight(self, key, query, ordered, entry)
        flight.start(now)
        return flight

    def landed(self, key: Key) -> None:
        del self._flights[key]

    def left(self, client: Client) -> None:
        """A client of a flight has its answer."""
        remaining = self._waiting[client.source] - 1
        if remaining:
            self._waiting[client.source] = remaining
        else:
            del self._waiting[client.source]

    def give(self, reply: Reply, query: Query, client: Client) -> None:
        """Answer with what a server has just said."""
        self.counters.answered(reply.rcode)
        client.reply(reply.aged(query, 0, client.limit(query)))

    def stale(self, entry: Entry, query: Query, client: Client) -> None:
        """Answer with what a server said some time ago."""
        self.counters.cache_stale += 1
        self.counters.answered(entry.reply.rcode)
        client.reply(entry.reply.stale(query, STALE_TTL, client.limit(query)))

    def fail(self, query: Query, client: Client) -> None:
        """Answer that no server could be asked, or none answered."""
        self.counters.answered(wire.SERVFAIL)
        client.reply(wire.respond(query, wire.SERVFAIL, limit=client.limit(query), authoritative=False))


class Flight:
    """One question on its way, and the clients that wait for its answer."""

    __slots__ = (
        "_attempts", "_clients", "_entry", "_key", "_place", "_query", "_refusal", "_repeated",
        "_servers", "_stale_timer", "_timer", "ended", "forwarder",
    )  # fmt: skip

    def __init__(
        self, forwarder: Forwarder, key: Key, query: Query, servers: list[Server], entry: Entry | None
    ) -> None:
        self.forwarder = forwarder
        self._key = key
        self._query = query
        self._servers = servers
        self._place = 0
        """Of the server that is asked next."""
        self._entry = entry
        self._refusal: Reply | None = None
        self._repeated = False
        self._clients: list[tuple[Query, Client]] = []
        self._attempts: list[Attempt] = []
        self._timer: Timer | None = None
        self._stale_timer: Timer | None = None
        self.ended: Callable[[Query, Client], None] | None = None
        """How a client is answered that comes when all is over, which can be before `start` returns."""

    def start(self, now: float) -> None:
        if self._entry is not None:
            self._stale_timer = self.forwarder.loop.after(STALE_AFTER, self._give_stale)
        self._ask(now)

    def join(self, query: Query, client: Client) -> None:
        if self.ended is not None:
            self.ended(query, client)
        else:
            self._clients.append((query, client))

    def _next(self) -> None:
        self._ask(time.monotonic())

    def _ask(self, now: float) -> None:
        """Ask the next server; when the last has been asked, all of them again after a while."""
        while self._place < len(self._servers) and self.ended is None:
            server = self._servers[self._place]
            self._place += 1
            attempt = Attempt(self, self._query, server, now)
            if attempt.start():
                self._attempts.append(attempt)
                self._wait(now)
                return
            self.forwarder.counters.upstream_failure(server.text)
            self.forwarder.upstreams.failed(server, now)
        if not self._attempts and self.ended is None:
            self._give_up()

    def _wait(self, now: float) -> None:
        """Arrange for what happens if no answer comes. One step at a time: most need none."""
        if self._timer is not None:
            self._timer.cancel()
        after = self.forwarder.loop.after
        if (count := len(self._servers)) > self._place:
            self._timer = after(min(HEDGE, HEDGES / (count - 1)), self._next, now)
        elif not self._repeated:
            self._timer = after(REPEAT, self._again, now)
        else:
            self._timer = after(REPEAT, self._timeout, now)

    def _again(self) -> None:
        self._repeated = True
        self._place = 0
        self._next()

    def reply(self, attempt: Attempt, reply: Reply, now: float) -> None:
        """A server answered. "No such name" is an answer; a failure makes the next server try."""
        self.forwarder.upstreams.answered(attempt.server)
        if reply.rcode in (wire.NOERROR, wire.NXDOMAIN):
            if not reply.truncated:
                self.forwarder.cache.put(self._key, reply, now)
                for other in self._attempts:
                    if other is not attempt and now - other.started >= HEDGE:
                        self.forwarder.upstreams.failed(other.server, now)
            self._finish(partial(self.forwarder.give, reply))
            return
        self._refusal = reply
        self.failed(attempt)

    def failed(self, attempt: Attempt) -> None:
        """This attempt will not bring an answer."""
        self.forwarder.counters.upstream_failure(attempt.server.text)
        attempt.close()
        self._attempts.remove(attempt)
        if self._place < len(self._servers) or not self._attempts:
            self._next()

    def _timeout(self) -> None:
        now = time.monotonic()
        for attempt in self._attempts:
            self.forwarder.upstreams.failed(attempt.server, now)
            self.forwarder.counters.upstream_failure(attempt.server.text)
        self._give_up()

    def _give_up(self) -> None:
        if self._entry is not None:
            self._finish(partial(self.forwarder.stale, self._entry))
        elif self._refusal is not None:
            self._finish(partial(self.forwarder.give, self._refusal))
        else:
            self._finish(self.forwarder.fail)

    def _give_stale(self) -> None:
        assert self._entry is not None
        clients, self._clients = self._clients, []
        for query, client in clients:
            self.forwarder.left(client)
            self.forwarder.stale(self._entry, query, client)

    def _finish(self, answer: Callable[[Query, Client], None]) -> None:
        self.ended = answer
        for timer in (self._timer, self._stale_timer):
            if timer is not None:
                timer.cancel()
        for attempt in self._attempts:
            attempt.close()
        self._attempts.clear()
        self.forwarder.landed(self._key)
        clients, self._clients = self._clients, []
        for query, client in clients:
            self.forwarder.left(client)
            answer(query, client)


def _random_identities() -> Iterator[int]:
    """16 unpredictable bits at a time; a system call serves 256 of them."""
    while True:
        yield from array("H", os.urandom(512))


_identities = _random_identities()


class Attempt:
    """One server asked once: over UDP, and over TCP when it says that the answer does not fit."""

    __slots__ = (
        "_buffer", "_flight", "_identity", "_message", "_port", "_query", "_socket", "server", "started",
    )  # fmt: skip

    def __init__(self, flight: Flight, query: Query, server: Server, now: float) -> None:
        self._flight = flight
        self._query = query
        self.server = server
        self.started = now
        self._port: Port | None = None
        self._socket: socket.socket | None = None

    def start(self) -> bool:
        """Send the question; False if the server cannot be reached from here."""
        self._identity = identity = next(_identities)
        self._message = message = wire.ask(self._query, identity)
        try:
            self._port = port = self._flight.forwarder.ports.lend(self.server, self)
            port.send(message)
        except OSError:
            self.close()
            return False
        return True

    def close(self) -> None:
        """Listen no longer; an answer that is still under way must not meet the next question."""
        if self._port is not None:
            self._flight.forwarder.ports.drop(self._port)
            self._port = None
        if self._socket is not None:
            self._flight.forwarder.loop.forget(self._socket.fileno(), closing=True)
            self._socket.close()
            self._socket = None

    def received(self, data: bytes) -> bool:
        """A datagram from where the server is."""
        reply = wire.read_reply(data, self._query, self._identity)
        if reply is None:
            self._flight.forwarder.counters.drop("wrong upstream answer")
            return False
        if reply.truncated:
            self._over_tcp()
            return True
        now = time.monotonic()
        if self._port is not None:
            self._flight.forwarder.ports.give_back(self._port)
            self._port = None
        self._good(reply, now)
        return True

    def unreachable(self) -> None:
        """ICMP said that nobody listens there."""
        self._flight.failed(self)

    def _good(self, reply: Reply, now: float) -> None:
        self._flight.forwarder.counters.upstream_answer(self.server.text, now - self.started)
        self._flight.reply(self, reply, now)

    def _over_tcp(self) -> None:
        self.close()
        self._buffer = b""
        try:
            kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._socket = socket.socket(self.server.family, kind)
            code = self._socket.connect_ex(self.server.address)
        except OSError:
            code = errno.EIO
        if self._socket is None or code not in (0, errno.EINPROGRESS):
            self._flight.failed(self)
            return
        self._flight.forwarder.loop.watch(self._socket.fileno(), self._connected, WRITE, patient=True)

    def _connected(self) -> None:
        assert self._socket is not None
        message = len(self._message).to_bytes(2, "big") + self._message
        try:
            # A few hundred bytes into an empty buffer: all or an error.
            if self._socket.send(message) != len(message):
                raise OSError(errno.EIO, "short write")
        except BlockingIOError:
            return  # not connected yet
        except OSError:
            self._flight.failed(self)
            return
        self._flight.forwarder.loop.watch(self._socket.fileno(), self._receive_tcp, patient=True)

    def _receive_tcp(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(65537)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        need = int.from_bytes(self._buffer[:2], "big") + 2 if len(self._buffer) >= 2 else 65537
        if data and len(self._buffer) < need:
            return
        reply = wire.read_reply(self._buffer[2:need], self._query, self._identity)
        if reply is None:
            self._flight.failed(self)
        else:
            self._good(reply, time.monotonic())
