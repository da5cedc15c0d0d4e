"""Makes this node's endpoints known, and takes them back.

There is no queue of messages. What should be known follows from the engine's view, what is known was
read from etcd, and only endpoints that may differ are compared. So what happened while etcd was away
needs no memory of its own: after the next listing every endpoint of this node's, and every record in
its name, is compared once. The view survives the daemon, hence so does whatever was not made known.

An endpoint whose address is not this node's to give any more is not made known. That happens to a node
that was away for longer than its blocks were kept for it: somebody else may have the address.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable

from netd.cluster import records
from netd.cluster.directory import Directory, Ref
from netd.cluster.etcd import Etcd, delete, exists, put
from netd.cluster.seat import Seat
from netd.errors import Invalid
from netd.model import Endpoint, Scope
from netd.view import View

log = logging.getLogger(__name__)

AT_ONCE = 100
"""Endpoints in one transaction; etcd takes 128 operations (--max-txn-ops)."""
PATIENCE = 2.0
"""Seconds that a change waits for etcd to know of it. It goes on without."""


class Publisher:
    """What of this node is known, and what should be. `view` gives the engine's."""

    def __init__(self, directory: Directory, etcd: Etcd, seat: Seat, view: Callable[[], View]) -> None:
        self._directory = directory
        self._etcd = etcd
        self._seat = seat
        self._view = view
        self._known: dict[Ref, bytes] = {}
        self._since: dict[Ref, int] = {}
        self._doubtful: set[Ref] = set()
        self._asked = asyncio.Event()
        self._settled = asyncio.Condition()
        self._standing = False
        self._revision = 0
        self.withheld: dict[Ref, str] = {}
        """Endpoints that are not made known, and why."""

    def begin(self, revision: int) -> None:
        """Everything was listed, as of `revision`: compare everything."""
        self._revision = revision
        self._known = dict(self._own_records())
        here = {
            (endpoint.network, endpoint.id)
            for endpoint in self._view().endpoints.values()
            if self._is_shared(endpoint.network)
        }
        self._doubtful = here | self._known.keys()
        self._asked.set()
        self._standing = True

    async def end(self) -> None:
        """etcd is away: nobody waits for it."""
        self._standing = False
        async with self._settled:
            self._settled.notify_all()

    async def look_at(self, endpoints: Iterable[Endpoint]) -> None:
        """These came, went or changed. Returns when that is known, or will have to wait for etcd."""
        refs = {(endpoint.network, endpoint.id) for endpoint in endpoints}
        self._doubtful |= refs
        self._asked.set()
        try:
            async with asyncio.timeout(PATIENCE), self._settled:
                await self._settled.wait_for(lambda: not self._standing or not refs & self._doubtful)
        except TimeoutError:
            log.warning("etcd takes long: the cluster will hear later of what changed here")

    async def run(self) -> None:
        """Make known what is asked for. Ends by raising `Unavailable`."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            while self._doubtful:
                await self._round(sorted(self._doubtful)[:AT_ONCE])
                async with self._settled:
                    self._settled.notify_all()

    async def _round(self, refs: Collection[Ref]) -> None:
        wanted = {ref: self._wanted(ref) for ref in refs}
        different = {ref: value for ref, value in wanted.items() if self._known.get(ref) != value}
        if different and not await self._write(different):
            await self._seat.check()
            for ref in list(different):  # one whose network is gone keeps none of the others
                if not await self._write({ref: different[ref]}):
                    await self._seat.check()
                    log.warning("endpoint %s is not made known: network %s is gone", ref[1], ref[0])
        # What changed again meanwhile is still in doubt.
        self._doubtful -= {ref for ref in refs if self._wanted(ref) == wanted[ref]}

    async def _write(self, values: dict[Ref, bytes | None]) -> bool:
        networks = {network for (network, _), value in values.items() if value is not None}
        conditions = [self._seat.fence(), *(exists(records.network_key(id)) for id in sorted(networks))]
        writes = [
            delete(records.endpoint_key(*ref))
            if value is None
            else put(records.endpoint_key(*ref), value, self._seat.lease)
            for ref, value in values.items()
        ]
        answer = await self._etcd.transact(conditions, writes)
        if answer.succeeded:
            self._revision = answer.header.revision
            for ref, value in values.items():
                if value is None:
                    self._known.pop(ref, None)
                    self._since.pop(ref, None)
                else:
                    self._known[ref] = value
        return bool(answer.succeeded)

    def _wanted(self, ref: Ref) -> bytes | None:
        """The record of an endpoint as it should be; None for none."""
        self.withheld.pop(ref, None)
        view = self._view()
        endpoint = view.endpoints.get(ref[1])
        if endpoint is None or not self._is_shared(ref[0]) or ref[0] not in self._directory.networks:
            return None
        problem = self._not_ours(endpoint)
        if problem:
            self.withheld[ref] = problem
            return None
        since = self._since.setdefault(ref, self._revision)
        sandbox = view.sandboxes[endpoint.sandbox]
        return records.encode(records.of_endpoint(self._seat.node.name, sandbox, endpoint, since))

    def _not_ours(self, endpoint: Endpoint) -> str:
        for interface in endpoint.addresses:
            owner = self._directory.owner(endpoint.network, interface.ip)
            if owner != self._seat.node.name:
                whose = f"node {owner!r}'s" if owner else "nobody's"
                return f"its address {interface.ip} is {whose} by now; start its container again"
        return ""

    def _is_shared(self, network_id: str) -> bool:
        network = self._view().networks.get(network_id)
        return network is not None and network.scope is Scope.CLUSTER

    def _own_records(self) -> Iterable[tuple[Ref, bytes]]:
        for key, raw in self._directory.raw.items():
            if not key.startswith(records.ENDPOINTS.encode()):
                continue
            try:
                _, network_id, id = records.parts(key)
                record = records.decode(raw.value, records.EndpointRecord)
            except Invalid:
                continue
            if record.node == self._seat.node.name:
                self._since[network_id, id] = record.since
                yield (network_id, id), raw.value
