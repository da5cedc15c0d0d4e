"""This host's part in a cluster: what the cluster tells becomes networks, tunnels and names here.

Two voices meet. The engine asks (`make_room`, `enter`, `leave`) before it promises something that the
whole cluster has to agree on, and tells (`tell`) what became of it. The cluster tells what is elsewhere,
as `netd.cluster.ports.Member` says; `netd.tunnels` keeps that and knows what follows for the kernel.

Nothing here waits for etcd but what needs an agreement. What is known from before is in force before the
first comparison with the kernel, so a restart writes nothing, with etcd or without.

The MTU of an overlay is this host's own matter. It follows the device that the tunnels go by, down to
the containers' interfaces, and back.

On a host without a cluster all of this is there and does nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from netd import compile, tasks
from netd.addresses import Addresses
from netd.announcements import Announcements
from netd.cluster.ports import Cluster, Holdings
from netd.dns_feed import NameFeed
from netd.drivers import driver, overlay
from netd.encryption import Encryption
from netd.errors import AlreadyExists, NetdError, Unavailable
from netd.kernel.ports import ApplyError, Drift, Kernel, Underlay
from netd.keys import KeyFile
from netd.locks import Locks
from netd.model import Network, Node, RemoteEndpoint, Scope, Want
from netd.objects import KernelObject
from netd.operations import Operations
from netd.plan import plan
from netd.requests import FALLBACK_MTU
from netd.room import Room, outside
from netd.settings import Settings
from netd.store.base import Attached, Put, Store, Table
from netd.tunnels import Difference, Tunnels
from netd.view import View

log = logging.getLogger(__name__)

Heard = tuple[Difference, Collection[RemoteEndpoint], Collection[RemoteEndpoint]]
"""What follows for the kernel, which endpoints may resolve from then on, and which do not any more."""


class Host(Protocol):
    """What the cluster's wishes need of the engine."""

    view: View

    @property
    def leaving(self) -> Collection[str]:
        """Ids of networks and sandboxes that are being removed."""

    async def take_in(self, network: Network) -> None:
        """Make a network that is resolved, under its lock. Raises `AlreadyExists` and as making one does."""

    async def let_go(self, network: Network) -> None:
        """Unmake a network, under its lock. Raises `InUse` while endpoints of this host are in it."""

    def damaged(self) -> None:
        """The kernel may not be what it should be: look soon."""


