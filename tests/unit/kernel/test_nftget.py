"""Keys and values as the kernel keeps them. (tests/kernel/test_nft.py asks the real one.)"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv6Address

import pytest

from netd import firewall
from netd.kernel import fastnl, nftget
from netd.objects import Atom, Element


@pytest.mark.parametrize(
    ("kinds", "atoms", "expected"),
    [
        ((), (), b""),
        (("port",), (4789,), b"\x12\xb5"),
        (("family",), ("ipv6",), b"\x0a"),
        (("ifname",), ("nd-1",), b"nd-1" + bytes(12)),
        (("proto", "port"), ("udp", 53), b"\x11\0\0\0" + b"\0\x35\0\0"),
        (
            ("mac", "ipv4"),
            ("02:00:00:00:00:01", IPv4Address("10.0.0.2")),
            b"\2\0\0\0\0\1\0\0" + b"\x0a\0\0\2",
        ),
        (("target6", "port"), (IPv6Address("fe80::1"), 1), b"\xfe\x80" + bytes(13) + b"\1" + b"\0\1\0\0"),
        (("group", "group"), (7, 8), (7).to_bytes(4, sys.byteorder) + (8).to_bytes(4, sys.byteorder)),
    ],
)
def test_atoms_are_packed_as_registers(
    kinds: tuple[str, ...], atoms: tuple[Atom, ...], expected: bytes
) -> None:
    assert nftget.packed(kinds, atoms) == expected


def test_every_type_of_every_set_can_be_packed() -> None:
    kinds = {kind for each in firewall.SETS.values() for kind in (*each.key, *each.value)}
    assert kinds <= nftget._PACKED.keys()


class Answering:
    """A socket whose kernel has one element: port 8080 leads to port 80 of 10.0.0.2."""

    def __init__(self, protocol: int) -> None:
        assert protocol == fastnl.NETLINK_NETFILTER

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get(self, message: bytes) -> bytes | None:
        """The element, if its key is asked for; values stand beside their keys."""
        if b"\x06\0\0\0\x1f\x90\0\0" not in message:
            return None
        value = fastnl.attribute(nftget.VALUE, b"\x0a\0\0\2\0\x50\0\0")
        element = fastnl.attribute(nftget.LIST_ELEMENT, fastnl.attribute(nftget.DATA, value))
        return bytes(4) + fastnl.attribute(nftget.ELEMENTS, element)


def test_an_element_is_there_only_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftget, "Socket", Answering)

    def leading(port: int, to: int) -> Element:
        return Element("inet", "any4", ("tcp", port), (IPv4Address("10.0.0.2"), to))

    there = leading(8080, 80)
    assert list(nftget.present([there, leading(8080, 81), leading(8081, 80)])) == [there]
