"""Answers, as dnspython reads them; and that nothing of netd's ever goes outside."""

from __future__ import annotations

import struct

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd_dns import resolve, wire
from tests.unit.netd_dns.world import Desk, endpoint, sandbox, view

OTHER_TYPES = [
    "MX",
    "TXT",
    "HTTPS",
    "SVCB",
    "NS",
    "SOA",
    "CNAME",
    "CAA",
    "DS",
    "DNSKEY",
    "NAPTR",
    "TYPE65400",
]


def test_addresses() -> None:
    desk = Desk()
    assert desk.told("api", "web") == ["10.0.0.2"]
    assert desk.told("api", "web", "AAAA") == ["fd00::2"]
    answer = desk.ask("api", "web.front")
    assert answer.flags & dns.flags.AA
    assert answer.flags & dns.flags.RA
    assert answer.answer[0].ttl <= 5


def test_the_questions_case_is_echoed_and_does_not_matter() -> None:
    desk = Desk()
    answer = desk.ask("api", "WeB.fRONT")
    assert answer.question[0].name.labels[0] == b"WeB"
    assert answer.answer[0].name.labels[0] == b"WeB"
    assert desk.told("api", "WEB") == ["10.0.0.2"]
    assert [name for name in ("web", "Web", "wEb") if desk.told("api", name) != ["10.0.0.2"]] == []


@pytest.mark.parametrize("rtype", [*OTHER_TYPES, "AAAA"])
def test_a_known_name_without_the_type_is_no_data_and_stays_here(rtype: str) -> None:
    desk = Desk()
    for name in ("api", "api.front", "backend"):
        answer = desk.ask("web", name, rtype)
        assert answer.rcode() == dns.rcode.NOERROR
        assert not answer.answer
        (soa,) = answer.authority
        assert soa.rdtype == dns.rdatatype.SOA
        assert soa.ttl <= 5
    assert not desk.outside.asked


@pytest.mark.parametrize("rtype", ["A", "AAAA", "MX", "HTTPS", "TXT", "PTR", "SRV", "ANY", "DS"])
@pytest.mark.parametrize("name", ["nobody", "nobody.front", "200.0.0.10.in-addr.arpa", "_9._tcp.web"])
def test_what_would_be_ours_and_is_not_there_does_not_exist(name: str, rtype: str) -> None:
    desk = Desk()
    answer = desk.ask("web", name, rtype)
    assert answer.rcode() == dns.rcode.NXDOMAIN
    (soa,) = answer.authority
    assert soa.rdtype == dns.rdatatype.SOA
    assert dns.name.from_text(name).is_subdomain(soa.name)
    assert not desk.outside.asked


def test_names_that_only_have_something_below_exist() -> None:
    desk = Desk()
    for name in ("front", "b", "app", "b.front"):
        answer = desk.ask("web", name)
        assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
    assert not desk.outside.asked


def test_everything_else_goes_outside() -> None:
    desk = Desk()
    for name in ("example.com", "x.web", "1.2.0.192.in-addr.arpa", "db.backs"):
        assert desk.ask("web", name).rcode() == dns.rcode.SERVFAIL
    assert desk.outside.asked == ["example.com", "x.web", "1.2.0.192.in-addr.arpa", "db.backs"]


def test_an_internal_network_gets_no_answer_from_outside() -> None:
    """CVE-2024-29018 was this, unanswered right."""
    desk = Desk()
    for rtype in ("A", "TXT", "NS"):
        assert desk.ask("hermit", "secret.example.com", rtype).rcode() == dns.rcode.REFUSED
    assert desk.told("hermit", "hermit") == ["10.0.2.2"]
    assert desk.ask("hermit", "web").rcode() == dns.rcode.NXDOMAIN
    assert not desk.outside.asked


