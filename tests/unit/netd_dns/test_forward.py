"""Forwarding, against servers that are slow, wrong, dead or forged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from netd_dns import forward, wire
from netd_dns.cache import Cache
from netd_dns.counters import Counters
from netd_dns.forward import Forwarder
from netd_dns.loop import Loop
from netd_dns.upstream import Upstreams
from netd_dns.zone import Segment, Zone
from tests.unit.netd_dns.stub import Behaviour, Stub, dead, says, silent, until
from tests.unit.netd_dns.world import Asker


class Post:
    """A forwarder with upstreams, and clients that ask it."""

    def __init__(self, stack: ExitStack) -> None:
        self.loop = Loop()
        self.counters = Counters()
        self.cache = Cache()
        self.upstreams = Upstreams("/nonexistent")
        self.forwarder = Forwarder(self.loop, self.upstreams, self.cache, self.counters)
        self.zone = Zone()
        self.zone.put_segment(Segment("n", "n", False, ("10.0.0.0/24",), ()))
        stack.callback(self.forwarder.loopcheck.close)
        stack.callback(self.forwarder.ports.close)
        self._stack = stack

    def server(self, behave: Behaviour, over_tcp: Behaviour | None = None) -> Stub:
        return self._stack.enter_context(closing(Stub(self.loop, behave, over_tcp)))

    def dead(self) -> str:
        return self._stack.enter_context(contextmanager(dead)())

    def use(self, *servers: Stub | str) -> None:
        self.upstreams.configure(s if isinstance(s, str) else s.text for s in servers)

    def send(
        self, name: str = "example.com", source: str = "10.0.0.2", **options: Any
    ) -> tuple[dns.message.Message, Asker]:
        limit = options.pop("limit", None)
        question = dns.message.make_query(name, options.pop("rtype", "A"), **options)
        client = Asker(source, limit)
        self.forwarder.ask(wire.read_query(question.to_wire()), self.zone.shared("n"), client)
        return question, client

    def ask(self, name: str = "example.com", **options: Any) -> tuple[dns.message.Message, float]:
        """(the answer, how many seconds it took)"""
        question, client = self.send(name, **options)
        took = until(self.loop, lambda: bool(client.replies))
        assert len(client.replies) == 1
        answer = dns.message.from_wire(client.replies[0])
        assert question.is_response(answer)
        return answer, took


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test waits for must come without the help of a timer: those take for ever."""
    for name in ("HEDGE", "HEDGES", "REPEAT"):
        monkeypatch.setattr(forward, name, 60.0)


@pytest.fixture
def post() -> Iterator[Post]:
    with ExitStack() as stack:
        made = Post(stack)
        yield made
        assert not made.forwarder._waiting, "a client of a finished flight is still counted"
        assert not made.loop.failures
        stack.close()
        made.loop.close()


def told(answer: dns.message.Message) -> list[str]:
    return [str(item) for rrset in answer.answer for item in rrset]


def test_an_answer_comes_back_with_the_clients_id_and_spelling(post: Post) -> None:
    server = post.server(says("192.0.2.1"))
    post.use(server)
    answer, _ = post.ask("eXample.COM", id=77)
    assert answer.id == 77
    assert answer.question[0].name.labels[0] == b"eXample"
    assert told(answer) == ["192.0.2.1"]
    assert server.asked[0].question[0].name.labels[0] == b"eXample"


def test_ports_and_ids_are_fresh_every_time(post: Post) -> None:
    server = post.server(says("192.0.2.1"))
    post.use(server)
    for number in range(20):
        post.ask(f"n{number}.example.com", id=7)
    assert len({port for _, port in server.sources}) > 15
    assert len({query.id for query in server.asked}) > 15


