"""Files that may be opened, files that are refused and stay untouched, and files that are migrated.

A migration is killed at every call with which it writes, and its power is cut at every frame of the log.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from netd.errors import Corrupt, Denied, Unavailable
from netd.store import schema

OLD = (schema.RECORDS,)
NEW = (schema.RECORDS, "ALTER TABLE record ADD COLUMN revision INTEGER NOT NULL DEFAULT 0")
FAR = (*NEW, "UPDATE record SET revision = 7", "CREATE INDEX by_revision ON record (revision)")
"""Migrations that write every page, and new ones."""

MIGRATOR = f"""
import sys
from pathlib import Path
from netd.store import schema
schema.connect(Path(sys.argv[1]), {FAR!r}, synchronous="FULL").close()
"""
WRITES = ("pwrite64", "write", "fdatasync", "fsync", "ftruncate", "unlink", "rename", "fchmod")
"""The calls with which SQLite and `schema` change files; SQLite writes with the first alone."""

BROKEN = (
    schema.RECORDS,
    "ALTER TABLE record ADD COLUMN revision INTEGER",
    "ALTER TABLE nothing ADD COLUMN x",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of the old schema with enough records to fill several pages."""
    path = tmp_path / "netd.db"
    with closing(schema.connect(path, OLD, synchronous="FULL")) as connection:
        rows = [("network", str(number), "x" * 200) for number in range(200)]
        connection.executemany("INSERT INTO record VALUES (?, ?, ?)", rows)
    return path


def content(directory: Path) -> dict[str, bytes]:
    """What the files hold; SQLite's empty log and its shared index come and go with each reader."""
    files = [path for path in directory.iterdir() if not path.name.endswith("-shm")]
    return {path.name: path.read_bytes() for path in files if path.stat().st_size}


