"""What the cluster is to hear of this host's endpoints: gathered as it becomes true, told in that order.

Gathering is part of a change and must not wait; telling may wait for etcd and must keep nobody from
looking at the host. So the two are apart, and an operation tells what it gathered once it is out of the
gate (`netd.operations`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from netd.cluster.ports import Cluster
from netd.model import Endpoint, Scope
from netd.store.base import Attached
from netd.view import View


class Announcements:
    """What has not been told yet."""

    def __init__(self, cluster: Cluster | None) -> None:
        self._cluster = cluster
        self._waiting: list[Callable[[], Awaitable[None]]] = []
        self._turn = asyncio.Lock()

    def gather(self, view: View, before: Attached | None, after: Attached | None) -> None:
        """`view` shows `after` instead of `before`."""
        if self._cluster is None:
            return
        old, new = _of_cluster(view, before), _of_cluster(view, after)
        kept = {endpoint.id for endpoint in new}
        gone = [endpoint for endpoint in old if endpoint.id not in kept]
        changed = before is None or after is None or before.sandbox != after.sandbox
        fresh = [endpoint for endpoint in new if changed or endpoint not in old]
        if gone:
            self._waiting.append(partial(self._cluster.withdraw, gone))
        if fresh and after is not None:
            self._waiting.append(partial(self._cluster.publish, after.sandbox, fresh))

    async def tell(self) -> None:
        """Tell what was gathered; return when that is told, also if somebody else is telling it."""
        async with self._turn:
            waiting, self._waiting = self._waiting, []
            for announcement in waiting:
                await announcement()


def _of_cluster(view: View, attached: Attached | None) -> list[Endpoint]:
    """The endpoints in networks of the cluster."""
    return [
        endpoint
        for endpoint in (attached.endpoints if attached else ())
        if endpoint.network in view.networks and view.networks[endpoint.network].scope is Scope.CLUSTER
    ]
