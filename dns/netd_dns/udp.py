"""Questions over UDP: the loop that has to be fast.

Nearly every packet is a question that was asked before, spelled the same way. So the loop looks the
client up by its address, the answer up by the question's bytes, and sends the answer with the id of
the question in front: two dictionary lookups between two system calls, most of the time spent in the
kernel. Everything else is `Resolver.question`'s.

recvmmsg and sendmmsg were measured beside this (docs/adr/0013-one-loop-for-dns.md): not worth raw
memory in the process that reads strangers' packets.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from netd_dns.guard import Guard
from netd_dns.resolve import Resolver
from netd_dns.wire import NOERROR, Query
from netd_dns.zone import View

BUDGET = 32
"""Packets taken from one socket in one turn; then the other sockets have theirs."""
SLOW_BUDGET = 16
"""Those among them that have no finished answer: they take ten times as long."""
DATAGRAM_MOST = 4096
SOURCES_MOST = 4096


class UdpClient:
    """One question's sender."""

    __slots__ = ("_peer", "_socket", "source")

    def __init__(self, sock: socket.socket, peer: tuple[Any, ...]) -> None:
        self._socket = sock
        self._peer = peer
        self.source: str = peer[0]

    def limit(self, query: Query) -> int:
        return query.udp_limit

    def reply(self, answer: bytes) -> None:
        try:
            self._socket.sendto(answer, self._peer)
        except OSError:
            # Full buffer, client gone, an administrator's rule: UDP may lose packets, and it asks again.
            return


class Sources(dict[str, View]):
    """Views by source address, found when they are first needed, for one network's sockets."""

    def __init__(self, find: Callable[[str], View | None], nobody: View) -> None:
        super().__init__()
        self._find = find
        self._nobody = nobody

    def __missing__(self, source: str) -> View:
        view = self._find(source)
        if view is None:
            return self._nobody  # not remembered: it may be a client in a moment
        if len(self) >= SOURCES_MOST:
            self.clear()
        self[source] = view
        return view


class UdpListener:
    """One socket: a gateway address of a network, port 53."""

    def __init__(
        self, sock: socket.socket, sources: Sources, nobody: View, resolver: Resolver, guard: Guard
    ) -> None:
        self.socket = sock
        self._sources = sources
        self._nobody = nobody
        self._resolver = resolver
        self._counters = resolver.counters
        self._guard = guard

    def serve(self) -> None:
        """Answer what waits in the socket, at most `BUDGET` packets."""
        receive, send, sources = self.socket.recvfrom, self.socket.sendto, self._sources
        heard = self._guard.heard
        received = quick = slow = 0
        try:
            for received in range(BUDGET):
                data, peer = receive(DATAGRAM_MOST)
                source = peer[0]
                view = sources[source]
                if heard is not None:
                    heard[source] = heard.get(source, 0) + 1
                ready = view.ready.get(data[2:])
                if ready is None:
                    self._slowly(data, peer, view)
                    slow += 1
                    if slow == SLOW_BUDGET:
                        received += 1
                        self._guard.pressed()
                        break
                    continue
                if not isinstance(ready, bytes):
                    ready = ready.next()
                quick += 1
                try:
                    send(data[:2] + ready, peer)
                except OSError:
                    continue  # as in UdpClient.reply
            else:
                received = BUDGET
                self._guard.pressed()
        except BlockingIOError:
            pass
        finally:
            counters = self._counters
            counters.udp += received
            counters.ready += quick
            counters.answers[NOERROR] = counters.answers.get(NOERROR, 0) + quick

    def _slowly(self, data: bytes, peer: tuple[Any, ...], view: View) -> None:
        known = None if view is self._nobody else view
        self._resolver.question(data, known, UdpClient(self.socket, peer), keep=known is not None)
