"""A small world of networks and containers, and a client without sockets, for the DNS server's tests.

front   10.0.0.0/24, fd00::/64    web (alias www, *.app), api (alias backend)
back    10.0.1.0/24               api (alias backend), db (alias backend; publishes 5432/tcp)
cage    10.0.2.0/24, internal     hermit
dave    is on front with --add-host and --dns of his own
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import dns.flags
import dns.message
import dns.rdatatype

from netd_dns import server, wire
from netd_dns.counters import Counters
from netd_dns.resolve import Client, Resolver
from netd_dns.wire import Query
from netd_dns.zone import Sandbox, Segment, View, Zone

FRONT = Segment("front-id", "front", False, ("10.0.0.0/24", "fd00::/64"), ())
BACK = Segment("back-id", "back", False, ("10.0.1.0/24",), ("192.0.2.53",))
CAGE = Segment("cage-id", "cage", True, ("10.0.2.0/24",), ())


def endpoint(network: str, name: str, *addresses: str, **more: Any) -> dict[str, Any]:
    """One endpoint as the daemon tells it."""
    label = network.removesuffix("-id")
    return {
        "network": network,
        "canonical": f"{name}.{label}",
        "addresses": list(addresses),
        "names": [name, *more.get("aliases", ())],
        "wildcards": list(more.get("wildcards", ())),
        "silent": list(more.get("silent", ())),
    }


def sandbox(id: str, *endpoints: dict[str, Any], **more: Any) -> Sandbox:
    """One sandbox, read as the server reads it."""
    value = {"hosts": [], "dns": [], "services": [], **more}
    return server.read_sandbox({"id": id, "name": id, "endpoints": list(endpoints), **value})


def world() -> Zone:
    """The world described above."""
    zone = Zone(lambda address: address == "203.0.113.2")
    for segment in (FRONT, BACK, CAGE):
        zone.put_segment(
            Segment(segment.id, segment.name, segment.internal, segment.subnets, segment.upstreams)
        )
    zone.put_sandbox(
        sandbox(
            "web",
            endpoint("front-id", "web", "10.0.0.2", "fd00::2", aliases=["www", "a.b"], wildcards=["app"]),
        )
    )
    zone.put_sandbox(
        sandbox(
            "api",
            endpoint("front-id", "api", "10.0.0.3", aliases=["backend"], silent=["fe80::3"]),
            endpoint("back-id", "api", "10.0.1.3", aliases=["backend"]),
        )
    )
    zone.put_sandbox(
        sandbox("db", endpoint("back-id", "db", "10.0.1.4", aliases=["backend"]), services=[("tcp", 5432)])
    )
    zone.put_sandbox(sandbox("hermit", endpoint("cage-id", "hermit", "10.0.2.2")))
    zone.put_sandbox(
        sandbox(
            "dave",
            endpoint("front-id", "dave", "10.0.0.9"),
            hosts=[("oracle", "192.0.2.1"), ("oracle", "2001:db8::1"), ("web", "192.0.2.2")],
            dns=["192.0.2.99"],
        )
    )
    return zone


def view(zone: Zone, name: str) -> View:
    """What a sandbox sees."""
    found = zone.view_of(name)
    assert found is not None
    return found


class Asker:
    """A client that keeps what it is told."""

    def __init__(self, source: str = "10.0.0.2", limit: int | None = None) -> None:
        self.source = source
        self.replies: list[bytes] = []
        self._limit = limit

    def limit(self, query: Query) -> int:
        return self._limit or query.udp_limit

    def reply(self, answer: bytes) -> None:
        self.replies.append(answer)


class Outside:
    """Stands for the forwarder: remembers what would have gone outside, and answers SERVFAIL."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def ask(self, query: Query, view: View, client: Client) -> None:
        self.asked.append(wire.decode_name(query.name))
        client.reply(wire.respond(query, wire.SERVFAIL, limit=client.limit(query), authoritative=False))


class Desk:
    """A resolver to put questions to, as a sandbox of the world."""

    def __init__(self, zone: Zone | None = None) -> None:
        self.zone = zone or world()
        self.outside = Outside()
        self.counters = Counters()
        self.resolver = Resolver(self.outside, self.counters)

    def raw(self, data: bytes, who: str | None, *, limit: int | None = None, keep: bool = True) -> bytes:
        """The answer to a message, empty for silence; asked over TCP if `limit` is given."""
        asker = Asker(limit=limit)
        seen = None if who is None else view(self.zone, who)
        if seen is not None and limit is None and (ready := seen.ready.get(data[2:])) is not None:
            return data[:2] + (ready if isinstance(ready, bytes) else ready.next())
        self.resolver.question(data, seen, asker, keep=keep and seen is not None and limit is None)
        assert len(asker.replies) <= 1
        return asker.replies[0] if asker.replies else b""

    def ask(self, who: str | None, name: str, rtype: str = "A", **options: Any) -> dns.message.Message:
        """Ask with dnspython and let it read the answer, strictly."""
        limit = options.pop("limit", None)
        question = dns.message.make_query(name, rtype, **options)
        answer = dns.message.from_wire(self.raw(question.to_wire(), who, limit=limit))
        assert question.is_response(answer), "id, question or flags do not belong to the question"
        return answer

    def told(self, who: str, name: str, rtype: str = "A") -> list[str]:
        """The data of the answers, sorted."""
        return sorted(str(item) for rrset in self.ask(who, name, rtype).answer for item in rrset)


def packed(*addresses: str) -> tuple[bytes, ...]:
    return tuple(ip_address(address).packed for address in addresses)
