"""What the strategy draws, and what it shrinks to."""

from __future__ import annotations

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from netd.testing.dissect import given as fields
from netd.testing.strategies import packets


@given(packets(IP() / UDP(), dst="10.0.0.3", UDP__dport=st.integers(1, 9)))
@settings(max_examples=50)
def test_what_is_fixed_stays_and_the_packet_is_whole(packet: Packet) -> None:
    again = IP(bytes(packet))
    assert again.dst == "10.0.0.3"
    assert again.len == len(packet)
    if not again.frag:
        assert 1 <= again[UDP].dport <= 9


@given(packets(Ether() / IPv6() / TCP(), dst=None))
@settings(max_examples=50)
def test_every_draw_can_be_built(packet: Packet) -> None:
    packet[Ether].dst = "02:00:00:00:00:01"
    packet[IPv6].dst = "fd00::3"
    assert Ether(bytes(packet)).type == 0x86DD


def test_shrinking_leaves_what_matters() -> None:
    # Shrinking has a budget of time: from a seed of chance it may end a step short on a busy machine.
    packet = find(
        packets(IP() / UDP(), dst="10.0.0.3"),
        lambda packet: packet[IP].ttl < 5,
        settings=settings(derandomize=True, database=None),
    )
    assert fields(packet) == {"dst": "10.0.0.3", "ttl": 0}
    assert fields(packet[UDP]) == {}
    assert not packet[UDP].payload


def test_one_layer_and_a_wrong_name() -> None:
    assert find(packets(ICMP, type=8), lambda packet: packet.seq > 3).seq == 4
    with pytest.raises(ValueError, match="no layer of IP / UDP has a field 'dprot'"):
        packets(IP() / UDP(), dprot=1)