def test_makes_a_private_file_that_opens_again(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with closing(schema.connect(path, OLD, synchronous="FULL")) as connection:
        assert connection.execute("SELECT count(*) FROM record").fetchone() == (200,)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_file_that_was_made_but_never_filled_is_fresh(tmp_path: Path) -> None:
    path = tmp_path / "netd.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # where a kill between two steps can leave it
    assert path.stat().st_size > 0
    with closing(schema.connect(path, OLD, synchronous="FULL")) as connection:
        assert connection.execute("SELECT count(*) FROM record").fetchone() == (0,)


@pytest.mark.parametrize(
    "damage",
    ["not a database at all, but long enough to be one" * 9, "", "page"],
    ids=["text", "cut", "page"],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(path: Path, damage: str) -> None:
    raw = bytearray(path.read_bytes())
    if damage == "page":
        raw[8192:12288] = os.urandom(4096)
    path.write_bytes(raw if damage == "page" else damage.encode() or raw[:5000])
    before = content(path.parent)
    with pytest.raises(Corrupt, match=r"netd\.db is damaged .* left as it is"):
        schema.connect(path, OLD, synchronous="FULL")
    assert content(path.parent) == before


def test_a_newer_file_is_refused_and_left_as_it_is(path: Path) -> None:
    schema.connect(path, NEW, synchronous="FULL").close()
    before = content(path.parent)
    with pytest.raises(Corrupt, match=r"netd\.db was written by a newer netd \(schema 2; this one knows 1\)"):
        schema.connect(path, OLD, synchronous="FULL")
    assert content(path.parent) == before


def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "netd.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE songs (name)")
    with pytest.raises(Corrupt, match="something else than netd"):
        schema.connect(path, OLD, synchronous="FULL")


def test_migration_keeps_the_records_and_a_backup(path: Path) -> None:
    with closing(schema.connect(path, NEW, synchronous="FULL")) as connection:
        assert connection.execute("SELECT count(*), max(revision) FROM record").fetchone() == (200, 0)
    backup = path.with_name("netd.db.schema1")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with closing(schema.connect(backup, OLD, synchronous="FULL")) as connection:
        assert connection.execute("SELECT count(*) FROM record").fetchone() == (200,)


def test_a_migration_that_fails_leaves_the_old_schema(path: Path) -> None:
    with pytest.raises(Unavailable, match="nothing"):
        schema.connect(path, BROKEN, synchronous="FULL")
    with closing(schema.connect(path, OLD, synchronous="FULL")) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(record)")]
    assert columns == ["kind", "key", "value"]


def assert_old_or_new(path: Path, case: str, *, count: int) -> str:
    """Which of the two schemas a file has: all of it, with every record; and then it can be migrated."""
    with closing(sqlite3.connect(path)) as connection:
        [version] = connection.execute("PRAGMA user_version").fetchone()
        columns = [row[1] for row in connection.execute("PRAGMA table_info(record)")]
        indexes = [row[1] for row in connection.execute("PRAGMA index_list(record)")]
        rows = connection.execute("SELECT * FROM record ORDER BY CAST(key AS INTEGER)").fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], case
    is_new = version == len(FAR)
    records = [("network", str(number), "x" * 200) for number in range(count)]
    if is_new:
        assert columns == ["kind", "key", "value", "revision"], case
        assert "by_revision" in indexes, case
        assert rows == [(*record, 7) for record in records], case
    else:
        assert (version, columns) == (1, ["kind", "key", "value"]), case
        assert "by_revision" not in indexes, case
        assert rows == records, case
    with closing(schema.connect(path, FAR, synchronous="FULL")) as connection:
        assert connection.execute("SELECT count(*), min(revision) FROM record").fetchone() == (count, 7)
    backup = path.with_name(f"{path.name}.schema1")
    with closing(schema.connect(backup, OLD, synchronous="FULL")) as connection:
        assert connection.execute("SELECT count(*) FROM record").fetchone() == (count,), case
    assert not backup.with_name(f"{backup.name}.partial").exists(), case
    return "new" if is_new else "old"


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_migration_that_is_killed_at_any_write_leaves_the_old_schema_or_the_new(
    path: Path, tmp_path: Path
) -> None:
    with closing(schema.connect(path, OLD, synchronous="FULL")) as connection:
        connection.execute("DELETE FROM record WHERE CAST(key AS INTEGER) >= 60")
        connection.execute("VACUUM")
    found = []
    for call in WRITES:
        for number in itertools.count(1):
            place = tmp_path / f"{call}-{number}"
            place.mkdir()
            shutil.copy(path, place)
            inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
            done = subprocess.run(
                ["strace", "-o", place / "log", *inject, sys.executable, "-c", MIGRATOR, place / path.name],
                cwd=Path(__file__).parents[3],
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                break
            assert done.returncode == -9, done.stderr
            found.append(assert_old_or_new(place / path.name, place.name, count=60))
    print(f"killed at {len(found)} writes: {found.count('old')} left the old schema, the others the new")
    assert found.count("old") > 20
    assert found.count("new") > 2


def test_a_power_cut_during_a_migration_leaves_the_old_schema_or_the_new(path: Path, tmp_path: Path) -> None:
    """At any frame of the log, and in the middle of any, with and without rubbish behind it."""
    with closing(schema.connect(path, OLD, synchronous="FULL")) as connection:
        connection.execute("SELECT count(*) FROM record").fetchone()
        before = path.read_bytes()
        schema._migrate(connection, path, 1, FAR)
        log = path.with_name(path.name + "-wal").read_bytes()
        backup = path.with_name("netd.db.schema1").read_bytes()
    header, frame = 32, 24 + 4096
    ends = range(header, len(log) + 1, frame)
    assert ends[-1] == len(log), "SQLite's log is not what it was taken for"
    assert len(ends) > 10
    found = []
    for end, torn in itertools.product(ends, (0, 24, 2000)):
        for rubbish in (b"", b"\xa5" * 5000):
            place = tmp_path / f"{end}-{torn}-{len(rubbish)}"
            place.mkdir()
            (place / path.name).write_bytes(before)
            (place / f"{path.name}-wal").write_bytes(log[: end + torn] + rubbish)
            (place / "netd.db.schema1").write_bytes(backup)
            found.append(assert_old_or_new(place / path.name, place.name, count=200))
    print(f"cut at {len(found)} places: {found.count('old')} left the old schema, the others the new")
    assert found.count("old") > 60
    assert found.count("new") == 6, "the log is in force from its last frame on"


def test_a_second_opener_is_kept_out(path: Path) -> None:
    with closing(schema.connect(path, OLD, synchronous="FULL")) as connection:
        connection.execute("DELETE FROM record WHERE key = '1'")
        with pytest.raises(Unavailable, match="in use by another process"):
            schema.connect(path, OLD, synchronous="FULL")


def test_links_are_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "soft").symlink_to(path)
    with pytest.raises(Denied, match="soft cannot be opened"):
        schema.connect(tmp_path / "soft", OLD, synchronous="FULL")
    (tmp_path / "hard").hardlink_to(path)
    with pytest.raises(Denied, match="not a plain file"):
        schema.connect(tmp_path / "hard", OLD, synchronous="FULL")
