"""What a node keeps of the cluster over the end of its daemon.

Its instance, a mark by which it knows itself again under its name, is a definition: it survives power
loss. The rest is live state. The lease, so that a daemon that is restarted goes on with it and nobody
notices; and what etcd said last, key by key, so that a daemon that starts while etcd is away knows its
blocks, its peers and their endpoints. It is read as what etcd says is read: with suspicion.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable

from netd.cluster import records
from netd.cluster.directory import Raw
from netd.errors import NetdError
from netd.store.base import Delete, Put, Store, Table, Write

log = logging.getLogger(__name__)

INSTANCE = "cluster.instance"
LEASE = "lease"


class Memory:
    """Kept in the node's own store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.instance = ""
        self.lease = 0

    async def recall(self) -> dict[bytes, Raw]:
        """Read everything; returns what etcd said last."""
        self.instance = (await self._store.texts(Table.SETTING)).get(INSTANCE, "")
        if not self.instance:
            self.instance = secrets.token_hex(16)
            await self._store.define(Put(Table.SETTING, INSTANCE, self.instance))
        found: dict[bytes, Raw] = {}
        for key, text in (await self._store.texts(Table.CLUSTER)).items():
            if key == LEASE:
                self.lease = int(text)
            else:
                created, modified, value = text.split(" ", 2)
                found[key.encode()] = Raw(value.encode(), int(created), int(modified))
        return found

    async def keep_lease(self, lease: int) -> None:
        """Remember the lease, before anything hangs on it."""
        self.lease = lease
        await self._store.live(Put(Table.CLUSTER, LEASE, str(lease)))

    async def note(self, changes: Iterable[tuple[bytes, Raw | None]]) -> None:
        """Remember what etcd says. Without it nothing is wrong that etcd will not put right."""
        writes = [write for key, raw in changes if (write := _write(key, raw))]
        try:
            await self._store.live(*writes)
        except NetdError as error:
            log.warning("what the cluster said is not remembered: %s", error)


def _write(key: bytes, raw: Raw | None) -> Write | None:
    """What remembers one key; None for what is no text and so makes no sense anyway."""
    try:
        name = key.decode("ascii")
        if raw is None:
            return Delete(Table.CLUSTER, name)
        if not name.startswith(records.ROOT) or len(raw.value) > records.LARGEST:
            return None
        return Put(Table.CLUSTER, name, f"{raw.created} {raw.modified} {raw.value.decode()}")
    except UnicodeDecodeError:
        return None
