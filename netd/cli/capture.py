"""`netd capture`: packets of containers, networks and the host, as pcapng or a line each."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from netd.cli.options import connected, container_names, socket_option
from netd.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from netd.capture.points import Point
    from netd.capture.recorder import Recorder
    from netd.capture.ring import Frame


@click.command(short_help="Record packets of containers and networks.")
@click.argument("targets", metavar="TARGET[,TARGET...]", shell_complete=container_names)
@click.argument("filter", nargs=-1, metavar="[FILTER...]")
@click.option("--write", "-w", "output", metavar="FILE", help="Write pcapng to FILE, or to stdout for '-'.")
@click.option("--count", "-c", type=click.IntRange(min=1), metavar="N", help="End after N packets.")
@socket_option
def capture(targets: str, filter: Sequence[str], output: str | None, count: int | None) -> None:
    """Record packets until Ctrl-C, and say at the end how many there were and how many were lost.

    TARGET is an interface of a container ("web:eth0"), all of them ("web"), the bridge of a network
    ("network:front") or an interface of the host ("host:eth0"). FILTER is of tcpdump's syntax. Without -w
    one line a packet is printed. Live into Wireshark:

    \b
        netd capture web -w - | wireshark -k -i -
    """
    wanted = tuple(target for target in targets.split(",") if target)
    record([Wish(Path(connected().path), wanted, " ".join(filter))], output, count)


@dataclass(frozen=True, slots=True)
class Wish:
    """Targets, as the daemon whose API is at `api` calls them, and what of their packets is wanted; `called`
    gives the points the names that are shown."""

    api: Path
    targets: tuple[str, ...]
    filter: str = ""
    called: Callable[[str], str] = str


def record(wishes: Sequence[Wish], output: str | None, count: int | None) -> None:
    """Record what is wished for until it is enough."""
    from netd.capture import points
    from netd.capture.recorder import Recorder

    with ExitStack() as stack:
        file = stack.enter_context(_opened(output))
        found: list[list[Point]] = []
        for wish in wishes:
            found.append(points.listening(points.beside(wish.api), wish.targets))
            for point in found[-1]:
                point.name = wish.called(point.name)
        names = list(dict.fromkeys(point.name for group in found for point in group))
        written = _Output(file, names, count or 0)
        recorders = [
            Recorder(group, written.frame, wish.filter) for group, wish in zip(found, wishes, strict=True)
        ]
        print(f"recording {', '.join(names)}; Ctrl-C ends it", file=sys.stderr, flush=True)
        _wait(written.over)
        incomplete: Unavailable | None = None
        if not written.full:
            # The kernel hands packets over in blocks: the last ones before Ctrl-C are still in its hands.
            incomplete = next(filter(None, [_drain(each) for each in recorders]), None)
        seen, lost = Counter[str](), Counter[str]()
        for recorder in recorders:
            seen.update(recorder.counts())
            lost.update(recorder.close())
        written.end(seen, lost)
    counted = f"{written.count} packet{'' if written.count == 1 else 's'} recorded, {sum(lost.values())} lost"
    print(counted, *(f"{number} at {name}" for name, number in lost.items()), sep="; ", file=sys.stderr)
    if incomplete:
        raise incomplete
    if written.trouble and not isinstance(written.trouble, BrokenPipeError):
        raise Invalid(f"cannot write {output or 'to standard output'}: {written.trouble.strerror}")


class _Output:
    """Where frames go, on the recorders' threads; `over` is set when there is no more to do."""

    def __init__(self, file: BinaryIO | None, names: Sequence[str], limit: int) -> None:
        from netd.capture import summary
        from netd.capture.pcapng import Writer

        self.over = threading.Event()
        self.trouble: OSError | None = None
        self.count = 0
        self._limit = limit
        self._writing = threading.Lock()
        self._line = summary.line
        self._writer = Writer(file, names) if file else None

    @property
    def full(self) -> bool:
        """Whether nothing more will be written: the limit is reached, or writing failed."""
        return self.trouble is not None or self.count == self._limit > 0

    def frame(self, frame: Frame) -> None:
        """Write one frame, unless there are enough or nobody wants more."""
        with self._writing:
            self._frame(frame)

    def _frame(self, frame: Frame) -> None:
        if self.full:
            return
        try:
            if self._writer:
                self._writer.write(frame)
            else:
                print(self._line(frame), flush=True)
        except OSError as error:  # a full disk; or whoever watched has seen enough
            self.trouble = error
            self.over.set()
            return
        self.count += 1
        if self.count == self._limit:
            self.over.set()

    def end(self, seen: Mapping[str, int], lost: Mapping[str, int]) -> None:
        """Write what was counted at each point."""
        if self._writer and not self.trouble:
            for name in seen:
                self._writer.statistics(name, time.time_ns(), seen[name], lost.get(name, 0))


def _drain(recorder: Recorder) -> Unavailable | None:
    """Take what is still under way; what was recorded is kept also where that cannot be known."""
    try:
        recorder.drain()
    except Unavailable as error:
        return error
    return None


def _wait(over: threading.Event) -> None:
    """Until `over`, Ctrl-C or SIGTERM, which all are good ends."""
    before = signal.signal(signal.SIGTERM, lambda *_: over.set())
    try:
        over.wait()
    except KeyboardInterrupt:
        over.set()
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _opened(output: str | None) -> Iterator[BinaryIO | None]:
    if output is None:
        yield None
    elif output == "-":
        if sys.stdout.isatty():
            raise click.UsageError("-w - writes binary data: redirect it, or leave -w out to read along")
        yield sys.stdout.buffer
    else:
        try:
            file = open(output, "wb")  # noqa: SIM115, PTH123  (closed below)
        except OSError as error:
            raise Invalid(f"cannot write {output!r}: {error.strerror}") from error
        with file:
            yield file
