"""Captures as text, made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether

from netd.capture.ring import Frame
from netd.testing.golden import compare, lines


def conversation(client: str, server: str, port: int, mac: str) -> list[Frame]:
    there = Ether(src=mac, dst="02:00:00:00:00:09") / IP(src=client, dst=server)
    back = Ether(src="02:00:00:00:00:09", dst=mac) / IP(src=server, dst=client, ttl=63)
    packets = [
        Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, psrc=client, pdst=server),
        there / TCP(sport=port, dport=80, flags="S"),
        back / TCP(sport=80, dport=port, flags="SA"),
        there / TCP(sport=port, dport=80, flags="PA") / b"GET /",
    ]
    return [Frame("web:eth0", time, True, bytes(packet)) for time, packet in enumerate(packets)]


ONE = conversation("10.0.0.2", "10.0.0.3", 40000, "02:00:00:00:00:01")


def test_what_differs_from_run_to_run_is_a_symbol() -> None:
    assert lines(ONE) == [
        "web:eth0 out mac1>mac2 arp op=1 ip1>ip2",
        "web:eth0 out mac1>mac3 ip ip1>ip2 ttl=64 tcp port1>80 S 0 bytes",
        "web:eth0 out mac3>mac1 ip ip2>ip1 ttl=63 tcp 80>port1 SA 0 bytes",
        "web:eth0 out mac1>mac3 ip ip1>ip2 ttl=64 tcp port1>80 PA 5 bytes Raw",
    ]
    assert lines(conversation("10.7.0.8", "10.7.0.9", 51111, "02:00:00:00:00:77")) == lines(ONE)


def test_comparing(tmp_path: Path) -> None:
    path, found = tmp_path / "golden" / "syn.txt", lines(ONE)
    with pytest.raises(AssertionError, match=r"there is no .*syn\.txt; write it with --update-golden"):
        compare(path, found, update=False)
    compare(path, found, update=True)
    compare(path, found, update=False)
    compare(path, found[::-1], update=False)
    with pytest.raises(AssertionError, match=r"(?s)another capture.*-web:eth0 .* PA 5 bytes"):
        compare(path, found[:-1], update=False)
    with pytest.raises(AssertionError, match="another capture"):
        compare(path, [*found, found[0]], update=False)
