"""Writes pcapng (draft-ietf-opsawg-pcapng): one interface block for each point, one packet block a frame.

Everything is in the byte order of this machine, which the section header tells the reader.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import BinaryIO

import netd
from netd.capture.ring import Frame

SECTION, INTERFACE, PACKET, STATISTICS = 0x0A0D0D0A, 1, 6, 5
BYTE_ORDER = 0x1A2B3C4D
LINKTYPE_ETHERNET = 1
OPT_COMMENT, SHB_USERAPPL, IF_NAME, IF_TSRESOL, EPB_FLAGS = 1, 4, 2, 9, 2
ISB_IFRECV, ISB_IFDROP = 4, 5
INBOUND, OUTBOUND = 1, 2


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes, *options: bytes) -> bytes:
    listed = b"".join(options)
    if listed:
        listed += struct.pack("=HH", 0, 0)
    length = 12 + len(body) + len(listed)
    return struct.pack("=II", kind, length) + body + listed + struct.pack("=I", length)


class Writer:
    """Writes the head on construction, then what it is given, and flushes each: a reader may be waiting."""

    def __init__(self, file: BinaryIO, points: Iterable[str]) -> None:
        self._file = file
        self._numbers: dict[str, int] = {}
        program = _option(SHB_USERAPPL, f"netd {netd.__version__}".encode())
        self._file.write(_block(SECTION, struct.pack("=IHHq", BYTE_ORDER, 1, 0, -1), program))
        for name in points:
            self._numbers[name] = len(self._numbers)
            body = struct.pack("=HHI", LINKTYPE_ETHERNET, 0, 0)
            named = _option(IF_NAME, name.encode())
            self._file.write(_block(INTERFACE, body, named, _option(IF_TSRESOL, b"\x09")))
        self._file.flush()

    def write(self, frame: Frame, comment: str = "") -> None:
        """One frame of one of the points."""
        data, length = frame.data, frame.length or len(frame.data)
        high, low = frame.time >> 32, frame.time & 0xFFFFFFFF
        body = struct.pack("=IIIII", self._numbers[frame.point], high, low, len(data), length)
        flags = struct.pack("=I", OUTBOUND if frame.outgoing else INBOUND)
        options = [_option(EPB_FLAGS, flags)]
        if comment:
            options.append(_option(OPT_COMMENT, comment.encode()))
        self._file.write(_block(PACKET, body + data + bytes(-len(data) % 4), *options))
        self._file.flush()

    def statistics(self, point: str, time: int, seen: int, lost: int) -> None:
        """What was seen and lost at one point up to `time`, nanoseconds since the epoch."""
        body = struct.pack("=III", self._numbers[point], time >> 32, time & 0xFFFFFFFF)
        counted = (_option(ISB_IFRECV, struct.pack("=Q", seen)), _option(ISB_IFDROP, struct.pack("=Q", lost)))
        self._file.write(_block(STATISTICS, body, *counted))
        self._file.flush()
