"""From a question and a view to an answer: at once where the name is netd's, later where it is not.

Nothing here knows of sockets. A client is a `Client`: who it is (for quotas), how long an answer it
takes, and how to give it one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from netd_dns import wire
from netd_dns.counters import Counters
from netd_dns.ready import Turns
from netd_dns.wire import Malformed, Query
from netd_dns.zone import NOT_THERE, Host, Kind, Match, View

TTL = 5
"""Seconds that a client may keep a container's address: containers move."""
NEGATIVE_TTL = 1
"""Seconds that it may keep a "no": the container may be starting."""
TURNS_MOST = 16
"""Orders prepared for one question; an alias of a hundred containers need not have a hundred."""

_HINFO = wire.record(wire.HINFO, TTL, b"\x07RFC8482\x00")


class Client(Protocol):
    """Whoever asked; one object serves one question, or all questions of one connection."""

    source: str
    """The address that quotas are counted by."""

    def limit(self, query: Query) -> int:
        """The longest answer it can take, in bytes."""

    def reply(self, answer: bytes) -> None:
        """Send it. A client that has gone by now is nobody's concern."""


class Forward(Protocol):
    """`netd_dns.forward.Forwarder`, or a stand-in."""

    def ask(self, query: Query, view: View, client: Client) -> None:
        """Answer `client` from the cache or from an upstream; always answers in the end."""


class Local(NamedTuple):
    """The parts of an answer that netd gives itself. `turning` addresses may be given in any order."""

    rcode: int = wire.NOERROR
    answers: tuple[bytes, ...] = ()
    authorities: tuple[bytes, ...] = ()
    additionals: tuple[bytes, ...] = ()


class Resolver:
    """Answers questions."""

    def __init__(self, forward: Forward, counters: Counters) -> None:
        self._forward = forward
        self.counters = counters
        self._turn = 0

    def question(self, data: bytes, view: View | None, client: Client, *, keep: bool) -> None:
        """Answer one message. `view` None is a client that may see nothing. `keep` adds to `view.ready`."""
        try:
            query = wire.read_query(data)
        except Malformed as malformed:
            if malformed.rcode is None:
                self.counters.drop("not a question")
            else:
                self._answer(client, wire.refuse(data, malformed.rcode), malformed.rcode)
            return
        if query.version:
            self._refuse(query, client, wire.BADVERS)
            return
        if view is None or query.qclass != wire.IN:
            self._refuse(query, client)
            return
        match = view.find(query.name)
        if match.kind is Kind.FOREIGN:
            self._elsewhere(query, view, client)
            return
        local = answer(query.qtype, match)
        limit = client.limit(query)
        count = len(local.answers)
        self._turn += 1
        reply = _compose(query, local, self._turn % count if count else 0, limit)
        if keep and match.kind not in NOT_THERE and not query.options:
            self._keep(query, view, local, reply, limit)
        self._answer(client, reply, local.rcode)

    def explain(self, name: bytes, view: View) -> Match:
        """Why `question` would answer as it does."""
        return view.find(name.lower())

    def _keep(self, query: Query, view: View, local: Local, reply: bytes, limit: int) -> None:
        count = len(local.answers)
        if count < 2:
            view.ready.keep(query.data[2:], reply[2:])
            return
        step = -(-count // TURNS_MOST)
        turns = (_compose(query, local, turn, limit)[2:] for turn in range(0, count, step))
        view.ready.keep(query.data[2:], Turns(tuple(turns)))

    def _elsewhere(self, query: Query, view: View, client: Client) -> None:
        if query.qtype == wire.ANY:
            # RFC 8482: ANY is a debugging aid that serves amplifiers. Nobody outside is asked for it.
            reply = wire.respond(
                query, wire.NOERROR, (_HINFO,), limit=client.limit(query), authoritative=False
            )
            self._answer(client, reply, wire.NOERROR)
        elif not view.outside:
            self._refuse(query, client)
        else:
            self._forward.ask(query, view, client)

    def _refuse(self, query: Query, client: Client, rcode: int = wire.REFUSED) -> None:
        reply = wire.respond(query, rcode, limit=client.limit(query), authoritative=False)
        self._answer(client, reply, rcode)

    def _answer(self, client: Client, reply: bytes, rcode: int) -> None:
        self.counters.answered(rcode)
        client.reply(reply)


def answer(qtype: int, match: Match) -> Local:
    """What netd says about a name that is its own. A type that the name lacks is an empty answer."""
    if match.kind in NOT_THERE:
        return Local(wire.NXDOMAIN, authorities=(wire.soa(match.owner, NEGATIVE_TTL),))
    answers: tuple[bytes, ...] = ()
    additionals: tuple[bytes, ...] = ()
    if match.kind is Kind.SERVICE and qtype in (wire.SRV, wire.ANY):
        answers = tuple(
            wire.record(wire.SRV, TTL, wire.srv(match.port, host.canonical)) for host in match.hosts
        )
        additionals = tuple(glue for host in match.hosts for glue in _addresses(host, host.canonical))
    elif match.kind is Kind.ADDRESS and qtype in (wire.PTR, wire.ANY):
        answers = tuple(wire.record(wire.PTR, TTL, host.canonical) for host in match.hosts)
    elif match.kind in (Kind.HOST, Kind.EXTRA):
        answers = _of_type(qtype, match)
    if answers:
        return Local(answers=answers, additionals=additionals)
    return Local(authorities=(wire.soa(wire.SELF, NEGATIVE_TTL),))


def _of_type(qtype: int, match: Match) -> tuple[bytes, ...]:
    v4 = [a for host in match.hosts for a in host.a] + [a for a in match.addresses if len(a) == 4]
    v6 = [a for host in match.hosts for a in host.aaaa] + [a for a in match.addresses if len(a) == 16]
    if qtype == wire.ANY:
        # Minimal (RFC 8482 4.1): one of the types that exist, all of its records.
        qtype = wire.A if v4 else wire.AAAA
    if qtype == wire.A:
        return tuple(wire.record(wire.A, TTL, address) for address in dict.fromkeys(v4))
    if qtype == wire.AAAA:
        return tuple(wire.record(wire.AAAA, TTL, address) for address in dict.fromkeys(v6))
    return ()


def _addresses(host: Host, owner: bytes) -> Sequence[bytes]:
    return [wire.record(wire.A, TTL, address, owner) for address in host.a] + [
        wire.record(wire.AAAA, TTL, address, owner) for address in host.aaaa
    ]


def _compose(query: Query, local: Local, turn: int, limit: int) -> bytes:
    answers = local.answers[turn:] + local.answers[:turn]
    return wire.respond(
        query, local.rcode, answers, local.authorities, local.additionals, limit=limit, authoritative=True
    )
