"""What is kept of a test that failed: the packets of all points, which way each went, and what the host's
rules had to go by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from netd.errors import NetdError
from netd.testing import hops
from netd.testing.capture import Capture
from netd.testing.lab import Lab

ELEMENTS = 500
"""Elements that are listed at most."""

Section = tuple[str, str]
"""A title and a text of pytest's report."""


def stem(test: str) -> str:
    """A file name for a test."""
    return re.sub(r"[^a-zA-Z0-9_.-]+", "-", test).strip("-")


def keep_packet(directory: Path, test: str) -> list[Section]:
    """Write the packet that a test drew last, if it drew one, and answer the section of the report."""
    from scapy.utils import wrpcap

    from netd.testing.strategies import last

    if not last:
        return []
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{stem(test)}-packet.pcap"
    wrpcap(str(path), last)
    return [("netd packet", f"{path}\n{last[0].show(dump=True)}")]


def keep(lab: Lab, directory: Path, test: str) -> list[Section]:
    """Write the captures of the lab below `directory` and answer the sections of the report."""
    return list(_sections(lab, directory / stem(test)))


def _sections(lab: Lab, path: Path) -> Iterator[Section]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if lab.recorder:
        yield "netd hops", _written(lab.recorder, path.with_name(f"{path.name}.pcapng"))
    for number, capture in enumerate(lab.captures, 1):
        name = path.with_name(f"{path.name}-{number}.pcapng")
        yield f"netd capture {number}", _written(capture, name)
    for number, trace in enumerate(lab.traces, 1):
        yield f"netd trace {number}", str(trace)
    yield "netd elements", _elements(lab)


def _written(capture: Capture, path: Path) -> str:
    """Write a capture; answers where, its hop table, and what is missing in it."""
    remarks = []
    try:
        capture.drain()
    except NetdError as error:
        remarks.append(str(error))
    remarks += [f"{count} frames were lost at {point}" for point, count in capture.lost.items()]
    capture.write(path)
    return "\n".join([str(path), hops.table(capture.frames()), *remarks])


def _elements(lab: Lab) -> str:
    """The elements of the host's sets and maps, with the interfaces named as the test does."""
    try:
        lines = lab.elements()
        known = lab.host_interfaces()
    except NetdError as error:
        return f"not to be had: {error}"
    found = []
    for line in lines[:ELEMENTS]:
        meant = [known[word] for word in line.split() if word in known]
        found.append(f"{line}  # {', '.join(meant)}" if meant else line)
    if len(lines) > ELEMENTS:
        found.append(f"and {len(lines) - ELEMENTS} more")
    return "\n".join(found)
