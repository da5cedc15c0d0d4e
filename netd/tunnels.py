"""What leads from this host to the rest of the cluster, as kernel objects. Pure.

A `Tunnels` remembers what the cluster said (networks, nodes, endpoints that live elsewhere) and keeps
the objects that follow from it: a VXLAN device for each network, a `Remote` or routes for each endpoint,
a peer of the VXLAN guard for each node. Objects have a slot, and what is said touches a few slots: so a
change costs work for what changed, however large the cluster is. What is said may arrive in any order. An
endpoint whose node is unknown, or whose network this host has not adopted, has no object until both are.

As soon as one of the networks is encrypted there is a WireGuard device too, with the other nodes as its
peers, and the guard of its port. A node that has told no key, or one that somebody else tells too, is no
peer, and what lives there has no object in an encrypted network: nothing is ever led another way.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

from netd import firewall, names
from netd.drivers import overlay
from netd.model import Network, Node, RemoteEndpoint
from netd.objects import KernelObject
from netd.requests import FALLBACK_MTU

Slot = tuple[str, ...]
"""("port",), ("peer", node), ("tunnel", network), ("remote", network, endpoint), ("flood", network, node);
("seal",) for the WireGuard device and what guards it, ("sealed peer", node)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What was wanted of the kernel, and what is from now on; only where the two differ."""

    old: frozenset[KernelObject] = frozenset()
    new: frozenset[KernelObject] = frozenset()

    def __bool__(self) -> bool:
        return self.old != self.new


class Tunnels:
    """What is wanted for the cluster on the host `node`, where VXLAN is spoken at UDP port `port`.

    `device` is the interface that tunnels and routes go by, `mtu` its MTU.
    """

    def __init__(self, node: Node, port: int) -> None:
        self.node = node
        self.device = ""
        self.mtu = FALLBACK_MTU
        self.nodes: dict[str, Node] = {}
        self._port = port
        self._networks: dict[str, Network] = {}
        self._remotes: dict[str, dict[str, RemoteEndpoint]] = {}
        self._homes: dict[str, dict[str, dict[str, None]]] = {}
        self._made: dict[Slot, tuple[KernelObject, ...]] = {}
        self._slots: dict[Hashable, dict[Slot, None]] = {}
        self._encrypted: set[str] = set()
        self._claims: dict[Hashable, set[str]] = {}
        self._refresh([("port",)])

    def objects(self) -> frozenset[KernelObject]:
        """Everything that is wanted."""
        return self._wanted(self._slots)

    def of_network(self, network_id: str) -> frozenset[KernelObject]:
        """What is wanted for one network."""
        return frozenset(
            item for slot in self._slots_of_network(network_id) for item in self._made.get(slot, ())
        )

    def remotes(self, network_id: str) -> Collection[RemoteEndpoint]:
        """The endpoints that live elsewhere, of one network."""
        return self._remotes.get(network_id, {}).values()

    def at(self, node: str) -> list[RemoteEndpoint]:
        """The endpoints that live on another node."""
        homes = self._homes.get(node, {}).items()
        return [self._remotes[network_id][id] for network_id, ids in homes for id in ids]

    def all_remotes(self) -> list[RemoteEndpoint]:
        """The endpoints that live elsewhere."""
        return [remote for known in self._remotes.values() for remote in known.values()]

    def node_inside(self, network: Network) -> Node | None:
        """A node whose address lies in a subnet of `network`."""
        nodes = (self.node, *self.nodes.values())
        return next((n for n in nodes if any(n.address in s.cidr for s in network.subnets)), None)

    def problem(self, network_id: str) -> str:
        """What keeps a network from being whole here: with encap=never, nodes on other segments. Or ""."""
        net = self._networks.get(network_id)
        if net is None or overlay.encap(net) != "never":
            return ""
        homes = {remote.node: remote for remote in self.remotes(network_id)}
        beyond = [
            f"{name!r} ({node.address})"
            for name, remote in sorted(homes.items())
            if (node := self.nodes.get(name)) and not self.reachable(remote)
        ]
        if not beyond:
            return ""
        return (
            f"network {net.name!r} has encap=never, and its containers on node {', '.join(beyond)} cannot be "
            f"reached from here, not being on this host's segment, {self.node.segment or 'which has none'}"
        )

    def reachable(self, remote: RemoteEndpoint) -> bool:
        """Whether this very endpoint is known, and frames can be sent to it."""
        known = self._remotes.get(remote.network, {}).get(remote.id)
        return known == remote and ("remote", remote.network, remote.id) in self._made

    # --- what is said -----------------------------------------------------------------------------

    def set_network(self, network: Network) -> Difference:
        """This host has the network, as it is here (`overlay.localised`)."""
        self._networks[network.id] = network
        seal: Iterable[Slot] = ()
        if overlay.is_encrypted(network):
            seal = () if self._encrypted else self._slots_of_seal()
            self._encrypted.add(network.id)
        return self._refresh([*seal, *self._slots_of_network(network.id)])

    def drop_network(self, network_id: str) -> Difference:
        """It has not any more. What is known of its endpoints is kept: they may outlive it by a moment."""
        self._networks.pop(network_id, None)
        self._encrypted.discard(network_id)
        seal: Iterable[Slot] = () if self._encrypted else self._slots_of_seal()
        return self._refresh([*self._slots_of_network(network_id), *seal])

    def set_node(self, node: Node) -> Difference:
        """Another node, or this one."""
        if node.name == self.node.name:
            return self.set_place(node, self.device, self.mtu)
        claimed = self._claim(node.name, node)
        return self._refresh(slot for name in claimed for slot in self._slots_of_node(name))

    def set_place(self, node: Node, device: str, mtu: int = FALLBACK_MTU) -> Difference:
        """This node as it is now, reached by its interface `device`."""
        rekeyed = self.node.wireguard_key != node.wireguard_key
        self.node, self.device, self.mtu = node, device, mtu
        touched: list[Slot] = [*self._slots_of_seal()] if rekeyed else [("seal",)]
        for id, net in self._networks.items():
            # Routes depend on both ends, and whether there is a peer does on both keys.
            whole = overlay.encap(net) != "always" or (rekeyed and overlay.is_encrypted(net))
            touched += self._slots_of_network(id) if whole else [("tunnel", id)]
        return self._refresh(touched)

    def drop_node(self, name: str) -> Difference:
        """Another node is gone: nothing leads there, whatever else is still said of it."""
        claimed = self._claim(name, None)
        return self._refresh(slot for each in claimed for slot in self._slots_of_node(each))

    def set_remote(self, remote: RemoteEndpoint) -> Difference:
        """An endpoint that lives elsewhere; what was said of the same id is forgotten."""
        touched = self._forget(remote.network, remote.id)
        self._remotes.setdefault(remote.network, {})[remote.id] = remote
        self._homes.setdefault(remote.node, {}).setdefault(remote.network, {})[remote.id] = None
        return self._refresh([*touched, *_slots_of(remote)])

    def drop_remote(self, network_id: str, id: str) -> Difference:
        """It does not live there any more."""
        return self._refresh(self._forget(network_id, id))

    def sync(self, nodes: Collection[Node], remotes: Collection[RemoteEndpoint]) -> Difference:
        """The whole truth about nodes and endpoints."""
        touched = [slot for name in self.nodes for slot in self._slots_of_node(name)]
        for network_id, known in list(self._remotes.items()):
            for id in list(known):
                touched += self._forget(network_id, id)
        self.nodes.clear()
        self._claims.clear()
        for node in nodes:
            if node.name != self.node.name:
                self._claim(node.name, node)
        for remote in remotes:
            self._remotes.setdefault(remote.network, {})[remote.id] = remote
            self._homes.setdefault(remote.node, {}).setdefault(remote.network, {})[remote.id] = None
            touched += _slots_of(remote)
        touched += [slot for name in self.nodes for slot in self._slots_of_node(name)]
        return self._refresh(touched)

    # --- who may be a peer of WireGuard ---------------------------------------------------------------

    def objection(self, name: str) -> str:
        """Why a node that has endpoints in encrypted networks cannot be reached in them; "" where it can."""
        node = self.nodes.get(name)
        if node is None or self._encrypted.isdisjoint(self._homes.get(name, {})):
            return ""
        if not node.wireguard_key:
            return f"node {name!r} has told no WireGuard key"
        rivals = self._rivals(node)
        if not rivals:
            return ""
        return (
            f"node {name!r} has the WireGuard key of node {min(rivals)!r}: was the state directory of one "
            "copied from the other? `netd node rotate-key` on one of them gives it another"
        )

    def _rivals(self, node: Node) -> set[str]:
        """Others that claim to be who `node` says it is."""
        mine = _claims(self.node)
        rivals = {name for claim in _claims(node) for name in self._claims.get(claim, ())}
        rivals |= {self.node.name for claim in _claims(node) if claim in mine}
        return rivals - {node.name}

    def _is_sealed(self, node: Node) -> bool:
        return bool(node.wireguard_key) and not self._rivals(node)

    def _claim(self, name: str, node: Node | None) -> list[str]:
        """Remember a node, or forget it; returns it, and those whose claims it disputes or did."""
        touched = {name: None}
        for claim in _claims(self.nodes.pop(name, None)):
            claimants = self._claims[claim]
            claimants.discard(name)
            touched |= dict.fromkeys(sorted(claimants))
            if not claimants:
                del self._claims[claim]
        for claim in _claims(node):
            claimants = self._claims.setdefault(claim, set())
            touched |= dict.fromkeys(sorted(claimants))
            claimants.add(name)
        if node is not None:
            self.nodes[name] = node
        return list(touched)

    def _forget(self, network_id: str, id: str) -> list[Slot]:
        remote = self._remotes.get(network_id, {}).pop(id, None)
        if remote is None:
            return []
        at_home = self._homes[remote.node]
        del at_home[network_id][id]
        if not at_home[network_id]:
            del at_home[network_id]
        if not at_home:
            del self._homes[remote.node]
        if not self._remotes[network_id]:
            del self._remotes[network_id]
        return _slots_of(remote)

    # --- what follows -----------------------------------------------------------------------------

    def _slots_of_network(self, network_id: str) -> Iterator[Slot]:
        yield ("tunnel", network_id)
        remotes = self._remotes.get(network_id, {})
        yield from (("remote", network_id, id) for id in remotes)
        yield from (("flood", network_id, name) for name in {remote.node for remote in remotes.values()})

    def _slots_of_seal(self) -> Iterator[Slot]:
        yield ("seal",)
        yield from (("sealed peer", name) for name in self.nodes)

    def _slots_of_node(self, name: str) -> Iterator[Slot]:
        yield ("peer", name)
        yield ("sealed peer", name)
        for network_id, ids in self._homes.get(name, {}).items():
            yield ("flood", network_id, name)
            yield from (("remote", network_id, id) for id in ids)

    def _refresh(self, touched: Iterable[Slot]) -> Difference:
        """Bring the slots up to date. Where two make the same object, the later one has its way."""
        new = {slot: tuple(self._objects(slot)) for slot in dict.fromkeys(touched)}
        keys: dict[Hashable, None] = {}
        for slot, items in new.items():
            keys.update((item.key, None) for item in (*self._made.get(slot, ()), *items))
        before = self._wanted(keys)
        for slot, items in new.items():
            for old in self._made.pop(slot, ()):
                del self._slots[old.key][slot]
            if items:
                self._made[slot] = items
            for item in items:
                self._slots.setdefault(item.key, {})[slot] = None
        after = self._wanted(keys)
        for key in keys:
            if not self._slots.get(key, True):
                del self._slots[key]
        return Difference(before - after, after - before)

    def _wanted(self, keys: Iterable[Hashable]) -> frozenset[KernelObject]:
        return frozenset(
            item
            for key in keys
            if (slots := self._slots.get(key))
            for item in self._made[next(reversed(slots))]
            if item.key == key
        )

    def _objects(self, slot: Slot) -> Iterator[KernelObject]:
        """What belongs into a slot now."""
        match slot:
            case ("port",):
                yield firewall.vxlan(self._port)
            case ("peer", name) if name in self.nodes:
                yield firewall.peer(self.nodes[name].address)
            case ("tunnel", network_id) if net := self._networks.get(network_id):
                if overlay.encap(net) != "never":
                    yield overlay.tunnel(net, self.node, self._port)
            case ("remote", network_id, id) if net := self._networks.get(network_id):
                remote = self._remotes.get(network_id, {}).get(id)
                node = self.nodes.get(remote.node) if remote else None
                if remote and self._leads(node, net):
                    yield from overlay.remote(net, remote, node, self.node, self.device)
            case ("flood", network_id, name) if net := self._networks.get(network_id):
                node = self.nodes.get(name) if network_id in self._homes.get(name, {}) else None
                if self._leads(node, net) and overlay.has_multicast(net):
                    yield overlay.flood(net, node)
            case ("seal",) if self._encrypted:
                yield from self._seal()
            case ("sealed peer", name) if self._encrypted and self.node.wireguard_key:
                node = self.nodes.get(name)
                if node and self._is_sealed(node):
                    yield overlay.wireguard_peer(node)

    def _leads(self, node: Node | None, net: Network) -> TypeGuard[Node]:
        """Whether frames of the network can be sent to a node."""
        return node is not None and (not overlay.is_encrypted(net) or self._is_sealed(node))

    def _seal(self) -> Iterator[KernelObject]:
        """The guards are there even if this node has no key, and so no device: then all is dropped."""
        yield firewall.vxlan(overlay.sealed_port(self._port))
        yield firewall.sealed(overlay.sealed_port(self._port))
        yield firewall.bound(names.WIREGUARD)
        if self.node.wireguard_key:
            yield firewall.wireguard(self.node.wireguard_port)
            yield overlay.wireguard(self.node, self.mtu)
            yield overlay.wireguard_address(self.node)


def _claims(node: Node | None) -> tuple[Hashable, ...]:
    """What only one node can be within WireGuard."""
    if node is None or not node.wireguard_key:
        return ()
    return (node.wireguard_key, names.tunnel_address(node.name))


def _slots_of(remote: RemoteEndpoint) -> list[Slot]:
    return [("remote", remote.network, remote.id), ("flood", remote.network, remote.node)]
