"""A flood from one container must not cost its neighbours their answers.

All clients of a network share one socket and its queue. Whoever sends faster than we answer fills the
queue, and then everybody's packets are dropped in proportion. So when the queue fills we look who it
is, and have the kernel drop most of that client's packets before they reach the queue: a classic BPF
filter on the socket that lets a random part of them through. Attaching one needs no privilege, and
the work of dropping is done while the sender sends, on the sender's time.

A closed-loop client, however fast, never fills the queue, and is never thinned.
"""

from __future__ import annotations

import logging
import socket
import time
from array import array
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from struct import Struct

from netd_dns.counters import Counters
from netd_dns.loop import Loop

log = logging.getLogger(__name__)

CALM = 20_000
"""Questions a second to which a flooding client is held."""
FULL = 0.6
"""How full the queue is when we begin to look. Sampling must be over before it overflows."""
SAMPLE = 192
"""Packets looked at; the heaviest source of them is thinned if it sent more than half."""
FIRST_PART = 1 / 16
"""What is let through of a flood whose size is not known yet."""
LOOK_EVERY = 0.2
SOURCES_MOST = 8

# Not in Python's socket module; include/uapi/asm-generic/socket.h, linux/sock_diag.h, linux/filter.h.
SO_ATTACH_FILTER = 26
SO_DETACH_FILTER = 27
SO_MEMINFO = 55
_MEMINFO = Struct("=9I")
_LOAD_WORD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_INSTRUCTION = Struct("=HBBI")
_PROGRAM = Struct("@HP")


def program(parts: Mapping[str, float]) -> list[tuple[int, int, int, int]]:
    """The filter that lets `parts[source]` of each source's packets through, and all of the others'.

    Instructions are (code, jump if true, jump if false, operand); addresses of one family only.
    """
    code: list[tuple[int, int, int, int]] = []
    for source, part in parts.items():
        address = ip_address(source.partition("%")[0]).packed
        start = 12 if len(address) == 4 else 8  # where the source address lies in the IP header
        words = [int.from_bytes(address[at : at + 4], "big") for at in range(0, len(address), 4)]
        left = len(words) * 2 + 4
        for index, word in enumerate(words):
            code.append((_LOAD_WORD, 0, 0, _NETWORK_HEADER + start + 4 * index))
            left -= 2
            code.append((_JUMP_EQUAL, 0, left, word))
        code.append((_LOAD_WORD, 0, 0, _RANDOM))
        code.append((_JUMP_GREATER_EQUAL, 0, 1, int(part * 0xFFFFFFFF)))
        code.append((_RETURN, 0, 0, 0))
        code.append((_RETURN, 0, 0, 0xFFFFFFFF))
    code.append((_RETURN, 0, 0, 0xFFFFFFFF))
    return code


def attach(sock: socket.socket, code: Iterable[tuple[int, int, int, int]]) -> None:
    """Let `code` judge every packet before it is queued in `sock`; replaces what judged before."""
    packed = array("B", b"".join(_INSTRUCTION.pack(*instruction) for instruction in code))
    address, length = packed.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _PROGRAM.pack(length // _INSTRUCTION.size, address))


def detach(sock: socket.socket) -> None:
    """Let every packet in. A filter of a server that died may still be there."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


class Guard:
    """Watches the queue of one UDP socket.

    `heard` counts packets by source while there is a reason to; the receive loop fills it.
    """

    def __init__(self, sock: socket.socket, loop: Loop, counters: Counters) -> None:
        self.heard: dict[str, int] | None = None
        self._socket = sock
        self._loop = loop
        self._counters = counters
        self._parts: dict[str, float] = {}
        self._began = 0.0
        detach(sock)

    def pressed(self) -> None:
        """The receive loop took all it may in a turn, so more may be waiting."""
        memory = _MEMINFO.unpack(self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size))
        if memory[0] < memory[1] * FULL:
            if not self._parts:
                self.heard = None
            return
        if self.heard is None:
            self.heard = {}
            return
        total = sum(self.heard.values())
        if total < SAMPLE:
            return
        source = max(self.heard, key=self.heard.__getitem__)
        if self.heard[source] * 2 > total and len(self._parts) < SOURCES_MOST:
            self._thin(source)
        self.heard = {}

    def _thin(self, source: str) -> None:
        if not self._parts:
            self._began = time.monotonic()
            self._loop.after(LOOK_EVERY, self._look)
        if source not in self._parts:
            log.warning("%s floods the DNS; most of its questions are dropped until it calms down", source)
        self._counters.drop("flood")
        self._parts[source] = self._parts.get(source, 2 * FIRST_PART) / 2
        attach(self._socket, program(self._parts))

    def _look(self) -> None:
        """Let through as much of each flood as is bearable; all of it when it is over."""
        now = time.monotonic()
        heard, self.heard = self.heard or {}, {}
        seconds, self._began = now - self._began, now
        for source, part in list(self._parts.items()):
            offered = heard.get(source, 0) / part / seconds
            part = CALM / max(offered, 1.0)
            if part >= 0.5:
                del self._parts[source]
                log.info("%s no longer floods the DNS", source)
            else:
                self._parts[source] = part
        if self._socket.fileno() < 0:
            return
        if self._parts:
            attach(self._socket, program(self._parts))
            self._loop.after(LOOK_EVERY, self._look)
        else:
            self.heard = None
            detach(self._socket)
