"""The hop table: which way each packet went, point by point, and what became of it there; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from scapy.layers.vxlan import VXLAN

from netd.capture.ring import Frame
from netd.capture.summary import line
from netd.testing import dissect

PACKETS = 200
"""Packets that are listed at most; the captures have all of them."""


def journeys(frames: Iterable[Frame]) -> list[list[Frame]]:
    """The frames of each packet, known again across routers, address translation and VXLAN, in the order
    of time; the packets in the order in which they were first seen."""
    found: dict[object, list[Frame]] = {}
    for frame in sorted(frames, key=lambda each: each.time):
        found.setdefault(dissect.key(dissect.dissected(frame)), []).append(frame)
    return [in_order(journey) for journey in found.values()]


def in_order(frames: Iterable[Frame]) -> list[Frame]:
    """The frames of one packet as it travelled, which around a tunnel their times alone do not tell.

    What comes out of a tunnel may keep the time of what carried it. And a bridge sends a packet on, into the
    tunnel at once, before it takes its own copy (br_handle_frame_finish in net/bridge/br_input.c).
    """
    ordered = sorted(frames, key=lambda each: (each.time, -len(each.data)))
    for bridge in dict.fromkeys(each.point for each in ordered if each.point.startswith("network:")):
        host = bridge.partition("@")[2]
        copies = [each for each in ordered if each.point == bridge]
        carried = [each for each in ordered if each.outgoing and _carries(each, host)]
        for copy, carrier in zip(copies, carried, strict=False):
            if ordered.index(copy) > ordered.index(carrier):
                ordered.remove(copy)
                ordered.insert(ordered.index(carrier), copy)
    return ordered


def _carries(frame: Frame, host: str) -> bool:
    """Whether it is on an interface of `host`, with a packet of a tunnel inside."""
    owner, _, at = frame.point.partition("@")
    return owner.startswith("host:") and at == host and VXLAN in dissect.dissected(frame)


def table(frames: Iterable[Frame]) -> str:
    """A packet, and beneath it where it passed, after how long, which way, and as what."""
    listed = journeys(frames)
    lines = [text for journey in listed[:PACKETS] for text in _journey(journey)]
    if len(listed) > PACKETS:
        lines.append(f"and {len(listed) - PACKETS} more packets")
    return "\n".join(lines)


def _journey(frames: list[Frame]) -> Iterator[str]:
    width = max(len(frame.point) for frame in frames)
    before = ""
    yield line(frames[0]).partition(" ")[0]
    for frame in frames:
        later = (frame.time - frames[0].time) / 1e6
        # "12:30:01.123456 web:eth0 > 10.89.0.2:7 10.89.0.3:9 udp 42 bytes"
        _, _, _, what = line(frame).split(" ", 3)
        shown = what if what != before else '"'
        way = "out" if frame.outgoing else "in"
        yield f"  +{later:.3f} ms  {frame.point:<{width}} {way:<3} {shown}"
        before = what
