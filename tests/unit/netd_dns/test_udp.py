"""The UDP loop, over the loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import dns.message
import dns.rcode
import pytest

from netd_dns.counters import Counters
from netd_dns.guard import Guard
from netd_dns.loop import Loop
from netd_dns.resolve import Resolver
from netd_dns.udp import BUDGET, SLOW_BUDGET, SOURCES_MOST, Sources, UdpListener
from netd_dns.zone import View, Zone
from tests.unit.netd_dns.stub import until
from tests.unit.netd_dns.world import Outside, endpoint, sandbox, view, world


class Window:
    """A UDP socket of network front, on the loopback; `who` asks."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.zone = world()
        self.counters = Counters()
        self.outside = Outside()
        self.who: str | None = "web"
        nobody = View(Zone(), (), {}, ())
        self.sources = Sources(lambda _: view(self.zone, self.who) if self.who else None, nobody)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind(("127.0.0.1", 0))
        resolver = Resolver(self.outside, self.counters)
        guard = Guard(sock, self.loop, self.counters)
        self.listener = UdpListener(sock, self.sources, nobody, resolver, guard)
        self.loop.watch(sock.fileno(), self.listener.serve)
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.client.connect(sock.getsockname())

    def ask(self, name: str, rtype: str = "A") -> dns.message.Message:
        question = dns.message.make_query(name, rtype)
        self.client.send(question.to_wire())
        answers: list[bytes] = []

        def arrived() -> bool:
            try:
                answers.append(self.client.recv(4096))
            except BlockingIOError:
                return False
            return True

        until(self.loop, arrived)
        answer = dns.message.from_wire(answers[0])
        assert question.is_response(answer)
        return answer


@pytest.fixture
def window() -> Iterator[Window]:
    made = Window()
    yield made
    assert not made.loop.failures
    made.loop.forget(made.listener.socket.fileno())
    made.listener.socket.close()
    made.client.close()
    made.loop.close()


def test_the_second_answer_is_the_finished_one(window: Window) -> None:
    first, second = window.ask("api"), window.ask("api")
    assert first.answer == second.answer
    assert (window.counters.udp, window.counters.ready, window.counters.answers) == (2, 1, {0: 2})


def test_finished_answers_follow_the_zone(window: Window) -> None:
    window.ask("api")
    window.ask("api")
    window.zone.put_sandbox(sandbox("api", endpoint("front-id", "api", "10.0.0.99")))
    assert str(window.ask("api").answer[0][0]) == "10.0.0.99"
    window.zone.put_sandbox(sandbox("api"))
    assert window.ask("api").rcode() == dns.rcode.NXDOMAIN


def test_shared_aliases_turn_among_the_finished_answers(window: Window) -> None:
    window.who = "db"
    seen = [str(window.ask("backend").answer[0][0]) for _ in range(9)]
    assert window.counters.ready == 8
    assert {seen.count("10.0.1.3"), seen.count("10.0.1.4")} == {4, 5}


def test_a_source_is_looked_up_once_and_again_when_told(window: Window) -> None:
    window.ask("api")
    assert list(window.sources) == ["127.0.0.1"]
    window.who = "db"
    assert window.ask("db").rcode() == dns.rcode.NXDOMAIN  # still web
    window.sources.clear()
    assert window.ask("db").rcode() == dns.rcode.NOERROR


def test_nobody_is_refused_and_not_remembered(window: Window) -> None:
    window.who = None
    for _ in range(2):
        assert window.ask("api").rcode() == dns.rcode.REFUSED
        assert window.ask("example.com").rcode() == dns.rcode.REFUSED
    assert not window.sources
    assert not window.counters.ready
    window.who = "web"
    assert window.ask("api").rcode() == dns.rcode.NOERROR


def test_sources_are_bounded() -> None:
    zone = world()
    nobody = View(Zone(), (), {}, ())
    sources = Sources(lambda _: view(zone, "web"), nobody)
    for number in range(SOURCES_MOST * 2):
        assert sources[str(number)] is view(zone, "web")
    assert len(sources) <= SOURCES_MOST


def test_a_turn_is_bounded(window: Window) -> None:
    window.ask("api")
    question = dns.message.make_query("api", "A").to_wire()
    for _ in range(BUDGET + 5):
        window.client.send(question)
    window.listener.serve()
    assert window.counters.udp == 1 + BUDGET
    window.listener.serve()
    assert window.counters.udp == 1 + BUDGET + 5


def test_a_turn_with_questions_that_take_long_is_shorter(window: Window) -> None:
    for number in range(BUDGET):
        window.client.send(dns.message.make_query(f"n{number}.example.com", "A").to_wire())
    window.listener.serve()
    assert len(window.outside.asked) == window.counters.udp == SLOW_BUDGET


def test_junk_is_answered_briefly_or_not_at_all(window: Window) -> None:
    for junk in (b"", b"x", b"\x00" * 11, b"\x12\x34\x80" + bytes(9), b"\xff" * 4096):
        window.client.send(junk)
    window.client.send(b"\x12\x34\x28" + bytes(9))
    window.listener.serve()
    assert window.client.recv(4096)[:4] == b"\x12\x34\xa8\x04"
    assert window.counters.dropped == {"not a question": 5}
    assert str(window.ask("api").answer[0][0]) == "10.0.0.3"
