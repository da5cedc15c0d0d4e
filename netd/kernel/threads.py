"""Threads that are there before they are needed: a host may have none left to give.

The number of tasks is limited (`pids.max` of a control group, RLIMIT_NPROC, kernel.pid_max), and whoever
uses them up is somebody else. What is refused for want of a thread is an annoyance; what cannot be taken
back for want of one is a leak. So the daemon takes its threads when it starts:

- a pool (`pool`) has all of its threads from the beginning, and never asks for another one;
- work that changes its namespace gets a thread of its own, which ends with it (`begin`). Where there is
  none to be had, the reserve does it: one thread, one work after the other.

The reserve is the only thread that comes back from another namespace. It is not left there: it would keep
a dead container's namespace alive. If it could not come back it would end.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from netd.errors import Exhausted, KernelError

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
OWN = "/proc/thread-self/ns/net"
"""The calling thread's namespace; /proc/self would be that of the process's first thread."""

Body = Callable[[], Callable[[], None]]
"""Work that raises nothing. It gives what tells its outcome, for when the thread has left the namespace."""

M_ARENA_MAX = -8  # malloc.h of glibc

_libc = ctypes.CDLL(None, use_errno=True)


def one_arena() -> None:
    """Let all threads allocate from one arena; to be called before there are any.

    glibc gives each an arena of its own, up to eight a processor, each with its own holes: 6 MB
    with the threads that a daemon starts with. They seldom allocate at once, Python's lock sees to it.
    """
    mallopt = getattr(_libc, "mallopt", None)  # musl has neither arenas nor this
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)


def pool(size: int, name: str) -> ThreadPoolExecutor:
    """A pool of `size` threads, all of them started. Raises `Exhausted`."""
    made = ThreadPoolExecutor(size, name)
    together = threading.Barrier(size)
    try:
        for _ in range(size):  # none of them is idle before the last one is there, so each gets a thread
            made.submit(together.wait)
    except RuntimeError as error:
        together.abort()
        made.shutdown(wait=False)
        raise lack() from error
    return made


def default_pool() -> ThreadPoolExecutor:
    """A pool of the size that asyncio's own would grow to."""
    return pool(min(32, (os.cpu_count() or 1) + 4), "netd-work")


def begin(body: Body, name: str) -> None:
    """Run `body` on a thread in the caller's namespace, which `body` may change. Raises `Exhausted`."""
    try:
        threading.Thread(target=lambda: body()(), name=name, daemon=True).start()
    except RuntimeError as error:
        if not _reserve.take(body):
            raise lack() from error


def reserve() -> None:
    """Start the reserve, once in a process. Raises `Exhausted`."""
    _reserve.start()


def lack() -> Exhausted:
    """What there is to say of a thread that the kernel does not give."""
    return Exhausted(
        "no thread can be started: this host has no process left to give; "
        "see pids.max of the control group, kernel.pid_max and the limit of processes"
    )


class Reserve:
    """One thread for what must be done when there is no other."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Body, int]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def start(self) -> None:
        """Start the thread, unless it runs. Raises `Exhausted`."""
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._serve, name="reserve", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise lack() from error
                self._thread = thread

    def take(self, body: Body) -> bool:
        """Have `body` done in the caller's namespace; False where nobody can.

        That is also so for what the reserve itself asks for: it would wait for itself.
        """
        if self._thread is None or not self._thread.is_alive() or self._thread is threading.current_thread():
            return False
        self._work.put((body, os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)))
        return True

    def _serve(self) -> None:
        while True:
            tell = _there_and_back(*self._work.get())
            tell()
            del tell  # and with it whatever it holds


def _there_and_back(body: Body, origin: int) -> Callable[[], None]:
    home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(origin)
        tell = body()
        _enter(home)
        return tell
    finally:
        os.close(home)
        os.close(origin)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET) < 0:
        raise KernelError(ctypes.get_errno(), "enter a network namespace again")


_reserve = Reserve()
