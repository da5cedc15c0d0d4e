"""What people ask about the DNS: what would a container be told, which names exist, how busy is it.

The server process answers; this module puts its answers into words. It reads them with dnslib, which
is too slow for a server and just right here.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import dnslib

from netd.errors import Invalid
from netd_dns import wire
from netd_dns.control import Message
from netd_dns.counters import BUCKETS

DEFAULT_TYPES = ("A", "AAAA")


class Names(Protocol):
    """A running DNS that can be asked; `netd.dns_feed.DnsFeed`."""

    async def ask(self, message: Message) -> Message:
        """One question of the control protocol. Raises `Unavailable`."""


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record as text; `ttl` in seconds."""

    name: str
    ttl: int
    type: str
    data: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one type of question."""

    type: str
    rcode: str
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Lookup:
    """What a container would be told about a name.

    `why` finishes the sentence that starts with the name. `holders` are (sandbox id, network name) of
    the endpoints it leads to; `upstreams` who is asked where the name is not netd's.
    """

    name: str
    answers: tuple[Answer, ...]
    why: str
    holders: tuple[tuple[str, str], ...]
    networks: tuple[str, ...]
    upstreams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One name, where it is known, and what it leads to. `sandbox` is an id."""

    network: str
    name: str
    address: str
    sandbox: str


@dataclass(frozen=True, slots=True)
class Metric:
    """One number, in the terms of Prometheus."""

    name: str
    value: float
    help: str
    type: str = "counter"
    labels: Mapping[str, str] = field(default_factory=dict)


async def lookup(names: Names, sandbox: str, name: str, types: Sequence[str] = ()) -> Lookup:
    """What the sandbox `sandbox` would be told about `name`.

    Raises `Invalid` for what is no name or no type, and for a sandbox that has no network and so no
    names; `Unavailable` while the server is being restarted.
    """
    try:
        wire.encode_name(name)
    except ValueError as error:
        raise Invalid(str(error)) from error
    kinds = [kind.upper() for kind in types or DEFAULT_TYPES]
    for kind in kinds:
        if kind not in dnslib.QTYPE.reverse:
            raise Invalid(f"record type {kind!r} is not known; A, AAAA, PTR, SRV, MX, TXT and the like are")
    said = await names.ask({"op": "explain", "sandbox": sandbox, "name": name})
    if said["kind"] is None:
        raise Invalid("the container is on no network of netd's, so its questions do not come here")
    answers = tuple([await _ask(names, sandbox, name, kind) for kind in kinds])
    foreign = said["kind"] == "FOREIGN"
    return Lookup(
        name,
        answers,
        _why(said) if foreign else said["why"],
        tuple((host["sandbox"], host["network"]) for host in said["hosts"]),
        tuple(said["networks"]),
        tuple(said["upstreams"]) if foreign else (),
    )


def _why(said: Message) -> str:
    """Whose a foreign name is, and what becomes of the question."""
    if not said["outside"]:
        return f"{said['why']}, and the container's networks are internal: refused"
    if not said["upstreams"]:
        return f"{said['why']}, and there is no server to forward to"
    return f"{said['why']}: forwarded to {', '.join(said['upstreams'])}"


async def _ask(names: Names, sandbox: str, name: str, kind: str) -> Answer:
    question = base64.b64encode(bytes(dnslib.DNSRecord.question(name, kind).pack())).decode()
    answer = await names.ask({"op": "ask", "sandbox": sandbox, "question": question})
    told = dnslib.DNSRecord.parse(base64.b64decode(answer["answer"]))
    records = [
        Record(str(rr.rname).rstrip(".") or ".", rr.ttl, str(dnslib.QTYPE[rr.rtype]), str(rr.rdata))
        for rr in told.rr
    ]
    return Answer(kind, str(dnslib.RCODE[told.header.rcode]), tuple(records))


async def dump(names: Names) -> AsyncIterator[Row]:
    """Every name that the server answers, in no order. Names that change meanwhile may be left out."""
    number = secrets.randbits(48)
    while rows := (await names.ask({"op": "dump", "dump": number}))["rows"]:
        for row in rows:
            yield Row(*row)


async def metrics(names: Names) -> list[Metric]:
    """The server's counters since it was started."""
    values = (await names.ask({"op": "metrics"}))["metrics"]
    return list(_metrics(values))


def _metrics(values: Mapping[str, Any]) -> Iterator[Metric]:
    for transport in ("udp", "tcp"):
        yield _counter("questions", values[transport], "Questions received.", transport=transport)
    for rcode, count in sorted(values["answers"].items()):
        yield _counter("answers", count, "Answers given, by response code.", rcode=rcode)
    yield _counter("finished_answers", values["ready"], "Questions that a finished answer served.")
    for reason, count in sorted(values["dropped"].items()):
        yield _counter("dropped", count, "What was not served, by reason.", reason=reason)
    yield _counter("forwarded", values["forwarded"], "Questions sent to upstream servers.")
    yield _counter("coalesced", values["coalesced"], "Questions that joined an identical one in flight.")
    for result in ("hits", "misses", "stale"):
        yield _counter("cache", values[f"cache_{result}"], "Lookups in the cache.", result=result)
    yield Metric("netd_dns_finished_bytes", values["ready_bytes"], "Memory of finished answers.", "gauge")
    yield Metric("netd_dns_cache_entries", values["cache_entries"], "Answers in the cache.", "gauge")
    yield Metric("netd_dns_cache_bytes", values["cache_bytes"], "Memory that the cache takes.", "gauge")
    for server, (_, failures, *within) in sorted(values["upstream"].items()):
        for bound, count in zip((*BUCKETS, "+Inf"), accumulate(within), strict=True):
            name, text = "netd_dns_upstream_seconds_bucket", "Time that upstream servers took."
            yield Metric(name, count, text, labels={"server": server, "le": str(bound)})
        yield _counter("upstream_failures", failures, "Attempts without an answer.", server=server)
    yield _counter("failures", values["failures"], "Defects that were caught.")


def _counter(name: str, value: float, help: str, **labels: str) -> Metric:
    return Metric(f"netd_dns_{name}_total", value, help, labels=labels)
