"""Upstream servers on the loopback, served by the loop under test, that misbehave as they are told."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from netd_dns.loop import Loop

Behaviour = Callable[[dns.message.Message], list[bytes]]


def says(*addresses: str, ttl: int = 300, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> Behaviour:
    """Answers every A question with `addresses`."""

    def behave(query: dns.message.Message) -> list[bytes]:
        response = dns.message.make_response(query, recursion_available=True)
        response.set_rcode(rcode)
        if addresses:
            response.answer.append(dns.rrset.from_text(query.question[0].name, ttl, "IN", "A", *addresses))
        return [response.to_wire(max_size=65535)]

    return behave


def silent(_: dns.message.Message) -> list[bytes]:
    """Never answers."""
    return []


class Stub:
    """One upstream, UDP and TCP on one port. `text` is its address as `upstream.parse` reads it."""

    def __init__(self, loop: Loop, behave: Behaviour, over_tcp: Behaviour | None = None) -> None:
        self.behave = behave
        self.over_tcp = over_tcp or behave
        self.sees_probes = False  # of netd_dns.loopcheck, which most tests are not about
        self.asked: list[dns.message.Message] = []
        self.sources: list[tuple[str, int]] = []
        self._loop = loop
        self._connections: list[socket.socket] = []
        self._udp, self._tcp = _pair()
        self.text = f"127.0.0.1#{self._udp.getsockname()[1]}"
        loop.watch(self._udp.fileno(), self._on_udp)
        loop.watch(self._tcp.fileno(), self._on_connection)

    def _on_udp(self) -> None:
        data, peer = self._udp.recvfrom(4096)
        query = dns.message.from_wire(data)
        if query.question[0].rdtype == dns.rdatatype.HINFO and not self.sees_probes:
            return
        self.asked.append(query)
        self.sources.append(peer)
        for answer in self.behave(self.asked[-1]):
            self._udp.sendto(answer, peer)

    def _on_connection(self) -> None:
        connection, _ = self._tcp.accept()
        self._connections.append(connection)
        self._loop.watch(connection.fileno(), lambda: self._on_tcp(connection))

    def _on_tcp(self, connection: socket.socket) -> None:
        data = connection.recv(4096)
        self._loop.forget(connection.fileno())
        self.asked.append(dns.message.from_wire(data[2:]))
        for answer in self.over_tcp(self.asked[-1]):
            message = len(answer).to_bytes(2, "big") + answer
            connection.setblocking(True)
            for at in range(0, len(message), 1000):  # in pieces, as a network brings it
                connection.sendall(message[at : at + 1000])
        connection.close()

    def close(self) -> None:
        for sock in (self._udp, self._tcp, *self._connections):
            if sock.fileno() >= 0:
                self._loop.forget(sock.fileno())
                sock.close()


def _pair() -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket with one port, which has to be free for both."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        udp.bind(("127.0.0.1", 0))
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen()
        return udp, tcp


def until(loop: Loop, condition: Callable[[], bool], seconds: float = 5.0) -> float:
    """Turn the loop until `condition` holds; returns how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s"
        loop.turn(0.002)  # short, since timers are looked at between turns only
    return time.monotonic() - began


def dead() -> Iterator[str]:
    """The address of a server whose port is open and never read."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1#{sock.getsockname()[1]}"
