"""What a test says about the packets that passed: `lab.sniff()` gives a `Capture`.

Every assertion first drains the capture (`netd.capture.recorder`), so it speaks of all that was sent
until then, inside the `with` block as well as after it. "Nothing was seen" is only said of a capture
that lost nothing; else the assertion fails as `Inconclusive`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from scapy.packet import Packet

from netd.capture.pcapng import Writer
from netd.capture.points import Point
from netd.capture.recorder import Recorder
from netd.capture.ring import BLOCKS, Frame
from netd.testing import dissect, golden, hops

SHOWN = 20
"""Frames that a failure lists at most."""


class Inconclusive(AssertionError):
    """Frames were lost, so nothing can be said of what was not seen."""


def seconds(time: float | str) -> float:
    """0.2, "200ms" or "3s" in seconds. Raises ValueError."""
    if not isinstance(time, str):
        return float(time)
    found = re.fullmatch(r"([0-9.]+)\s*(us|ms|s)", time.strip())
    if not found:
        raise ValueError(f"{time!r} is no time: write a number with us, ms or s, like 200ms")
    return float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[found[2]]


class Capture:
    """The frames of some points, in the order of the kernel's time stamps."""

    def __init__(
        self,
        points: Sequence[Point],
        names: Mapping[str, str],
        filter: str = "",
        *,
        blocks: int = BLOCKS,
        latest: int | None = None,
    ) -> None:
        """`names` maps the daemon's names of points to those that the test uses. `blocks` is the room of the
        recorder, and `latest` how many frames are kept, if not all."""
        self._names = names
        self._frames: deque[Frame] = deque(maxlen=latest)
        self.points = [names.get(point.name, point.name) for point in points]
        self.lost: dict[str, int] = {}
        self.golden_in = Path("golden")
        self.update_golden = False
        self._recorder: Recorder | None = Recorder(points, self._take, filter, blocks=blocks)

    def _take(self, frame: Frame) -> None:
        name = self._names.get(frame.point, frame.point)
        self._frames.append(
            Frame(name, frame.time, frame.outgoing, frame.data, frame.length, frame.checksum_ready)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.drain()
        finally:
            self.close()

    def drain(self) -> None:
        """Return when everything that was sent before has been seen."""
        if self._recorder:
            self._recorder.drain()
            self._note(self._recorder.drops())

    def close(self) -> None:
        """Stop listening."""
        if self._recorder:
            self._note(self._recorder.close())
            self._recorder = None

    def _note(self, lost: Mapping[str, int]) -> None:
        self.lost = {self._names.get(point, point): number for point, number in lost.items()}

    # Looking --------------------------------------------------------------------------------------

    def frames(self, at: str = "*") -> list[Frame]:
        """The frames of the points that `at` names ("web:*"), oldest first. Raises ValueError for none."""
        if not any(fnmatchcase(point, at) for point in self.points):
            raise ValueError(f"{at!r} is not captured; there are: {', '.join(self.points)}")
        found = [frame for frame in self._frames if fnmatchcase(frame.point, at)]
        return sorted(found, key=lambda frame: frame.time)

    def matching(self, template: Packet, at: str = "*") -> list[Frame]:
        """The frames that match the template, oldest first."""
        return [
            frame for frame in self.frames(at) if not dissect.differences(template, dissect.dissected(frame))
        ]

    def packets(self, at: str = "*") -> list[Packet]:
        """The frames as scapy packets, oldest first."""
        self.drain()
        return [dissect.dissected(frame) for frame in self.frames(at)]

    # Saying ---------------------------------------------------------------------------------------

    def assert_seen(
        self,
        template: Packet,
        at: str = "*",
        *,
        changed: Mapping[str, Any] | None = None,
        within: float | str | None = None,
        count: int | None = None,
    ) -> Packet:
        """A packet like `template` passed at `at`; the first one is the answer.

        `changed` says what has become of the template's fields on the way: `{"ttl": -1}`,
        `{"dst": "10.0.0.2"}`. `within` is the longest time since it was first seen anywhere, and `count`
        exactly how many there must be.
        """
        __tracebackhide__ = True
        self.drain()
        wanted = dissect.changed(template, changed) if changed else template
        what = dissect.described(wanted)
        found = self.matching(wanted, at)
        if not found:
            raise AssertionError(f"not seen at {at}: {what}\n{self._nearest(wanted, at)}")
        if count is not None and len(found) != count:
            self._refuse_if_lossy(at)
            raise AssertionError(
                f"seen {len(found)} times at {at} instead of {count}: {what}\n{_listed(found)}"
            )
        if within is not None:
            first = min(frame.time for frame in [*self.matching(template), *found])
            late = (found[0].time - first) / 1e9
            if late > seconds(within):
                raise AssertionError(f"seen at {at} after {late * 1000:.3f} ms, not within {within}: {what}")
        return dissect.dissected(found[0])

    def assert_none(self, template: Packet, at: str = "*") -> None:
        """No packet like `template` passed at `at`. Raises `Inconclusive` if frames were lost there."""
        __tracebackhide__ = True
        self.drain()
        found = self.matching(template, at)
        if found:
            raise AssertionError(
                f"seen {len(found)} times at {at}, not never: {dissect.described(template)}\n{_listed(found)}"
            )
        self._refuse_if_lossy(at)

    def _refuse_if_lossy(self, at: str) -> None:
        __tracebackhide__ = True
        lost = {point: number for point, number in self.lost.items() if fnmatchcase(point, at)}
        if lost:
            what = ", ".join(f"{number} at {point}" for point, number in lost.items())
            raise Inconclusive(
                f"frames were lost ({what}): that none was seen does not mean that none passed"
            )

    def _nearest(self, template: Packet, at: str) -> str:
        """The frame that differs least, and in what."""
        found = [(dissect.differences(template, dissect.dissected(f)), f) for f in self.frames(at)]
        if not found:
            elsewhere = sorted({frame.point for frame in self.matching(template)})
            more = f"; it was seen at {', '.join(elsewhere)}" if elsewhere else ""
            return f"nothing at all was seen there{more}"
        wrong, nearest = min(found, key=lambda each: len(each[0]))
        return "\n".join([f"nearest of {len(found)}: {_line(nearest)}", *(f"    {each}" for each in wrong)])

    def path(self, packet: Packet) -> list[str]:
        """The points that one packet passed, in order: through routers, address translation and VXLAN.

        The first frame like `packet` is followed. A point that comes twice has seen two copies.
        """
        self.drain()
        found = self.matching(packet)
        if not found:
            raise AssertionError(
                f"not seen anywhere: {dissect.described(packet)}\n{self._nearest(packet, '*')}"
            )
        wanted = dissect.key(dissect.dissected(found[0]))
        followed = [f for f in self.frames() if dissect.key(dissect.dissected(f)) == wanted]
        return [frame.point for frame in hops.in_order(followed)]

    def golden(self, name: str, at: str = "*") -> None:
        """Compare the frames, made independent of addresses and times, with the file `name` in the directory
        `golden` beside the test. `--update-golden` writes it. Raises `Inconclusive` if frames were lost."""
        __tracebackhide__ = True
        self.drain()
        self._refuse_if_lossy(at)
        golden.compare(self.golden_in / name, golden.lines(self.frames(at)), update=self.update_golden)

    def write(self, path: str | Path, comment: Callable[[Frame], str] = lambda frame: "") -> None:
        """Keep the frames as pcapng, with an interface block for each point."""
        with Path(path).open("wb") as file:
            writer = Writer(file, self.points)
            for frame in self.frames():
                writer.write(frame, comment(frame))

    def table(self) -> str:
        """Every frame on a line: when, where, which way, what."""
        return _listed(self.frames(), limit=1000)


def _line(frame: Frame) -> str:
    way = "out" if frame.outgoing else "in "
    return f"{frame.time / 1e9:.6f} {frame.point:<16} {way} {dissect.dissected(frame).summary()}"


def _listed(frames: Sequence[Frame], limit: int = SHOWN) -> str:
    lines = [f"    {_line(frame)}" for frame in frames[:limit]]
    if len(frames) > limit:
        lines.append(f"    and {len(frames) - limit} more")
    return "\n".join(lines)
