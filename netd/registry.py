"""Which containers there are: their records in memory, under their names, and in the store.

Names are claimed in memory, between two awaits, so of any number of callers exactly one gets a name.
The store only remembers: a record is written there before its container is made, and is read at
the daemon's start.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from netd import nicknames
from netd.errors import AlreadyExists, InUse, Invalid, NotFound
from netd.launch import Mode, Request
from netd.model import Netns
from netd.store.base import Delete, Put, Store, Table

log = logging.getLogger(__name__)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one container.

    `state` is "created" while it is being made, "running", or "exited". Times are seconds since the
    epoch, 0 where it did not happen yet; `pid` is that of the first process as the host sees it, 0
    unless running. `netns` is None with the host's network, and after the end, unless it could not be
    removed. `shares` is the id of the container whose network namespace this one is in, and whose it
    stays; empty for one of its own.
    """

    id: str
    name: str
    hostname: str
    request: Request
    created: float
    state: str = "created"
    netns: Netns | None = None
    shares: str = ""
    pid: int = 0
    started: float = 0.0
    finished: float = 0.0
    exit_code: int = 0
    oom_killed: bool = False


@dataclass(slots=True)
class Life:
    """A container in memory. What changes it holds `lock`; `ended` is set when its end has been dealt
    with completely; `removing` while somebody removes it."""

    record: Record
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    removing: bool = False


class Registry:
    """All containers, by id and by name."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lives: dict[str, Life] = {}
        self._names: dict[str, str] = {}
        self.unreadable: frozenset[str] = frozenset()
        """Ids of containers whose record makes no sense: they may run, so nobody may tidy them up."""

    async def load(self) -> None:
        """Read the store. A record that makes no sense, perhaps a newer daemon's, is left alone."""
        for key, raw in (await self._store.containers()).items():
            try:
                record = msgspec.msgpack.decode(raw, type=Record)
            except msgspec.DecodeError as error:
                log.error("container record %s makes no sense; it is left alone: %s", key, error)
                self.unreadable |= {key}
                continue
            self._lives[record.id] = Life(record)
            self._names[record.name] = record.id

    def __iter__(self) -> Iterator[Life]:
        return iter(list(self._lives.values()))

    def __contains__(self, id: str) -> bool:
        return id in self._lives

    def claim(self, request: Request, mode: Mode, shares: str = "") -> Life:
        """Take the name that was asked for, or a free one: from here on it is nobody else's.

        `shares` is whose network it is to share; see `owner`.
        """
        owner = self.owner(shares).record if shares else None
        name = request.name or nicknames.generate(self._names)
        self._check_free(name)
        id = secrets.token_hex(16)
        hostname = request.hostname or (platform.node() if mode is Mode.HOST else id[:12])
        record = Record(id=id, name=name, hostname=hostname, request=request, created=time.time())
        if owner:
            record = msgspec.structs.replace(record, hostname=owner.hostname, shares=owner.id)
        life = Life(record)
        self._lives[id] = life
        self._names[name] = id
        return life

    def _check_free(self, name: str) -> None:
        if (holder := self._names.get(name)) is not None:
            raise AlreadyExists(
                f"container name {name!r} is taken by {holder[:12]}: choose another, or "
                f"`netd rm {name}` first"
            )

    @contextmanager
    def renaming(self, life: Life, name: str) -> Iterator[Put]:
        """What must be written for a container to have another name; the block writes it.

        Both names are its own meanwhile. If the block ends well the old one is free, otherwise the new.
        """
        self._check_free(name)
        renamed = msgspec.structs.replace(life.record, name=name)
        self._names[name] = renamed.id
        try:
            yield _written(renamed)
        except BaseException:
            del self._names[name]
            raise
        del self._names[life.record.name]
        life.record = renamed

    async def store(self, write: Put) -> None:
        """Write a record, and nothing else with it."""
        await self._store.live(write)

    async def save(self, life: Life, record: Record) -> Record:
        """Make `record` the truth about `life`."""
        await self._store.live(_written(record))
        life.record = record
        return record

    async def forget(self, life: Life) -> None:
        """Remove the record and set the name free."""
        await self._store.live(Delete(Table.CONTAINER, life.record.id))
        self._lives.pop(life.record.id, None)
        if self._names.get(life.record.name) == life.record.id:
            del self._names[life.record.name]

    def life(self, ref: str) -> Life:
        """The container called `ref`: by exact name, exact id, or unique prefix of the id.

        Raises `NotFound`, or `Invalid` where several ids begin so.
        """
        id = self._names.get(ref, ref)
        if id in self._lives:
            return self._lives[id]
        found = [life for id, life in self._lives.items() if id.startswith(ref)] if ref else []
        if len(found) > 1:
            holders = ", ".join(sorted(life.record.name for life in found))
            raise Invalid(f"container {ref!r} is ambiguous: it begins the ids of {holders}")
        if not found:
            raise NotFound(f"container {ref!r} does not exist; `netd ps -a` lists those that do")
        return found[0]

    def owner(self, ref: str) -> Life:
        """The container whose network one gets that is to share that of `ref`. Raises `NotFound`, `InUse`, or
        `Invalid` where that is the host's own."""
        life = self.running(ref)
        name = life.record.name
        if life.record.shares:  # it is a guest there itself
            try:
                life = self.running(life.record.shares)
            except (NotFound, InUse):
                raise InUse(
                    f"container {name!r} is in the network of one that has ended: there is none to share"
                ) from None
        if life.record.netns is None:
            raise Invalid(f"container {name!r} is in the host's own network: use --network host")
        return life

    def namespace_of(self, record: Record) -> Netns | None:
        """Where the container's processes are to live; None is the host's network. Raises as `owner`."""
        return self.owner(record.shares).record.netns if record.shares else record.netns

    def running(self, ref: str) -> Life:
        """Likewise; raises `InUse` where it does not run."""
        life = self.life(ref)
        if life.record.state != "running":
            raise InUse(f"container {life.record.name!r} is not running, it is {life.record.state}")
        return life


def _written(record: Record) -> Put:
    return Put(Table.CONTAINER, record.id, msgspec.msgpack.encode(record))
