"""Messages: what we write is what dnspython and dnslib read, and no bytes whatever can hurt."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from ipaddress import ip_address
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dnslib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd_dns import wire
from netd_dns.wire import Malformed

LABEL = st.binary(min_size=1, max_size=63)
NAMES = st.lists(LABEL, max_size=6).filter(lambda labels: sum(map(len, labels)) + len(labels) < 255)


def question(name: str = "web.front", rtype: str = "A", **options: Any) -> bytes:
    return dns.message.make_query(name, rtype, **{"id": 4660, **options}).to_wire()


def test_reads_what_dnspython_asks() -> None:
    query = wire.read_query(question("Web.Front", "AAAA"))
    assert (query.name, query.qtype, query.qclass) == (b"\x03web\x05front\x00", wire.AAAA, wire.IN)
    assert query.question == b"\x03Web\x05Front\x00\x00\x1c\x00\x01"
    assert not query.edns
    assert query.udp_limit == 512


def test_reads_edns() -> None:
    query = wire.read_query(question(use_edns=0, payload=4096, want_dnssec=True))
    assert (query.edns, query.size, query.dnssec_ok, query.udp_limit) == (True, 4096, True, 1232)
    assert wire.read_query(question(use_edns=0, payload=100)).udp_limit == 512


def test_keeps_options_of_the_whole_path_and_drops_those_of_one_hop() -> None:
    subnet = dns.edns.ECSOption("192.0.2.0", 24)
    cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")
    padding = dns.edns.GenericOption(dns.edns.OptionType.PADDING, bytes(20))
    query = wire.read_query(question(use_edns=0, options=[cookie, subnet, padding]))
    assert query.options == struct.pack("!HH", 8, 7) + (subnet.to_wire() or b"")


def test_questions_are_the_same_if_an_upstream_must_answer_them_alike() -> None:
    def asked(name: str = "example.com", rtype: str = "A", **options: Any) -> bytes:
        return wire.read_query(question(name, rtype, **options)).asked

    nowhere, somewhere = dns.edns.ECSOption("0.0.0.0", 0), dns.edns.ECSOption("192.0.2.0", 24)
    cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")
    alike = asked("eXample.com", flags=dns.flags.RD, id=1)
    assert alike == asked()
    different = [
        asked("example.net"),
        asked(rtype="AAAA"),
        asked(flags=0),
        asked(flags=dns.flags.RD | dns.flags.CD),
        asked(flags=dns.flags.RD | dns.flags.AD),
        asked(use_edns=0),
        asked(use_edns=0, want_dnssec=True),
        asked(use_edns=0, options=[nowhere]),
        asked(use_edns=0, options=[somewhere]),
    ]
    assert len({alike, *different}) == len(different) + 1
    plain = asked(use_edns=0)
    assert plain == asked(use_edns=0, payload=4096, options=[cookie]), "one hop's options are no difference"


@given(NAMES, st.integers(0, 65535), st.integers(0, 65535))
def test_any_name_is_read_as_it_was_written(labels: list[bytes], qtype: int, identity: int) -> None:
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\x00"
    data = struct.pack("!HHHHHH", identity, 0x0100, 1, 0, 0, 0) + name + struct.pack("!HH", qtype, 1)
    query = wire.read_query(data)
    assert query.name == name.lower()
    assert query.question == data[12:]


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (b"", None),
        (bytes(11), None),
        (question()[:2] + b"\x81\x00" + question()[4:], None),  # a response
        (question()[:2] + b"\x29\x00" + question()[4:], wire.NOTIMP),  # an update
        (question()[:4] + b"\x00\x00" + question()[6:], wire.FORMERR),  # no question
        (question()[:4] + b"\x00\x02" + question()[6:] + question()[12:], wire.FORMERR),  # two questions
        (question()[:6] + b"\x00\x01" + question()[8:], wire.FORMERR),  # brings an answer
        (question()[:-1], wire.FORMERR),
        (question() + b"\x00", wire.FORMERR),  # something behind
        (question()[:12] + b"\xc0\x0c\x00\x01\x00\x01", wire.FORMERR),  # a name that points at itself
        (question()[:12] + b"\x40" + bytes(70), wire.FORMERR),  # a label of the reserved kind
        (question()[:12] + b"\x3f" + bytes(63) * 4 + bytes(9), wire.FORMERR),
        (question()[:12] + (b"\x01a" * 130) + b"\x00\x00\x01\x00\x01", wire.FORMERR),  # a name of 261 bytes
        (question(use_edns=0)[:-1], wire.FORMERR),
        (question(use_edns=0)[:-2] + b"\x00\x05\x00\x03\x00\x09x", wire.FORMERR),  # an option too long
        (question(use_edns=0)[:10] + b"\x00\x02" + question(use_edns=0)[12:], wire.FORMERR),  # two OPTs
    ],
)
def test_what_is_not_a_question(data: bytes, rcode: int | None) -> None:
    with pytest.raises(Malformed) as malformed:
        wire.read_query(data)
    assert malformed.value.rcode == rcode


@given(st.binary(max_size=600))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        query = wire.read_query(data)
    except Malformed as malformed:
        if malformed.rcode is not None:
            answer = wire.refuse(data, malformed.rcode)
            assert answer[:2] == data[:2]
            assert answer[2] & 0x80
            assert len(answer) == 12
    else:
        assert 17 <= query.end <= len(data)


def test_a_malformed_message_is_refused_in_a_form_that_dnspython_reads() -> None:
    data = question()[:2] + b"\x29\x00" + question()[4:]
    answer = dns.message.from_wire(wire.refuse(data, wire.NOTIMP))
    assert answer.rcode() == dns.rcode.NOTIMP


def test_an_answer_is_what_dnslib_reads_too() -> None:
    query = wire.read_query(question("wEb.front", use_edns=0))
    records = [wire.record(wire.A, 5, ip_address("10.0.0.2").packed)]
    answer = dnslib.DNSRecord.parse(wire.respond(query, wire.NOERROR, records, limit=512))
    assert str(answer.q.qname) == "wEb.front."
    assert [str(rr.rdata) for rr in answer.rr] == ["10.0.0.2"]
    assert [rr.ttl for rr in answer.rr] == [5]
    assert answer.header.aa
    assert answer.header.ra


def test_the_soa_of_a_no_is_readable_and_short_lived() -> None:
    query = wire.read_query(question())
    owner = wire.encode_name("front")
    answer = dns.message.from_wire(wire.respond(query, wire.NXDOMAIN, (), [wire.soa(owner, 1)], limit=512))
    (soa,) = answer.authority
    assert (str(soa.name), soa.ttl, soa[0].minimum) == ("front.", 1, 1)


@given(st.integers(0, 120), st.integers(0, 30), st.sampled_from([512, 700, 1232, 65535]))
def test_answers_fit_and_say_so_when_they_are_cut(answers: int, glue: int, limit: int) -> None:
    query = wire.read_query(question(use_edns=0))
    records = [wire.record(wire.A, 5, number.to_bytes(4, "big")) for number in range(answers)]
    extra = [wire.record(wire.AAAA, 5, number.to_bytes(16, "big"), b"\x01x\x00") for number in range(glue)]
    data = wire.respond(query, wire.NOERROR, records, (), extra, limit=limit)
    assert len(data) <= limit
    answer = dns.message.from_wire(data)
    kept = sum(len(rrset) for rrset in answer.answer)
    assert bool(answer.flags & dns.flags.TC) == (kept < answers)
    if kept < answers:
        assert not answer.additional, "glue must go before answers"
    assert answer.edns == 0


def test_names_have_a_text_form() -> None:
    assert wire.encode_name("web.front") == wire.encode_name("web.front.") == b"\x03web\x05front\x00"
    assert wire.decode_name(b"\x03w.b\x02\x00\xff\x00") == "w\\046b.\\000\\255"
    assert wire.decode_name(b"\x00") == "."
    assert wire.parent(b"\x03web\x05front\x00") == b"\x05front\x00"


@pytest.mark.parametrize("text", ["", ".", "a..b", "a" * 64, ".".join(["a" * 60] * 5)])
def test_what_is_not_a_name(text: str) -> None:
    with pytest.raises(ValueError, match="not a DNS name"):
        wire.encode_name(text)


# --- what comes back from upstream ------------------------------------------------------------------


def upstream(text: str, **options: Any) -> tuple[wire.Query, bytes]:
    """A query as it went out with id 7, and dnspython's answer to it out of `text`."""
    query = wire.read_query(question("Example.com", **options))
    asked = dns.message.from_wire(wire.ask(query, 7))
    response = dns.message.make_response(asked, recursion_available=True)
    for section in (response.answer, response.authority):
        section.clear()
    for line in text.splitlines():
        where, name, ttl, rtype, data = line.split(None, 4)
        target = {"an": response.answer, "au": response.authority}[where]
        target.append(dns.rrset.from_text(name, int(ttl), "IN", rtype, data))
    return query, response.to_wire()


