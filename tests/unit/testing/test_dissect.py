"""Templates against packets, without any network."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Padding, Raw

from netd.capture.ring import Frame
from netd.testing import dissect

MACS = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
PACKET = (
    MACS
    / IP(src="10.0.0.2", dst="10.0.0.3", ttl=63, id=7)
    / TCP(sport=1024, dport=80, flags="SA", seq=5)
    / b"hello"
)


def wire(packet: Packet) -> Packet:
    """The packet as it would be seen: built, and dissected again."""
    return dissect.dissected(Frame("web:eth0", 0, False, bytes(packet)))


@pytest.mark.parametrize(
    "template",
    [
        Ether(),
        IP(),
        IP(dst="10.0.0.3") / TCP(dport=80),
        TCP(flags="SA"),
        TCP(flags="AS"),
        Ether(src="02:00:00:00:00:01") / TCP(),
        IP() / TCP() / Raw(b"hello"),
        IP(src=None, ttl=63),
    ],
    ids=lambda template: template.summary(),
)
def test_unset_fields_match_everything(template: Packet) -> None:
    if template.fields.get("src", "") is None:
        del template.fields["src"]
    assert dissect.differences(template, wire(PACKET)) == []


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        (
            IP(dst="10.0.0.4") / TCP(dport=81),
            ["IP.dst: wanted 10.0.0.4, saw 10.0.0.3", "TCP.dport: wanted 81, saw "],
        ),
        (TCP(flags="S"), ["TCP.flags: wanted S, saw SA"]),
        (UDP(), ["UDP: wanted, not there"]),
        (TCP() / IP(), ["IP: wanted, not there"]),
        (TCP() / Raw(b"hell"), ["payload: wanted b'hell', saw b'hello'"]),
    ],
    ids=lambda value: value.summary() if isinstance(value, Packet) else "",
)
def test_what_differs_is_named(template: Packet, wrong: list[str]) -> None:
    found = dissect.differences(template, wire(PACKET))
    assert len(found) == len(wrong)
    assert all(each.startswith(start) for each, start in zip(found, wrong, strict=True))


def test_a_payload_is_compared_also_where_scapy_dissects_it_and_without_padding() -> None:
    packet = wire(MACS / IP() / UDP(dport=53) / bytes(12))
    assert not dissect.differences(UDP() / Raw(bytes(12)), packet)
    short = wire(MACS / IP() / UDP(dport=9) / b"x" / Padding(bytes(17)))
    assert not dissect.differences(UDP() / Raw(b"x"), short)


def test_changes_are_relative_for_the_hop_limit_only() -> None:
    wanted = dissect.changed(
        IP(dst="10.0.0.3", ttl=9) / TCP(dport=80), {"ttl": -1, "IP.dst": "10.0.0.9", "dport": 8080}
    )
    assert (wanted.ttl, wanted.dst, wanted[TCP].dport) == (8, "10.0.0.9", 8080)
    assert dissect.changed(IP(), {"ttl": -1}).ttl == 63, "from what scapy would have sent"
    assert dissect.changed(IPv6(), {"hlim": -2}).hlim == 62
    assert dissect.changed(IP() / UDP(), {"UDP.sport": 5})[UDP].sport == 5
    with pytest.raises(ValueError, match=r"no layer of IP\(\) has a field 'dport'"):
        dissect.changed(IP(), {"dport": 1})


def translated(**fields: Any) -> Packet:
    """The packet behind a router that translates addresses."""
    packet = PACKET.copy()
    packet[IP].ttl -= 1
    packet[IP].src, packet[TCP].sport = "203.0.113.2", 40000
    for name, value in fields.items():
        packet[IP].setfieldval(name, value)
    return packet


def test_a_packet_is_known_again_behind_translation_and_in_a_tunnel() -> None:
    key = dissect.key(wire(PACKET))
    assert dissect.key(wire(translated())) == key
    assert dissect.key(wire(MACS / IP() / UDP(dport=4789) / VXLAN(vni=5) / translated())) == key
    assert dissect.key(wire(translated(id=8))) != key, "a repetition is another packet"
    for kind in (UDP(dport=5), ICMP(seq=3, id=1)):
        before = wire(MACS / IP(id=1) / kind / b"data")
        kind = kind.copy()
        setattr(kind, "id" if isinstance(kind, ICMP) else "sport", 77)
        assert dissect.key(wire(MACS / IP(id=1, src="10.9.9.9") / kind / b"data")) == dissect.key(before)
        assert dissect.key(wire(MACS / IP(id=1) / kind / b"else")) != dissect.key(before)