def test_pointers_lead_to_the_name_with_its_network() -> None:
    desk = Desk()
    assert desk.told("web", "3.0.0.10.in-addr.arpa", "PTR") == ["api.front."]
    assert desk.told("web", "2." + "0." * 27 + "0.0.d.f.ip6.arpa", "PTR") == ["web.front."]
    assert desk.told("api", "3.1.0.10.in-addr.arpa", "PTR") == ["api.back."]
    assert desk.ask("web", "3.0.0.10.in-addr.arpa", "A").rcode() == dns.rcode.NOERROR


def test_services() -> None:
    desk = Desk()
    assert desk.told("api", "_5432._tcp.backend", "SRV") == ["0 0 5432 db.back."]
    answer = desk.ask("api", "_5432._tcp.db", "SRV")
    assert [str(item) for rrset in answer.additional for item in rrset] == ["10.0.1.4"]
    assert [str(rrset.name) for rrset in answer.additional] == ["db.back."]
    assert desk.ask("api", "_5432._tcp.db", "A").rcode() == dns.rcode.NOERROR


def test_any_is_answered_with_one_type() -> None:
    desk = Desk()
    answer = desk.ask("api", "web", "ANY")
    assert {rrset.rdtype for rrset in answer.answer} == {dns.rdatatype.A}
    answer = desk.ask("web", "example.com", "ANY")
    assert [str(item) for item in answer.answer[0]] == ['"RFC8482" ""']
    assert not desk.outside.asked


def test_shared_aliases_rotate() -> None:
    desk = Desk()
    first = [str(desk.ask("db", "backend").answer[0][0]) for _ in range(11)][1:]
    assert first.count("10.0.1.3") == first.count("10.0.1.4") == 5
    # Spelled differently, over TCP, or with a name too large for one packet: still in turn.
    tcp = [str(desk.ask("db", "backend", limit=65535, id=n).answer[0][0]) for n in range(10)]
    assert len(set(tcp)) == 2
    for number in range(60):
        desk.zone.put_sandbox(
            sandbox(
                f"m{number}", endpoint("back-id", f"m{number}", f"10.0.1.{100 + number}", aliases=["many"])
            )
        )
    seen: set[str] = set()
    for _ in range(20):
        answer = desk.ask("db", "many")
        assert answer.flags & dns.flags.TC
        assert len(answer.to_wire()) <= 512
        seen.update(str(item) for item in answer.answer[0])
    assert len(seen) == 60


def test_the_size_a_client_can_take() -> None:
    desk = Desk()
    for number in range(90):
        desk.zone.put_sandbox(
            sandbox(
                f"m{number}", endpoint("back-id", f"m{number}", f"10.0.1.{100 + number}", aliases=["many"])
            )
        )
    for size, most in ((None, 512), (512, 512), (700, 700), (4096, 1232), (100, 512)):
        question = dns.message.make_query("many", "A", use_edns=0 if size else -1, payload=size or 0)
        data = desk.raw(question.to_wire(), "db")
        assert len(data) <= most
        assert bool(dns.message.from_wire(data).flags & dns.flags.TC) == (most < 1232 or size == 4096)
    whole = desk.ask("db", "many", limit=65535)
    assert len(whole.answer[0]) == 90


def test_edns_is_answered_with_edns() -> None:
    desk = Desk()
    answer = desk.ask("api", "web", use_edns=0, payload=4096, want_dnssec=True)
    assert (answer.edns, answer.payload, bool(answer.ednsflags & dns.flags.DO)) == (0, 1232, True)
    assert desk.ask("api", "web").edns == -1
    assert desk.ask("api", "web", use_edns=1).rcode() == dns.rcode.BADVERS


def test_a_name_that_goes_is_gone_at_once() -> None:
    desk = Desk()
    for _ in range(3):
        assert desk.told("api", "web") == ["10.0.0.2"]
    desk.zone.put_sandbox(sandbox("web"))
    assert desk.ask("api", "web").rcode() == dns.rcode.NXDOMAIN
    desk.zone.put_sandbox(sandbox("web", endpoint("front-id", "web", "10.0.0.77")))
    assert desk.told("api", "web") == ["10.0.0.77"]


