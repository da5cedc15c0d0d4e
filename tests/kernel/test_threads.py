"""Threads where there are none left to give. `tests/e2e/test_exhaustion.py` takes them away for real."""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from netd.errors import Exhausted
from netd.kernel import netns, threads
from tests.descriptors import descriptors


def own() -> tuple[int, int]:
    found = Path(netns.OWN).stat()
    return found.st_dev, found.st_ino


@pytest.fixture(autouse=True)
def own_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here has mounts of its own, and a thread has those of its maker."""
    monkeypatch.setattr(threads, "_reserve", threads.Reserve())


@contextmanager
def no_more_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield


def test_a_pool_asks_for_no_thread_once_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    made = threads.pool(4, "four")
    together = threading.Barrier(4)
    with no_more_threads(monkeypatch):
        places = [made.submit(together.wait, 15) for _ in range(4)]
        assert sorted(each.result() for each in places) == [0, 1, 2, 3]
    made.shutdown()


def test_a_pool_that_cannot_be_had_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    start = threading.Thread.start
    begun: list[threading.Thread] = []

    def refuse_the_third(self: threading.Thread) -> None:
        if len(begun) == 2:
            raise RuntimeError("can't start new thread")
        begun.append(self)
        start(self)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_the_third)
        with pytest.raises(Exhausted, match=r"pids\.max"):
            threads.pool(4, "four")
    for each in begun:
        each.join(15)
    assert threading.active_count() == before


async def test_the_reserve_works_where_it_is_asked_to_and_stays_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads.reserve()
    made = await netns.create(tmp_path / "netns", "web")
    before, held = own(), len(descriptors())
    with no_more_threads(monkeypatch):
        assert await netns.inside(made, own) == (made.device, made.inode)
        assert (
            await asyncio.gather(*(netns.inside(made, own) for _ in range(8)))
            == [(made.device, made.inode)] * 8
        )
        assert await netns.on_thread(own, "here") == before
        assert netns.blocking(own, "here") == before
        assert netns.in_new_namespace(own) not in (before, (made.device, made.inode))
        with pytest.raises(ZeroDivisionError):
            netns.blocking(lambda: 1 // 0, "fails")
        assert netns.blocking(own, "here") == before
        again = await netns.create(tmp_path / "netns", "again")
        assert netns.alive(again)
    assert len(descriptors()) == held
    for each in (made, again):
        netns.delete(Path(each.path))


def test_the_reserve_is_asked_from_the_callers_own_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    threads.reserve()

    def ask_from_there() -> tuple[tuple[int, int], tuple[int, int]]:
        with no_more_threads(monkeypatch):
            return own(), netns.blocking(own, "inner")

    there, asked = netns.in_new_namespace(ask_from_there)
    assert there == asked != own()


def test_what_the_reserve_itself_asks_for_is_refused_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    threads.reserve()
    with no_more_threads(monkeypatch), pytest.raises(Exhausted, match="no thread can be started"):
        netns.blocking(lambda: netns.blocking(own, "inner"), "outer")


def test_without_a_reserve_the_lack_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with no_more_threads(monkeypatch):
        with pytest.raises(Exhausted, match="no thread can be started"):
            netns.blocking(own, "here")
        with pytest.raises(Exhausted, match="no thread can be started"):
            threads.reserve()


ARENAS = """
import ctypes, os, sys, threading
from netd.kernel import threads
if sys.argv[1] == "one":
    threads.one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
together = threading.Barrier(8)
def allocate():
    together.wait()
    libc.malloc(100_000)
    together.wait()
crowd = [threading.Thread(target=allocate) for _ in range(8)]
for each in crowd: each.start()
for each in crowd: each.join()
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the C library is not glibc")
def test_threads_allocate_from_one_arena() -> None:
    def arenas(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", ARENAS, how], capture_output=True, text=True, check=True)
        return done.stdout.count("<heap nr=")

    assert arenas("many") > 1, "the C library gives threads arenas of their own"
    assert arenas("one") == 1
