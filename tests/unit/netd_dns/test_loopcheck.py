"""Servers that forward to us are found out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from netd_dns import loopcheck, wire
from netd_dns.cache import Cache
from netd_dns.counters import Counters
from netd_dns.forward import Forwarder
from netd_dns.loop import Loop
from netd_dns.loopcheck import LoopCheck
from netd_dns.upstream import LOOPING, Upstreams, parse
from netd_dns.zone import Segment, Zone
from tests.unit.netd_dns.stub import Stub, says, silent, until
from tests.unit.netd_dns.world import Asker


class Circle:
    """A forwarder, and an upstream that forwards everything to it."""

    def __init__(self, stack: ExitStack) -> None:
        self.loop = Loop()
        self.upstreams = Upstreams("/nonexistent")
        self.forwarder = Forwarder(self.loop, self.upstreams, Cache(), Counters())
        self.zone = Zone()
        self.zone.put_segment(Segment("n", "n", False, ("10.0.0.0/24",), ()))
        stack.callback(self.forwarder.loopcheck.close)
        stack.callback(self.forwarder.ports.close)
        self.mirror = stack.enter_context(closing(Stub(self.loop, self.reflect)))
        self.mirror.sees_probes = True
        self.good = stack.enter_context(closing(Stub(self.loop, says("192.0.2.1"))))

    def reflect(self, query: dns.message.Message) -> list[bytes]:
        self.ask(query, "10.0.0.1")
        return []

    def ask(self, query: dns.message.Message, source: str = "10.0.0.2") -> Asker:
        client = Asker(source)
        self.forwarder.ask(wire.read_query(query.to_wire()), self.zone.shared("n"), client)
        return client

    def answer(self, name: str) -> tuple[dns.message.Message, float]:
        client = self.ask(dns.message.make_query(name, "A"))
        took = until(self.loop, lambda: bool(client.replies))
        return dns.message.from_wire(client.replies[0]), took


@pytest.fixture
def circle() -> Iterator[Circle]:
    with ExitStack() as stack:
        made = Circle(stack)
        yield made
        until(made.loop, lambda: not made.forwarder._flights)
        assert not made.loop.failures
    made.loop.close()


def test_a_server_that_leads_back_is_left_out(circle: Circle, caplog: pytest.LogCaptureFixture) -> None:
    circle.upstreams.configure([circle.mirror.text, circle.good.text])
    answer, _ = circle.answer("a.example.com")
    assert answer.rcode() == dns.rcode.NOERROR
    until(circle.loop, lambda: bool(circle.upstreams._looping))
    asked = len(circle.mirror.asked)
    answer, took = circle.answer("b.example.com")
    assert answer.rcode() == dns.rcode.NOERROR
    assert took < 1.0
    assert len(circle.mirror.asked) == asked
    assert f"{circle.mirror.text} forwards to netd" in caplog.text


def test_alone_it_is_servfail_at_once_and_not_a_storm(circle: Circle) -> None:
    circle.upstreams.configure([circle.mirror.text])
    circle.answer("a.example.com")
    answer, took = circle.answer("b.example.com")
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert took < 1.0
    assert len(circle.mirror.asked) < 6


def test_a_server_that_has_changed_is_asked_again(circle: Circle) -> None:
    circle.upstreams.configure([circle.mirror.text])
    circle.answer("a.example.com")
    until(circle.loop, lambda: bool(circle.upstreams._looping))
    server = parse(circle.mirror.text)
    circle.mirror.behave = says("192.0.2.7")
    now = time.monotonic()
    assert circle.upstreams.choose((), now) == ()
    assert circle.upstreams.choose((), now + LOOPING + 1) == (server.text,)
    assert circle.upstreams.loops(server, now + LOOPING + 1), "finding it again is news again"


def test_a_server_is_checked_once_in_a_while_and_secretly() -> None:
    loop, upstreams = Loop(), Upstreams("/nonexistent")
    check = LoopCheck(loop, upstreams)
    with closing(Stub(loop, silent)) as stub:
        stub.sees_probes = True
        server = parse(stub.text)
        for now in (0.0, 1.0, loopcheck.CHECK_EVERY - 1, loopcheck.CHECK_EVERY + 1):
            check.used([server], now)
        until(loop, lambda: len(stub.asked) == 2)
        names = [query.question[0].name for query in stub.asked]
        assert len(set(names)) == 2
        assert all(len(label) == 20 for name in names for label in name.labels[:2])
        assert all(query.question[0].rdtype == dns.rdatatype.HINFO for query in stub.asked)
        assert check.is_ours(names[0].to_wire() or b"")
        assert not check.is_ours(wire.encode_name("example.com"))
        check.close()
        assert not check.is_ours(names[0].to_wire() or b"")
    loop.close()


def test_a_server_out_of_reach_is_no_loop_and_no_trouble() -> None:
    loop = Loop()
    check = LoopCheck(loop, Upstreams("/nonexistent"))
    check.used([parse("255.255.255.255")], 0.0)
    assert not check._sent
    loop.close()
