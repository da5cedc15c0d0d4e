"""What this node knows of the cluster, and what follows from a change. Pure, no I/O.

Everything read is kept as it came, key by key, beside what it was understood to be: what an entry is
worth depends on others (an endpoint on its network, its node and the owner of its addresses), which
may come later or change. An entry that makes no sense, alone or beside the others, is set aside with the
reason and looked at again when one that it depends on changes.

A change costs work for what it touches. An endpoint touches itself and those that claim one of its
addresses, its MAC or its name in the same network, found by an index. A node touches its endpoints, a
block those inside, a network all of its own.

Of two endpoints that claim one address or MAC the one that was made known later is right, and the other
does not exist: the container moved, and its old node is dead or cut off. Of two whose containers have
the same name, the earlier loses the name only. Endpoints of this node take part in that contest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from netd.cluster import records
from netd.cluster.blocks import block_of
from netd.cluster.ports import Holdings
from netd.errors import Invalid
from netd.model import IPAddress, IPNetwork, Network, Node, RemoteEndpoint

Ref = tuple[str, str]
"""An endpoint: the ids of its network and of itself."""


@dataclass(frozen=True, slots=True)
class Raw:
    """A key's value as it lies in etcd, and the revisions at which it was made and last written."""

    value: bytes
    created: int
    modified: int


@dataclass(kw_only=True)
class Changes:
    """What a member of the cluster has to be told; what goes comes before what comes, at each level."""

    dropped_remotes: list[Ref] = field(default_factory=list)
    dropped_nodes: list[str] = field(default_factory=list)
    dropped_networks: list[str] = field(default_factory=list)
    networks: list[Network] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    remotes: list[RemoteEndpoint] = field(default_factory=list)