def test_a_client_that_may_see_nothing_is_refused() -> None:
    desk = Desk()
    for name in ("web", "example.com", "front"):
        assert desk.ask(None, name).rcode() == dns.rcode.REFUSED
    assert not desk.outside.asked


def test_other_classes_are_refused() -> None:
    desk = Desk()
    question = dns.message.make_query("version.bind", "TXT", dns.rdataclass.CH)
    assert dns.message.from_wire(desk.raw(question.to_wire(), "web")).rcode() == dns.rcode.REFUSED


def test_answers_are_remembered_only_where_that_is_bounded() -> None:
    desk = Desk()
    seen = view(desk.zone, "api")
    desk.ask("api", "web")
    assert len(seen.ready) == 1
    desk.ask("api", "nobody")  # a name a client can make up without end
    desk.ask("api", "example.com")
    desk.ask("api", "web", limit=65535, id=1)
    assert len(seen.ready) == 1
    cookie = dns.edns.GenericOption(dns.edns.OptionType.make(65001), b"different every time")
    desk.ask("api", "web", use_edns=0, options=[cookie])
    assert len(seen.ready) == 1


@pytest.mark.parametrize(
    ("data", "counted"),
    [(b"", "not a question"), (b"\x00\x01\x80\x00" + bytes(8), "not a question")],
)
def test_silence(data: bytes, counted: str) -> None:
    desk = Desk()
    assert desk.raw(data, "web") == b""
    assert desk.counters.dropped == {counted: 1}


def test_every_answer_is_counted_by_its_code() -> None:
    desk = Desk()
    desk.ask("web", "api")
    desk.ask("web", "nobody")
    desk.ask(None, "web")
    desk.raw(bytes(12), "web")
    assert desk.counters.answers == {wire.NOERROR: 1, wire.NXDOMAIN: 1, wire.REFUSED: 1, wire.FORMERR: 1}


LABELS = st.sampled_from(
    [b"web", b"API", b"nobody", b"front", b"_80", b"_tcp", b"app", b"com", b"arpa", b"in-addr", b"10", b"0"]
)


@given(st.lists(LABELS, max_size=8), st.integers(0, 65535), st.sampled_from(["web", "api", "hermit", "dave"]))
def test_any_name_of_any_type_gets_one_readable_answer(labels: list[bytes], qtype: int, who: str) -> None:
    desk = Desk()
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\x00"
    data = struct.pack("!HHHHHH", 1, 0x0100, 1, 0, 0, 0) + name + struct.pack("!HH", qtype, 1)
    answer = dns.message.from_wire(desk.raw(data, who))
    assert answer.rcode() in (0, 2, 3, 5)
    single = len(labels) == 1
    assert not (
        desk.outside.asked and (single or who == "hermit" or (labels or [b""])[-1].lower() == b"front")
    )
    assert resolve.TTL <= 5


@given(st.binary(max_size=300), st.sampled_from(["web", "api", "hermit", "dave", None]))
def test_any_bytes_get_one_answer_or_silence(data: bytes, who: str | None) -> None:
    answer = Desk().raw(data, who)
    assert not answer or (answer[:2] == data[:2] and answer[2] & 0x80 and len(answer) <= max(len(data), 512))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=6),
    st.sampled_from(
        ["web", "www.front", "_5432._tcp.backend", "x.app", "2.0.0.10.in-addr.arpa", "example.com"]
    ),
    st.booleans(),
)
def test_mutated_questions(changes: list[tuple[int, int]], name: str, edns: bool) -> None:
    desk = Desk()
    data = bytearray(dns.message.make_query(name, "A", use_edns=0 if edns else -1, id=1).to_wire())
    for at, value in changes:
        data[at % len(data)] = value
    for _ in range(2):  # the second may be served by a finished answer
        answer = desk.raw(bytes(data), "api")
        assert not answer or (answer[:2] == data[:2] and answer[2] & 0x80)
