"""DNS messages, as far as netd has to look into them (RFC 1035 4.1, RFC 6891 for EDNS).

Written by hand although dnslib and dnspython exist, because this is the hot path and the attack
surface at once: a general parser costs 100 to 240 microseconds a message and follows compression
pointers that a stranger wrote. Here a question may not be compressed at all, a pointer is stepped
over and never followed, and so no message can make us loop or read a byte twice.

Names are kept in wire form (length-prefixed labels, closed by the zero byte) and in lower case.
`bytes.lower` on the wire form is safe: a length is at most 63 and letters start at 65.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import NamedTuple

A, SOA, PTR, HINFO, AAAA, SRV, OPT, ANY = 1, 6, 12, 13, 28, 33, 41, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS = 16
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 16: "BADVERS"}

QR, AUTHORITATIVE, TRUNCATED, RECURSION_DESIRED, RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
AUTHENTIC, CHECKING_DISABLED = 0x0020, 0x0010
OPCODE = 0x7800
_PASSED = RECURSION_DESIRED | CHECKING_DISABLED | AUTHENTIC  # what a client's flags tell the upstream

UDP_PLAIN = 512
"""The largest UDP answer for a client without EDNS (RFC 1035 2.3.4), in bytes."""
UDP_MOST = 1232
"""The largest UDP answer at all: fits one frame on every path (DNS flag day 2020), so it never fragments."""
TCP_MOST = 65535

HEADER = Struct("!HHHHHH")
_FIXED = Struct("!HHIH")  # of a record, after its owner: type, class, TTL, length of the data
_TWO = Struct("!HH")
_ASKED = Struct("!HHB")
SELF = b"\xc0\x0c"
"""A pointer to the name in the question, which always starts at octet 12."""
ROOT = b"\x00"

_HOP_BY_HOP = frozenset((10, 11, 12))  # cookie, keepalive, padding: between two neighbours only


class Malformed(Exception):
    """A message that is not a question. `rcode` is what to answer, None when silence is the answer."""

    def __init__(self, rcode: int | None) -> None:
        super().__init__(rcode)
        self.rcode = rcode


class Query(NamedTuple):
    """One question, as it was received.

    `name` is in lower case; `data[12:end]` holds the question as the client spelled it. `size` is
    the EDNS buffer size, 0 without EDNS; `options` the EDNS options that concern the whole path.
    """

    data: bytes
    flags: int
    name: bytes
    qtype: int
    qclass: int
    end: int
    size: int = 0
    dnssec_ok: bool = False
    options: bytes = b""
    version: int = 0

    @property
    def edns(self) -> bool:
        return self.size > 0

    @property
    def question(self) -> bytes:
        return self.data[12 : self.end]

    @property
    def asked(self) -> bytes:
        """All that an upstream's answer depends on: questions that agree in this are the same question."""
        passed = _ASKED.pack(self.qtype, self.flags & _PASSED, (self.size > 0) << 1 | self.dnssec_ok)
        return self.name + passed + self.options

    @property
    def udp_limit(self) -> int:
        """How long an answer over UDP may be, in bytes."""
        size = self.size
        return UDP_MOST if size > UDP_MOST else size or UDP_PLAIN


def encode_name(text: str) -> bytes:
    """The wire form of a name, its case kept. Raises ValueError for what cannot be a name."""
    wire = bytearray()
    for label in text.removesuffix(".").split("."):
        raw = label.encode()
        if not 0 < len(raw) < 64:
            raise ValueError(f"{text!r} is not a DNS name: labels have 1 to 63 bytes")
        wire.append(len(raw))
        wire += raw
    wire.append(0)
    if len(wire) > 255:
        raise ValueError(f"{text!r} is not a DNS name: it has more than 253 bytes")
    return bytes(wire)


def decode_name(name: bytes) -> str:
    """Text for people: bytes that are not printable ASCII, and dots inside a label, as \\DDD."""
    labels = []
    position = 0
    while length := name[position]:
        raw = name[position + 1 : position + 1 + length]
        labels.append("".join(chr(c) if 32 < c < 127 and c not in b".\\" else f"\\{c:03d}" for c in raw))
        position += length + 1
    return ".".join(labels) or "."


def parent(name: bytes) -> bytes:
    """The name without its first label. Not for the root."""
    return name[name[0] + 1 :]


