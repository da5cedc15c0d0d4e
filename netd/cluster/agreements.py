"""What nodes have to agree on, each agreement one transaction: networks, blocks, single addresses.

Every story is the same. Look at what is known, decide, and write on the condition that what the decision
rests on has not changed; if it has, wait until this node knows of it and decide again. After a
success, too, the answer waits until this node has heard of it by the watch, so that what it knows
only ever comes from one place and in one order.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

from netd.cluster import blocks, records
from netd.cluster import etcd_pb2 as pb
from netd.cluster.directory import Directory
from netd.cluster.etcd import (
    Etcd,
    absent,
    delete,
    delete_below,
    exists,
    none_below,
    none_newer,
    put,
    unchanged,
)
from netd.cluster.seat import Seat
from netd.errors import AlreadyExists, Exhausted, InUse, Invalid, NetdError, NotFound, Unavailable
from netd.model import IPAddress, Network, Scope
from netd.view import View

log = logging.getLogger(__name__)

ATTEMPTS = 32
"""How often a decision is made anew when others were faster."""
AT_ONCE = 100
"""Addresses in one transaction."""
HEARING = 2.0
"""Seconds within which a node hears of its own write."""


class Knowledge(Protocol):
    """What this node knows, and how current that is."""

    directory: Directory
    revision: int

    def view(self) -> View:
        """The engine's."""

    def check_connected(self) -> None:
        """Raise `Unavailable`, with the reason, while nothing can be agreed on."""

    async def caught_up(self, revision: int, seconds: float) -> bool:
        """Wait until the directory is as of `revision`, or later; False after so many seconds."""

    def reclaimable(self) -> Collection[str]:
        """Nodes that have been dead for longer than their addresses are kept."""


