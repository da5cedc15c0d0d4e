"""The shape of netd's SQLite files, and whether a file may be opened at all.

Both files hold one table of records. Columns of their own would buy nothing: netd reads everything
once, at start, and then only writes.

A file is examined read-only before it is opened for writing, so that one that is damaged, or was
written by a newer netd, stays byte for byte what it is: whoever repairs it or goes back to the newer
version finds the evidence and the data. An older file is copied beside itself, then migrated in one
transaction: it is of the old schema or of the new one, never between.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from netd.errors import Corrupt, Denied, Exhausted, NetdError, Unavailable

APPLICATION = 0x6E657464
""" "netd" in ASCII: `file` and we recognise our own by it (SQLite header, offset 68)."""

PATIENCE = 1.0
"""Seconds to wait for another process to let go of a file, such as a daemon that is just ending."""

RECORDS = """
CREATE TABLE record (
    kind  TEXT NOT NULL,  -- netd.store.base.Table
    key   TEXT NOT NULL,
    value NOT NULL,       -- JSON text; a container's record is a blob that belongs to its owner
    PRIMARY KEY (kind, key)
) WITHOUT ROWID
"""
DEFINITIONS = (RECORDS,)
LIVE = (RECORDS,)
"""Statement N turns a file of schema N into one of schema N+1; append, never edit."""


def connect(path: Path, migrations: Sequence[str], *, synchronous: str) -> sqlite3.Connection:
    """Open `path`, made if it does not exist, at the newest schema.

    Raises `Corrupt`, `Denied` or `Unavailable`, naming the file.
    """
    existed = _claim(path)
    try:
        version = _examine(path, len(migrations)) if existed else 0
        connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            _configure(connection, synchronous)
            if version < len(migrations):
                _migrate(connection, path, version, migrations)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise explain(error, path) from error
    return connection


def explain(error: sqlite3.Error, path: Path) -> NetdError:
    """What an error of SQLite means for the person who runs the host."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code; extended ones are above
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Corrupt(
            f"{path} is damaged ({error}); it was left as it is: restore it from a backup, or move it "
            "away to start without what it held"
        )
    if code == sqlite3.SQLITE_FULL:
        return Exhausted(f"no space left for {path}; free some on that file system")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"{path} is in use by another process; is a second netd daemon running?")
    return Unavailable(f"{path}: {error}")


def _claim(path: Path) -> bool:
    """Make sure that `path` is a plain file of ours with mode 0600; return whether it has content."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise Denied(f"{path} cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
            raise Denied(f"{path} is not a plain file of this user's with one name; move it away")
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    return found.st_size > 0


def _examine(path: Path, newest: int) -> int:
    """The schema of a file that may be opened; raises `Corrupt` for any other, without touching it."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=PATIENCE)) as connection:
        [application] = connection.execute("PRAGMA application_id").fetchone()
        [version] = connection.execute("PRAGMA user_version").fetchone()
        [verdict] = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise explain(_damaged(" ".join(verdict.split())), path)
    if application != APPLICATION and not (application == version == 0 and _is_empty(path)):
        raise Corrupt(f"{path} is a database of something else than netd; move it away")
    if version > newest:
        raise Corrupt(
            f"{path} was written by a newer netd (schema {version}; this one knows {newest}); it was "
            "left as it is: run the newer netd, or move the file away"
        )
    return int(version)


def _damaged(verdict: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(verdict)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _is_empty(path: Path) -> bool:
    """Whether netd died between making a file and giving it its first schema."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        [tables] = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return bool(tables == 0)


def _configure(connection: sqlite3.Connection, synchronous: str) -> None:
    # Exclusive, for good: two connections that write to one WAL can corrupt it before SQLite 3.51.3
    # (Debian 12 has 3.40), and this way there is never a second one, not even a curious sqlite3(1).
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA trusted_schema = OFF")


def _migrate(connection: sqlite3.Connection, path: Path, version: int, migrations: Sequence[str]) -> None:
    if version > 0:
        _back_up(connection, path.with_name(f"{path.name}.schema{version}"))
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in migrations[version:]:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _back_up(connection: sqlite3.Connection, target: Path) -> None:
    """Copy the file as it is to `target`, whole or not at all, replacing an earlier attempt."""
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    with closing(sqlite3.connect(partial)) as copy:
        connection.backup(copy)
    partial.replace(target)
