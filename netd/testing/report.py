"""What is kept of a test that failed: its captures as pcapng, and every frame on a line in the report."""

from __future__ import annotations

import re
from pathlib import Path

from netd.testing.lab import Lab


def stem(test: str) -> str:
    """A file name for a test."""
    return re.sub(r"[^a-zA-Z0-9_.-]+", "-", test).strip("-")


def keep_packet(directory: Path, test: str) -> list[tuple[str, str]]:
    """Write the packet that a test drew last, if it drew one, and answer the section of the report."""
    from scapy.utils import wrpcap

    from netd.testing.strategies import last

    if not last:
        return []
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{stem(test)}-packet.pcap"
    wrpcap(str(path), last)
    return [("netd packet", f"{path}\n{last[0].show(dump=True)}")]


def keep(lab: Lab, directory: Path, test: str) -> list[tuple[str, str]]:
    """Write the captures of the lab below `directory` and answer the sections of the report."""
    sections = []
    for number, capture in enumerate(lab.captures, 1):
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{stem(test)}-{number}.pcapng"
        capture.write(path)
        lost = "".join(f"\n    {count} frames were lost at {point}" for point, count in capture.lost.items())
        sections.append((f"netd capture {number}", f"{path}\n{capture.table()}{lost}"))
    return sections
