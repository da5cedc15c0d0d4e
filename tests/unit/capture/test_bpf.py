"""Filters, compiled by libpcap and run by the kernel on a socket pair."""

from __future__ import annotations

import ctypes
import socket

import pytest

from netd.capture import bpf
from netd.errors import Invalid, Unsupported


def passed(expression: str, *frames: bytes) -> list[bytes]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        bpf.attach(there, bpf.compiled(expression))
        there.setblocking(False)
        found = []
        for frame in frames:
            try:
                here.send(frame)
                found.append(there.recv(2048))
            except OSError:  # EPERM or nothing to read: the filter took it
                continue
        return found


def test_the_kernel_understands_what_libpcap_compiled() -> None:
    arp, ip = bytes(12) + b"\x08\x06" + bytes(46), bytes(12) + b"\x08\x00" + bytes(46)
    assert passed("arp", arp, ip) == [arp]
    assert passed("not arp", arp, ip) == [ip]


@pytest.mark.parametrize("expression", ["prot udp", "udp port", "port 70000", "ip\0"])
def test_a_wrong_filter_is_named(expression: str) -> None:
    with pytest.raises(Invalid, match="filter '"):
        bpf.compiled(expression)


def test_without_libpcap(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise OSError("not found")

    bpf._libpcap.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", none)
    with pytest.raises(Unsupported, match=r"libpcap0\.8"):
        bpf.compiled("ip")