def test_the_cache_counts_down_and_keeps_clients_apart_that_must_be(post: Post) -> None:
    server = post.server(says("192.0.2.1", ttl=300))
    post.use(server)
    post.ask()
    answer, _ = post.ask("EXAMPLE.com")
    assert len(server.asked) == 1
    assert answer.answer[0].ttl <= 300
    post.ask(use_edns=0, want_dnssec=True)
    post.ask(rtype="AAAA")
    assert len(server.asked) == 3
    assert post.counters.cache_hits == 1


def test_an_answer_with_ttl_zero_is_not_kept(post: Post) -> None:
    server = post.server(says("192.0.2.1", ttl=0))
    post.use(server)
    post.ask()
    post.ask()
    assert len(server.asked) == 2


def test_identical_questions_in_flight_are_asked_once(post: Post) -> None:
    server = post.server(silent)
    post.use(server)
    clients = [
        post.send("Example.com" if n % 2 else "example.com", source=f"10.0.0.{n}")[1] for n in range(50)
    ]
    until(post.loop, lambda: bool(server.asked))
    assert len(post.forwarder._flights) == 1
    server.behave = says("192.0.2.1")
    until(post.loop, lambda: all(client.replies for client in clients))
    assert post.counters.coalesced == 49
    assert len(server.asked) <= 2
    assert {dns.message.from_wire(c.replies[0]).question[0].name.labels[0] for c in clients} == {
        b"Example",
        b"example",
    }


@pytest.mark.parametrize("dead_ones", [1, 2, 7])
def test_dead_servers_cost_at_most_300_ms_and_then_nothing(
    post: Post, monkeypatch: pytest.MonkeyPatch, dead_ones: int
) -> None:
    server = post.server(says("192.0.2.1"))
    post.use(*(post.dead() for _ in range(dead_ones)), server)
    times = []
    for number in range(3):  # the best of three, for the sake of busy machines
        post.upstreams._shunned.clear()
        answer, took = post.ask(f"n{number}.example.com")
        assert told(answer) == ["192.0.2.1"]
        times.append(took)
    assert min(times) < 0.3
    monkeypatch.setattr(forward, "HEDGE", 60)
    assert told(post.ask("b.example.com")[0]) == ["192.0.2.1"], "it must be asked first now"


@pytest.mark.usefixtures("at_once")
def test_a_server_that_is_not_there_costs_nothing(post: Post) -> None:
    server = post.server(says("192.0.2.1"))
    gone = post.server(silent)
    gone.close()
    post.use(gone, server)
    answer, _ = post.ask()
    assert told(answer) == ["192.0.2.1"]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP])
def test_a_server_that_cannot_is_passed_over(post: Post, rcode: dns.rcode.Rcode) -> None:
    server = post.server(says("192.0.2.1"))
    post.use(post.server(says(rcode=rcode)), server)
    answer, _ = post.ask()
    assert told(answer) == ["192.0.2.1"]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_when_all_are_dead_servfail_comes_within_2_s(post: Post, count: int) -> None:
    post.use(*(post.dead() for _ in range(count)))
    times = []
    for number in range(2):  # the better of two, for the sake of busy machines
        answer, took = post.ask(f"n{number}.example.com")
        assert answer.rcode() == dns.rcode.SERVFAIL
        times.append(took)
    assert 1.0 < min(times) < 2.0


@pytest.mark.usefixtures("at_once")
def test_when_all_refuse_the_client_learns_it_at_once(post: Post) -> None:
    post.use(post.server(says(rcode=dns.rcode.REFUSED)), post.server(says(rcode=dns.rcode.REFUSED)))
    answer, _ = post.ask()
    assert answer.rcode() == dns.rcode.REFUSED


def test_without_any_server_it_is_servfail(post: Post) -> None:
    assert post.ask()[0].rcode() == dns.rcode.SERVFAIL


def test_no_such_name_is_an_answer(post: Post) -> None:
    other = post.server(says("192.0.2.1"))
    post.use(post.server(says(rcode=dns.rcode.NXDOMAIN)), other)
    assert post.ask()[0].rcode() == dns.rcode.NXDOMAIN
    assert not other.asked


