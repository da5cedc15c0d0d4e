"""Files as scapy's own reader understands them."""

from __future__ import annotations

import io

import pytest
from scapy.utils import PcapNgReader, rdpcap

from netd.capture.pcapng import Writer
from netd.capture.ring import Frame

DATA = bytes(range(61))
TIME = 1_700_000_000_123_456_789


def test_points_times_directions_and_comments() -> None:
    file = io.BytesIO()
    writer = Writer(file, ["web:eth0", "network:front"])
    writer.write(Frame("network:front", TIME, False, DATA, 1500))
    writer.write(Frame("web:eth0", TIME + 1, True, DATA[:60]), "dropped by forward")
    writer.statistics("web:eth0", TIME, 2, 1)
    reader = PcapNgReader(io.BytesIO(file.getvalue()))  # type: ignore[arg-type]
    first, second = list(reader)
    assert (bytes(first), bytes(second)) == (DATA, DATA[:60])
    assert (first.sniffed_on, second.sniffed_on) == ("network:front", "web:eth0")
    assert (first.wirelen, second.wirelen) == (1500, 60)
    assert (first.direction, second.direction) == (1, 2)
    assert first.time == pytest.approx(TIME / 1e9, abs=1e-9)
    assert second.comments == [b"dropped by forward"]


def test_a_reader_can_follow() -> None:
    """Each block is complete and flushed when it has been written."""
    file = io.BytesIO()
    writer = Writer(io.BufferedWriter(file), ["web:eth0"])
    for number in range(1, 4):
        writer.write(Frame("web:eth0", TIME, False, DATA))
        assert len(rdpcap(io.BytesIO(file.getvalue()))) == number