def test_asks_in_the_clients_spelling_with_our_id() -> None:
    query = wire.read_query(question("eXaMple.com", use_edns=0, payload=4096, want_dnssec=True))
    asked = dns.message.from_wire(wire.ask(query, 4711))
    assert asked.id == 4711
    assert asked.question[0].name.labels[0] == b"eXaMple"
    assert (asked.edns, asked.payload, bool(asked.ednsflags & dns.flags.DO)) == (0, 1232, True)
    assert asked.flags & dns.flags.RD
    plain = dns.message.from_wire(wire.ask(wire.read_query(question("example.com")), 1))
    assert plain.edns == -1


def test_reads_an_answer_and_ages_it() -> None:
    query, data = upstream("an example.com. 300 A 192.0.2.1\nan example.com. 60 A 192.0.2.2")
    reply = wire.read_reply(data, query, 7)
    assert reply is not None
    assert (reply.ttl, reply.negative, reply.rcode) == (60, False, wire.NOERROR)
    client = wire.read_query(question("EXAMPLE.COM", id=99))
    answer = dns.message.from_wire(reply.aged(client, 25, 512))
    assert answer.id == 99
    assert answer.question[0].name.labels[0] == b"EXAMPLE"
    assert {rrset.ttl for rrset in answer.answer} == {35}  # dnspython gives a set its least TTL
    assert {rrset.ttl for rrset in dns.message.from_wire(reply.stale(client, 5, 512)).answer} == {5}


