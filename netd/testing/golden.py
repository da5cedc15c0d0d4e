"""Captures kept as text and compared: what passes must be what passed.

What differs from run to run becomes a symbol, numbered in the order of appearance: addresses, MACs,
ports that were chosen, and what TCP and IP number. Identifications, checksums and times are left out.
The lines are compared as a multiset, since frames at different points may overtake each other.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from netd.capture.ring import Frame
from netd.testing import dissect

EPHEMERAL = 32768
"""Ports from here on are chosen by kernels and mean nothing."""


class Symbols:
    """Gives the same value the same name, and names in the order of appearance."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Any], str] = {}
        self._numbers: Counter[str] = Counter()

    def name(self, kind: str, value: Any) -> str:
        """`ip1` for the first address, `ip2` for the second."""
        if (kind, value) not in self._known:
            self._numbers[kind] += 1
            self._known[kind, value] = f"{kind}{self._numbers[kind]}"
        return self._known[kind, value]

    def port(self, number: int) -> str:
        """A port that means something, or the symbol of one that was chosen."""
        return self.name("port", number) if number >= EPHEMERAL else str(number)


def lines(frames: Iterable[Frame]) -> list[str]:
    """One line for each frame, oldest first."""
    symbols = Symbols()
    return [_line(frame, symbols) for frame in frames]


def _line(frame: Frame, symbols: Symbols) -> str:
    packet = dissect.dissected(frame)
    words = [frame.point, "out" if frame.outgoing else "in"]
    words += [f"{symbols.name('mac', packet[Ether].src)}>{symbols.name('mac', packet[Ether].dst)}"]
    for layer in dissect.layers(packet):
        if (word := _word(layer, symbols)) is not None:
            words.append(word)
    return " ".join(words)


def _word(layer: Packet, symbols: Symbols) -> str | None:
    match layer:
        case Ether():
            return None
        case ARP():
            return f"arp op={layer.op} {symbols.name('ip', layer.psrc)}>{symbols.name('ip', layer.pdst)}"
        case IP():
            return f"ip {symbols.name('ip', layer.src)}>{symbols.name('ip', layer.dst)} ttl={layer.ttl}"
        case IPv6():
            return f"ip6 {symbols.name('ip', layer.src)}>{symbols.name('ip', layer.dst)} hlim={layer.hlim}"
        case TCP():
            ports = f"{symbols.port(layer.sport)}>{symbols.port(layer.dport)}"
            return f"tcp {ports} {layer.flags} {len(dissect.payload(layer))} bytes"
        case UDP():
            ports = f"{symbols.port(layer.sport)}>{symbols.port(layer.dport)}"
            return f"udp {ports} {len(dissect.payload(layer))} bytes"
    return type(layer).__name__


def compare(path: Path, found: list[str], *, update: bool) -> None:
    """Fail, with the difference, unless `found` are the lines of the file; write it with `update`."""
    __tracebackhide__ = True
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in found))
        return
    if not path.exists():
        raise AssertionError(f"there is no {path}; write it with --update-golden, and read it")
    wanted = path.read_text().splitlines()
    if Counter(wanted) != Counter(found):
        difference = difflib.unified_diff(wanted, found, str(path), "captured", lineterm="")
        raise AssertionError(
            "\n".join(["another capture than before (--update-golden accepts it):", *difference])
        )