def read_query(data: bytes) -> Query:
    """Take a client's message apart. Raises `Malformed`; never anything else, whatever the bytes.

    A response gets silence, or two servers could be made to answer each other for ever
    (CVE-2004-0789).
    """
    if len(data) < 12:
        raise Malformed(None)
    _, flags, questions, answers, authorities, additionals = HEADER.unpack_from(data)
    if flags & QR:
        raise Malformed(None)
    if flags & OPCODE:
        raise Malformed(NOTIMP)
    if questions != 1 or answers or authorities or additionals > 1:
        raise Malformed(FORMERR)
    position = 12
    total = len(data)
    while position < total and (length := data[position]):
        if length > 63:
            raise Malformed(FORMERR)
        position += length + 1
    end = position + 5
    if end > total or position - 12 > 254:
        raise Malformed(FORMERR)
    qtype, qclass = _TWO.unpack_from(data, position + 1)
    name = data[12 : position + 1].lower()
    if not additionals:
        if end != total:
            raise Malformed(FORMERR)
        return Query(data, flags, name, qtype, qclass, end)
    return Query(data, flags, name, qtype, qclass, end, *_read_opt(data, end))


def _read_opt(data: bytes, start: int) -> tuple[int, bool, bytes, int]:
    """The client's OPT record, which must be all that is left: (size, DO, options to pass on, version)."""
    if len(data) < start + 11 or data[start] != 0:
        raise Malformed(FORMERR)
    rtype, size, extended, length = _FIXED.unpack_from(data, start + 1)
    position = start + 11
    if rtype != OPT or position + length != len(data):
        raise Malformed(FORMERR)
    options = bytearray()
    while position < len(data):
        if position + 4 > len(data):
            raise Malformed(FORMERR)
        code, length = _TWO.unpack_from(data, position)
        after = position + 4 + length
        if after > len(data):
            raise Malformed(FORMERR)
        if code not in _HOP_BY_HOP:
            options += data[position:after]
        position = after
    return max(size, UDP_PLAIN), bool(extended & 0x8000), bytes(options), extended >> 16 & 0xFF


def opt(size: int = UDP_MOST, *, extended: int = 0, dnssec_ok: bool = False, options: bytes = b"") -> bytes:
    """An OPT record. `extended` is the upper part of the response code, shifted down by four bits."""
    return ROOT + _FIXED.pack(OPT, size, extended << 24 | dnssec_ok << 15, len(options)) + options


def record(rtype: int, ttl: int, data: bytes, owner: bytes = SELF) -> bytes:
    """One resource record of class IN; by default it belongs to the name that was asked for."""
    return owner + _FIXED.pack(rtype, IN, ttl, len(data)) + data


def srv(port: int, target: bytes) -> bytes:
    """The data of an SRV record (RFC 2782): priority and weight are equal among containers."""
    return b"\x00\x00\x00\x00" + port.to_bytes(2, "big") + target


_SOA_DATA = (
    encode_name("netd") + encode_name("hostmaster.netd") + Struct("!IIIII").pack(1, 3600, 600, 86400, 1)
)


def soa(owner: bytes, ttl: int) -> bytes:
    """The SOA that lets a client cache "no" for one second (RFC 2308: the lesser of TTL and minimum)."""
    return record(SOA, ttl, _SOA_DATA, owner)


def respond(
    query: Query,
    rcode: int,
    answers: Sequence[bytes] = (),
    authorities: Sequence[bytes] = (),
    additionals: Iterable[bytes] = (),
    *,
    limit: int,
    authoritative: bool = True,
) -> bytes:
    """Compose an answer of at most `limit` bytes.

    What does not fit goes in this order: helpful additional records, without a mark (RFC 2181 9);
    then answers from the end on, with TC set, so that the client comes back over TCP.
    """
    tail = opt(dnssec_ok=query.dnssec_ok, extended=rcode >> 4) if query.edns else b""
    room = limit - query.end - len(tail)
    flags = QR | RECURSION_AVAILABLE | query.flags & (RECURSION_DESIRED | CHECKING_DISABLED) | rcode & 15
    if authoritative:
        flags |= AUTHORITATIVE
    kept: list[bytes] = []
    counts = [0, 0, 0]
    for section, records in enumerate((answers, authorities, additionals)):
        for item in records:
            room -= len(item)
            if room < 0:
                break
            kept.append(item)
            counts[section] += 1
        if room < 0:
            if section < 2:
                flags |= TRUNCATED
            break
    head = query.data[:2] + HEADER.pack(0, flags, 1, counts[0], counts[1], counts[2] + query.edns)[2:]
    return b"".join((head, query.question, *kept, tail))


def refuse(data: bytes, rcode: int) -> bytes:
    """The shortest answer to a message that could not be read: its header, no question."""
    flags = int.from_bytes(data[2:4], "big") & (OPCODE | RECURSION_DESIRED) | QR | rcode
    return data[:2] + HEADER.pack(0, flags, 0, 0, 0, 0)[2:]


def ask(query: Query, identity: int) -> bytes:
    """The question as it is sent upstream: the client's spelling, our id, EDNS only if the client had it.

    OPT belongs to one hop, so it is made anew: our buffer size instead of the client's, cookies,
    keepalive and padding left out (RFC 7873 5.2, RFC 7828, RFC 7830), all other options kept.
    """
    flags = query.flags & _PASSED
    question = query.data[12 : query.end]
    if not query.edns:
        return HEADER.pack(identity, flags, 1, 0, 0, 0) + question
    tail = opt(dnssec_ok=query.dnssec_ok, options=query.options)
    return HEADER.pack(identity, flags, 1, 0, 0, 1) + question + tail


