"""This node's place in the cluster: its lease, its record, and the fence in front of its writes.

The record of a node hangs on its lease. Whoever sees the record sees a node that gave a sign of life
within the lease's time; a daemon that is restarted within it takes the same lease up again, and nobody
notices. Ending the daemon gives nothing back: its host goes on serving its containers without it.

Every write of a node carries the condition that its record is still the very one that it made (`fence`;
a key that was deleted and made again has another create revision). So a daemon that was stopped longer
than its lease lasts and wakes up in the middle of a write writes nothing: what it believed to own may
be somebody else's by now. It takes a new seat and looks before it goes on.
"""

from __future__ import annotations

import logging
from collections import deque

from netd.cluster import etcd_pb2 as pb
from netd.cluster import records
from netd.cluster.etcd import Etcd, absent, born, put, unchanged
from netd.cluster.memory import Memory
from netd.errors import Invalid, Unavailable
from netd.model import Node

log = logging.getLogger(__name__)


class Lost(Unavailable):
    """The seat is gone: the lease ended, or somebody took the record away."""


class Seat:
    """One node's place. `ttl` is how long, in seconds, it is kept without a sign of life."""

    def __init__(self, node: Node, etcd: Etcd, memory: Memory, ttl: int) -> None:
        self.node = node
        self.ttl = ttl
        self._etcd = etcd
        self._memory = memory
        self._born = 0
        self._written: deque[bytes] = deque(maxlen=8)

    @property
    def key(self) -> bytes:
        """Where the node's record is."""
        return records.node_key(self.node.name)

    @property
    def value(self) -> bytes:
        """What the record says."""
        return records.encode(records.of_node(self.node, self._memory.instance))

    @property
    def lease(self) -> int:
        """What everything of this node's that shall go with it hangs on."""
        return self._memory.lease

    def fence(self) -> pb.Compare:
        """The condition of every write. Raises `Unavailable` without a seat."""
        if not self._born:
            raise Unavailable("this node is not registered with its cluster: etcd is away, or refused it")
        return born(self.key, self._born)

    async def take(self) -> None:
        """Have a lease and a record, the old ones if they are still there. Raises `Unavailable`."""
        lease = self.lease
        if lease and not await self._etcd.keep_alive(lease):
            lease = 0
        found = await self._etcd.get(self.key)
        if found is not None:
            self._check_ours(found)
            if found.lease not in (0, lease):
                await self._etcd.revoke(found.lease)  # it was ours, before a reboot: so are its endpoints
                found = None
        if not lease:
            lease = await self._etcd.grant(self.ttl)
            await self._memory.keep_lease(lease)
        await self._enter(found, lease)

    async def _enter(self, found: pb.KeyValue | None, lease: int) -> None:
        value = self._noted()
        if found is not None and found.value == value and found.lease == lease:
            self._born = found.create_revision
            return
        condition = unchanged(self.key, found.mod_revision) if found is not None else absent(self.key)
        answer = await self._etcd.transact([condition], [put(self.key, value, lease)])
        if not answer.succeeded:
            raise Unavailable(f"the record of node {self.node.name!r} changed while it was written")
        self._born = found.create_revision if found is not None else answer.header.revision
        log.info("node %r is in the cluster at %s", self.node.name, self.node.address)
        if self.value != value:  # it became another while that was written
            await self.become(self.node)

    def _noted(self) -> bytes:
        """What the record says, about to be written."""
        self._written.append(self.value)
        return self._written[-1]

    def wrote(self, value: bytes) -> bool:
        """Whether this daemon wrote that into its record, now or a moment ago: then hearing it is no news."""
        return value in self._written

    def _check_ours(self, found: pb.KeyValue) -> None:
        try:
            other, instance = records.read_node(self.node.name, found.value)
        except Invalid:
            return  # nobody's who could mind
        if instance != self._memory.instance:
            raise Unavailable(
                f"the name {self.node.name!r} is taken in the cluster by the host at {other.address}; start "
                "this one with another --node-name"
            )

    async def keep(self) -> None:
        """Give a sign of life. Raises `Lost` where it comes too late, `Unavailable` where nobody hears it."""
        if not await self._etcd.keep_alive(self.lease):
            self._born = 0
            raise Lost(f"the lease of node {self.node.name!r} ended")

    async def become(self, node: Node) -> None:
        """Be what `node` says, at another address perhaps, and say so. Raises `Unavailable`: then `take`
        says it, as where there is no seat yet."""
        self.node = node
        if not self._born:
            return
        answer = await self._etcd.transact([self.fence()], [put(self.key, self._noted(), self.lease)])
        if not answer.succeeded:
            await self.check()

    async def check(self) -> None:
        """After a write that failed: raise `Lost` if that is because the seat is gone."""
        found = await self._etcd.get(self.key)
        if found is None or found.create_revision != self._born:
            self._born = 0
            raise Lost(f"node {self.node.name!r} lost its place in the cluster")
