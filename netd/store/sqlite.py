"""The embedded store: two SQLite files and one thread that writes them.

    STATE_DIR/netd.db             definitions. Every commit is on the disk before it is answered.
    RUN_DIR/live-BOOT_ID.db       live state. Commits reach the page cache: that outlives the daemon,
                                  however it dies, and need not outlive the kernel.

The boot id is in the name, so live state of another boot is never opened, only deleted: after a
power cut it may well be damaged, and that must not keep the daemon from starting.

All statements run on one thread, which owns both connections (`sqlite3` blocks, the event loop must
not). It takes everything that waits at once and commits it together: a hundred attachments that
arrive at the same time share their commits. If a common commit fails, each request is tried alone,
so that only the guilty one fails.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from netd import dirs
from netd.errors import Invalid, NetdError, Unavailable
from netd.model import Endpoint, Network, Sandbox
from netd.store import codec, schema
from netd.store.base import DEFINITIONS, Freed, Intent, Loaded, Put, Quarantined, Table, Write

T = TypeVar("T")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

KINDS: dict[Table, type] = {
    Table.NETWORK: Network,
    Table.SANDBOX: Sandbox,
    Table.ENDPOINT: Endpoint,
    Table.FREED: Freed,
    Table.INTENT: Intent,
}
"""Tables whose values are JSON; settings, facts and the cluster's are text, containers are blobs."""

Statement = tuple[str, tuple[Any, ...]]
PUT = (
    "INSERT INTO record (kind, key, value) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
)
DELETE = "DELETE FROM record WHERE kind = ? AND key = ?"


@dataclass(slots=True)
class _Job:
    """Something for the thread: statements to commit in a file, or a function to call."""

    future: asyncio.Future[Any]
    file: str = ""
    statements: Sequence[Statement] = ()
    call: Callable[[], Any] | None = None


