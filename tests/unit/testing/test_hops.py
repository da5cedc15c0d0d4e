"""The hop table of frames that were never on a wire."""

from __future__ import annotations

from dataclasses import replace

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from netd.capture.ring import Frame
from netd.testing import hops

SECOND = 1_764_048_000 * 10**9


def frame(point: str, after: int, packet: Packet, *, outgoing: bool = False) -> Frame:
    """`after` in microseconds."""
    data = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet)
    return Frame(point, SECOND + after * 1000, outgoing, data)


def question(source: str, dest: str, ttl: int = 64, dport: int = 80) -> Packet:
    return IP(src=source, dst=dest, ttl=ttl, id=7) / UDP(sport=9, dport=dport) / b"hello"


def test_one_packet_through_translation_and_a_tunnel() -> None:
    inner = question("10.0.0.2", "10.1.0.3", ttl=63)
    frames = [
        frame("host:eth0", 250, IP(id=1) / UDP(dport=4789) / VXLAN(vni=5) / Ether() / inner, outgoing=True),
        frame("web:eth0", 0, question("10.0.0.2", "203.0.113.2", dport=8080), outgoing=True),
        frame("db:eth0", 400, inner),
        frame("web:eth0", 90, ARP(psrc="10.0.0.2", pdst="10.0.0.1")),
    ]
    assert [[each.point for each in journey] for journey in hops.journeys(frames)] == [
        ["web:eth0", "host:eth0", "db:eth0"],
        ["web:eth0"],
    ]
    lines = hops.table(frames).splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["+0.000", "ms", "web:eth0", "out", "10.0.0.2:9", "203.0.113.2:8080", "udp", "47", "bytes"],
        ["+0.250", "ms", "host:eth0", "out", "127.0.0.1:4789", "127.0.0.1:4789", "udp", "97", "bytes"],
        ["+0.400", "ms", "db:eth0", "in", "10.0.0.2:9", "10.1.0.3:80", "udp", "47", "bytes"],
    ]
    assert lines[5].split()[:5] == ["+0.000", "ms", "web:eth0", "in", "arp"]


def test_a_tunnels_ends_are_in_their_order_whatever_the_clock_says() -> None:
    """A bridge's copy comes after what it sent on; what comes out of a tunnel has the tunnel's time."""
    inner = question("10.0.0.2", "10.0.0.3")
    tunnel = IP(src="192.0.2.1", dst="192.0.2.2") / UDP(dport=4789) / VXLAN() / Ether() / inner
    once = [
        frame("web:eth0", 0, inner, outgoing=True),
        frame("host:eth0@a", 10, tunnel, outgoing=True),
        frame("network:lan@a", 12, inner),
        frame("network:lan@b", 20, inner),
        frame("host:eth0@b", 20, tunnel),
        frame("db:eth0", 30, inner),
    ]
    passed = ["web:eth0", "network:lan@a", "host:eth0@a", "host:eth0@b", "network:lan@b", "db:eth0"]
    assert [each.point for each in hops.in_order(once)] == passed
    again = [replace(each, time=each.time + 100_000) for each in once]
    assert [each.point for each in hops.in_order([*again, *once])] == passed * 2
    answer = [frame("db:eth0", 0, inner, outgoing=True), frame("network:lan@b", 1, inner)]
    assert hops.in_order(answer) == answer, "where nothing is in a tunnel the clock is right"


def test_what_did_not_change_is_not_repeated() -> None:
    packet = question("10.0.0.2", "10.0.0.3")
    lines = hops.table([frame("a:eth0", 0, packet, outgoing=True), frame("b:eth0", 5, packet)]).splitlines()
    assert lines[2].split() == ["+0.005", "ms", "b:eth0", "in", '"']


def test_a_long_table_ends() -> None:
    frames = [frame("a:eth0", n, IP(id=n) / UDP()) for n in range(hops.PACKETS + 3)]
    assert hops.table(frames).splitlines()[-1] == "and 3 more packets"
