"""This host as a member of a cluster whose memory is etcd: the implementation of `netd.cluster.ports`.

One session after the other, without end: take a seat, list everything at one revision, tell the engine
the whole truth, then watch from the next revision on. Beside the watch run the heart, which keeps the
seat, and the publisher. What breaks ends the session; the next one begins after a moment that grows, to
two seconds, with a jitter, so that a thousand nodes that lost one etcd do not come back in one wave.
Between sessions nothing is taken back and nothing is forgotten: containers reach each other by what is
known, and addresses are handed out from the blocks there are.

    watch ──▶ directory (at once) ──▶ queue ──▶ teller ──▶ engine

The directory follows the watch without waiting for anybody, because an agreement under way waits to see
its own write there. The engine is told by a task of its own, in order, which may wait for the engine's
locks without keeping the directory from following.

What etcd said last is remembered (`netd.cluster.memory`), so `start` returns at once with what was known
when the daemon ended, also when etcd is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from netd import tasks
from netd.cluster import etcd_pb2 as pb
from netd.cluster import records
from netd.cluster.agreements import Agreements
from netd.cluster.directory import Changes, Directory, Raw
from netd.cluster.etcd import Compacted, Etcd, Target
from netd.cluster.memory import Memory
from netd.cluster.ports import Holdings, Member, NodeStatus, Status
from netd.cluster.publisher import Publisher
from netd.cluster.seat import Lost, Seat
from netd.errors import NetdError, Unavailable
from netd.model import Endpoint, IPAddress, IPNetwork, Network, Node, Sandbox, Scope
from netd.store.base import Store
from netd.view import View

log = logging.getLogger(__name__)

FIRST_PAUSE, LAST_PAUSE = 0.1, 2.0
"""Seconds between sessions: doubled each time that one could not begin, with a jitter of half."""
ADDRESS_EVERY = 0.25
"""Seconds between looks at where this host is. Two in a row must agree: an address that is replaced is gone
for a moment, in which the way to etcd may lead by an interface that no other host knows."""

News = tuple[Changes | None, Sequence[tuple[bytes, Raw | None]]]
"""What the engine has to be told, None for everything, and what is to be remembered."""


class EtcdCluster:
    """A `netd.cluster.ports.Cluster`.

    `ttl` are the seconds without a sign of life after which a node counts as dead, `grace` those for
    which its addresses are kept after that. `locate` says at which address others reach this host, where
    that is not fixed.
    """

    def __init__(
        self,
        target: Target,
        node: Node,
        store: Store,
        *,
        ttl: int,
        grace: float,
        locate: Callable[[], IPAddress | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory = Directory(node.name)
        self.revision = 0
        self._grace = grace
        self._clock = clock
        self._locate = locate
        self._memory = Memory(store)
        self._etcd = Etcd(target)
        self._seat = Seat(node, self._etcd, self._memory, ttl)
        self._agreements = Agreements(self, self._etcd, self._seat)
        self._publisher = Publisher(self.directory, self._etcd, self._seat, self.view)
        self._member: Member | None = None
        self._news: asyncio.Queue[News] = asyncio.Queue()
        self._heard = asyncio.Condition()
        self._absent: dict[str, float] = {}
        self._unsettled: dict[str, str] = {}
        self._connected = False
        self._problem = "etcd was not reached yet"
        self._tasks: list[asyncio.Task[None]] = []

    # --- life -------------------------------------------------------------------------------------

    @property
    def node(self) -> Node:
        """See `Cluster.node`."""
        draining = self._seat.node.name in self.directory.draining
        return replace(self._seat.node, draining=draining)

    async def start(self, member: Member) -> None:
        """See `Cluster.start`."""
        self._member = member
        self.directory.replace(await self._memory.recall())
        await self._tell_everything()
        self._tasks.append(tasks.spawn(self._run(), name="cluster"))
        self._tasks.append(tasks.spawn(self._teller(), name="cluster news"))
        if self._locate:
            self._tasks.append(tasks.spawn(self._watch_address(self._locate), name="underlay address"))

    async def close(self) -> None:
        """See `Cluster.close`."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()  # what ended one may hold on to a connection
        self._connected = False
        await self._publisher.end()
        await self._etcd.close()

    # --- sessions ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._session()
            except (Unavailable, Compacted) as error:
                self._problem = str(error)
            finally:
                stood, self._connected = self._connected, False
                self._absent.clear()
                await self._publisher.end()
            failures = 0 if stood else failures + 1
            if stood or failures == 1:
                log.warning("cluster: %s; containers go on with what is known", self._problem)
            pause = min(FIRST_PAUSE * 2**failures, LAST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _session(self) -> None:
        """From a seat to the first thing that breaks. `_connected` once it stands."""
        await self._seat.take()
        listing = await self._etcd.list(records.ROOT.encode())
        await self._relist(listing.kvs, listing.revision)
        watch = self._etcd.watch(records.ROOT.encode(), listing.revision + 1)
        async with contextlib.aclosing(watch):
            await anext(watch)
            self._connected, self._problem = True, ""
            self._publisher.begin(listing.revision)
            log.info("cluster: following etcd at %s from revision %d", self._etcd.endpoint, listing.revision)
            await tasks.first_to_end(self._follow(watch), self._beat(), self._publisher.run())

    async def _relist(self, kvs: Sequence[pb.KeyValue], revision: int) -> None:
        new = {kv.key: _raw(kv) for kv in kvs}
        old = self.directory.raw
        noted: list[tuple[bytes, Raw | None]] = [(key, None) for key in old if key not in new]
        noted += [(key, raw) for key, raw in new.items() if old.get(key) != raw]
        self.directory.replace(new)
        self._note_absent()
        self._complain(new)
        while not self._news.empty():
            noted = [*self._news.get_nowait()[1], *noted]  # older news, of which the truth is part
        self._news.put_nowait((None, noted))
        await self._reach(revision)

    async def _follow(self, watch: AsyncIterator[Any]) -> None:
        async for batch in watch:
            events = [
                (event.kv.key, None if event.type == pb.Event.DELETE else _raw(event.kv))
                for event in batch.events
            ]
            changes = self.directory.apply(events)
            self._complain([key for key, _ in events])
            self._note_absent()
            self._news.put_nowait((changes, events))
            await self._reach(batch.revision)
            own = dict(events).get(self._seat.key, _UNTOUCHED)
            if own is None or (isinstance(own, Raw) and not self._seat.wrote(own.value)):
                raise Lost(f"node {self._seat.node.name!r} lost its place in the cluster")

    def _complain(self, keys: Collection[bytes]) -> None:
        for key in keys:
            if key in self.directory.quarantined:
                problem = self.directory.quarantined[key]
                log.warning("cluster: %s is set aside: %s", key.decode(errors="replace"), problem)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._seat.ttl / 3)
            await self._seat.keep()
            await self._agreements.give_up()
            self._retry()

    async def _reach(self, revision: int) -> None:
        async with self._heard:
            self.revision = max(self.revision, revision)
            self._heard.notify_all()

    async def _watch_address(self, locate: Callable[[], IPAddress | None]) -> None:
        before = self._seat.node.address
        while True:
            await asyncio.sleep(ADDRESS_EVERY)
            address = locate()
            if address is not None and address == before and address != self._seat.node.address:
                await self.move(address)
            before = address or before

    # --- telling the engine -----------------------------------------------------------------------

    async def _teller(self) -> None:
        while True:
            changes, noted = await self._news.get()
            try:
                await (self._tell_everything() if changes is None else self._tell(changes))
            except NetdError as error:
                log.error("cluster: not all could be done that follows from what others did: %s", error)
            await self._memory.note(noted)

    async def _tell_everything(self) -> None:
        nodes = [node for node in self.directory.nodes.values() if node.name != self.directory.own]
        assert self._member is not None
        await self._member.sync_cluster(
            tuple(self.directory.networks.values()), nodes, tuple(self.directory.remotes.values())
        )
        # What the member could not do with one of them it has logged; the heart tries again, and says why.
        there = {net.id for net in self._member.view.networks.values() if net.scope is Scope.CLUSTER}
        self._unsettled = dict.fromkeys(self.directory.networks.keys() ^ there, "")

    async def _tell(self, changes: Changes) -> None:
        member = self._member
        assert member is not None
        for network_id, id in changes.dropped_remotes:
            await member.drop_remote(network_id, id)
        for name in changes.dropped_nodes:
            await member.drop_node(name)
        for network_id in changes.dropped_networks:
            await self._settle(network_id, member.drop_network(network_id))
        for network in changes.networks:
            await self._settle(network.id, member.adopt_network(network))
        for node in changes.nodes:
            await member.set_node(node)
        for remote in changes.remotes:
            await member.set_remote(remote)

    async def _settle(self, network_id: str, work: Awaitable[None]) -> None:
        """Adopt or drop a network. What cannot be done now is tried again with every beat of the heart."""
        try:
            await work
            self._unsettled.pop(network_id, None)
        except NetdError as error:
            if self._unsettled.get(network_id) != str(error):
                log.error("cluster: %s", error)
            self._unsettled[network_id] = str(error)

    def _retry(self) -> None:
        if not self._unsettled or not self._news.empty():
            return
        known = self.directory.networks
        again = Changes(
            networks=[known[id] for id in self._unsettled if id in known],
            dropped_networks=[id for id in self._unsettled if id not in known],
        )
        self._news.put_nowait((again, ()))

    # --- what agreements need to know (`agreements.Knowledge`) ------------------------------------

    def view(self) -> View:
        """The engine's view."""
        return self._member.view if self._member else View()

    def check_connected(self) -> None:
        """Raise `Unavailable`, with the reason, while nothing can be agreed on."""
        if not self._connected:
            raise Unavailable(f"the cluster cannot be asked: {self._problem}")

    async def caught_up(self, revision: int, seconds: float) -> bool:
        """Wait until the directory is as of `revision`, or later; False after so many seconds."""
        try:
            async with asyncio.timeout(seconds), self._heard:
                await self._heard.wait_for(lambda: self.revision >= revision)
        except TimeoutError:
            return False
        return True

    def reclaimable(self) -> Collection[str]:
        """Nodes that have been dead for longer than their addresses are kept."""
        now = self._clock()
        return {name for name, since in self._absent.items() if now - since >= self._grace}

    def _note_absent(self) -> None:
        """Since when, in this session, nodes have been dead whose addresses are kept for them."""
        owners = {owner for owned in self.directory.blocks.values() for owner in owned.values()}
        owners |= {owner for owned in self.directory.singles.values() for owner in owned.values() if owner}
        now = self._clock()
        self._absent = {
            name: self._absent.get(name, now) for name in owners if name not in self.directory.nodes
        }

    # --- what the engine asks ---------------------------------------------------------------------

    async def create_network(self, network: Network) -> Network:
        """See `Cluster.create_network`."""
        return await self._agreements.create_network(network)

    async def remove_network(self, network: Network) -> None:
        """See `Cluster.remove_network`."""
        await self._agreements.remove_network(network)

    def holdings(self, network_id: str) -> Holdings:
        """See `Cluster.holdings`."""
        return self.directory.holdings(network_id)

    async def grow(self, network: Network, family: int, wanted: IPAddress | None) -> None:
        """See `Cluster.grow`."""
        await self._agreements.grow(network, family, wanted)

    async def publish(self, sandbox: Sandbox, endpoints: Collection[Endpoint]) -> None:
        """See `Cluster.publish`."""
        await self._publisher.look_at(endpoints)

    async def withdraw(self, endpoints: Collection[Endpoint]) -> None:
        """See `Cluster.withdraw`."""
        await self._publisher.look_at(endpoints)
        for endpoint in endpoints:
            self._agreements.unused(endpoint.network, [interface.ip for interface in endpoint.addresses])
        if self._connected:
            with contextlib.suppress(Unavailable):  # then the heart does it
                await self._agreements.give_up()

    def identify(self, key: str) -> None:
        """See `Cluster.identify`."""
        self._seat.node = replace(self._seat.node, wireguard_key=key)

    async def tell_identity(self) -> None:
        """See `Cluster.tell_identity`."""
        await self._become(self._seat.node)

    async def move(self, address: IPAddress) -> None:
        """See `Cluster.move`."""
        log.info("node %r is at %s now", self._seat.node.name, address)
        await self._become(replace(self._seat.node, address=address))
        if self._member is not None:
            await self._member.set_node(self.node)

    async def place(self, segment: IPNetwork | None, mac: str) -> None:
        """See `Cluster.place`."""
        node = replace(self._seat.node, segment=segment, mac=mac)
        if node != self._seat.node:
            await self._become(node)

    async def _become(self, node: Node) -> None:
        try:
            await self._seat.become(node)
        except Unavailable as error:
            log.warning("the cluster does not know yet: %s", error)

    async def drain(self, name: str, draining: bool) -> None:
        """See `Cluster.drain`."""
        await self._agreements.drain(name, draining)

    def nodes(self) -> tuple[NodeStatus, ...]:
        """See `Cluster.nodes`."""
        blocks: dict[str, dict[str, list[IPNetwork]]] = {}
        for network_id, owned in self.directory.blocks.items():
            network = self.directory.networks.get(network_id)
            for block, owner in owned.items():
                of_node = blocks.setdefault(owner, {})
                of_node.setdefault(network.name if network else network_id, []).append(block)
        names = {*self.directory.nodes, *blocks} - {""}
        return tuple(self._status(name, blocks.get(name, {})) for name in sorted(names))

    def _status(self, name: str, blocks: Mapping[str, list[IPNetwork]]) -> NodeStatus:
        node = self.directory.nodes.get(name)
        draining = name in self.directory.draining
        return NodeStatus(
            name=name,
            state="down" if node is None else "draining" if draining else "ready",
            node=replace(node, draining=draining) if node else None,
            endpoints=self.directory.count(name),
            blocks={network: tuple(owned) for network, owned in blocks.items()},
            self=name == self.directory.own,
        )

    def status(self) -> Status:
        """See `Cluster.status`."""
        problems = [self._problem, *self._unsettled.values(), *self._publisher.withheld.values()]
        return Status(
            connected=self._connected,
            endpoint=self._etcd.endpoint,
            revision=self.revision,
            problem="; ".join(problem for problem in problems if problem),
            quarantined={
                key.decode(errors="replace"): problem for key, problem in self.directory.quarantined.items()
            },
        )


_UNTOUCHED = object()


def _raw(kv: pb.KeyValue) -> Raw:
    return Raw(kv.value, kv.create_revision, kv.mod_revision)