class SqliteStore:
    """Implements `netd.store.base.Store`. `boot_id` stands for the running kernel's, for tests."""

    def __init__(self, state_dir: Path, run_dir: Path, *, boot_id: str = "") -> None:
        boot = boot_id or BOOT_ID.read_text().strip()
        self.paths = {"definitions": state_dir / "netd.db", "live": run_dir / f"live-{boot}.db"}
        self._connections: dict[str, sqlite3.Connection] = {}
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def open(self) -> None:
        """See `Store.open`."""
        if self._thread:
            return
        self._thread = threading.Thread(target=self._serve, name="netd-store", daemon=True)
        self._thread.start()
        try:
            await self._ask(self._open)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See `Store.close`."""
        thread, self._thread = self._thread, None
        if thread:
            self._jobs.put(None)
            await asyncio.get_running_loop().run_in_executor(None, thread.join)

    async def load(self) -> Loaded:
        """See `Store.load`."""
        return _understand(await self._ask(self._read))

    async def containers(self) -> dict[str, bytes]:
        """See `Store.containers`."""
        rows = await self._ask(partial(self._read, Table.CONTAINER))
        return {key: bytes(value) for _, key, value in rows}

    async def texts(self, table: Table) -> dict[str, str]:
        """See `Store.texts`."""
        rows = await self._ask(partial(self._read, table))
        return {key: str(value) for _, key, value in rows}

    async def define(self, *writes: Write) -> None:
        """See `Store.define`."""
        await self._commit("definitions", writes)

    async def live(self, *writes: Write) -> None:
        """See `Store.live`."""
        await self._commit("live", writes)

    async def _commit(self, file: str, writes: Sequence[Write]) -> None:
        if not writes:
            return
        for write in writes:
            if (write.table in DEFINITIONS) != (file == "definitions"):
                raise ValueError(f"{write.table} records do not belong to {file}")
        await self._send(_Job(self._future(), file=file, statements=[_statement(w) for w in writes]))

    async def _ask(self, call: Callable[[], T]) -> T:
        answer: T = await self._send(_Job(self._future(), call=call))
        return answer

    async def _send(self, job: _Job) -> Any:
        if self._thread is None:
            raise Unavailable("the store is closed")
        self._jobs.put(job)
        return await job.future

    @staticmethod
    def _future() -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    # --- below here everything runs on the store's thread ---

    def _serve(self) -> None:
        """Do what waits, all of it at once, until told to stop."""
        stopping = False
        while not stopping:
            waiting = [self._jobs.get()]
            while not self._jobs.empty():
                waiting.append(self._jobs.get())
            stopping = None in waiting
            for file, group in groupby((job for job in waiting if job), key=lambda job: job.file):
                jobs = list(group)
                _answer(self._together(file, jobs) if file else [_called(job) for job in jobs])
        for connection in self._connections.values():
            with suppress(sqlite3.Error):
                connection.close()
        self._connections.clear()

    def _together(self, file: str, jobs: list[_Job]) -> list[tuple[_Job, Any]]:
        try:
            self._transact(file, [statement for job in jobs for statement in job.statements])
        except NetdError as error:
            if len(jobs) == 1:
                return [(jobs[0], error)]
            return [answer for job in jobs for answer in self._together(file, [job])]
        return [(job, None) for job in jobs]

    def _transact(self, file: str, statements: Sequence[Statement]) -> None:
        connection = self._connections[file]
        try:
            connection.execute("BEGIN IMMEDIATE")
            for sql, values in statements:
                connection.execute(sql, values)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):  # a full disk rolls back by itself
                connection.execute("ROLLBACK")
            raise schema.explain(error, self.paths[file]) from error

    def _open(self) -> None:
        definitions, live = self.paths["definitions"], self.paths["live"]
        dirs.make(definitions.parent, dirs.STATE_MODE)
        dirs.make(live.parent, dirs.RUN_MODE)
        for other in live.parent.glob("live-*.db*"):
            if not other.name.startswith(live.name):
                other.unlink(missing_ok=True)
        self._connections["definitions"] = schema.connect(definitions, schema.DEFINITIONS, synchronous="FULL")
        self._connections["live"] = schema.connect(live, schema.LIVE, synchronous="OFF")

    def _read(self, table: Table | None = None) -> list[tuple[str, str, Any]]:
        """The records of one table, or all."""
        query = "SELECT kind, key, value FROM record" + (" WHERE kind = ?" if table else "")
        values = (table,) if table else ()
        rows: list[tuple[str, str, Any]] = []
        for file, connection in self._connections.items():
            try:
                rows += connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise schema.explain(error, self.paths[file]) from error
        return rows


def _statement(write: Write) -> Statement:
    if not isinstance(write, Put):
        return DELETE, (write.table, write.key)
    value = codec.encode(write.value) if write.table in KINDS else write.value
    return PUT, (write.table, write.key, value)


def _called(job: _Job) -> tuple[_Job, Any]:
    assert job.call is not None
    try:
        return job, job.call()
    except Exception as error:
        return job, error


def _answer(answers: Sequence[tuple[_Job, Any]]) -> None:
    """Hand results back to the event loop, with one wake-up for all."""

    def settle() -> None:
        for job, result in answers:
            if job.future.done():  # whoever asked was cancelled
                continue
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)

    with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
        answers[0][0].future.get_loop().call_soon_threadsafe(settle)


def _understand(rows: Sequence[tuple[str, str, Any]]) -> Loaded:
    found: dict[Table, dict[str, Any]] = {table: {} for table in Table}
    quarantined: list[Quarantined] = []
    for kind, key, value in rows:
        try:
            table = Table(kind)
        except ValueError:
            quarantined.append(Quarantined(kind, key, "no table of that name"))
            continue
        if table in (Table.CONTAINER, Table.CLUSTER):
            continue  # read by their owners alone
        try:
            found[table][key] = codec.decode(value, KINDS[table]) if table in KINDS else str(value)
        except Invalid as error:
            quarantined.append(Quarantined(table, key, str(error)))
    return Loaded(
        networks=found[Table.NETWORK],
        settings=found[Table.SETTING],
        sandboxes=found[Table.SANDBOX],
        endpoints=found[Table.ENDPOINT],
        freed=found[Table.FREED],
        intents=found[Table.INTENT],
        facts=found[Table.FACT],
        quarantined=tuple(quarantined),
    )
