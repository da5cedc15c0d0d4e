"""Packets made by hand against scapy's."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Packet

from netd.capture.crafted import packet, source_towards
from netd.errors import Invalid

V4 = IP(src="10.0.0.2", dst="10.0.0.3", id=1)
V6 = IPv6(src="fd00::2", dst="fd00::3")


@pytest.mark.parametrize(
    ("proto", "wanted"),
    [
        ("tcp", V4 / TCP(sport=4, dport=80, flags="S", seq=1, window=65535)),
        ("udp", V4 / UDP(sport=4, dport=80)),
        ("icmp", V4 / ICMP(id=1, seq=1)),
        ("tcp", V6 / TCP(sport=4, dport=80, flags="S", seq=1, window=65535)),
        ("udp", V6 / UDP(sport=4, dport=80)),
        ("icmp", V6 / ICMPv6EchoRequest(id=1, seq=1)),
    ],
)
def test_byte_for_byte(proto: str, wanted: Packet) -> None:
    assert packet(proto, str(wanted.src), str(wanted.dst), 4, 80) == bytes(wanted)


@pytest.mark.parametrize(
    ("proto", "source", "destination", "why"),
    [
        ("sctp", "10.0.0.2", "10.0.0.3", "'sctp' must be one of tcp, udp, icmp"),
        ("udp", "10.0.0.2", "fd00::3", "one is IPv4"),
        ("udp", "web", "10.0.0.3", "'web' does not appear to be"),
    ],
)
def test_refusals(proto: str, source: str, destination: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        packet(proto, source, destination)


@dataclass
class Endpoint:
    addresses: list[str]
    default_route: list[int]


def test_the_source_is_near_or_on_the_default_route() -> None:
    front = Endpoint(["10.0.0.2/24"], [])
    back = Endpoint(["10.0.1.2/24", "fd01::2/64"], [4])
    assert source_towards([front, back], "10.0.0.9") == "10.0.0.2"
    assert source_towards([front, back], "192.0.2.1") == "10.0.1.2"
    assert source_towards([front], "192.0.2.1") == "10.0.0.2"
    assert source_towards([front, back], "fd09::1") == "fd01::2"
    with pytest.raises(Invalid, match="no IPv6 address"):
        source_towards([front], "fd09::1")
