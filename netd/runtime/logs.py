"""The log of a container: lines with time and stream, in two files that together stay below a bound.

A line on disk is that of the Kubernetes container log format, which log shippers read already:

    2026-01-31T09:17:09.669794202Z stdout F the line without its newline

"F" is a full line; "P" a part: the rest of a stream that ended without a newline, or a line longer than
`PIECE`, whose next entry goes on with it. `log` grows to half of the bound, is renamed to `log.1` (over
the one before) and begins again. So a container can never fill /run, and a reader that holds `log` open
reads it to its end after it has been renamed.

Only the monitor writes. Readers are told by it that there is more, and read the files for themselves: no
reader, however slow, can hold up the container or take memory in its monitor.
"""

from __future__ import annotations

import calendar
import os
import time
from collections.abc import Iterator
from functools import lru_cache

from netd.runtime.spec import LogEntry

CURRENT = "log"
PREVIOUS = "log.1"

SMALLEST = 64 * 1024
"""The least bound that makes sense: some lines must fit into one of two files."""

PIECE = 16 * 1024
"""A longer line is cut, so that a stream without newlines needs no memory and still appears."""

_BLOCK = 64 * 1024


class Writer:
    """Appends to the log in the directory (a descriptor), keeping at most `bound` bytes of it."""

    def __init__(self, directory: int, bound: int) -> None:
        self._directory = directory
        self._half = bound // 2
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size
        self._pending: dict[str, bytes] = {}
        self._second = 0
        self._clock = b""

    def write(self, stream: str, data: bytes) -> None:
        """Log what a stream produced; a line is written when it is complete."""
        *lines, rest = (self._pending.get(stream, b"") + data).split(b"\n")
        now = self._now()
        entries = []
        for line in lines:
            *parts, last = _pieces(line)
            entries += [_entry(now, stream, b"P", part) for part in parts]
            entries.append(_entry(now, stream, b"F", last))
        *parts, rest = _pieces(rest)
        entries += [_entry(now, stream, b"P", part) for part in parts]
        self._pending[stream] = rest
        self._append(entries)

    def close(self) -> None:
        """Write what ended without a newline."""
        now = self._now()
        self._append([_entry(now, stream, b"P", rest) for stream, rest in self._pending.items() if rest])
        os.close(self._fd)

    def _append(self, entries: list[bytes]) -> None:
        batch = bytearray()
        for entry in entries:
            if self._size + len(batch) + len(entry) > self._half:
                self._store(batch)
                batch = bytearray()
                self._rotate()
            batch += entry
        self._store(batch)

    def _store(self, batch: bytearray) -> None:
        """Write whole entries or none: on a full disk lines get lost, and the container goes on."""
        try:
            written = os.write(self._fd, batch) if batch else 0
        except OSError:
            return
        if written < len(batch):
            os.ftruncate(self._fd, self._size)
        else:
            self._size += written

    def _rotate(self) -> None:
        os.rename(CURRENT, PREVIOUS, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        full = self._fd
        try:
            self._fd = self._open()
        except OSError:  # no room for another file: the one there is begins again
            os.rename(PREVIOUS, CURRENT, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            os.ftruncate(full, 0)
        else:
            os.close(full)
        self._size = 0

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(CURRENT, flags, 0o600, dir_fd=self._directory)

    def _now(self) -> bytes:
        nanoseconds = time.time_ns()
        second, fraction = divmod(nanoseconds, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%s.%09dZ" % (self._clock, fraction)


def _pieces(line: bytes) -> Iterator[bytes]:
    """`line` cut into pieces; one at least, and the last one is the shorter."""
    start = 0
    while len(line) - start > PIECE:
        yield line[start : start + PIECE]
        start += PIECE
    yield line[start:]


def _entry(now: bytes, stream: str, tag: bytes, data: bytes) -> bytes:
    return b"%s %s %s %s\n" % (now, stream.encode(), tag, data)


def parse(line: bytes) -> LogEntry:
    """The entry of one line of the file (with or without its newline). Raises ValueError on any other."""
    stamp, stream, tag, data = line.removesuffix(b"\n").split(b" ", 3)
    clock, _, fraction = stamp.removesuffix(b"Z").partition(b".")
    return LogEntry(
        time=_seconds(clock.decode()) + int(fraction or b"0") / 1e9,
        stream=stream.decode(),
        data=data + b"\n" if tag == b"F" else data,
    )


@lru_cache(maxsize=16)
def _seconds(clock: str) -> int:
    return calendar.timegm(time.strptime(clock, "%Y-%m-%dT%H:%M:%S"))


class Reader:
    """Reads the log in a directory from its oldest kept line on, through any number of rotations."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fd = self._open(PREVIOUS, CURRENT)
        self._rest = b""

    def close(self) -> None:
        for fd in (self._fd, self._directory):
            if fd >= 0:
                os.close(fd)
        self._fd = self._directory = -1

    def block(self) -> list[LogEntry]:
        """Some further entries; none when everything that is there now has been read."""
        while True:
            data = os.read(self._fd, _BLOCK) if self._fd >= 0 else b""
            if not data and not self._next_file():
                return []
            *lines, self._rest = (self._rest + data).split(b"\n")
            if lines:
                return [parse(line) for line in lines]

    def _next_file(self) -> bool:
        """At the end of one file: go on to the one that was begun when it was renamed, if it was."""
        ours = os.fstat(self._fd).st_ino if self._fd >= 0 else 0
        if ours:
            position, size = os.lseek(self._fd, 0, os.SEEK_CUR), os.fstat(self._fd).st_size
            if position > size:  # it began again in place, for want of room
                os.lseek(self._fd, 0, os.SEEK_SET)
                return True
            if ours == self._inode(CURRENT):
                return False
            if position < size:  # it grew between our last read and its renaming
                return True
        following = self._open(CURRENT) if ours == self._inode(PREVIOUS) else self._open(PREVIOUS, CURRENT)
        if following < 0:
            return False
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = following
        return True

    def _open(self, *names: str) -> int:
        for name in names:
            try:
                return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
            except FileNotFoundError:
                continue
        return -1

    def _inode(self, name: str) -> int:
        try:
            return os.stat(name, dir_fd=self._directory).st_ino
        except FileNotFoundError:
            return 0
