"""What netd remembers, and how: the contract of every store.

There are two kinds of memory (architecture, law 3), because there are two kinds of life:

    definitions   networks and settings. Durable: once `define` returned, they survive power loss.
    live state    what cannot outlive the boot: sandboxes, endpoints, containers, intents, the
                  history of freed addresses, facts about what netd changed on this host, what was
                  last heard of the cluster. It survives the death of the daemon, however sudden, and
                  vanishes with the boot.

Both are records (a table, a key, a value) and are written in batches, each of which happens whole
or not at all. That is deliberately all: a store of a cluster has to implement no more than
`define` and the definitions in `load`, and keeps live state on the node as every node does.

Intents (law 2, "intent, kernel, commit"). Before the engine touches the kernel it writes an
`Intent`, which says what was true before and what shall be true after; the batch that commits the
result deletes it. An intent found at start tells what was under way when the daemon died.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from netd.model import Endpoint, IPAddress, Network, Sandbox


class Table(StrEnum):
    """Where a record belongs. `NETWORK` and `SETTING` are definitions, the others live state."""

    NETWORK = "network"
    SETTING = "setting"
    SANDBOX = "sandbox"
    ENDPOINT = "endpoint"
    CONTAINER = "container"
    FREED = "freed"
    INTENT = "intent"
    FACT = "fact"
    CLUSTER = "cluster"


DEFINITIONS = frozenset({Table.NETWORK, Table.SETTING})


@dataclass(frozen=True, slots=True)
class Attached:
    """A sandbox together with its endpoints: the unit in which attachments change."""

    sandbox: Sandbox
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A change under way: of a network, or of a sandbox with all its endpoints.

    Nothing before: something is being made, and is undone at start. Nothing after: something is
    being removed, and the removal is finished at start. Both: a change, which is undone.
    """

    network_before: Network | None = None
    network_after: Network | None = None
    before: Attached | None = None
    after: Attached | None = None

    @property
    def phase(self) -> str:
        """ "making", "removing" or "changing"."""
        old, new = self.network_before or self.before, self.network_after or self.after
        return "making" if old is None else "removing" if new is None else "changing"


@dataclass(frozen=True, slots=True)
class Freed:
    """An address that a network gave and got back; `sequence` grows, the lowest is free the longest."""

    network: str
    address: IPAddress
    sequence: int


@dataclass(frozen=True, slots=True)
class Put:
    """Create or replace one record.

    The value is a `Network`, `Sandbox`, `Endpoint`, `Intent` or `Freed` in the table of that name;
    text for a setting, a fact or what was heard of the cluster; the owner's bytes, never looked into,
    for a container.
    """

    table: Table
    key: str
    value: Any


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove one record; one that is gone already is success."""

    table: Table
    key: str


Write = Put | Delete


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that makes no sense. It is left where it is, reported, and otherwise ignored."""

    table: str
    key: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Everything that a store holds, by key, and what it holds that could not be understood."""

    networks: Mapping[str, Network] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    sandboxes: Mapping[str, Sandbox] = field(default_factory=dict)
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    freed: Mapping[str, Freed] = field(default_factory=dict)
    intents: Mapping[str, Intent] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    quarantined: tuple[Quarantined, ...] = ()


class Store(Protocol):
    """`netd.store.sqlite.SqliteStore` on a host.

    Errors: `Corrupt` for a file that cannot be trusted (it stays as it is), `Unavailable` where
    another daemon holds it, `Exhausted` for a full disk, `Denied` for a directory that others can
    write to.
    """

    async def open(self) -> None:
        """Open, check and, where needed, migrate. Opening what is open already does nothing."""

    async def close(self) -> None:
        """Finish what was asked for, then let go of the files. May be called twice."""

    async def load(self) -> Loaded:
        """Everything, as of now. A record that cannot be understood never fails the others."""

    async def containers(self) -> dict[str, bytes]:
        """The records in `Table.CONTAINER`, by key."""

    async def texts(self, table: Table) -> dict[str, str]:
        """The records of a table of texts, by key."""

    async def define(self, *writes: Write) -> None:
        """Change definitions, all of `writes` or none. Durable when it returns."""

    async def live(self, *writes: Write) -> None:
        """Change live state, all of `writes` or none. Safe from the daemon's death when it returns."""
