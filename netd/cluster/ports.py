"""What the engine asks of the cluster, and what the cluster tells the engine.

`Cluster` is None on a single host. With one, the engine goes on as if etcd were always there: what has
to be agreed on (a network, one more block of addresses) waits for etcd and says `Unavailable` when it
is away, and everything else works from what this node knows and is made known later.

Addresses. A node hands out addresses by itself, from blocks that it owns. The engine keeps the pools;
the cluster says which part of a subnet is this node's (`holdings`). In an attach, without an await
between the last look and the taking::

    while wanting := [(network, family, ip) of each want that the pools cannot give]:
        for each: await cluster.grow(network, family, ip)
    take

Names. Two records can speak of one address or one container for a while, when it moved from a node
that died. The cluster resolves that, the newer wins: whoever hears `set_remote` never hears of two
remotes with one address in one network. A remote whose container has since appeared elsewhere under
the same name comes with an empty `name` and `hostname`: it can be reached, but not by that name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from netd.model import Endpoint, IPAddress, IPNetwork, Network, Node, RemoteEndpoint, Sandbox
from netd.view import View


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this node may hand out in one network.

    `blocks` are its own; within them any address but those in `barred`, which were claimed one by one.
    `singles` are addresses that it claimed itself, for whoever asks for exactly them; `singles` may lie
    in anybody's block, and are in `barred` too.
    """

    blocks: tuple[IPNetwork, ...] = ()
    singles: frozenset[IPAddress] = frozenset()
    barred: frozenset[IPAddress] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """A node for `netd node ls`: `node` as its record says, or None of one that is down.

    `state` is "ready", "draining" or "down". `blocks` are those it owns, by network name.
    """

    name: str
    state: str
    node: Node | None = None
    endpoints: int = 0
    blocks: Mapping[str, tuple[IPNetwork, ...]] = field(default_factory=dict)
    self: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How this node stands with its cluster. `problem` is a sentence, empty while all is well;
    `quarantined` maps keys in etcd whose values made no sense to what is wrong with them."""

    connected: bool
    endpoint: str = ""
    revision: int = 0
    problem: str = ""
    quarantined: Mapping[str, str] = field(default_factory=dict)


class Cluster(Protocol):
    """What the engine asks. `netd.cluster.membership.EtcdCluster` is it."""

    @property
    def node(self) -> Node:
        """This host, as the others know it; `draining` is what was last heard."""

    async def start(self, member: Member) -> None:
        """Tell `member` what was known last, then connect in the background and never give up.

        Returns at once also when etcd is away.
        """

    async def close(self) -> None:
        """Stop talking. Nothing is withdrawn: the data path lives on, and so does the node's lease for
        as long as it lasts."""

    async def create_network(self, network: Network) -> Network:
        """Enter a network into the cluster: its name, its subnets and its VNI are its own there.

        Returns it with `scope` and `vni` set. Does not call `adopt_network` here. Raises
        `AlreadyExists`, `Exhausted` or `Unavailable`.
        """

    async def remove_network(self, network: Network) -> None:
        """Take a network out of the cluster. `InUse` names a container that is in it, and its node;
        `Unavailable` when etcd is away. One that is gone already is success."""

    def holdings(self, network_id: str) -> Holdings:
        """What this node may hand out in a network now."""

    async def grow(self, network: Network, family: int, wanted: IPAddress | None) -> None:
        """Get another block of `family`, or the address `wanted`; `holdings` then says so.

        Raises `AlreadyExists` naming the node that has `wanted`, `Exhausted` or `Unavailable`.
        """

    async def publish(self, sandbox: Sandbox, endpoints: Collection[Endpoint]) -> None:
        """`member.view` shows new or changed endpoints in cluster networks: make them known.

        Returns when etcd has them, or when etcd is away, in which case it is done as soon as etcd is
        back, by this daemon or the next. Never raises.
        """

    async def withdraw(self, endpoints: Collection[Endpoint]) -> None:
        """`member.view` does not show these any more: make that known. As `publish`."""

    def identify(self, key: str) -> None:
        """This host has this WireGuard key, "" for none. `node` says so at once, the cluster's memory when
        it is next written, or `tell_identity`."""

    async def tell_identity(self) -> None:
        """Make known what `identify` said; if etcd is away, as soon as it is back. Never raises."""

    async def move(self, address: IPAddress) -> None:
        """The underlay address of this host changed."""

    async def place(self, segment: IPNetwork | None, mac: str) -> None:
        """The segment and the MAC of this host's underlay (`model.Node`) are these from now on."""

    async def drain(self, name: str, draining: bool) -> None:
        """Let a node take no more containers, or again. Raises `NotFound` or `Unavailable`."""

    def nodes(self) -> tuple[NodeStatus, ...]:
        """The nodes of the cluster, by name, as last heard."""

    def status(self) -> Status:
        """How this node stands with its cluster."""


class Member(Protocol):
    """What the cluster tells: the engine, which is one node of it.

    `set_remote`, `drop_remote`, `set_node` and `drop_node` cost work for that one object. None raises
    for something that is there, or gone, already.
    """

    @property
    def view(self) -> View:
        """What is true on this host: the cluster publishes its endpoints in cluster networks."""

    async def adopt_network(self, network: Network) -> None:
        """A network of the cluster exists, or changed. Raises what making one raises."""

    async def drop_network(self, network_id: str) -> None:
        """It is gone. `InUse` while endpoints of this host are in it: then it stays."""

    async def set_node(self, node: Node) -> None:
        """Another node is there, or has another address."""

    async def drop_node(self, name: str) -> None:
        """Another node is gone; its remotes have been dropped before."""

    async def set_remote(self, remote: RemoteEndpoint) -> None:
        """An endpoint lives on another node, which was set before."""

    async def drop_remote(self, network_id: str, id: str) -> None:
        """It does not any more."""

    async def sync_cluster(
        self,
        networks: Collection[Network],
        nodes: Collection[Node],
        remotes: Collection[RemoteEndpoint],
    ) -> None:
        """The whole truth, after it was read anew: apply what differs. Networks that cannot be adopted
        or dropped are left as they are and reported."""
