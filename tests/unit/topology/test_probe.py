"""Questions asked over loopback; what needs other namespaces is in tests/e2e/test_topologies.py."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from netd.topology.probe import Answer, Target, address, ask

LOOPBACK = ["127.0.0.1", "::1"]


def family(text: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in text else socket.AF_INET


@contextmanager
def bound(text: str, kind: socket.SocketKind) -> Iterator[socket.socket]:
    with socket.socket(family(text), kind) as server:
        server.bind((text, 0))
        yield server


@pytest.mark.parametrize("text", LOOPBACK)
def test_tcp(text: str) -> None:
    with bound(text, socket.SOCK_STREAM) as server:
        target = Target(address=ip_address(text), proto="tcp", port=server.getsockname()[1])
        assert ask(target, 5) is Answer.REFUSED
        server.listen()
        assert ask(target, 5) is Answer.OPEN


@pytest.mark.parametrize("text", LOOPBACK)
def test_udp(text: str) -> None:
    with bound(text, socket.SOCK_DGRAM) as server:
        target = Target(address=ip_address(text), proto="udp", port=server.getsockname()[1])
        assert ask(target, 0.05) is Answer.BLOCKED, "nobody answers"

        def answer() -> None:
            server.recvfrom(100)  # of the question before
            server.sendto(b"yes", server.recvfrom(100)[1])

        thread = threading.Thread(target=answer)
        thread.start()
        assert ask(target, 5) is Answer.OPEN
        thread.join()
    assert ask(target, 5) is Answer.REFUSED


@pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets need root")
@pytest.mark.parametrize("text", LOOPBACK)
@pytest.mark.parametrize("size", [0, 57, 1372])
def test_icmp(text: str, size: int) -> None:
    assert ask(Target(address=ip_address(text), proto="icmp", size=size), 5) is Answer.OPEN


def test_addresses_and_names() -> None:
    assert str(address("[fd00::1]")) == "fd00::1"
    assert address("web") is None
    assert str(Target(address=ip_address("fd00::1"), proto="tcp", port=80)) == "[fd00::1]:80/tcp"