class Reply(NamedTuple):
    """What an upstream server answered, ready to be given to any client that asked the same.

    `ttl` is how long it may be kept, in seconds, 0 if not at all; `ttls` are the offsets of every
    TTL inside `data`. `negative` marks "no such name" and "no such data".
    """

    data: bytes
    rcode: int
    truncated: bool
    negative: bool
    ttl: int
    ttls: tuple[int, ...]

    def aged(self, query: Query, age: int, limit: int) -> bytes:
        """The answer to `query`, `age` seconds after it came: its id and spelling, TTLs counted down."""
        if len(self.data) > limit:
            return _too_long(query, self)
        mine = query.data
        answer = b"".join((mine[:2], self.data[2:12], mine[12 : query.end], self.data[query.end :]))
        if not age:
            return answer
        data = bytearray(answer)
        for at in self.ttls:
            left = max(int.from_bytes(data[at : at + 4], "big") - age, 0)
            data[at : at + 4] = left.to_bytes(4, "big")
        return bytes(data)

    def stale(self, query: Query, ttl: int, limit: int) -> bytes:
        """The same when it is too old already: every TTL becomes `ttl` (RFC 8767 4)."""
        if len(self.data) > limit:
            return _too_long(query, self)
        data = bytearray(self.data)
        data[:2] = query.data[:2]
        data[12 : query.end] = query.question
        for at in self.ttls:
            data[at : at + 4] = ttl.to_bytes(4, "big")
        return bytes(data)


def _too_long(query: Query, reply: Reply) -> bytes:
    flags = int.from_bytes(reply.data[2:4], "big") | TRUNCATED
    tail = opt(dnssec_ok=query.dnssec_ok) if query.edns else b""
    return query.data[:2] + HEADER.pack(0, flags, 1, 0, 0, query.edns)[2:] + query.question + tail


def read_reply(data: bytes, query: Query, identity: int) -> Reply | None:
    """What came back for `query`, or None if it is not an answer to it, or is damaged.

    The caller goes on waiting after None: a forged or broken packet must not end the wait for the
    real one (CVE-2023-29483). Id and question must match; case may differ, servers exist that fold it.
    """
    end = query.end
    if len(data) < end:
        return None
    got, flags, questions, answers, authorities, additionals = HEADER.unpack_from(data)
    if got != identity or not flags & QR or flags & OPCODE or questions != 1:
        return None
    if data[12:end] != query.data[12:end] and (
        data[12 : end - 4].lower() != query.name or data[end - 4 : end] != query.data[end - 4 : end]
    ):
        return None
    rcode = flags & 15
    if flags & TRUNCATED:
        return Reply(data, rcode, True, False, 0, ())
    walk = _walk(data, end, (answers, authorities, additionals))
    if walk is None or (walk.opt and not query.edns):
        return None
    negative = rcode == NXDOMAIN or (rcode == NOERROR and not answers)
    ttl = walk.negative_ttl if negative else walk.ttl
    if rcode not in (NOERROR, NXDOMAIN):
        ttl = 0
    if not flags & RECURSION_AVAILABLE:
        # That is a statement about us, whatever the server in between says of itself.
        data = data[:2] + (flags | RECURSION_AVAILABLE).to_bytes(2, "big") + data[4:]
    return Reply(data, rcode, False, negative, ttl, walk.ttls)


class _Walk(NamedTuple):
    ttls: tuple[int, ...]
    ttl: int
    negative_ttl: int
    opt: bool


def _walk(data: bytes, position: int, counts: tuple[int, int, int]) -> _Walk | None:
    """Step over every record, noting TTLs. None if one of them does not lie inside the message."""
    ttls = []
    negative_ttl = 0
    opt = False
    total = len(data)
    least = 0xFFFFFFFF
    for section, count in enumerate(counts):
        for _ in range(count):
            while position < total and 0 < (length := data[position]) < 64:
                position += length + 1
            if position >= total or 64 <= data[position] < 192:
                return None
            position += 1 if data[position] == 0 else 2
            if position + 10 > total:
                return None
            rtype, _, ttl, length = _FIXED.unpack_from(data, position)
            after = position + 10 + length
            if after > total:
                return None
            if rtype == OPT:
                opt = True
            else:
                ttls.append(position + 4)
                if ttl >= 0x80000000:  # RFC 2181 8: treat as zero
                    ttl = 0
                if section == 0:
                    if ttl < least:
                        least = ttl
                elif section == 1 and rtype == SOA and length >= 22:
                    negative_ttl = min(ttl, int.from_bytes(data[after - 4 : after], "big"))
            position = after
    return _Walk(tuple(ttls), least if counts[0] else 0, negative_ttl, opt)
