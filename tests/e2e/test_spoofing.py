"""A container that may send raw frames still speaks only for itself.

Frames are made with scapy and sent as they are. A capture that has been drained and lost nothing has seen
all that arrived (`netd.testing.capture`), so whatever is not in it was dropped and not merely late.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from scapy.layers.dhcp6 import DHCP6_Reply
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_RA,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from netd.api.client import connect
from netd.names import link_local
from netd.testing.lab import Lab
from netd.topology import down, load, up
from tests.e2e.host import Host, eventually

BROADCAST = "ff:ff:ff:ff:ff:ff"


TOPOLOGY = """
name: stage
services: {evil: {}, web: {}, api: {}}
networks: {default: {enable_ipv6: true}}
"""


@dataclass
class Stage:
    """`evil` and `web` on one network; `web` is the victim and `api` whom `evil` claims to be."""

    host: Host
    lab: Lab
    mac: dict[str, str]
    ip: dict[str, str]
    ip6: dict[str, str]

    def gateway(self, version: int = 4) -> str:
        return self.lab.gateway("default", version=version)

    def arrived(self, *frames: Packet) -> list[bytes]:
        """Send frames from `evil`; those that reach `web`."""
        with self.lab.sniff("evil:eth0", "web:eth0") as cap:
            sent = {bytes(self.lab["evil"].send(frame)) for frame in frames}
        assert not any(cap.lost.values()), "what was not seen may have passed"
        assert sent <= {frame.data for frame in cap.frames("evil:eth0")}, "they left as they are"
        return [frame.data for frame in cap.frames("web:eth0") if not frame.outgoing]


@pytest.fixture(scope="module")
def stage(shared_host: Host) -> Iterator[Stage]:
    with closing(connect(f"/proc/{shared_host.lab.pid}/root/run/netd/netd.sock")) as client:
        project = load(TOPOLOGY, images={"*": "host"})
        up(client, project)
        lab = Lab(client, project)
        names = ("evil", "web", "api")
        yield Stage(
            shared_host,
            lab,
            {name: lab.mac(name) for name in names},
            {name: lab.ip(name) for name in names},
            {name: lab.ip(name, version=6) for name in names},
        )
        lab.close()
        down(client, project)


def marked(stage: Stage, marker: bytes, **layers: str) -> Any:
    """An IPv4 datagram from `evil` to `web`, one of whose sources may be somebody else's."""
    return (
        Ether(src=layers.get("mac", stage.mac["evil"]), dst=stage.mac["web"])
        / IP(src=layers.get("ip", stage.ip["evil"]), dst=stage.ip["web"])
        / UDP(sport=9, dport=9)
        / Raw(marker)
    )


def marked6(stage: Stage, marker: bytes, **layers: str) -> Any:
    return (
        Ether(src=layers.get("mac", stage.mac["evil"]), dst=stage.mac["web"])
        / IPv6(src=layers.get("ip", stage.ip6["evil"]), dst=stage.ip6["web"])
        / UDP(sport=9, dport=9)
        / Raw(marker)
    )


def expect(stage: Stage, allowed: list[bytes], frames: dict[bytes, Any]) -> None:
    heard = b"\n".join(stage.arrived(*frames.values()))
    assert [marker for marker in frames if marker in heard] == allowed


def test_source_mac(stage: Stage) -> None:
    frames = {
        b"own-mac": marked(stage, b"own-mac"),
        b"stolen-mac": marked(stage, b"stolen-mac", mac=stage.mac["api"]),
        b"invented-mac": marked(stage, b"invented-mac", mac="02:de:ad:be:ef:01"),
        b"stolen-mac-6": marked6(stage, b"stolen-mac-6", mac=stage.mac["api"]),
    }
    expect(stage, [b"own-mac"], frames)


def test_ipv4_source(stage: Stage) -> None:
    gateway = stage.gateway()
    frames = {
        b"own-v4": marked(stage, b"own-v4"),
        b"neighbours-v4": marked(stage, b"neighbours-v4", ip=stage.ip["api"]),
        b"gateways-v4": marked(stage, b"gateways-v4", ip=gateway),
        b"strangers-v4": marked(stage, b"strangers-v4", ip="198.51.100.99"),
        b"loopback-v4": marked(stage, b"loopback-v4", ip="127.0.0.1"),
        b"nobody-v4": marked(stage, b"nobody-v4", ip="0.0.0.0"),
    }
    expect(stage, [b"own-v4"], frames)


def test_ipv6_source(stage: Stage) -> None:
    gateway = stage.gateway(6)
    frames = {
        b"own-v6": marked6(stage, b"own-v6"),
        b"own-link-local": marked6(stage, b"own-link-local", ip=str(link_local(stage.mac["evil"]))),
        b"neighbours-v6": marked6(stage, b"neighbours-v6", ip=stage.ip6["api"]),
        b"neighbours-link-local": marked6(
            stage, b"neighbours-link-local", ip=str(link_local(stage.mac["api"]))
        ),
        b"gateways-v6": marked6(stage, b"gateways-v6", ip=gateway),
        b"strangers-v6": marked6(stage, b"strangers-v6", ip="2001:db8:99::1"),
        b"loopback-v6": marked6(stage, b"loopback-v6", ip="::1"),
    }
    expect(stage, [b"own-v6", b"own-link-local"], frames)