def test_a_no_lives_as_long_as_its_soa_says() -> None:
    text = "au example.com. 300 SOA ns.example.com. me.example.com. 1 2 3 4 20"
    query, data = upstream(text)
    reply = wire.read_reply(data, query, 7)
    assert reply is not None
    assert (reply.negative, reply.ttl) == (True, 20)
    query, data = upstream("")
    reply = wire.read_reply(data, query, 7)
    assert reply is not None
    assert (reply.negative, reply.ttl) == (True, 0)


def test_an_answer_that_does_not_fit_is_cut_whole() -> None:
    lines = "\n".join(f"an example.com. 300 A 192.0.2.{number}" for number in range(60))
    query, data = upstream(lines)
    reply = wire.read_reply(data, query, 7)
    assert reply is not None
    answer = dns.message.from_wire(reply.aged(query, 0, 512))
    assert answer.flags & dns.flags.TC
    assert not answer.answer
    assert len(dns.message.from_wire(reply.aged(query, 0, 65535)).answer[0]) == 60


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:11],
        lambda data: b"\x00\x08" + data[2:],  # another id
        lambda data: data[:2] + b"\x01\x00" + data[4:],  # a question
        lambda data: data[:2] + bytes([data[2] | 0x28]) + data[3:],  # another opcode
        lambda data: data[:13] + b"X" + data[14:],  # another name
        lambda data: data[: 12 + 13] + b"\x00\x1c" + data[12 + 15 :],  # another type
        lambda data: data[:-1],  # a record that is cut
        lambda data: data[:6] + b"\xff\xff" + data[8:],  # counts that lie
        lambda data: data[:-16] + b"\x80" + data[-15:],  # a label of the reserved kind
    ],
)
def test_what_is_not_an_answer_is_ignored(spoil: object) -> None:
    query, data = upstream("an example.com. 300 A 192.0.2.1")
    assert wire.read_reply(data, query, 7) is not None
    assert wire.read_reply(spoil(data), query, 7) is None  # type: ignore[operator]


def test_edns_in_an_answer_to_a_question_without_it_is_ignored() -> None:
    query, data = upstream("an example.com. 300 A 192.0.2.1", use_edns=0)
    plain = wire.read_query(question("Example.com"))
    assert wire.read_reply(data, query, 7) is not None
    assert wire.read_reply(data, plain, 7) is None


@given(st.binary(max_size=400), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_no_answer_can_hurt(rest: bytes, answers: int, authorities: int, additionals: int) -> None:
    query = wire.read_query(question("Example.com"))
    head = struct.pack("!HHHHHH", 7, 0x8180, 1, answers, authorities, additionals)
    reply = wire.read_reply(head + query.question + rest, query, 7)
    if reply is not None:
        for at in reply.ttls:
            assert query.end < at <= len(reply.data) - 4
        assert reply.aged(query, 3, 512)[:2] == query.data[:2]


def test_pointers_are_stepped_over_never_followed() -> None:
    """Deep backward chains cost followers a quadratic time (CVE-2026-64194)."""
    query = wire.read_query(question("Example.com"))
    chain = b"".join(
        wire.record(16, 60, b"\x00" * 8, bytes([0xC0 | at >> 8, at & 255])) for at in range(12, 2900)
    )
    data = struct.pack("!HHHHHH", 7, 0x8180, 1, 2888, 0, 0) + query.question + chain
    began = time.perf_counter()
    assert wire.read_reply(data, query, 7) is not None
    assert time.perf_counter() - began < 0.1


MUTATIONS = st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=8)


def _mutated(changes: list[tuple[int, int]], cut: int) -> None:
    for seed in (question(), question(use_edns=0), upstream("an example.com. 3 A 192.0.2.1")[1]):
        data = bytearray(seed)
        for at, value in changes:
            data[at % len(data)] = value
        for variant in (bytes(data), bytes(data[: cut % (len(data) + 1)])):
            with contextlib.suppress(Malformed):
                wire.read_query(variant)
            wire.read_reply(variant, wire.read_query(question("Example.com")), 7)


@given(MUTATIONS, st.integers(0, 600))
def test_mutated_packets(changes: list[tuple[int, int]], cut: int) -> None:
    _mutated(changes, cut)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=int(os.environ.get("NETD_FUZZ", "50000")), deadline=None)
@given(MUTATIONS, st.integers(0, 600))
def test_mutated_packets_for_long(changes: list[tuple[int, int]], cut: int) -> None:
    _mutated(changes, cut)