def test_a_lost_packet_is_sent_again(post: Post) -> None:
    def once_lost(query: dns.message.Message) -> list[bytes]:
        return says("192.0.2.1")(query) if len(server.asked) > 1 else []

    server = post.server(once_lost)
    post.use(server)
    answer, took = post.ask()
    assert told(answer) == ["192.0.2.1"]
    assert took < 1.0


def forged(query: dns.message.Message) -> list[bytes]:
    """Everything but the right answer, then the right answer."""
    right = says("192.0.2.1")(query)[0]
    wrong_id = bytes([right[0] ^ 1]) + right[1:]
    wrong_name = right[:13] + b"X" + right[14:]
    question = right[:2] + b"\x01\x00" + right[4:]
    return [wrong_id, wrong_name, question, b"", right[:20], right[:-1], b"\xff" * 600, right]


@pytest.mark.usefixtures("at_once")
def test_wrong_answers_are_ignored_and_the_right_one_is_waited_for(post: Post) -> None:
    post.use(post.server(forged))
    answer, _ = post.ask()
    assert told(answer) == ["192.0.2.1"]
    assert post.counters.dropped["wrong upstream answer"] == 7


def test_an_answer_of_another_server_is_not_heard(post: Post) -> None:
    """The attempt's socket is connected: the kernel drops what comes from elsewhere."""
    liar = post.server(silent)
    server = post.server(silent)
    post.use(server)
    _, client = post.send()
    until(post.loop, lambda: bool(server.asked))
    liar._udp.sendto(says("6.6.6.6")(server.asked[0])[0], server.sources[0])
    server._udp.sendto(says("192.0.2.1")(server.asked[0])[0], server.sources[0])
    until(post.loop, lambda: bool(client.replies))
    assert told(dns.message.from_wire(client.replies[0])) == ["192.0.2.1"]


def truncated(query: dns.message.Message) -> list[bytes]:
    response = dns.message.make_response(query)
    response.flags |= dns.flags.TC
    return [response.to_wire()]


def test_a_truncated_answer_is_fetched_over_tcp(post: Post) -> None:
    many = [f"192.0.2.{number}" for number in range(200)]
    server = post.server(truncated, says(*many))
    post.use(server)
    answer, _ = post.ask(limit=65535)
    assert sorted(told(answer)) == sorted(many)
    answer, _ = post.ask()  # a UDP client is told to come back over TCP, out of the cache
    assert answer.flags & dns.flags.TC
    assert len(server.asked) == 2


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("over_tcp", [silent, says(rcode=dns.rcode.SERVFAIL), lambda _: [b"", b"\xff" * 50]])
def test_when_tcp_fails_another_server_is_asked(post: Post, over_tcp: Behaviour) -> None:
    post.use(post.server(truncated, over_tcp), post.server(says("192.0.2.1")))
    answer, _ = post.ask()
    assert told(answer) == ["192.0.2.1"]


def test_edns_options_pass_on_and_cookies_do_not(post: Post) -> None:
    server = post.server(says("192.0.2.1"))
    post.use(server)
    subnet = dns.edns.ECSOption("198.51.100.0", 24)
    post.ask(
        use_edns=0,
        want_dnssec=True,
        options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"8bytes!!"), subnet],
    )
    (asked,) = server.asked
    assert asked.ednsflags & dns.flags.DO
    assert [option.otype for option in asked.options] == [dns.edns.OptionType.ECS]


