"""A run dir without room: no container ends for it, and no end is forgotten."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from netd.runtime import logs, record, syscalls
from netd.runtime.record import Record
from netd.runtime.spec import LogEntry


@pytest.fixture
def disk() -> Iterator[int]:
    """The root of a tmpfs of a few pages, mounted nowhere."""
    fd = syscalls.new_filesystem("tmpfs", 0, {"size": "256k"})
    yield fd
    os.close(fd)


def fill(disk: int) -> None:
    fd = os.open("filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND, dir_fd=disk)
    with contextlib.suppress(OSError):
        while True:
            os.write(fd, bytes(4096))
    os.close(fd)


def iter_blocks(reader: logs.Reader) -> Iterator[LogEntry]:
    while block := reader.block():
        yield from block


def entries(disk: int) -> list[LogEntry]:
    reader = logs.Reader(f"/proc/self/fd/{disk}")
    found = list(iter_blocks(reader))
    reader.close()
    return found


def names(disk: int) -> set[str]:
    return {path.name for path in Path(f"/proc/self/fd/{disk}").iterdir()}


def test_a_status_is_still_written(disk: int) -> None:
    path = f"/proc/self/fd/{disk}"
    before = Record(state="running", monitor=record.Task(12345, 67890), started=1234567.25)
    record.write(disk, record.STATUS, before)
    fill(disk)
    for state in (Record(state="exited", exit_code=3), before):
        record.write(disk, record.STATUS, state)
        assert record.read(path) == state
        assert names(disk) == {"filler", record.STATUS}


def test_a_first_status_is_refused(disk: int) -> None:
    fill(disk)
    with pytest.raises(OSError, match="No such file"):
        record.write(disk, record.STATUS, Record())
    assert names(disk) == {"filler"}


def test_lines_get_lost_whole_and_logging_goes_on(disk: int) -> None:
    writer = logs.Writer(disk, logs.SMALLEST)
    writer.write("stdout", b"before\n")
    fill(disk)
    for number in range(2000):
        writer.write("stdout", b"%d " % number * 10 + b"\n")
    os.unlink("filler", dir_fd=disk)
    writer.write("stdout", b"after\n")
    writer.close()
    lines = [entry.data for entry in entries(disk)]
    assert lines[0] == b"before\n"
    assert lines[-1] == b"after\n"
    assert all(len(set(line.split())) == 1 for line in lines)


def test_rotation_without_room_begins_again(disk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = logs.Writer(disk, logs.SMALLEST)
    follower = logs.Reader(f"/proc/self/fd/{disk}")

    def no_room(self: logs.Writer) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logs.Writer, "_open", no_room)
    for number in range(3000):
        writer.write("stdout", b"%d\n" % number)
        if number in (500, 2999):
            newest = [entry.data for entry in iter_blocks(follower)][-1]
            assert newest == b"%d\n" % number
    writer.close()
    follower.close()
    numbers = [int(entry.data) for entry in entries(disk)]
    assert numbers == list(range(numbers[0], 3000))
    assert names(disk) == {"log"}
