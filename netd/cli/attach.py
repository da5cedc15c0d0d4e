"""One process of a container, tied to the caller's standard streams and signals.

Three things feed the one stream of messages to the daemon: a thread that reads standard input, and
the handlers of signals and of window changes. `Outgoing` puts them in order without a lock that a
signal handler could find taken. What comes back is written at once, and nothing is read ahead: a
reader of our output that is slow makes the daemon slow, and the container with it.

In raw mode Ctrl-C is a byte like any other, and a signal sent to us ends us. Otherwise a signal is the
container's; the third SIGINT or SIGTERM ends us nevertheless, as docker's client does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from queue import SimpleQueue
from types import FrameType
from typing import NoReturn

import click

from netd.api import netd_pb2 as pb
from netd.cli import terminal
from netd.errors import Unreachable

CHUNK = 32 * 1024
AHEAD = 8
"""Chunks of standard input that may wait to be sent."""

FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
PATIENCE = 3
"""The how-manieth SIGINT or SIGTERM ends the client."""

PIPE_GRACE = 2.0
"""Seconds that a process has to end by SIGPIPE when the reader of our output has gone."""

Start = Callable[[Iterable[pb.StreamInput]], Iterator[pb.StreamOutput]]


class Outgoing:
    """What goes to the daemon: the request, then input, window sizes and signals as they come."""

    def __init__(self, request: pb.StreamInput) -> None:
        self._queue: SimpleQueue[pb.StreamInput | None] = SimpleQueue()
        self._room = threading.Semaphore(AHEAD)
        self._queue.put(request)

    def __iter__(self) -> Iterator[pb.StreamInput]:
        while (message := self._queue.get()) is not None:
            yield message
            if message.WhichOneof("input") == "stdin":
                self._room.release()

    def close(self) -> None:
        """Send nothing more after what is queued."""
        self._queue.put(None)

    def signal(self, number: int) -> None:
        """Hand a signal to the process."""
        self._queue.put(pb.StreamInput(signal=signal.Signals(number).name))

    def resize(self) -> None:
        """Tell the process how large the caller's terminal is now."""
        self._queue.put(pb.StreamInput(resize=window()))

    def pump(self, descriptor: int) -> None:
        """Read `descriptor` to its end; run in a thread of its own."""
        while True:
            self._room.acquire()
            try:
                data = os.read(descriptor, CHUNK)
            except OSError:  # EIO: the terminal has hung up
                data = b""
            if not data:
                self._queue.put(pb.StreamInput(stdin_closed=True))
                return
            self._queue.put(pb.StreamInput(stdin=data))


def window() -> pb.WindowSize:
    """The size of the caller's terminal."""
    now = terminal.size()
    return pb.WindowSize(rows=now.lines, columns=now.columns)


def check_terminal(*, interactive: bool, tty: bool) -> None:
    """Refuse -it on an input that is no terminal: nothing could be typed, and scripts would hang."""
    if interactive and tty and not sys.stdin.isatty():
        raise click.ClickException("-t with -i needs a terminal, but standard input is none: leave out -t")


def attach(start: Start, request: pb.StreamInput, *, interactive: bool, tty: bool) -> int:
    """Start what `request` asks for and stay with it to its end; answer its exit code."""
    return _Session(Outgoing(request), interactive=interactive, raw=interactive and tty).run(start, request)


class _Session:
    def __init__(self, outgoing: Outgoing, *, interactive: bool, raw: bool) -> None:
        self._outgoing = outgoing
        self._interactive = interactive
        self._raw = raw
        self._begun = False
        self._asked = 0
        self._reader_gone = False
        self._screen: terminal.Raw | None = None

    def run(self, start: Start, request: pb.StreamInput) -> int:
        handlers = {**dict.fromkeys(FORWARDED, self._signalled), signal.SIGALRM: self._out_of_patience}
        with ExitStack() as stack:
            stack.enter_context(terminal.handling(handlers))
            stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
            stack.callback(self._outgoing.close)
            outputs = start(self._outgoing)
            if request.WhichOneof("input") == "exec":
                self._begin(stack)
            for output in outputs:
                match output.WhichOneof("output"):
                    case "started":
                        self._begin(stack)
                    case "stdout":
                        self._write(1, output.stdout)
                    case "stderr":
                        self._write(2, output.stderr)
                    case "exit":
                        return output.exit.code
        raise Unreachable("the daemon ended the stream early; the process may go on: see 'netd ps'")

    def _begin(self, stack: ExitStack) -> None:
        """Take over terminal and input. A run does so once it has started: a refused one eats no input."""
        if self._begun:
            return
        self._begun = True
        if self._raw:
            self._screen = screen = terminal.Raw(0)
            stack.enter_context(screen)
            resumed = {signal.SIGWINCH: self._resized, signal.SIGCONT: lambda *_: self._resumed(screen)}
            stack.enter_context(terminal.handling(resumed))
            self._outgoing.resize()
        if self._interactive:
            threading.Thread(target=self._outgoing.pump, args=(0,), daemon=True).start()

    def _resized(self, number: int, frame: FrameType | None) -> None:
        self._outgoing.resize()

    def _resumed(self, screen: terminal.Raw) -> None:
        screen.enter()
        self._outgoing.resize()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if number in (signal.SIGINT, signal.SIGTERM):
            self._asked += 1
        if self._raw or self._asked >= PATIENCE:
            self._leave(128 + number)
        self._outgoing.signal(number)

    def _write(self, descriptor: int, data: bytes) -> None:
        if self._reader_gone:
            return
        try:
            terminal.write(descriptor, data)
        except BrokenPipeError:
            # Without us between them, the process itself would meet the closed pipe now.
            self._reader_gone = True
            self._outgoing.signal(signal.SIGPIPE)
            signal.setitimer(signal.ITIMER_REAL, PIPE_GRACE)

    def _out_of_patience(self, number: int, frame: FrameType | None) -> None:
        """The process does not mind the closed pipe: leave it running, nobody reads it any more."""
        self._leave(128 + signal.SIGPIPE)

    def _leave(self, code: int) -> NoReturn:
        """End the client, from a signal handler.

        Not by an exception: it would come up wherever the main thread is, and gRPC's waiting is not made for
        that (a lock may be let go of that was never taken).
        """
        if self._screen is not None:
            self._screen.leave()
        os._exit(code)
