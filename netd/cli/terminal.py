"""The caller's terminal: its size, and raw mode that is undone however the command ends."""

from __future__ import annotations

import os
import select
import signal
import termios
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

DEFAULT_SIZE = os.terminal_size((80, 24))


def size() -> os.terminal_size:
    """Columns and lines of the first standard stream that is a terminal; 80x24 where none is."""
    for descriptor in (1, 0, 2):
        try:
            return os.get_terminal_size(descriptor)
        except OSError:
            continue
    return DEFAULT_SIZE


class Raw:
    """Raw mode for the length of a block: every key goes to the container, Ctrl-C included."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._before = termios.tcgetattr(descriptor)

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def enter(self) -> None:
        """Switch to raw mode (again: the shell resets it while the command is stopped)."""
        # TCSANOW, not setraw's TCSAFLUSH, which throws away what was typed ahead.
        tty.setraw(self._descriptor, termios.TCSANOW)

    def leave(self) -> None:
        """Put the terminal back as it was found."""
        termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)


@contextmanager
def handling(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], Any]]) -> Iterator[None]:
    """Signal handlers for the length of the block; a signal that the caller ignores stays ignored (nohup)."""
    before = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write(descriptor: int, data: bytes) -> None:
    """Write all of `data`, past Python's buffers; also to a descriptor that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
