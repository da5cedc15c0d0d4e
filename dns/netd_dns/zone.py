"""What exists, and who may see it. Pure: no sockets, no clock.

A `Segment` is a network with the names of its endpoints. A `View` is what one kind of client can
see: the segments it is attached to, its own --add-host names, the way out that it has. Clients
that see the same share one view; nearly all containers are on one network and share that segment's.

Views also hold finished answers (`ready`). Those are a memory of what was computed, never a second
truth, and are dropped whole whenever one of the view's segments changes. So a change costs the first
client of each name a few microseconds, and there is no state in which a name is gone and still answered.

What is owned. netd decides alone about: names of containers, single-label names, everything below any
network's name, service names (`_80._tcp.web`) of all these, and the reverse names of its subnets.
Such a question never goes outside, whatever its type (moby #47333 is what happens otherwise), nor does
one for a name of a network that who asks is not on (docs/adr/0025-no-networks-names-are-asked-outside.md).
The rest is somebody else's and is `FOREIGN`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import NamedTuple

from netd_dns import wire
from netd_dns.ready import Budget


class Host:
    """One endpoint: what `names` (lower case, without the network) lead to. Equal only to itself.

    `canonical` is NAME.NETWORK, the target of PTR and SRV. `services` are (protocol, port) that it
    publishes or exposes. `silent` addresses are those it may ask from and no name leads to: IPv6
    link-local.
    """

    __slots__ = ("a", "aaaa", "canonical", "names", "sandbox", "segment", "services", "silent", "wildcards")

    def __init__(
        self,
        *,
        sandbox: str,
        segment: str,
        canonical: bytes,
        addresses: Iterable[bytes],
        names: tuple[bytes, ...],
        wildcards: tuple[bytes, ...],
        services: frozenset[tuple[bytes, int]],
        silent: tuple[bytes, ...],
    ) -> None:
        self.sandbox = sandbox
        self.segment = segment
        self.canonical = canonical
        self.a = tuple(address for address in addresses if len(address) == 4)
        self.aaaa = tuple(address for address in addresses if len(address) == 16)
        self.names = names
        self.wildcards = wildcards
        self.services = services
        self.silent = silent


class Segment:
    """A network. `upstreams` empty stands for the host's servers.

    `empty` are names that only have something below them, and by how many (RFC 8020: they exist).
    `views` is whoever can see this segment, so that a change finds the finished answers it makes wrong.
    """

    def __init__(
        self, id: str, name: str, internal: bool, subnets: tuple[str, ...], upstreams: tuple[str, ...]
    ) -> None:
        self.id = id
        self.name = name
        self.internal = internal
        self.subnets = subnets
        self.upstreams = upstreams
        self.suffix = wire.encode_name(name).lower()
        self.prefixes = tuple(_prefix(subnet) for subnet in subnets)
        self.names: dict[bytes, list[Host]] = {}
        self.wildcards: dict[bytes, list[Host]] = {}
        self.empty: dict[bytes, int] = {}
        self.addresses: dict[bytes, Host] = {}
        self.clients: dict[bytes, str] = {}
        self.views: set[View] = set()

    @property
    def definition(self) -> tuple[object, ...]:
        """What the daemon says of the network itself."""
        return self.name, self.internal, self.subnets, self.upstreams

    def contains(self, address: bytes) -> bool:
        number = int.from_bytes(address, "big")
        return any(
            len(address) == size and number >> shift == prefix for size, shift, prefix in self.prefixes
        )

    def add(self, host: Host) -> None:
        for name in self._spellings(host.names):
            self.names.setdefault(name, []).append(host)
        for name in self._spellings(host.wildcards):
            self.wildcards.setdefault(name, []).append(host)
        for name in self._hollow(host):
            self.empty[name] = self.empty.get(name, 0) + 1
        for address in (*host.a, *host.aaaa):
            self.addresses[address] = host
        for address in (*host.a, *host.aaaa, *host.silent):
            self.clients[address] = host.sandbox

    def discard(self, host: Host) -> None:
        for table, names in ((self.names, host.names), (self.wildcards, host.wildcards)):
            for name in self._spellings(names):
                hosts = table[name]
                hosts.remove(host)
                if not hosts:
                    del table[name]
        for name in self._hollow(host):
            self.empty[name] -= 1
            if not self.empty[name]:
                del self.empty[name]
        # An address can have passed to a new endpoint before the old one's removal is told.
        for address in (*host.a, *host.aaaa):
            if self.addresses.get(address) is host:
                del self.addresses[address]
        for address in (*host.a, *host.aaaa, *host.silent):
            if self.clients.get(address) == host.sandbox:
                del self.clients[address]

    def _spellings(self, names: Iterable[bytes]) -> Iterator[bytes]:
        for name in names:
            yield name
            if len(name) + len(self.suffix) - 1 <= 255:
                yield name[:-1] + self.suffix

    def _hollow(self, host: Host) -> Iterator[bytes]:
        for name in self._spellings(host.names):
            above = wire.parent(name)
            while above not in (wire.ROOT, self.suffix):
                # "a.example.com" as an alias makes nothing of example.com netd's.
                if name.endswith(self.suffix) or wire.parent(above) == wire.ROOT:
                    yield above
                above = wire.parent(above)
        for name in self._spellings(host.wildcards):
            if name.endswith(self.suffix) or wire.parent(name) == wire.ROOT:
                yield name


def _prefix(subnet: str) -> tuple[int, int, int]:
    network = ip_network(subnet)
    shift = network.max_prefixlen - network.prefixlen
    return network.max_prefixlen // 8, shift, int(network.network_address) >> shift


class Kind(Enum):
    """What a name is to one client. The value finishes the sentence "NAME ..."."""

    HOST = "is a container"
    EXTRA = "is an --add-host name of the asking container"
    SERVICE = "is a service of a container"
    ADDRESS = "is the address of a container"
    EMPTY = "exists only because names below it do"
    ABSENT = "would be netd's, and does not exist"
    APART = "is below the name of a network that the asking container is not on"
    FOREIGN = "is not netd's"


NOT_THERE = (Kind.ABSENT, Kind.APART)
"""What is told as NXDOMAIN, and to nobody outside. Whoever asks is not told which of the two it is."""


class Match(NamedTuple):
    """What a view knows of a name. `owner` is where the SOA of a "no" belongs."""

    kind: Kind
    hosts: tuple[Host, ...] = ()
    addresses: tuple[bytes, ...] = ()
    port: int = 0
    owner: bytes = wire.SELF


FOREIGN = Match(Kind.FOREIGN)
EMPTY = Match(Kind.EMPTY)
NOWHERE = Match(Kind.ABSENT, owner=wire.ROOT)
"""What a single label is that nobody has: it is not asked outside."""
_LOCALHOST = wire.encode_name("localhost")
_LOOPBACK = Match(
    Kind.EXTRA,
    addresses=(socket.inet_pton(socket.AF_INET, "127.0.0.1"), socket.inet_pton(socket.AF_INET6, "::1")),
)
_V4 = wire.encode_name("in-addr.arpa")
_V6 = wire.encode_name("ip6.arpa")


class View:
    """What one kind of client can see.

    `upstreams` empty stands for the host's servers; `outside` says whether those may be asked.
    `ready` are finished answers to questions that were asked before.
    """

    __slots__ = ("_suffixes", "_zone", "extra", "key", "outside", "ready", "segments", "upstreams", "users")

    def __init__(
        self,
        zone: Zone,
        segments: tuple[Segment, ...],
        extra: Mapping[bytes, tuple[bytes, ...]],
        upstreams: tuple[str, ...],
    ) -> None:
        self._zone = zone
        self.segments = segments
        self._suffixes = frozenset(segment.suffix for segment in segments)
        self.extra = extra
        self.key: _Key = ((), (), ())
        self.users = 0
        self.ready = zone.budget.table()
        exits = [segment for segment in segments if not segment.internal]
        servers = upstreams or tuple(dict.fromkeys(s for segment in exits for s in segment.upstreams))
        if exits:
            self.upstreams, self.outside = servers, True
        else:
            # No way out, but a server inside the network itself is not outside (moby #47822).
            self.upstreams = tuple(
                server
                for server in servers or (s for segment in segments for s in segment.upstreams)
                if any(segment.contains(ip_address(server).packed) for segment in segments)
            )
            self.outside = bool(self.upstreams)

    def find(self, name: bytes) -> Match:
        """What `name` (lower case) is to this client."""
        if (addresses := self.extra.get(name)) is not None:
            return Match(Kind.EXTRA, addresses=addresses)
        if hosts := self._hosts(name):
            return Match(Kind.HOST, hosts)
        if name[1:2] == b"_" and (match := self._service(name)) is not None:
            return match
        if name.endswith((_V4, _V6)):
            return self._reverse(name)
        if name.endswith(_LOCALHOST) and _ends(name, _LOCALHOST):
            return _LOOPBACK  # RFC 6761 6.3
        return self._below(name)

    def _hosts(self, name: bytes) -> tuple[Host, ...]:
        if len(self.segments) == 1:
            return tuple(self.segments[0].names.get(name, ()))
        return tuple(dict.fromkeys(h for segment in self.segments for h in segment.names.get(name, ())))

    def _service(self, name: bytes) -> Match | None:
        """`_port._proto.NAME`; None unless NAME is known or has one label, for then the name is not ours."""
        rest = wire.parent(name)
        if rest[1:2] != b"_":
            return EMPTY if self._hosts(rest) and name[1 : name[0] + 1] in (b"_tcp", b"_udp") else None
        port, proto, target = name[2 : name[0] + 1], rest[2 : rest[0] + 1], wire.parent(rest)
        known = self._hosts(target) or self._wildcard(target)
        if not known:
            return NOWHERE if target != wire.ROOT and wire.parent(target) == wire.ROOT else None
        if port.isdigit() and len(port) <= 5:
            hosts = tuple(h for h in known if (proto, int(port)) in h.services)
            if hosts:
                return Match(Kind.SERVICE, hosts, port=int(port))
        return Match(Kind.ABSENT, owner=target)

    def _wildcard(self, name: bytes) -> tuple[Host, ...]:
        """Those with the nearest wildcard above a name, on whichever network it is."""
        while name != wire.ROOT:
            name = wire.parent(name)
            hosts = tuple(host for segment in self.segments for host in segment.wildcards.get(name, ()))
            if hosts:
                return hosts
        return ()

    def _reverse(self, name: bytes) -> Match:
        address = _address_of(name)
        if address is None:
            return FOREIGN
        for segment in self.segments:
            if host := segment.addresses.get(address):
                return Match(Kind.ADDRESS, (host,))
        if self._zone.covers(address):
            return Match(Kind.ABSENT, owner=wire.parent(name))
        return FOREIGN

    def _below(self, name: bytes) -> Match:
        """Names that are not there themselves: wildcards, empty ones, what must not go outside.

        Every forwarded question comes through here, which is why it is written for speed.
        """
        if name in self._suffixes:
            return EMPTY
        wild = False
        for segment in self.segments:
            if name in segment.empty:
                return EMPTY
            if segment.wildcards:
                wild = True
        if name == wire.ROOT:
            return FOREIGN
        if wild and (hosts := self._wildcard(name)):
            return Match(Kind.HOST, hosts)
        if name[name[0] + 1 :] == wire.ROOT:
            return NOWHERE
        networks = self._zone.suffixes
        above = name
        while above != wire.ROOT:
            if above in networks:
                return Match(Kind.ABSENT if above in self._suffixes else Kind.APART, owner=above)
            above = above[above[0] + 1 :]
        return FOREIGN


class Sandbox(NamedTuple):
    """A client and its endpoints, as the daemon tells them."""

    id: str
    name: str
    hosts: tuple[Host, ...]
    extra: Mapping[bytes, tuple[bytes, ...]] = MappingProxyType({})
    upstreams: tuple[str, ...] = ()

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(host.segment for host in self.hosts))


_Key = tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[bytes, tuple[bytes, ...]], ...]]


class Zone:
    """Everything that the daemon has told. Each change returns the ids of the segments it touched."""

    def __init__(self, is_local: Callable[[str], bool] = lambda _: False) -> None:
        self.budget = Budget()
        self.segments: dict[str, Segment] = {}
        self.sandboxes: dict[str, Sandbox] = {}
        self._views: dict[_Key, View] = {}
        self._of: dict[str, View] = {}
        self._members: dict[str, set[str]] = {}  # sandboxes by segment, also by one that is not there yet
        self._prefixes: dict[tuple[int, int], dict[int, int]] = {}
        self.suffixes: dict[bytes, int] = {}
        """The names of all networks, and how many have each."""
        self._is_local = is_local

    def put_segment(self, segment: Segment) -> set[str]:
        """Add a network, or replace its definition; the endpoints it has stay."""
        old = self.segments.get(segment.id)
        if old is not None:
            if segment.definition == old.definition:
                return set()
            self._count(old, -1)
        self.segments[segment.id] = segment
        self._count(segment, 1)
        return self._rebuild(segment.id)

    def drop_segment(self, id: str) -> set[str]:
        segment = self.segments.pop(id, None)
        if segment is None:
            return set()
        self._count(segment, -1)
        return self._rebuild(id)

    def put_sandbox(self, sandbox: Sandbox) -> set[str]:
        """The whole truth about one sandbox; without endpoints it is gone."""
        old = self.sandboxes.pop(sandbox.id, None)
        touched = set(sandbox.segments)
        if old is not None:
            touched |= set(old.segments)
            for host in old.hosts:
                self._members[host.segment].discard(old.id)
                if host.segment in self.segments:
                    self.segments[host.segment].discard(host)
            self._leave(sandbox.id)
        if sandbox.hosts:
            self.sandboxes[sandbox.id] = sandbox
            for host in sandbox.hosts:
                self._members.setdefault(host.segment, set()).add(sandbox.id)
                if host.segment in self.segments:
                    self.segments[host.segment].add(host)
            self._enter(sandbox)
        for id in touched & self.segments.keys():
            for view in self.segments[id].views:
                view.ready.clear()
        return touched

    def view_of(self, sandbox: str) -> View | None:
        return self._of.get(sandbox)

    def shared(self, segment: str) -> View:
        """What a plain client of one network sees."""
        return self._view(((segment,), (), ()))

    def client(self, segment_id: str, source: str) -> View | None:
        """The view of whoever asks on a network's gateway from address `source`, None for nobody's.

        An address of this network: its owner, or the host itself or something an administrator
        plugged in, who see the network. An address of another network came across the host and may
        not see this one's names. Anything else must be an address of the host, or this would be an
        open resolver to whoever routes packets here.
        """
        segment = self.segments.get(segment_id)
        if segment is None:
            return None
        text = source.partition("%")[0]
        address = ip_address(text).packed
        sandbox = segment.clients.get(address)
        if sandbox is not None:
            return self._of.get(sandbox)
        if segment.contains(address):
            return self.shared(segment_id)
        if self.covers(address) or not self._is_local(text):
            return None
        return self.shared(segment_id)

    def covers(self, address: bytes) -> bool:
        """Whether an address lies in a subnet of any network."""
        number = int.from_bytes(address, "big")
        return any(
            size == len(address) and number >> shift in known
            for (size, shift), known in self._prefixes.items()
        )

    def _count(self, segment: Segment, step: int) -> None:
        self.suffixes[segment.suffix] = self.suffixes.get(segment.suffix, 0) + step
        if not self.suffixes[segment.suffix]:
            del self.suffixes[segment.suffix]
        for size, shift, prefix in segment.prefixes:
            known = self._prefixes.setdefault((size, shift), {})
            known[prefix] = known.get(prefix, 0) + step
            if not known[prefix]:
                del known[prefix]
            if not known:
                del self._prefixes[size, shift]

    def _rebuild(self, changed: str) -> set[str]:
        """A network came, went or changed: its endpoints enter it anew, its views are made anew."""
        for key in [key for key in self._views if changed in key[0]]:
            self._forget(self._views[key])
        touched = {changed}
        for id in self._members.get(changed, ()):
            sandbox = self.sandboxes[id]
            touched.update(sandbox.segments)
            if changed in self.segments:
                for host in sandbox.hosts:
                    if host.segment == changed:
                        self.segments[changed].add(host)
            self._enter(sandbox)
        return touched

    def _enter(self, sandbox: Sandbox) -> None:
        view = self._view((sandbox.segments, sandbox.upstreams, tuple(sorted(sandbox.extra.items()))))
        view.users += 1
        self._of[sandbox.id] = view

    def _leave(self, sandbox: str) -> None:
        view = self._of.pop(sandbox)
        view.users -= 1
        if not view.users:
            self._forget(view)

    def _view(self, key: _Key) -> View:
        view = self._views.get(key)
        if view is None:
            names, upstreams, extra = key
            segments = tuple(self.segments[name] for name in names if name in self.segments)
            view = self._views[key] = View(self, segments, dict(extra), upstreams)
            view.key = key
            for segment in segments:
                segment.views.add(view)
        return view

    def _forget(self, view: View) -> None:
        self.budget.drop(view.ready)
        if self._views.pop(view.key, None) is not None:
            for segment in view.segments:
                segment.views.discard(view)


def _ends(name: bytes, suffix: bytes) -> bool:
    while len(name) > len(suffix):
        name = wire.parent(name)
    return name == suffix


def _address_of(name: bytes) -> bytes | None:
    """The address that a reverse name stands for, None if it is not a whole one."""
    labels = []
    rest = name
    while rest != wire.ROOT:
        labels.append(rest[1 : rest[0] + 1])
        rest = wire.parent(rest)
    try:
        if len(labels) == 6 and _ends(name, _V4):
            return socket.inet_pton(socket.AF_INET, b".".join(labels[3::-1]).decode())
        if len(labels) == 34 and _ends(name, _V6) and all(len(label) == 1 for label in labels[:32]):
            return bytes.fromhex(b"".join(labels[31::-1]).decode())
    except (OSError, ValueError):
        return None
    return None