def arp(stage: Stage, mac: str, ip: str, payload: bytes) -> Any:
    """A gratuitous reply "`ip` is at `mac`", marked by trailing bytes (Ethernet pads ARP anyway)."""
    return (
        Ether(src=stage.mac["evil"], dst=BROADCAST)
        / ARP(op=2, hwsrc=mac, psrc=ip, hwdst=BROADCAST, pdst=ip)
        / Raw(payload)
    )


def test_arp_sender(stage: Stage) -> None:
    gateway = stage.gateway()
    frames = {
        b"own-arp": arp(stage, stage.mac["evil"], stage.ip["evil"], b"own-arp"),
        b"arp-for-gateway": arp(stage, stage.mac["evil"], gateway, b"arp-for-gateway"),
        b"arp-for-neighbour": arp(stage, stage.mac["evil"], stage.ip["api"], b"arp-for-neighbour"),
        b"arp-other-mac": arp(stage, stage.mac["api"], stage.ip["evil"], b"arp-other-mac"),
    }
    expect(stage, [b"own-arp"], frames)
    neighbours = stage.lab["web"].exec("ip", "neigh").stdout
    assert not [line for line in neighbours.splitlines() if gateway in line and stage.mac["evil"] in line]


def test_neighbour_advertisement_target(stage: Stage) -> None:
    """ "I am the gateway", said from one's own address: the same lie in IPv6."""
    gateway = stage.gateway(6)

    def claim(target: str, marker: bytes) -> Any:
        return (
            Ether(src=stage.mac["evil"], dst="33:33:00:00:00:01")
            / IPv6(src=stage.ip6["evil"], dst="ff02::1", hlim=255)
            / ICMPv6ND_NA(R=0, S=0, O=1, tgt=target)
            / ICMPv6NDOptDstLLAddr(lladdr=stage.mac["evil"])
            / Raw(marker)
        )

    frames = {
        b"own-target": claim(stage.ip6["evil"], b"own-target"),
        b"gateways-target": claim(gateway, b"gateways-target"),
        b"neighbours-target": claim(stage.ip6["api"], b"neighbours-target"),
    }
    expect(stage, [b"own-target"], frames)


def test_a_vlan_tag_hides_nothing(stage: Stage) -> None:
    """A tag changes the ethertype, and with it what a careless rule sees."""
    frames = {
        marker: Ether(src=stage.mac["evil"], dst=stage.mac["web"])
        / Dot1Q(vlan=vlan)
        / IP(src=stage.ip["api"], dst=stage.ip["web"])
        / UDP(sport=9, dport=9)
        / Raw(marker)
        for marker, vlan in ((b"tagged-0", 0), (b"tagged-7", 7))
    }
    expect(stage, [], frames)


def test_router_advertisements(stage: Stage) -> None:
    advertisement = (
        Ether(src=stage.mac["evil"], dst="33:33:00:00:00:01")
        / IPv6(src=str(link_local(stage.mac["evil"])), dst="ff02::1", hlim=255)
        / ICMPv6ND_RA(routerlifetime=1800)
        / ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::", prefixlen=64)
    )
    ping = (
        Ether(src=stage.mac["evil"], dst=stage.mac["web"])
        / IPv6(src=stage.ip6["evil"], dst=stage.ip6["web"])
        / ICMPv6EchoRequest(data=b"icmpv6-passes")
    )
    heard = b"\n".join(stage.arrived(advertisement, ping))
    assert b"icmpv6-passes" in heard, "ICMPv6 as such is welcome"
    assert bytes.fromhex("20010db80bad") not in heard
    assert "2001:db8:bad" not in stage.lab["web"].exec("ip", "-6", "route").stdout
    assert "2001:db8:bad" not in stage.host.sh("ip -6 route")


def test_dhcp_replies(stage: Stage) -> None:
    frames = {
        b"dhcp-reply": Ether(src=stage.mac["evil"], dst=BROADCAST)
        / IP(src=stage.ip["evil"], dst="255.255.255.255")
        / UDP(sport=67, dport=68)
        / Raw(b"dhcp-reply"),
        b"dhcp6-reply": Ether(src=stage.mac["evil"], dst=stage.mac["web"])
        / IPv6(src=str(link_local(stage.mac["evil"])), dst=str(link_local(stage.mac["web"])))
        / UDP(sport=547, dport=546)
        / DHCP6_Reply()
        / Raw(b"dhcp6-reply"),
        b"dhcp-request": Ether(src=stage.mac["evil"], dst=BROADCAST)
        / IP(src=stage.ip["evil"], dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / Raw(b"dhcp-request"),
    }
    expect(stage, [b"dhcp-request"], frames)


def test_spoofed_packets_do_not_reach_the_host_or_the_lan_either(stage: Stage) -> None:
    bridge = stage.host.network("stage_default")["bridge"]
    gateway_mac = stage.host.sh(f"cat /sys/class/net/{bridge}/address").strip()
    ear = stage.host.lab.client.talker("listen", "eth0", "20")
    for source, marker in (
        (stage.ip["api"], b"lan-spoofed"),
        ("198.51.100.77", b"lan-invented"),
        (stage.ip["evil"], b"lan-honest"),
    ):
        frame = Ether(dst=gateway_mac) / IP(src=source, dst="203.0.113.10") / ICMP() / Raw(marker)
        stage.lab["evil"].send(frame)
    heard = b""

    def listen() -> bool:
        nonlocal heard
        assert ear.stdout is not None
        heard += bytes.fromhex(ear.stdout.readline())
        return b"lan-honest" in heard

    eventually("the honest packet arrives at the client", listen)
    ear.communicate(timeout=20)
    assert b"lan-spoofed" not in heard
    assert b"lan-invented" not in heard
