from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.runtime import logs
from netd.runtime.logs import Reader, Writer
from netd.runtime.spec import LogEntry


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def read(reader: Reader) -> list[LogEntry]:
    found: list[LogEntry] = []
    while entries := reader.block():
        found += entries
    return found


def content(path: Path) -> bytes:
    reader = Reader(path)
    try:
        return b"".join(entry.data for entry in read(reader))
    finally:
        reader.close()


def test_the_form_on_disk(directory: int, tmp_path: Path) -> None:
    writer = Writer(directory, logs.SMALLEST)
    writer.write("stdout", b"one\ntw")
    writer.write("stderr", b"other\n")
    writer.write("stdout", b"o\n\nrest")
    writer.close()
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert [line.split(b" ", 1)[1] for line in lines] == [
        b"stdout F one",
        b"stderr F other",
        b"stdout F two",
        b"stdout F ",
        b"stdout P rest",
    ]
    stamp = lines[0].split(b" ")[0].decode()
    assert time.strptime(stamp.split(".")[0], "%Y-%m-%dT%H:%M:%S")
    assert len(stamp) == len("2026-01-31T09:17:09.669794202Z")


@given(st.lists(st.binary(max_size=40)))
def test_what_went_in_comes_out(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("log")
    fd = os.open(path, os.O_RDONLY)
    writer = Writer(fd, logs.SMALLEST)
    for chunk in chunks:
        writer.write("stdout", chunk)
    writer.close()
    os.close(fd)
    assert content(path) == b"".join(chunks)


def test_a_line_without_end_is_cut(directory: int, tmp_path: Path) -> None:
    writer = Writer(directory, 1 << 20)
    data = os.urandom(100).replace(b"\n", b"") * 1000
    writer.write("stdout", data)
    assert len(writer._pending["stdout"]) <= logs.PIECE
    writer.close()
    assert content(tmp_path) == data


def test_the_bound_holds_and_the_newest_stays(directory: int, tmp_path: Path) -> None:
    writer = Writer(directory, logs.SMALLEST)
    for number in range(20_000):
        writer.write("stdout", b"%d\n" % number)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= logs.SMALLEST
    writer.close()
    numbers = [int(line) for line in content(tmp_path).split()]
    assert numbers == list(range(numbers[0], 20_000))
    assert len(numbers) > 400


def test_one_write_larger_than_the_bound(directory: int, tmp_path: Path) -> None:
    writer = Writer(directory, logs.SMALLEST)
    writer.write("stdout", b"".join(b"%d\n" % number for number in range(20_000)))
    writer.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= logs.SMALLEST
    assert content(tmp_path).endswith(b"19998\n19999\n")


def test_a_reader_follows_through_rotations(directory: int, tmp_path: Path) -> None:
    """However the reading falls between the writing, as long as it is not two files behind."""
    writer = Writer(directory, logs.SMALLEST)
    reader = Reader(tmp_path)
    seen: list[bytes] = []
    for number in range(5000):
        writer.write("stdout", b"%d\n" % number)
        if number % 307 == 0:
            seen += [entry.data for entry in read(reader)]
    writer.close()
    seen += [entry.data for entry in read(reader)]
    reader.close()
    assert seen == [b"%d\n" % number for number in range(5000)]
    assert (tmp_path / "log.1").exists()


def test_a_reader_that_is_too_slow_goes_on_with_what_is_kept(directory: int, tmp_path: Path) -> None:
    writer = Writer(directory, logs.SMALLEST)
    reader = Reader(tmp_path)
    writer.write("stdout", b"first\n")
    assert [entry.data for entry in reader.block()] == [b"first\n"]
    for number in range(20_000):
        writer.write("stdout", b"%d\n" % number)
    writer.close()
    numbers = [int(entry.data) for entry in read(reader)]
    reader.close()
    assert numbers[-1] == 19_999
    kept = numbers[numbers.index(max(numbers)) - 500 :]
    assert kept == list(range(kept[0], 20_000))


def test_before_the_first_line(directory: int, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    assert read(reader) == []
    writer = Writer(directory, logs.SMALLEST)
    writer.write("stderr", b"now\n")
    assert [(entry.stream, entry.data) for entry in read(reader)] == [("stderr", b"now\n")]
    writer.close()
    reader.close()


def test_times(directory: int, tmp_path: Path) -> None:
    before = time.time()
    writer = Writer(directory, logs.SMALLEST)
    writer.write("stdout", b"x\n")
    writer.close()
    reader = Reader(tmp_path)
    entry = read(reader)[0]
    reader.close()
    assert before - 0.001 <= entry.time <= time.time() + 0.001


def test_a_line_that_is_none() -> None:
    with pytest.raises(ValueError, match="unpack"):
        logs.parse(b"nonsense")