class Agreements:
    """Decides and writes. One at a time where addresses are concerned, so that a node never asks for a
    second block when the first it asked for is on its way."""

    def __init__(self, knowledge: Knowledge, etcd: Etcd, seat: Seat) -> None:
        self._knowledge = knowledge
        self._etcd = etcd
        self._seat = seat
        self._addresses = asyncio.Lock()
        self._unused: set[tuple[str, IPAddress]] = set()

    @property
    def _directory(self) -> Directory:
        return self._knowledge.directory

    # --- networks ---------------------------------------------------------------------------------

    async def create_network(self, network: Network) -> Network:
        """See `Cluster.create_network`."""
        self._knowledge.check_connected()
        for _ in range(ATTEMPTS):
            agreed = await self._try_network(network)
            if agreed is not None:
                return agreed
        raise Unavailable(f"network {network.name!r}: too many networks are made at once; try again")

    async def _try_network(self, network: Network) -> Network | None:
        # Read anew, not from the directory: whoever repeats a request must see what it did.
        listing = await self._etcd.list(records.NETWORKS.encode())
        others: dict[str, Network] = {}
        for kv in listing.kvs:
            try:
                _, id = records.parts(kv.key)
                others[id] = records.read_network(id, kv.value)
            except Invalid as error:
                log.debug("%r is not a network: %s", kv.key, error)
        if network.id in others:
            return others[network.id]  # by an attempt whose answer was lost
        for other in others.values():
            if other.name == network.name:
                raise AlreadyExists(
                    f"network {network.name!r} exists in the cluster already; choose another name, or remove "
                    "that first"
                )
        overlapped = records.check_overlap(network, others.values())
        if overlapped is not None:
            raise AlreadyExists(
                f"network {network.name!r}: its subnets overlap those of network {overlapped.name!r} of the "
                "cluster; choose others"
            )
        vni = choose_vni(network.id, {other.vni for other in others.values()})
        agreed = replace(network, scope=Scope.CLUSTER, vni=vni)
        conditions = [self._seat.fence(), none_newer(records.NETWORKS.encode(), listing.revision)]
        value = records.encode(records.of_network(agreed))
        if await self._agree(conditions, [put(records.network_key(network.id), value)]):
            return agreed
        return None

    async def remove_network(self, network: Network) -> None:
        """See `Cluster.remove_network`."""
        self._knowledge.check_connected()
        endpoints = f"{records.ENDPOINTS}{network.id}/".encode()
        conditions = [self._seat.fence(), none_below(endpoints)]
        writes = [
            delete(records.network_key(network.id)),
            delete_below(f"{records.BLOCKS}{network.id}/".encode()),
            delete_below(f"{records.SINGLES}{network.id}/".encode()),
        ]
        for _ in range(ATTEMPTS):
            if await self._agree(conditions, writes):
                return
            for kv in (await self._etcd.list(endpoints)).kvs:
                raise InUse(
                    f"network {network.name!r} is in use by {_user(kv)}; disconnect or remove that first"
                )
        raise Unavailable(f"network {network.name!r}: endpoints come and go too fast; try again")

    # --- addresses --------------------------------------------------------------------------------

    async def grow(self, network: Network, family: int, wanted: IPAddress | None) -> None:
        """See `Cluster.grow`."""
        before = self._directory.holdings(network.id)
        async with self._addresses:
            if wanted is not None:
                self._unused.discard((network.id, wanted))
                await self._claim(network, wanted)
            elif self._directory.holdings(network.id) == before:
                await self._take_block(network, family)

    async def _take_block(self, network: Network, family: int) -> None:
        self._check_reachable(network, f"has no free IPv{family} address left in this node's blocks")
        if await self._take_back(network, family):
            return
        for _ in range(ATTEMPTS):
            owners = self._directory.blocks[network.id]
            reclaimable = self._knowledge.reclaimable()
            block = blocks.choose(network, family, self._seat.node.name, owners, reclaimable)
            conditions = [
                *self._ground(network),
                self._as_known(records.block_key(network.id, block)),
                none_newer(records.singles_prefix(network.id, block), self._knowledge.revision),
            ]
            if dead := owners.get(block):
                conditions.append(absent(records.node_key(dead)))
            if await self._agree(conditions, [put(records.block_key(network.id, block), self._mine())]):
                log.info("network %r: this node hands out %s", network.name, block)
                return
        raise Unavailable(f"network {network.name!r}: too many nodes take blocks at once; try again")

    async def _take_back(self, network: Network, family: int) -> bool:
        """Hand out again what was claimed in blocks of this node, and is claimed by nobody now."""
        owners = self._directory.blocks[network.id]
        free = [
            (block, address)
            for address, owner in self._directory.singles[network.id].items()
            if owner == "" and address.version == family
            if (block := blocks.block_of(network, address)) and owners.get(block) == self._seat.node.name
        ][:AT_ONCE]
        keys = [records.single_key(network.id, *each) for each in free]
        conditions = [*self._ground(network), *(self._as_known(key) for key in keys)]
        return bool(keys) and await self._agree(conditions, [delete(key) for key in keys])

    async def _claim(self, network: Network, address: IPAddress) -> None:
        """Have one address in particular, whoever has its block, if that can be."""
        own = self._seat.node.name
        self._check_free(network, address)
        for _ in range(ATTEMPTS):
            block = blocks.block_of(network, address)
            claimant = self._directory.singles[network.id].get(address)
            if claimant == own:
                return
            if block is None:
                subnets = ", ".join(str(subnet.cidr) for subnet in network.subnets)
                raise Invalid(
                    f"address {address} lies in no subnet of network {network.name!r} ({subnets}); choose "
                    "another or leave it out"
                )
            owner = self._directory.blocks[network.id].get(block)
            if owner == own and claimant is None and not self._is_connected():
                return  # it is ours to give; only that nobody will be able to take it over
            self._check_reachable(network, f"cannot give {address}")
            reclaimable = self._knowledge.reclaimable()
            key = records.single_key(network.id, block, address)
            known = self._directory.modified(key)
            try:
                blocks.check_single(network, address, own, owner, claimant, reclaimable)
            except AlreadyExists:
                if await self._is_news(key, known):
                    continue
                raise
            conditions = [*self._ground(network), self._as_known(key)]
            if claimant is None:
                conditions.append(self._as_known(records.block_key(network.id, block)))
            if dead := ({claimant, owner} if claimant is None else {claimant}) & set(reclaimable):
                conditions += [absent(records.node_key(name)) for name in dead if name]
            if await self._agree(conditions, [put(key, self._mine())]):
                return
        raise Unavailable(f"address {address} of network {network.name!r} is fought over; try again")

    async def _is_news(self, key: bytes, known: int) -> bool:
        """Whether etcd knows better than this node did as of `known`, and now does.

        A container may have left its old host a moment ago, and be started here before this node heard that
        its address is free.
        """
        found = await self._etcd.get(key)
        if found is None or found.mod_revision <= known:
            return False
        return await self._knowledge.caught_up(found.mod_revision, HEARING)

    def _check_free(self, network: Network, address: IPAddress) -> None:
        """Raise for an address that no container can have, or that one on this host has."""
        for subnet in network.subnets:
            if address == subnet.gateway:
                raise Invalid(f"address {address} of network {network.name!r} is its gateway; choose another")
        view = self._knowledge.view()
        for endpoint in view.endpoints_in(network.id):
            if any(interface.ip == address for interface in endpoint.addresses):
                raise AlreadyExists(
                    f"address {address} of network {network.name!r} is held by container "
                    f"{view.sandboxes[endpoint.sandbox].name!r}; choose another or remove that first"
                )

    def unused(self, network_id: str, addresses: Collection[IPAddress]) -> None:
        """No endpoint of this node has these any more: if they were claimed one by one, whoever wants
        them may have them, once `give_up` has run."""
        singles = self._directory.singles[network_id]
        self._unused |= {(network_id, a) for a in addresses if singles.get(a) == self._seat.node.name}

    async def give_up(self) -> None:
        """Give up the claims that nothing here needs. Raises `Unavailable`."""
        async with self._addresses:
            waiting = sorted(self._unused, key=str)[:AT_ONCE]
            view = self._knowledge.view()
            writes, conditions = [], [self._seat.fence()]
            for network_id, address in waiting:
                network = self._directory.networks.get(network_id)
                block = blocks.block_of(network, address) if network else None
                claimed = self._directory.singles[network_id].get(address) == self._seat.node.name
                used = any(i.ip == address for e in view.endpoints_in(network_id) for i in e.addresses)
                if block is not None and claimed and not used:
                    key = records.single_key(network_id, block, address)
                    conditions.append(self._as_known(key))
                    writes.append(put(key, records.encode(records.OwnerRecord())))
            if not writes or await self._agree(conditions, writes):
                self._unused -= set(waiting)

    # --- nodes ------------------------------------------------------------------------------------

    async def drain(self, name: str, draining: bool) -> None:
        """See `Cluster.drain`."""
        self._knowledge.check_connected()
        key = records.draining_key(name)
        if not draining:
            if name not in self._directory.nodes and name not in self._directory.draining:
                raise _no_node(name)
            await self._agree([self._seat.fence()], [delete(key)])
            return
        value = records.encode(records.DrainingRecord())
        if not await self._agree([self._seat.fence(), exists(records.node_key(name))], [put(key, value)]):
            raise _no_node(name)

    # --- what the stories share -------------------------------------------------------------------

    def _ground(self, network: Network) -> list[pb.Compare]:
        """What every claim rests on: our seat, and that there still is such a network."""
        return [self._seat.fence(), exists(records.network_key(network.id))]

    def _as_known(self, key: bytes) -> pb.Compare:
        return unchanged(key, self._directory.modified(key))

    def _mine(self) -> bytes:
        return records.encode(records.OwnerRecord(node=self._seat.node.name))

    def _is_connected(self) -> bool:
        try:
            self._knowledge.check_connected()
        except Unavailable:
            return False
        return True

    def _check_reachable(self, network: Network, lack: str) -> None:
        try:
            self._knowledge.check_connected()
        except Unavailable as error:
            raise Unavailable(f"network {network.name!r} {lack}, and {error}") from error
        if network.id not in self._directory.networks:
            raise NotFound(f"network {network.name!r} does not exist in the cluster any more")

    async def _agree(self, conditions: Sequence[pb.Compare], writes: Sequence[pb.RequestOp]) -> bool:
        """Write if the conditions hold. Afterwards this node knows what came of it, or what it did not know
        before and was in the way."""
        answer = await self._etcd.transact(conditions, writes)
        revision = answer.header.revision
        if not answer.succeeded:
            await self._seat.check()
            await self._knowledge.caught_up(revision, random.uniform(0.01, 0.1))
        elif any(map(_did_something, answer.responses)) and not (
            await self._knowledge.caught_up(revision, HEARING)
        ):
            raise Unavailable("etcd does not tell this node what it wrote; try again")
        return bool(answer.succeeded)


def choose_vni(network_id: str, taken: Collection[int]) -> int:
    """A VNI (RFC 7348, 24 bits) that is not `taken`. It begins where the network's id says, so that one
    that was just given up is not soon given to somebody else. Raises `Exhausted`."""
    first = int(network_id[:6], 16)
    for step in range(records.LARGEST_VNI):
        vni = (first + step) % records.LARGEST_VNI + 1
        if vni not in taken:
            return vni
    raise Exhausted("all 16777215 VNIs of the cluster are in use; remove a network")


def _did_something(response: pb.ResponseOp) -> bool:
    """A deletion of nothing makes no revision, and so nobody hears of it."""
    return response.HasField("response_put") or response.response_delete_range.deleted > 0


def _user(kv: pb.KeyValue) -> str:
    try:
        record = records.decode(kv.value, records.EndpointRecord)
    except Invalid:
        return f"the record {kv.key.decode(errors='replace')}"
    return f"container {record.name!r} on node {record.node!r}"


def _no_node(name: str) -> NetdError:
    return NotFound(f"node {name!r} does not exist; `netd node ls` lists those that do")
