"""Pushes against many walls at once, for as long as something is done to them.

    prober.py ask SECONDS TARGET ...     ask all at once, print JSON {target: answered}
    prober.py push PERIOD TARGET ...     knock at each target every PERIOD seconds until standard input
                                         ends; print JSON {target: [knocks, answers, silence]}, the last
                                         being how many knocks there were since the last answer

A target is "tcp,ADDRESS,PORT", "udp,ADDRESS,PORT" or "icmp,ADDRESS,0". Standard library only. A TCP
knock is a connection that is made and dropped; what counts as its answer is that it came about. Datagrams
are numbered, and who answers sends the number back: none counts twice.
"""

import contextlib
import errno
import json
import os
import selectors
import socket
import struct
import sys
import threading
import time

SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
KNOCKS_PER_CONNECTION = 5  # a SYN is repeated by the kernel, so TCP knocks are rarer than datagrams

LAST_ANSWERS = 0.5
"""Seconds that are waited for the answers to what was sent last."""


class Door:
    """One target and who stands before it."""

    def __init__(self, target: str, events: selectors.BaseSelector) -> None:
        kind, self.address, port = target.split(",")
        self.kind, self.port = kind, int(port)
        self.family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self.knocks = self.answers = self.silence = self._skipped = 0
        self._events = events
        self._socket: socket.socket | None = None
        self._waiting: set[bytes] = set()
        self._id = int.from_bytes(os.urandom(2), "big")

    def knock(self) -> None:
        if self.kind == "tcp":
            if self._socket and self._skipped < KNOCKS_PER_CONNECTION:
                self._skipped += 1
                return
            self._skipped = 0
            self._close()
        self.knocks += 1
        self.silence += 1
        try:
            if self._socket is None:
                self._open()
            if self.kind != "tcp":
                assert self._socket is not None
                self._socket.send(self._number() if self.kind == "udp" else self._echo_request())
        except OSError:
            self._close()

    def _open(self) -> None:
        if self.kind == "icmp":
            protocol = socket.IPPROTO_ICMPV6 if self.family == socket.AF_INET6 else socket.IPPROTO_ICMP
            s = socket.socket(self.family, socket.SOCK_RAW, protocol)
        else:
            s = socket.socket(self.family, socket.SOCK_STREAM if self.kind == "tcp" else socket.SOCK_DGRAM)
            if self.kind == "udp":  # who waits for a processor is to lose nothing
                s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        s.setblocking(False)
        self._socket = s
        if (code := s.connect_ex((self.address, self.port))) not in (0, errno.EINPROGRESS):
            raise OSError(code, "")
        wait = selectors.EVENT_WRITE if self.kind == "tcp" else selectors.EVENT_READ
        self._events.register(s, wait, self)

    def _close(self) -> None:
        if self._socket:
            with contextlib.suppress(KeyError):
                self._events.unregister(self._socket)
            self._socket.close()
        self._socket = None

    def _number(self) -> bytes:
        number = b"%08d" % self.knocks
        self._waiting.add(number)
        return number

    def _echo_request(self) -> bytes:
        kind = 128 if self.family == socket.AF_INET6 else 8  # for ICMPv6 the kernel adds the checksum
        words = (kind << 8, 0, self._id, 1)
        total = sum(words)
        total = (total & 0xFFFF) + (total >> 16)
        return struct.pack(">4H", kind << 8, 0 if kind == 128 else ~total & 0xFFFF, self._id, 1)

    def hear(self) -> None:
        before = self.answers
        self._hear()
        if self.answers > before:
            self.silence = 0

    def _hear(self) -> None:
        assert self._socket is not None
        try:
            if self.kind == "tcp":
                self.answers += self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                self._close()
                return
            data = self._socket.recv(2048)
        except BlockingIOError:
            return
        except OSError:
            self._close()
            return
        if self.kind == "icmp":
            if self.family == socket.AF_INET:
                data = data[(data[0] & 15) * 4 :]
            kind, _, _, id, _ = struct.unpack_from(">BBHHH", data)
            self.answers += kind in (0, 129) and id == self._id
        elif (number := data[-8:]) in self._waiting:
            self._waiting.remove(number)
            self.answers += 1


def until_stdin_ends() -> threading.Event:
    over = threading.Event()

    def read() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=read, daemon=True).start()
    return over


def hear(events: selectors.BaseSelector, until: float) -> None:
    while (left := until - time.monotonic()) > 0:
        for key, _ in events.select(left):
            key.data.hear()


def ask(seconds: str, *targets: str) -> None:
    events = selectors.DefaultSelector()
    doors = {target: Door(target, events) for target in targets}
    deadline = time.monotonic() + float(seconds)
    for again in (0.0, 0.1, 0.5):  # the first packets may wait for a neighbour to be resolved
        for door in doors.values():
            if not door.answers and (again == 0.0 or door.kind != "tcp"):
                door.knock()
        hear(events, min(deadline, time.monotonic() + (again or 0.05)))
    while time.monotonic() < deadline and not all(door.answers for door in doors.values()):
        hear(events, min(deadline, time.monotonic() + 0.05))
    print(json.dumps({target: door.answers > 0 for target, door in doors.items()}))


def push(period: str, *targets: str) -> None:
    events = selectors.DefaultSelector()
    doors = {target: Door(target, events) for target in targets}
    over = until_stdin_ends()
    print("ready", flush=True)
    while not over.is_set():
        began = time.monotonic()
        for door in doors.values():
            door.knock()
        hear(events, began + float(period))
    hear(events, time.monotonic() + LAST_ANSWERS)
    counts = {target: [door.knocks, door.answers, door.silence] for target, door in doors.items()}
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    {"ask": ask, "push": push}[sys.argv[1]](*sys.argv[2:])