class Directory:
    """All of it, as of one revision. `own` is this node's name."""

    def __init__(self, own: str) -> None:
        self.own = own
        self.raw: dict[bytes, Raw] = {}
        self.quarantined: dict[bytes, str] = {}
        self.networks: dict[str, Network] = {}
        self.nodes: dict[str, Node] = {}
        self.instances: dict[str, str] = {}
        self.draining: set[str] = set()
        self.blocks: dict[str, dict[IPNetwork, str]] = defaultdict(dict)
        self.singles: dict[str, dict[IPAddress, str]] = defaultdict(dict)
        self.remotes: dict[Ref, RemoteEndpoint] = {}
        """Those on other nodes that exist as far as this node is concerned: what members know."""
        self._since: dict[Ref, tuple[int, int]] = {}
        self._read: dict[Ref, RemoteEndpoint] = {}
        self._in_network: dict[str, set[Ref]] = defaultdict(set)
        self._unread: dict[str, set[Ref]] = defaultdict(set)
        self._on_node: dict[str, set[Ref]] = defaultdict(set)
        self._claims: dict[Hashable, set[Ref]] = defaultdict(set)

    # --- questions --------------------------------------------------------------------------------

    def holdings(self, network_id: str) -> Holdings:
        """What this node may hand out in a network."""
        network = self.networks.get(network_id)
        if network is None:
            return Holdings()
        mine = tuple(block for block, owner in self.blocks[network_id].items() if owner == self.own)
        singles = self.singles[network_id]
        return Holdings(
            tuple(sorted(mine, key=lambda block: (block.version, int(block.network_address)))),
            frozenset(address for address, owner in singles.items() if owner == self.own),
            frozenset(address for address in singles if block_of(network, address) in mine)
            | {address for address, owner in singles.items() if owner == self.own},
        )

    def count(self, node: str) -> int:
        """How many endpoints are known to be on a node."""
        return len(self._on_node.get(node, ()))

    def owner(self, network_id: str, address: IPAddress) -> str | None:
        """The node that may give an address: the one that claimed it, else the one that has its block."""
        singles = self.singles[network_id]
        if address in singles:
            return singles[address]
        network = self.networks.get(network_id)
        block = block_of(network, address) if network else None
        return self.blocks[network_id].get(block) if block is not None else None

    def modified(self, key: bytes) -> int:
        """The revision at which a key was last written; 0 where there is none."""
        raw = self.raw.get(key)
        return raw.modified if raw else 0

    def endpoint(self, network_id: str, id: str) -> RemoteEndpoint | None:
        """An endpoint as it is recorded, whichever node it is on."""
        return self._read.get((network_id, id))

    # --- changes ----------------------------------------------------------------------------------

    def replace(self, new: Mapping[bytes, Raw]) -> Changes:
        """From now on it is exactly `new`; returns the difference. What was set aside is looked at again."""
        gone = {key: None for key in self.raw if key not in new}
        changed = {
            key: raw for key, raw in new.items() if self.raw.get(key) != raw or key in self.quarantined
        }
        return self.apply([*gone.items(), *changed.items()])

    def apply(self, changes: Iterable[tuple[bytes, Raw | None]]) -> Changes:
        """Take in what changed, None for a key that was deleted; returns what follows from it."""
        told = _Before()
        touched: set[Ref] = set()
        for key, raw in changes:
            if raw is None:
                self.raw.pop(key, None)
            else:
                self.raw[key] = raw
            self.quarantined.pop(key, None)
            try:
                self._take(records.parts(key), raw, touched, told)
            except Invalid as error:
                self._set_aside(key, str(error), raw)
        return self._difference(told, touched)

    def _set_aside(self, key: bytes, problem: str, raw: Raw | None) -> None:
        if raw is not None:
            self.quarantined[key] = problem

    def _take(self, parts: tuple[str, ...], raw: Raw | None, touched: set[Ref], told: _Before) -> None:
        """Understand one key. What it said before is forgotten first, so that a bad value says nothing."""
        match parts:
            case ("endpoints", network_id, id):
                touched.add((network_id, id))
            case ("networks", id):
                told.networks.setdefault(id, self.networks.pop(id, None))
                touched |= self._in_network[id]
                if raw is not None:
                    self._take_network(records.read_network(id, raw.value))
            case ("nodes", name):
                told.nodes.setdefault(name, self.nodes.pop(name, None))
                self.instances.pop(name, None)
                touched |= self._on_node.get(name, set())
                if raw is not None:
                    self.nodes[name], self.instances[name] = records.read_node(name, raw.value)
            case ("draining", name):
                self.draining.discard(name)
                if raw is not None:
                    records.decode(raw.value, records.DrainingRecord)
                    self.draining.add(name)
            case ("blocks", network_id, text):
                block = records.read_block(text)
                touched |= self._unread[network_id]
                if self.blocks[network_id].pop(block, None) is not None:
                    touched |= self._inside(network_id, block)
                if raw is not None:
                    self.blocks[network_id][block] = records.read_owner(raw.value)
            case ("singles", network_id, _, text):
                address = records.read_address(text)
                self.singles[network_id].pop(address, None)
                touched |= set(self._claims.get((network_id, address), ()))
                touched |= self._unread[network_id]
                if raw is not None:
                    self.singles[network_id][address] = records.read_owner(raw.value)

    def _take_network(self, network: Network) -> None:
        for other in self.networks.values():
            if other.name == network.name or other.vni == network.vni:
                raise Invalid(f"its name or VNI is that of network {other.name!r} ({other.id})")
        overlapped = records.check_overlap(network, self.networks.values())
        if overlapped:
            raise Invalid(f"its subnets overlap those of network {overlapped.name!r} ({overlapped.id})")
        self.networks[network.id] = network

    def _inside(self, network_id: str, block: IPNetwork) -> set[Ref]:
        """Endpoints that have an address in a block."""
        return {
            ref
            for ref in self._in_network[network_id] - self._unread[network_id]
            if any(interface.ip in block for interface in self._read[ref].addresses)
        }

    # --- what follows -----------------------------------------------------------------------------

    def _difference(self, told: _Before, touched: set[Ref]) -> Changes:
        rivals: set[Ref] = set()
        for ref in touched:
            rivals |= self._rivals(ref)
            self._reread(ref)
            rivals |= self._rivals(ref)
        changes = Changes()
        for ref in touched | rivals:
            before, after = self.remotes.get(ref), self._effective(ref)
            if before == after:
                continue
            if after is None:
                del self.remotes[ref]
            else:
                self.remotes[ref] = after
                changes.remotes.append(after)
            if before is not None and (after is None or _lives_elsewhere(before, after)):
                changes.dropped_remotes.append(ref)
        for name, old in told.nodes.items():
            node = self.nodes.get(name)
            if node is None and old is not None and name != self.own:
                changes.dropped_nodes.append(name)
            elif node is not None and node != old and name != self.own:
                changes.nodes.append(node)
        for id, former in told.networks.items():
            network = self.networks.get(id)
            if network is None and former is not None:
                changes.dropped_networks.append(id)
            elif network is not None and network != former:
                changes.networks.append(network)
        return changes

    def _rivals(self, ref: Ref) -> set[Ref]:
        """Those that claim something that `ref`, as understood now, claims."""
        endpoint = self._read.get(ref)
        if endpoint is None:
            return set()
        return {other for claim in _claims(endpoint) for other in self._claims.get(claim, ())}

    def _reread(self, ref: Ref) -> None:
        """Understand an endpoint again from what is known now."""
        self._forget(ref)
        key = records.endpoint_key(*ref)
        raw = self.raw.get(key)
        self.quarantined.pop(key, None)
        if raw is None:
            self._in_network[ref[0]].discard(ref)
            self._unread[ref[0]].discard(ref)
            return
        self._in_network[ref[0]].add(ref)
        self._unread[ref[0]].add(ref)
        network = self.networks.get(ref[0])
        try:
            if network is None:
                raise Invalid("its network does not exist")
            endpoint, since = records.read_endpoint(network, ref[1], raw.value)
            self._check_owner(endpoint)
        except Invalid as error:
            self._set_aside(key, str(error), raw)
            return
        self._unread[ref[0]].discard(ref)
        self._read[ref] = endpoint
        self._since[ref] = (since, raw.created)
        self._on_node[endpoint.node].add(ref)
        for claim in _claims(endpoint):
            self._claims[claim].add(ref)

    def _check_owner(self, endpoint: RemoteEndpoint) -> None:
        for interface in endpoint.addresses:
            owner = self.owner(endpoint.network, interface.ip)
            if owner != endpoint.node:
                whose = f"node {owner!r}'s" if owner else "nobody's"
                raise Invalid(f"its address {interface.ip} is {whose} to give")

    def _forget(self, ref: Ref) -> None:
        endpoint = self._read.pop(ref, None)
        self._since.pop(ref, None)
        if endpoint is None:
            return
        self._on_node[endpoint.node].discard(ref)
        for claim in _claims(endpoint):
            self._claims[claim].discard(ref)
            if not self._claims[claim]:
                del self._claims[claim]

    def _effective(self, ref: Ref) -> RemoteEndpoint | None:
        """The endpoint as others should see it; None where they should not, or where it is our own."""
        endpoint = self._read.get(ref)
        if endpoint is None or endpoint.node == self.own or endpoint.node not in self.nodes:
            return None
        since = self._since[ref]
        nameless = False
        for claim in _claims(endpoint):
            if any(self._since[other] > since for other in self._claims[claim] if self._counts(other)):
                if not isinstance(claim[1], _Name):
                    return None
                nameless = True
        return replace(endpoint, name="", hostname="") if nameless else endpoint

    def _counts(self, ref: Ref) -> bool:
        """Whether what `ref` claims weighs: its node is alive, or it is our own."""
        node = self._read[ref].node
        return node == self.own or node in self.nodes


@dataclass(slots=True)
class _Before:
    """What was known of the networks and nodes that a change speaks of."""

    networks: dict[str, Network | None] = field(default_factory=dict)
    nodes: dict[str, Node | None] = field(default_factory=dict)


class _Name(str):
    """A container's name as a claim, which weighs less than an address."""


def _claims(endpoint: RemoteEndpoint) -> list[tuple[str, Hashable]]:
    """What nobody else in its network can have: its addresses, its MAC, its name."""
    network = endpoint.network
    return [
        *((network, interface.ip) for interface in endpoint.addresses),
        (network, f"mac {endpoint.mac}"),
        (network, _Name(f"name {endpoint.name}")),
    ]


def _lives_elsewhere(before: RemoteEndpoint, after: RemoteEndpoint) -> bool:
    """Whether the kernel has to forget `before` first: the same id never moves or changes its address,
    unless somebody lies."""
    return (before.node, before.mac, before.addresses) != (after.node, after.mac, after.addresses)
