"""Files that may be opened, files that are refused and stay untouched, and files that are migrated."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from netd.errors import Corrupt, Denied, Unavailable
from netd.store import schema

OLD = (schema.RECORDS,)
NEW = (schema.RECORDS, "ALTER TABLE record ADD COLUMN revision INTEGER NOT NULL DEFAULT 0")
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
