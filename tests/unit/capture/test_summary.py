"""Frames as lines, made by scapy."""

from __future__ import annotations

import re

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from netd.capture.ring import Frame
from netd.capture.summary import line

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4, V6 = IP(src="10.0.0.2", dst="10.0.0.3"), IPv6(src="fd00::2", dst="fd00::3")


@pytest.mark.parametrize(
    ("packet", "what"),
    [
        (V4 / TCP(sport=1024, dport=80, flags="SA"), "10.0.0.2:1024 10.0.0.3:80 tcp SA"),
        (V6 / UDP(sport=1024, dport=53), "[fd00::2]:1024 [fd00::3]:53 udp"),
        (V4 / ICMP(type=3, code=4), "10.0.0.2 10.0.0.3 icmp type 3 code 4"),
        (V6 / ICMPv6EchoRequest(), "fd00::2 fd00::3 icmp6 type 128 code 0"),
        (IP(src="10.0.0.2", dst="10.0.0.3", frag=5, proto=17) / bytes(8), "10.0.0.2 10.0.0.3 udp"),
        (ARP(op=1, psrc="10.0.0.2", pdst="10.0.0.3"), "arp who has 10.0.0.3? tell 10.0.0.2"),
        (ARP(op=2, psrc="10.0.0.2", hwsrc="02:00:00:00:00:01"), "arp 10.0.0.2 is at 02:00:00:00:00:01"),
        (Dot1Q(vlan=7) / V4 / UDP(sport=1, dport=2), "vlan 7 10.0.0.2:1 10.0.0.3:2 udp"),
        (bytes(4), "02:00:00:00:00:01 02:00:00:00:00:02 ethertype 0x9000"),
    ],
)
def test_what_is_said_of_a_frame(packet: Packet, what: str) -> None:
    data = bytes(ETHER / packet)
    assert f" web:eth0 > {what} {len(data)} bytes" in line(Frame("web:eth0", 0, True, data))


def test_when_and_which_way() -> None:
    frame = Frame("web:eth0", 1_700_000_000_000_004_999, False, bytes(ETHER / V4), 1500)
    assert re.fullmatch(r"\d\d:\d\d:20\.000004 web:eth0 < .* 1500 bytes", line(frame))


def test_what_is_cut_off_is_said_to_be() -> None:
    for length in range(15, 34):
        assert "cut off" in line(Frame("web:eth0", 0, True, bytes(ETHER / V4)[:length]))