class Overlay:
    """A `Member`, and what the engine asks about the cluster."""

    def __init__(
        self,
        host: Host,
        *,
        kernel: Kernel,
        store: Store,
        feed: NameFeed,
        operations: Operations,
        locks: Locks,
        addresses: Addresses,
        cluster: Cluster | None,
        settings: Settings,
    ) -> None:
        self._host = host
        self._kernel = kernel
        self._store = store
        self._feed = feed
        self._operations = operations
        self._locks = locks
        self._cluster = cluster
        self._tunnels = Tunnels(cluster.node, settings.vxlan_port) if cluster else None
        self._room = Room(lambda: self.view, addresses, cluster, self._tunnels)
        key = KeyFile(settings.key_file), settings.wireguard_days * 86400
        self._encryption = Encryption(kernel, cluster, *key, self._rekey) if cluster else None
        self._freshening: asyncio.Task[None] | None = None
        self._underlay: Underlay | None = None
        self._drifts: AsyncIterator[Drift] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._turn = asyncio.Lock()
        self._named: dict[tuple[str, str], RemoteEndpoint] = {}
        self._announcements = Announcements(cluster)
        self._first: tuple[Network, ...] | None = None
        self._compared: frozenset[KernelObject] = frozenset()

    # --- life -------------------------------------------------------------------------------------

    async def recall(self) -> None:
        """Take over what was known last, before the kernel is compared with it."""
        if self._cluster is None or self._tunnels is None or self._encryption is None:
            return
        await self._encryption.recall(any(map(overlay.is_encrypted, self._shared())))
        self._tunnels.set_node(self._cluster.node)
        self._drifts = self._kernel.watch()
        await self._measure()
        for network in self._shared():
            await self._keep(network, here := self.here(network))
            self._tunnels.set_network(here)
        await self._cluster.start(self)
        await self._say(self._tunnels.all_remotes())

    async def begin(self) -> None:
        """From now on, do at once what the cluster tells, and follow the underlay."""
        self._started.set()
        if self._drifts is not None:
            self._listening = tasks.spawn(self._listen(self._drifts), name="underlay")
        if self._encryption is not None:
            fresh = self._encryption.keep_fresh(self.rotate_key)
            self._freshening = tasks.spawn(fresh, name="WireGuard key")
        if self._tunnels is not None:
            async with self._turn:  # what was heard since the first comparison
                known, now = self._compared, self.objects()
                await self._write(Difference(known - now, now - known))
                await self._say([*self._named.values(), *self._tunnels.all_remotes()])
        if self._first is not None:
            await self._settle_networks(self._first)

    async def close(self) -> None:
        """Stop talking with the cluster; what is in force stays."""
        for task in (self._listening, self._freshening):
            if task:
                task.cancel()
                await asyncio.wait([task])
        if self._cluster:
            await self._cluster.close()

    # --- what the engine asks ---------------------------------------------------------------------

    @property
    def view(self) -> View:
        """What is true on this host."""
        return self._host.view

    @property
    def clustered(self) -> bool:
        """Whether this host is in a cluster."""
        return self._cluster is not None

    def objects(self) -> frozenset[KernelObject]:
        """All that must exist in the kernel to reach the rest of the cluster."""
        if self._tunnels is None:
            return frozenset()
        leaving = (self._tunnels.of_network(id) for id in self._host.leaving)
        self._compared = self._tunnels.objects().difference(*leaving)
        return self._compared

    def of_network(self, network: Network) -> frozenset[KernelObject]:
        """That part of `objects` that belongs to one network and goes with it."""
        return self._tunnels.of_network(network.id) if self._tunnels else frozenset()

    def here(self, network: Network) -> Network:
        """A network of the cluster as it is on this host."""
        if self._cluster is None or network.scope is not Scope.CLUSTER:
            return network
        present = self.view.networks.get(network.id)
        if present is not None and not self._underlay:
            return replace(network, mtu=present.mtu)  # nothing is known that would be better
        family = self._cluster.node.address.version
        return overlay.localised(network, self._underlay.mtu if self._underlay else FALLBACK_MTU, family)

    async def enter(self, network: Network) -> Network:
        """Have the cluster agree on a network that is to be made; returns it as agreed. A local one is
        returned as it is. Raises as `Cluster.create_network`."""
        if self._cluster is None or network.scope is not Scope.CLUSTER:
            return network
        await self._check(network)
        return self.here(await self._cluster.create_network(network))

    async def rotate_key(self) -> None:
        """Replace this node's WireGuard key. Raises as `Encryption.rotate`."""
        if self._encryption is None:
            raise Unavailable("this daemon is in no cluster, and so has no WireGuard key")
        await self._operations.through(self._encryption.rotate(), "rotate key")

    async def _rekey(self) -> None:
        """This node has another key: give it to the device."""
        if self._cluster is not None and self._tunnels is not None:
            async with self._turn:
                await self._write(self._tunnels.set_node(self._cluster.node))

    async def _check(self, network: Network) -> None:
        """Refuse a subnet in which a node is, for then nothing would find it; what could lead to none; and
        what cannot be encrypted as it is to be."""
        node = self._tunnels.node_inside(network) if self._tunnels else None
        if node is not None:
            raise AlreadyExists(
                f"network {network.name!r} would cover {node.address}, the address of node {node.name!r}; "
                "choose another subnet"
            )
        if self._tunnels is not None:
            overlay.check_underlay(network, self._tunnels.node)
        if self._encryption is not None:
            await self._encryption.ready(network)

    async def take_back(self, network: Network) -> None:
        """What `enter` agreed on cannot be made here after all."""
        try:
            await self.leave(network)
        except NetdError as error:
            log.error("network %r stays in the cluster though it could not be made: %s", network.name, error)

    async def leave(self, network: Network) -> None:
        """Have the cluster agree that a network is removed. Raises as `Cluster.remove_network`."""
        if network.scope is not Scope.CLUSTER:
            return
        if self._cluster is None:
            raise outside(network)
        await self._cluster.remove_network(network)

    def holdings(self, network: Network) -> Holdings | None:
        """What this host may hand out in a network; None where that is all of it."""
        if self._cluster is None or network.scope is not Scope.CLUSTER:
            return None
        return self._cluster.holdings(network.id)

    async def make_room(self, wants: Sequence[Want]) -> None:
        """See `Room.make`."""
        await self._room.make(wants)

    def problems(self) -> list[str]:
        """What keeps networks of the cluster from being whole, seen from this host."""
        if self._tunnels is None:
            return []
        said = [self._tunnels.problem(network.id) for network in self._shared()]
        said += [self._tunnels.objection(name) for name in sorted(self._tunnels.nodes)]
        return [problem for problem in said if problem]

    def tell(self, before: Attached | None, after: Attached | None) -> None:
        """`view` shows `after` instead of `before`: let the cluster know, at the next `announce`."""
        self._announcements.gather(self.view, before, after)

    async def announce(self) -> None:
        """Tell the cluster what `tell` has gathered; return when that is told."""
        await self._announcements.tell()

    # --- what the cluster tells: networks ---------------------------------------------------------

    async def adopt_network(self, network: Network) -> None:
        """See `Member.adopt_network`."""
        await self._started.wait()
        await self._operations.through(self._adopt(network), f"adopt network {network.name}")

    async def _adopt(self, network: Network) -> None:
        async with self._locks.hold(("network", network.name)):
            here = self.here(network)
            present = self.view.networks.get(network.id)
            if present is None:
                driver(here.driver).check(here)
                await self._check(here)
                await self._host.take_in(here)
                await self.made(here)
            elif present != here:
                await self._become(present, here)

    async def made(self, network: Network) -> None:
        """A network was made on this host, whose lock is held: connect it with the rest of the cluster."""
        if self._tunnels is None or network.scope is not Scope.CLUSTER:
            return
        async with self._turn:
            await self._write(self._tunnels.set_network(network))
            await self._say(self._tunnels.remotes(network.id))
        if (here := self.here(network)) != network:
            await self._become(network, here)  # the underlay changed meanwhile

    async def unmade(self, network: Network) -> None:
        """A network was removed from this host, with all that `of_network` said."""
        if self._tunnels is None:
            return
        async with self._turn:
            gone = self._tunnels.of_network(network.id)
            difference = self._tunnels.drop_network(network.id)
            await self._write(replace(difference, old=difference.old - gone))
            await self._say(self._tunnels.remotes(network.id))

    async def drop_network(self, network_id: str) -> None:
        """See `Member.drop_network`."""
        await self._started.wait()
        await self._operations.through(self._drop_network(network_id), f"drop network {network_id}")

    async def _drop_network(self, network_id: str) -> None:
        known = self.view.networks.get(network_id)
        if known is None or known.scope is not Scope.CLUSTER:
            return
        async with self._locks.hold(("network", known.name)):
            if network_id in self.view.networks:
                await self._host.let_go(known)

    # --- what the cluster tells: nodes and endpoints ----------------------------------------------

    async def set_node(self, node: Node) -> None:
        """See `Member.set_node`. For this host's own name: its address changed."""
        await self._heard(lambda tunnels: (tunnels.set_node(node), tunnels.at(node.name), ()))
        self._object(node.name)
        if self._cluster and node.name == self._cluster.node.name:
            await self._operations.through(self._follow(), "follow the underlay")

    async def drop_node(self, name: str) -> None:
        """See `Member.drop_node`."""
        await self._heard(lambda tunnels: (tunnels.drop_node(name), (), tunnels.at(name)))

    async def set_remote(self, remote: RemoteEndpoint) -> None:
        """See `Member.set_remote`."""
        await self._heard(lambda tunnels: (tunnels.set_remote(remote), [remote], ()))
        self._object(remote.node)

    async def drop_remote(self, network_id: str, id: str) -> None:
        """See `Member.drop_remote`."""

        def drop(tunnels: Tunnels) -> Heard:
            gone = [remote for remote in tunnels.remotes(network_id) if remote.id == id]
            return tunnels.drop_remote(network_id, id), (), gone

        await self._heard(drop)

    async def sync_cluster(
        self,
        networks: Collection[Network],
        nodes: Collection[Node],
        remotes: Collection[RemoteEndpoint],
    ) -> None:
        """See `Member.sync_cluster`. Until `begin` it is only remembered."""

        def sync(tunnels: Tunnels) -> Heard:
            gone = tunnels.all_remotes()
            return tunnels.sync(nodes, remotes), remotes, gone

        if not self._started.is_set():
            if self._tunnels:
                sync(self._tunnels)
            self._first = tuple(networks)
            return
        await self._settle_networks(networks)
        await self._heard(sync)
        self._object(*(node.name for node in nodes))

    def _object(self, *nodes: str) -> None:
        """Say which of the nodes cannot be reached as they should be."""
        if self._encryption is not None and self._tunnels is not None:
            for name in nodes:
                self._encryption.object(name, self._tunnels.objection(name))

    async def _settle_networks(self, networks: Collection[Network]) -> None:
        """Adopt and drop networks until this host has those. What cannot be done is left, and said."""
        there = {network.id for network in networks}
        for gone in [network for network in self._shared() if network.id not in there]:
            await self._reported(self.drop_network(gone.id))
        for network in networks:
            await self._reported(self.adopt_network(network))

    async def _reported(self, work: Awaitable[None]) -> None:
        try:
            await work
        except NetdError as error:
            log.error("a network of the cluster is left as it is: %s", error)

    async def _heard(self, change: Callable[[Tunnels], Heard]) -> None:
        """Carry out one change of what is elsewhere: names that go, then the kernel, then names that come."""
        await self._started.wait()
        await self._operations.through(self._change(change), "change tunnels")

    async def _change(self, change: Callable[[Tunnels], Heard]) -> None:
        if self._tunnels is None:
            return
        async with self._turn:
            difference, come, gone = change(self._tunnels)
            await self._say(gone)
            await self._write(difference)
            await self._say(come)

    # --- effects ----------------------------------------------------------------------------------

    async def _write(self, difference: Difference) -> None:
        """Make the kernel follow. What fails is repaired by the reconciler, which knows what is wanted."""
        try:
            await self._kernel.apply(plan(difference.new, difference.old))
        except ApplyError as error:
            log.warning("not all of the cluster can be reached yet: %s", error)
            self._host.damaged()

    async def _say(self, remotes: Iterable[RemoteEndpoint]) -> None:
        """Let those of `remotes` resolve that can be reached, and no others."""
        if self._tunnels is None:
            return
        known, gone = [], []
        for remote in remotes:
            key = (remote.network, remote.id)
            if self._tunnels.reachable(remote):
                if self._named.get(key) != remote:
                    self._named[key] = remote
                    known.append(remote)
            elif self._named.get(key) == remote:
                gone.append(self._named.pop(key))
        if known or gone:
            await self._feed.remotes_changed(known, gone)

    # --- the underlay -----------------------------------------------------------------------------

    def _shared(self) -> list[Network]:
        return [network for network in self.view.networks.values() if network.scope is Scope.CLUSTER]

    async def _measure(self) -> None:
        """Look at the device that the tunnels go by, and let the cluster know where that is."""
        if self._cluster is None or self._tunnels is None:
            return
        address = self._cluster.node.address
        found = await self._kernel.underlay(address)
        if found is None:
            log.warning("no interface has %s, the address of this node: tunnels go nowhere", address)
            return
        if found != self._underlay:
            log.info("tunnels go by %s, MTU %d", found.name, found.mtu)
            self._underlay = found
        await self._cluster.place(found.segment, found.mac)
        async with self._turn:
            if difference := self._tunnels.set_place(self._cluster.node, found.name, found.mtu):
                await self._write(difference)
                await self._say(self._tunnels.all_remotes())

    async def _listen(self, drifts: AsyncIterator[Drift]) -> None:
        async for drift in drifts:
            if drift.what in ("underlay", "overflow"):
                try:
                    await self._operations.through(self._follow(), "follow the underlay")
                except NetdError as error:
                    log.warning("the overlays could not follow the underlay: %s", error)

    async def _follow(self) -> None:
        """Give every overlay the MTU that the underlay has room for."""
        await self._measure()
        for network in self._shared():
            async with self._locks.hold(("network", network.name)):
                present = self.view.networks.get(network.id)
                if present is not None and (here := self.here(present)) != present:
                    log.info("network %r: MTU %d -> %d", present.name, present.mtu, here.mtu)
                    await self._become(present, here)

    async def _keep(self, old: Network, new: Network) -> None:
        """Let the view and the store know a network as it is now."""
        if old != new:
            await self._store.define(Put(Table.NETWORK, new.id, new))
            self._host.view = self.view.with_network(new)

    async def _become(self, old: Network, new: Network) -> None:
        """Turn a network that is there into what it is to be, with the endpoints in it."""
        await self._keep(old, new)
        if self._tunnels is None:
            return
        async with self._turn:
            tunnels = self._tunnels.set_network(new)
            was, is_ = compile.network(old) | tunnels.old, compile.network(new) | tunnels.new
            await self._write(Difference(was, is_))
        for sandbox_id in {endpoint.sandbox for endpoint in self.view.endpoints_in(new.id)}:
            async with self._locks.hold(("sandbox", sandbox_id)):
                attached = self.view.attached(sandbox_id)
                if attached is None or sandbox_id in self._host.leaving:
                    continue
                before, after = (
                    compile.sandbox(
                        attached.sandbox, attached.endpoints, {**self.view.networks, new.id: network}
                    )
                    for network in (old, new)
                )
                await self._write(Difference(before, after))
