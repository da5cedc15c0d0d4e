"""A container that may send raw frames still speaks only for itself.

Frames are made with scapy and sent in order; the last one is honest. Once that has arrived, whatever
is not there of the earlier ones was dropped and not merely late.
"""

from __future__ import annotations

import subprocess
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
from scapy.packet import Raw

from netd.names import link_local
from tests.e2e.host import NETD, PYTHON, Host, eventually

BROADCAST = "ff:ff:ff:ff:ff:ff"
LAST = b"the-last-frame"


@dataclass
class Stage:
    """`evil` and `web` on one network; `web` is the victim and `api` whom `evil` claims to be."""

    host: Host
    mac: dict[str, str]
    ip: dict[str, str]
    ip6: dict[str, str]

    def arrived(self, *frames: Any, listener: str = "web") -> list[bytes]:
        """Send frames from `evil`; those that reach `listener`."""
        honest = (
            Ether(src=self.mac["evil"], dst=BROADCAST)
            / IP(src=self.ip["evil"], dst=self.ip["web"])
            / UDP(sport=7, dport=7)
            / Raw(LAST)
        )
        wire = [bytes(frame).hex() for frame in (*frames, honest)]
        ear = self.host.spawn(
            NETD, "exec", "-i", listener, "--", PYTHON, "-IS", "/wire.py", "listen", "eth0", "20"
        )
        assert ear.stdout is not None
        assert ear.stdout.readline() == "ready\n"
        self.host.netd("exec", "evil", "--", PYTHON, "-IS", "/wire.py", "send", "eth0", *wire)
        heard = []
        while line := ear.stdout.readline():
            frame = bytes.fromhex(line)
            heard.append(frame)
            if LAST in frame:
                break
        else:
            pytest.fail("the honest frame did not arrive")
        try:
            ear.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            pytest.fail("the listener did not end with its input")
        return heard


@pytest.fixture(scope="module")
def stage(shared_host: Host) -> Stage:
    host = shared_host
    host.netd("network", "create", "front", "--ipv6")
    for name in ("evil", "web", "api"):
        host.serve(name, "--network", "front", "--cap-add", "NET_RAW")
    inspected = {name: host.inspect(name)["endpoints"][0] for name in ("evil", "web", "api")}
    return Stage(
        host,
        {name: endpoint["mac"] for name, endpoint in inspected.items()},
        {name: host.address(name) for name in inspected},
        {name: host.address(name, family=6) for name in inspected},
    )


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
    gateway = stage.host.network("front")["subnets"][0]["gateway"]
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
    gateway = stage.host.network("front")["subnets"][1]["gateway"]
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
    gateway = stage.host.network("front")["subnets"][0]["gateway"]
    frames = {
        b"own-arp": arp(stage, stage.mac["evil"], stage.ip["evil"], b"own-arp"),
        b"arp-for-gateway": arp(stage, stage.mac["evil"], gateway, b"arp-for-gateway"),
        b"arp-for-neighbour": arp(stage, stage.mac["evil"], stage.ip["api"], b"arp-for-neighbour"),
        b"arp-other-mac": arp(stage, stage.mac["api"], stage.ip["evil"], b"arp-other-mac"),
    }
    expect(stage, [b"own-arp"], frames)
    neighbours = stage.host.netd("exec", "web", "--", "ip", "neigh")
    assert not [line for line in neighbours.splitlines() if gateway in line and stage.mac["evil"] in line]


def test_neighbour_advertisement_target(stage: Stage) -> None:
    """ "I am the gateway", said from one's own address: the same lie in IPv6."""
    gateway = stage.host.network("front")["subnets"][1]["gateway"]

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
    assert "2001:db8:bad" not in stage.host.netd("exec", "web", "--", "ip", "-6", "route")
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
    host, client = stage.host, stage.host.lab.client
    gateway_mac = host.sh(f"cat /sys/class/net/{host.network('front')['bridge']}/address").strip()
    to_client = [
        Ether(src=stage.mac["evil"], dst=gateway_mac)
        / IP(src=source, dst="203.0.113.10")
        / ICMP()
        / Raw(marker)
        for source, marker in (
            (stage.ip["api"], b"lan-spoofed"),
            ("198.51.100.77", b"lan-invented"),
            (stage.ip["evil"], b"lan-honest"),
        )
    ]
    ear = client.talker("listen", "eth0", "20")
    host.netd(
        *("exec", "evil", "--", PYTHON, "-IS", "/wire.py", "send", "eth0"),
        *(bytes(frame).hex() for frame in to_client),
    )
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