def test_a_stale_answer_is_given_while_the_server_is_away(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = post.server(says("192.0.2.1", ttl=1))
    post.use(server)
    post.ask()
    (key,) = post.cache._entries
    reply = post.cache._entries[key].reply
    server.behave = silent
    for age, expected in ((30.0, dns.rcode.NOERROR), (62.0, dns.rcode.SERVFAIL)):
        post.cache.clear()
        post.upstreams._shunned.clear()
        post.cache.put(key, reply, post.loop.now - age)
        answer, _ = post.ask()
        assert answer.rcode() == expected
        assert bool(post.forwarder._flights) == (age == 30.0), "the asking goes on behind a stale answer"
        until(post.loop, lambda: not post.forwarder._flights)
    post.cache.put(key, reply, post.loop.now - 30.0)
    monkeypatch.setattr(forward, "STALE_AFTER", 60.0)
    answer, took = post.ask()
    assert took < 1.0, "a server known to be away is not waited for"
    assert answer.answer[0].ttl == forward.STALE_TTL
    server.behave = says("192.0.2.2")
    until(post.loop, lambda: not post.forwarder._flights)
    assert told(post.ask()[0]) == ["192.0.2.2"], "it must have been asked for in the background"


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, None], ids=["refusing", "gone"])
def test_a_stale_answer_is_given_at_once_when_no_server_can(
    post: Post, monkeypatch: pytest.MonkeyPatch, rcode: dns.rcode.Rcode | None
) -> None:
    monkeypatch.setattr(forward, "STALE_AFTER", 60.0)
    server = post.server(says("192.0.2.1", ttl=1))
    post.use(server)
    post.ask()
    ((key, entry),) = post.cache._entries.items()
    post.cache.put(key, entry.reply, post.loop.now - 30.0)
    if rcode is None:
        server.close()
    else:
        server.behave = says(rcode=rcode)
    answer, _ = post.ask()
    assert told(answer) == ["192.0.2.1"]
    assert answer.answer[0].ttl == forward.STALE_TTL


def test_a_client_runs_out_of_its_own_share_only(post: Post) -> None:
    post.use(post.dead())
    greedy = [post.send(f"n{n}.example.com", source="10.0.0.66")[1] for n in range(400)]
    refused = [client for client in greedy if client.replies]
    assert len(refused) == 400 - forward.CLIENT_MOST
    assert {dns.message.from_wire(client.replies[0]).rcode() for client in refused} == {dns.rcode.REFUSED}
    _, modest = post.send("modest.example.com", source="10.0.0.2")
    assert not modest.replies
    until(post.loop, lambda: all(client.replies for client in greedy))
    until(post.loop, lambda: bool(modest.replies))


def test_a_crowd_leaves_room_for_the_modest(post: Post) -> None:
    post.use(post.dead())
    crowd = [
        post.send(f"n{n}.{m}.example.com", source=f"10.0.1.{m}")[1] for m in range(50) for n in range(128)
    ]
    assert len(post.forwarder._flights) == forward.FLIGHTS_MOST
    greedy = forward.CROWDED // forward.CLIENT_MOST
    modest = (forward.FLIGHTS_MOST - forward.CROWDED) // forward.CLIENT_CROWDED
    assert len(post.forwarder._waiting) == greedy + modest, "who comes when it is crowded has a smaller share"
    until(post.loop, lambda: all(client.replies for client in crowd), 10)
    until(post.loop, lambda: not post.forwarder._flights)


@pytest.mark.usefixtures("at_once")
def test_a_server_that_would_be_ourselves_is_not_asked(post: Post) -> None:
    server = post.server(says("192.0.2.1"))
    post.use("10.0.0.1", server)
    post.upstreams.listens("10.0.0.1", here=True)
    answer, _ = post.ask()
    assert told(answer) == ["192.0.2.1"]


def test_latency_and_failures_are_counted(post: Post) -> None:
    server = post.server(says("192.0.2.1"))
    broken = post.server(says(rcode=dns.rcode.SERVFAIL))
    post.use(broken, server)
    post.ask()
    assert post.counters.upstream[server.text][:2] == [1, 0]
    assert sum(post.counters.upstream[server.text][2:]) == 1
    assert post.counters.upstream[broken.text][1] == 1
