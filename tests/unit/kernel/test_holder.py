"""Finding out who has a port, with this very process as the culprit."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from netd.kernel import holder
from netd.model import Proto

MYSELF = f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"


@contextmanager
def listening(address: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[int]:
    """A socket of this process on some free port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as opened:
        opened.bind((address, 0))
        if kind is socket.SOCK_STREAM:
            opened.listen()
        yield opened.getsockname()[1]


@pytest.mark.parametrize("asked", [None, IPv4Address("127.0.0.1")])
def test_a_listener_is_named(asked: IPv4Address | None) -> None:
    with listening("127.0.0.1") as port:
        assert holder.find(Proto.TCP, asked, port) == MYSELF
    assert holder.find(Proto.TCP, asked, port) == holder.UNKNOWN


def test_a_wildcard_listener_holds_every_address() -> None:
    with listening("0.0.0.0") as port:
        assert holder.find(Proto.TCP, IPv4Address("192.0.2.1"), port) == MYSELF
        assert holder.find(Proto.TCP, IPv6Address("2001:db8::1"), port) == holder.UNKNOWN


def test_another_address_and_another_protocol_are_no_conflict() -> None:
    with listening("127.0.0.1") as port:
        assert holder.find(Proto.TCP, IPv4Address("127.0.0.2"), port) == holder.UNKNOWN
    with listening("127.0.0.1", socket.SOCK_DGRAM) as port:
        assert holder.find(Proto.TCP, None, port) == holder.UNKNOWN
        assert holder.find(Proto.UDP, None, port) == MYSELF


def test_an_ipv6_wildcard_listener_holds_ipv4_addresses_too() -> None:
    try:
        with listening("::") as port:
            assert holder.find(Proto.TCP, IPv4Address("192.0.2.1"), port) == MYSELF
    except OSError:
        pytest.skip("no IPv6 here")


def test_a_connection_is_not_a_listener() -> None:
    with listening("127.0.0.1") as port, socket.create_connection(("127.0.0.1", port)) as client:
        assert holder.find(Proto.TCP, None, client.getsockname()[1]) == holder.UNKNOWN


@pytest.mark.parametrize("address", ["127.0.0.1", "10.89.0.2", "::1", "2001:db8:1:2:3:4:5:6"])
def test_addresses_of_proc_net(address: str) -> None:
    packed = ip_address(address).packed
    words = [packed[start : start + 4] for start in range(0, len(packed), 4)]
    text = "".join(f"{int.from_bytes(word, 'little'):08X}" for word in words)
    assert holder.parse_address(text) == ip_address(address)
