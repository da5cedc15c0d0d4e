"""The filter that thins a flood, judged by the kernel itself, and when it is put in place."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from netd_dns import guard
from netd_dns.counters import Counters
from netd_dns.guard import Guard, attach, detach, program
from netd_dns.loop import Loop
from tests.unit.netd_dns.stub import until


@pytest.fixture(params=["127.0.0.1", "::1"])
def sock(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as made:
        made.bind((request.param, 0))
        yield made


def arrive(sock: socket.socket, source: str, count: int) -> int:
    """How many of `count` packets from `source` reach the socket."""
    with socket.socket(sock.family, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        arrived = 0
        for _ in range(count):
            sender.sendto(b"x", sock.getsockname())
            try:
                sock.recv(10)
                arrived += 1
            except BlockingIOError:
                pass
    return arrived


def own(sock: socket.socket) -> str:
    return str(sock.getsockname()[0])


def test_one_source_is_thinned_to_its_part(sock: socket.socket) -> None:
    attach(sock, program({own(sock): 0.25}))
    assert 150 < arrive(sock, own(sock), 1000) < 350
    attach(sock, program({own(sock): 0.0}))
    assert arrive(sock, own(sock), 50) == 0
    detach(sock)
    assert arrive(sock, own(sock), 50) == 50
    detach(sock)  # twice is no mistake


def test_others_are_let_through(sock: socket.socket) -> None:
    other = {"127.0.0.1": ["127.0.0.2", "10.0.0.1"], "::1": ["::2", "1::1"]}[own(sock)]
    attach(sock, program(dict.fromkeys(other, 0.0)))
    assert arrive(sock, own(sock), 50) == 50
    attach(sock, program(dict.fromkeys([*other, own(sock)], 0.0)))
    assert arrive(sock, own(sock), 50) == 0


def test_every_source_has_its_own_part() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(("127.0.0.1", 0))
        attach(
            sock,
            program({f"127.0.0.{n}": 0.0 for n in range(2, 2 + guard.SOURCES_MOST)} | {"127.0.0.20": 0.5}),
        )
        assert arrive(sock, "127.0.0.2", 50) == 0
        assert arrive(sock, f"127.0.0.{1 + guard.SOURCES_MOST}", 50) == 0
        assert arrive(sock, "127.0.0.50", 50) == 50
        assert 200 < arrive(sock, "127.0.0.20", 600) < 400


class Gate:
    """A guarded socket with a queue to fill."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.counters = Counters()
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.bind(("127.0.0.1", 0))
        self.guard = Guard(self.sock, self.loop, self.counters)
        self.senders: dict[str, socket.socket] = {}

    def send(self, source: str, count: int) -> None:
        if source not in self.senders:
            self.senders[source] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.senders[source].bind((source, 0))
        for _ in range(count):
            self.senders[source].sendto(b"x", self.sock.getsockname())

    def turn(self, budget: int = 64) -> None:
        """What the receive loop does."""
        heard = self.guard.heard
        for _ in range(budget):
            try:
                _, peer = self.sock.recvfrom(10)
            except BlockingIOError:
                return
            if heard is not None:
                heard[peer[0]] = heard.get(peer[0], 0) + 1
        self.guard.pressed()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    for sock in (made.sock, *made.senders.values()):
        sock.close()
    made.loop.close()


def test_a_busy_queue_that_does_not_fill_is_nobodys_fault(gate: Gate) -> None:
    for _ in range(20):
        gate.send("127.0.0.1", 64)
        gate.turn()
    assert gate.guard.heard is None
    assert not gate.counters.dropped


def test_whoever_fills_the_queue_is_thinned_until_the_flood_is_over(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(30):
        gate.send("127.0.0.2", 200)
        gate.send("127.0.0.3", 1)
        gate.turn()
    assert gate.counters.dropped["flood"] >= 1
    gate.turn(1_000_000)
    assert arrive(gate.sock, "127.0.0.3", 50) == 50
    assert arrive(gate.sock, "127.0.0.2", 200) < 50
    monkeypatch.setattr(guard, "LOOK_EVERY", 0.05)
    until(gate.loop, lambda: not gate.guard._parts)
    assert arrive(gate.sock, "127.0.0.2", 50) == 50
    assert gate.guard.heard is None


def test_a_full_queue_of_many_equals_thins_nobody(gate: Gate) -> None:
    for _ in range(30):
        for number in range(2, 12):
            gate.send(f"127.0.0.{number}", 20)
        gate.turn()
    assert not gate.counters.dropped


def test_a_flood_that_goes_on_stays_thinned(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "CALM", 200)
    monkeypatch.setattr(guard, "LOOK_EVERY", 0.05)
    looks = 0

    def flooded() -> bool:
        nonlocal looks
        gate.send("127.0.0.2", 400)
        gate.turn()
        looks += bool(gate.guard._parts)
        return looks > 50

    until(gate.loop, flooded)
    assert gate.guard._parts["127.0.0.2"] < 0.25


def test_a_filter_of_a_dead_server_is_taken_away(gate: Gate) -> None:
    attach(gate.sock, program({"127.0.0.1": 0.0}))
    Guard(gate.sock, gate.loop, gate.counters)
    assert arrive(gate.sock, "127.0.0.1", 5) == 5
