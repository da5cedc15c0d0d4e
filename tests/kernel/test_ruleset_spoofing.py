"""A container speaks only for itself, whatever frames it makes: the `bridge` table, frame by frame.

`evil` may send anything. `web`, its neighbour on the bridge, and the host listen. A dishonest frame must
reach neither; an honest one must, or the table would be safe by passing nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Reply
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLQuery,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import ARP, LLC, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from netd.names import link_local
from netd.objects import Element
from tests.kernel.packetlab import MARK, Lab

pytestmark = pytest.mark.root

BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES = "33:33:00:00:00:01"


@pytest.fixture(scope="module", params=[False, True], ids=["bridge-nf off", "bridge-nf on"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(bridge_nf=request.param) as lab:
        front = lab.network("front", "10.89.1.0/24", "fd00:1::/64")
        legacy = lab.network("legacy", "10.89.2.0/24")
        for name in ("evil", "web", "api"):
            lab.container(name, front, legacy)
        yield lab


class Who:
    """The addresses of one party."""

    def __init__(self, mac: str, ip: str, ip6: str) -> None:
        self.mac, self.ip, self.ip6, self.ll = mac, ip, ip6, str(link_local(mac))


class Cast:
    """Who is who in a lab."""

    def __init__(self, lab: Lab) -> None:
        self.evil, self.web, self.api = (
            Who(lab.mac(name), lab.ip(name, 4), lab.ip(name, 6)) for name in ("evil", "web", "api")
        )
        self.gw = Who(lab.mac_of_bridge("front"), lab.gateway("front", 4), lab.gateway("front", 6))


Make = Callable[[Cast], Packet]


def heard(lab: Lab, frames: Sequence[Packet], sender: str = "evil", ifname: str = "eth0") -> list[bytes]:
    """What of `frames` reaches the neighbour or the host, each as it was sent."""
    wire = [bytes(frame) for frame in frames]
    listeners = (("web", ifname), ("host", lab.bridge("front" if ifname == "eth0" else "legacy")))
    for listener, where in listeners:
        lab[listener]("capture", where)
    lab[sender]("send", ifname, [frame.hex() for frame in wire])
    index = int(ifname.removeprefix("eth"))
    for target in (lab.ip("web", 4, index), lab.gateway("front" if index == 0 else "legacy", 4)):
        lab[sender]("tell", target, 7, MARK)
    arrived = [
        bytes.fromhex(frame)
        for listener, where in listeners
        for frame in lab[listener]("captured", where, MARK, 10.0)
    ]
    return [frame for frame in wire if frame in arrived]


def udp(who: Who, source: str, to: str = "") -> Packet:
    """A datagram with `source` as its address, from the MAC of `who`."""
    layer = (
        IPv6(src=source, dst=to or "ff02::1")
        if ":" in source
        else IP(src=source, dst=to or "255.255.255.255")
    )
    return Ether(src=who.mac, dst=BROADCAST) / layer / UDP(sport=5, dport=5) / Raw(b"payload")


def tcp(who: Who, source: str, *tags: Packet) -> Packet:
    """As `udp`, the beginning of a TCP connection; the rules have a short way for it. `tags` stand before."""
    frame = Ether(src=who.mac, dst=BROADCAST)
    for tag in tags:
        frame /= tag
    layer = IPv6(src=source, dst="ff02::1") if ":" in source else IP(src=source, dst="255.255.255.255")
    return frame / layer / TCP(sport=5, dport=5, flags="S")


def arp_header(cast: Cast, header: str) -> Packet:
    """An answer of `evil` for itself in which hardware, protocol, lengths and operation are replaced."""
    honest = ARP(op=2, hwsrc=cast.evil.mac, psrc=cast.evil.ip, hwdst=cast.web.mac, pdst=cast.web.ip)
    frame = Ether(src=cast.evil.mac, dst=cast.web.mac, type=0x0806)
    return frame / Raw(bytes.fromhex(header) + bytes(honest)[8:])


def router_advertisement() -> Packet:
    return ICMPv6ND_RA(routerlifetime=9000) / ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::", prefixlen=64)


def ra(cast: Cast, *headers: Packet) -> Packet:
    packet = Ether(src=cast.evil.mac, dst=ALL_NODES) / IPv6(src=cast.evil.ll, dst="ff02::1", hlim=255)
    for header in headers:
        packet /= header
    return packet / router_advertisement()


def fragments(packet: Packet, at: int) -> list[Packet]:
    """The two fragments of an IPv6 packet whose payload is cut after `at` bytes (a multiple of 8)."""
    inner, payload = packet[IPv6], bytes(packet[IPv6].payload)
    next_header = bytes(inner)[6]
    head = Ether(src=packet.src, dst=packet.dst) / IPv6(src=inner.src, dst=inner.dst, hlim=255)
    return [
        head / IPv6ExtHdrFragment(nh=next_header, id=7, m=1, offset=0) / Raw(payload[:at]),
        head / IPv6ExtHdrFragment(nh=next_header, id=7, m=0, offset=at // 8) / Raw(payload[at:]),
    ]


HONEST: dict[str, Make] = {
    "IPv4 broadcast": lambda c: udp(c.evil, c.evil.ip),
    "IPv4 to the neighbour": lambda c: udp(c.evil, c.evil.ip, c.web.ip),
    "IPv6 multicast": lambda c: udp(c.evil, c.evil.ip6),
    "IPv6 link-local": lambda c: udp(c.evil, c.evil.ll),
    "TCP over IPv4": lambda c: tcp(c.evil, c.evil.ip),
    "TCP over IPv6": lambda c: tcp(c.evil, c.evil.ip6),
    "DHCP question": lambda c: (
        udp(c.evil, c.evil.ip)
        if False
        else Ether(src=c.evil.mac, dst=BROADCAST)
        / IP(src=c.evil.ip, dst="255.255.255.255")
        / UDP(sport=68, dport=67)
    ),
    "ARP question": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST) / ARP(op=1, hwsrc=c.evil.mac, psrc=c.evil.ip, pdst=c.web.ip)
    ),
    "ARP answer": lambda c: (
        Ether(src=c.evil.mac, dst=c.web.mac)
        / ARP(op=2, hwsrc=c.evil.mac, psrc=c.evil.ip, hwdst=c.web.mac, pdst=c.web.ip)
    ),
    "ARP announcement": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST) / ARP(op=1, hwsrc=c.evil.mac, psrc=c.evil.ip, pdst=c.evil.ip)
    ),
    "ARP probe": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST) / ARP(op=1, hwsrc=c.evil.mac, psrc="0.0.0.0", pdst=c.evil.ip)
    ),
    "neighbour solicitation": lambda c: (
        Ether(src=c.evil.mac, dst="33:33:ff:00:00:03")
        / IPv6(src=c.evil.ip6, dst="ff02::1:ff00:3", hlim=255)
        / ICMPv6ND_NS(tgt=c.web.ip6)
        / ICMPv6NDOptSrcLLAddr(lladdr=c.evil.mac)
    ),
    "neighbour advertisement": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src=c.evil.ip6, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=c.evil.ip6, R=0, S=0, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=c.evil.mac)
    ),
    "neighbour advertisement of the link-local address": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src=c.evil.ll, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=c.evil.ll, R=0, S=0, O=1)
    ),
    "duplicate address detection": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src="::", dst="ff02::1", hlim=255)
        / ICMPv6ND_NS(tgt=c.evil.ip6)
    ),
    "IPv6 behind destination options": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src=c.evil.ip6, dst="ff02::1")
        / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
        / UDP(sport=5, dport=5)
    ),
    "IPv4 fragment": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST)
        / IP(src=c.evil.ip, dst="255.255.255.255", flags="MF", proto=17)
        / Raw(bytes(UDP(sport=5, dport=5, len=64)) + b"\0" * 16)
    ),
}

DISHONEST: dict[str, Make] = {
    "another's MAC": lambda c: udp(c.web, c.evil.ip),
    "another's MAC and address": lambda c: udp(c.api, c.api.ip),
    "the bridge's MAC": lambda c: udp(c.gw, c.evil.ip),
    "a multicast MAC": lambda c: udp(Who("01:00:5e:00:00:01", "", "fd00::1"), c.evil.ip),
    "another's IPv4 address": lambda c: udp(c.evil, c.api.ip),
    "the gateway's IPv4 address": lambda c: udp(c.evil, c.gw.ip),
    "an address outside": lambda c: udp(c.evil, "203.0.113.99"),
    "the unspecified IPv4 address": lambda c: udp(c.evil, "0.0.0.0"),
    "a loopback address": lambda c: udp(c.evil, "127.0.0.1"),
    "its own address on another network": lambda c: udp(c.evil, "10.89.2.2"),
    "another's IPv6 address": lambda c: udp(c.evil, c.api.ip6),
    "the gateway's IPv6 address": lambda c: udp(c.evil, c.gw.ip6),
    "another's link-local address": lambda c: udp(c.evil, c.api.ll),
    "the bridge's link-local address": lambda c: udp(c.evil, c.gw.ll),
    "the unspecified IPv6 address": lambda c: udp(c.evil, "::"),
    "an IPv4-mapped address": lambda c: udp(c.evil, f"::ffff:{c.evil.ip}"),
    "TCP from another's MAC": lambda c: tcp(c.web, c.evil.ip),
    "TCP from another's MAC, IPv6": lambda c: tcp(c.web, c.evil.ip6),
    "TCP from another's MAC and address": lambda c: tcp(c.api, c.api.ip),
    "TCP from another's IPv4 address": lambda c: tcp(c.evil, c.api.ip),
    "TCP from the gateway's IPv4 address": lambda c: tcp(c.evil, c.gw.ip),
    "TCP from another's IPv6 address": lambda c: tcp(c.evil, c.api.ip6),
    "TCP from the unspecified IPv6 address": lambda c: tcp(c.evil, "::"),
    "TCP behind a VLAN tag": lambda c: tcp(c.evil, c.evil.ip, Dot1Q(vlan=7)),
    "TCP behind a priority tag, IPv6": lambda c: tcp(c.evil, c.evil.ip6, Dot1Q(vlan=0)),
    "ARP question for another": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST) / ARP(op=1, hwsrc=c.evil.mac, psrc=c.api.ip, pdst=c.web.ip)
    ),
    "ARP answer for another": lambda c: (
        Ether(src=c.evil.mac, dst=c.web.mac)
        / ARP(op=2, hwsrc=c.evil.mac, psrc=c.api.ip, hwdst=c.web.mac, pdst=c.web.ip)
    ),
    "ARP answer for the gateway": lambda c: (
        Ether(src=c.evil.mac, dst=c.web.mac)
        / ARP(op=2, hwsrc=c.evil.mac, psrc=c.gw.ip, hwdst=c.web.mac, pdst=c.web.ip)
    ),
    "ARP announcement of the gateway": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST) / ARP(op=1, hwsrc=c.evil.mac, psrc=c.gw.ip, pdst=c.gw.ip)
    ),
    "ARP with another's MAC inside": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST) / ARP(op=2, hwsrc=c.api.mac, psrc=c.evil.ip, pdst=c.web.ip)
    ),
    "ARP answer from nobody": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST) / ARP(op=2, hwsrc=c.evil.mac, psrc="0.0.0.0", pdst=c.web.ip)
    ),
    "ARP probe with another's MAC": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST) / ARP(op=1, hwsrc=c.api.mac, psrc="0.0.0.0", pdst=c.api.ip)
    ),
    # Otherwise honest: the sender's fields stand where they would stand in a good one.
    "ARP of another hardware": lambda c: arp_header(c, "0006080006040002"),
    "ARP for another protocol": lambda c: arp_header(c, "000186dd06040002"),
    "ARP with longer hardware addresses": lambda c: arp_header(c, "0001080008040002"),
    "ARP with longer protocol addresses": lambda c: arp_header(c, "0001080006100002"),
    "neighbour advertisement for another": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src=c.evil.ip6, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=c.api.ip6, R=0, S=0, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=c.evil.mac)
    ),
    "neighbour advertisement for the gateway": lambda c: (
        Ether(src=c.evil.mac, dst=c.web.mac)
        / IPv6(src=c.evil.ll, dst=c.web.ip6, hlim=255)
        / ICMPv6ND_NA(tgt=c.gw.ip6, R=1, S=1, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=c.evil.mac)
    ),
    "neighbour advertisement for another, behind options": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src=c.evil.ip6, dst="ff02::1", hlim=255)
        / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
        / ICMPv6ND_NA(tgt=c.api.ip6, R=0, S=0, O=1)
    ),
    "duplicate address detection for another": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src="::", dst="ff02::1", hlim=255)
        / ICMPv6ND_NS(tgt=c.api.ip6)
    ),
    "router advertisement": lambda c: ra(c),
    "router advertisement from the gateway": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src=c.gw.ll, dst="ff02::1", hlim=255)
        / router_advertisement()
    ),
    "router advertisement behind hop-by-hop options": lambda c: ra(
        c, IPv6ExtHdrHopByHop(options=[RouterAlert(), PadN()])
    ),
    "router advertisement behind many options": lambda c: ra(
        c, *(IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]) for _ in range(5))
    ),
    "router advertisement behind an atomic fragment header": lambda c: ra(
        c, IPv6ExtHdrFragment(m=0, offset=0)
    ),
    "router advertisement, first fragment": lambda c: fragments(ra(c), 16)[0],
    "router advertisement, chain cut before its end, first fragment": lambda c: fragments(
        ra(c, IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 60)])), 32
    )[0],
    "router advertisement, chain cut before its end, second fragment": lambda c: fragments(
        ra(c, IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 60)])), 32
    )[1],
    "DHCPv6 answer, chain cut before its end, first fragment": lambda c: fragments(
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src=c.evil.ll, dst="ff02::1")
        / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
        / UDP(sport=547, dport=546),
        8,
    )[0],
    "router advertisement, only options in the first fragment": lambda c: fragments(
        ra(c, IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])), 8
    )[0],
    "redirect": lambda c: (
        Ether(src=c.evil.mac, dst=c.web.mac)
        / IPv6(src=c.evil.ll, dst=c.web.ip6, hlim=255)
        / ICMPv6ND_Redirect(tgt=c.evil.ll, dst="2001:db8::1")
    ),
    "multicast listener query": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src=c.evil.ll, dst="ff02::1", hlim=1)
        / IPv6ExtHdrHopByHop(options=[RouterAlert(), PadN()])
        / ICMPv6MLQuery()
    ),
    "multicast listener report before there is an address": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src="::", dst="ff02::1", hlim=1)
        / IPv6ExtHdrHopByHop(options=[RouterAlert(), PadN()])
        / ICMPv6MLReport2()
    ),
    "multicast listener report": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src=c.evil.ll, dst="ff02::1", hlim=1)
        / IPv6ExtHdrHopByHop(options=[RouterAlert(), PadN()])
        / ICMPv6MLReport2()
    ),
    "multicast router advertisement": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src=c.evil.ll, dst="ff02::6a", hlim=1, nh=58)
        / Raw(bytes.fromhex("97147dd000000000"))
    ),
    "IGMP query": lambda c: (
        Ether(src=c.evil.mac, dst="01:00:5e:00:00:01")
        / IP(src=c.evil.ip, dst="224.0.0.1", ttl=1, proto=2)
        / Raw(bytes.fromhex("1164ee9b00000000"))
    ),
    "DHCP answer": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST)
        / IP(src=c.evil.ip, dst="255.255.255.255")
        / UDP(sport=67, dport=68)
        / BOOTP(op=2)
        / DHCP(options=[("message-type", "offer"), "end"])
    ),
    "DHCP answer from another port": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST)
        / IP(src=c.evil.ip, dst="255.255.255.255")
        / UDP(sport=6767, dport=68)
    ),
    "DHCP answer behind IPv4 options": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST)
        / IP(src=c.evil.ip, dst="255.255.255.255", options=[b"\x01\x01\x01\x00"])
        / UDP(sport=67, dport=68)
    ),
    "DHCP answer, first fragment": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST)
        / IP(src=c.evil.ip, dst="255.255.255.255", flags="MF", proto=17)
        / Raw(bytes(UDP(sport=67, dport=68, len=64)))
    ),
    "DHCPv6 answer": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES)
        / IPv6(src=c.evil.ll, dst="ff02::1")
        / UDP(sport=547, dport=546)
        / DHCP6_Reply()
    ),
    "VLAN tag": lambda c: Ether(src=c.evil.mac, dst=BROADCAST) / Dot1Q(vlan=7) / IP(src=c.evil.ip) / UDP(),
    "priority tag around a lie": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST) / Dot1Q(vlan=0) / IP(src=c.api.ip) / UDP()
    ),
    "two VLAN tags": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST) / Dot1AD(vlan=7) / Dot1Q(vlan=8) / IP(src=c.evil.ip)
    ),
    "RARP": lambda c: Ether(src=c.evil.mac, dst=BROADCAST, type=0x8035) / Raw(b"\0" * 28),
    "a foreign protocol": lambda c: Ether(src=c.evil.mac, dst=BROADCAST, type=0x88B5) / Raw(b"\0" * 46),
    "a frame with a length": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST, type=46) / LLC() / Raw(b"\0" * 43)
    ),
    "IPv4 with a type of IPv6": lambda c: (
        Ether(src=c.evil.mac, dst=BROADCAST, type=0x86DD) / IP(src=c.evil.ip, dst=c.web.ip) / UDP()
    ),
    "half an IPv6 header": lambda c: (
        Ether(src=c.evil.mac, dst=ALL_NODES, type=0x86DD)
        / Raw(bytes(IPv6(src=c.evil.ip6, dst="ff02::1"))[:20])
    ),
}


@pytest.mark.parametrize("what", HONEST)
def test_an_honest_frame_passes(lab: Lab, what: str) -> None:
    frame = HONEST[what](Cast(lab))
    if "fragment" in what and lab.bridge_nf:
        pytest.skip("br_netfilter holds a lone fragment back until the others have come")
    assert heard(lab, [frame]) == [bytes(frame)]


@pytest.mark.parametrize("what", DISHONEST)
def test_a_dishonest_frame_does_not(lab: Lab, what: str) -> None:
    frame = DISHONEST[what](Cast(lab))
    assert heard(lab, [frame]) == []


def test_a_smuggled_router_advertisement_arrives_in_no_piece(lab: Lab) -> None:
    """Both fragments at once, since a receiver, or br_netfilter, might put them together."""
    cast = Cast(lab)
    options = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 60)])
    for at in (8, 16, 32, 64, 72):
        assert heard(lab, fragments(ra(cast, options), at)) == []


# A first fragment's payload is a header; a later one's may look like one.
LOOKS_LIKE = {
    "router advertisement": (58, "8600000000000000"),
    "listener query": (58, "8200000000000000"),
    "DHCPv6 answer": (17, "0223022200100000"),
    "DHCP answer": (17, "0043004400100000"),
    "IGMP query": (2, "1164ee9b00000000"),
}


@pytest.mark.parametrize("what", LOOKS_LIKE)
def test_what_is_inside_a_later_fragment_does_not_matter(lab: Lab, what: str) -> None:
    if lab.bridge_nf:
        pytest.skip("br_netfilter holds a lone fragment back until the others have come")
    cast, (proto, payload) = Cast(lab), LOOKS_LIKE[what]
    six = (
        Ether(src=cast.evil.mac, dst=ALL_NODES)
        / IPv6(src=cast.evil.ip6, dst="ff02::1")
        / IPv6ExtHdrFragment(nh=proto, id=9, m=0, offset=20)
    )
    four = Ether(src=cast.evil.mac, dst=BROADCAST) / IP(
        src=cast.evil.ip, dst="255.255.255.255", proto=proto, frag=20
    )
    frames = [head / Raw(bytes.fromhex(payload)) for head in (six, four)]
    assert heard(lab, frames) == [bytes(frame) for frame in frames]


@pytest.mark.parametrize("family", [4, 6])
def test_honest_fragments_arrive(lab: Lab, family: int) -> None:
    """Neighbour, gateway and back: a packet larger than the MTU."""
    for target in (lab.ip("web", family), lab.gateway("front", family)):
        lab["evil"].run("ping", "-c1", "-W5", "-s3000", target)


def test_on_a_network_without_ipv6_none_passes(lab: Lab) -> None:
    evil = lab.endpoints["evil"][1]
    frames = [
        Ether(src=evil.mac, dst=ALL_NODES) / IPv6(src=source, dst="ff02::1", hlim=255) / layer
        for source in (str(link_local(evil.mac)), "fd00:1::2", "::")
        for layer in (UDP(sport=5, dport=5), ICMPv6EchoRequest(), ICMPv6ND_NS(tgt="fd00:1::2"))
    ]
    assert heard(lab, frames, ifname="eth1") == []
    honest = Ether(src=evil.mac, dst=BROADCAST) / IP(src=lab.ip("evil", 4, 1), dst="255.255.255.255") / ICMP()
    assert heard(lab, [honest], ifname="eth1") == [bytes(honest)]


def test_a_guarded_port_without_bindings_passes_nothing(lab: Lab) -> None:
    """Whatever is lost or not yet there, it fails closed."""
    net = next(net for net in lab.networks.values() if net.name == "front")
    lab.container("bare", net)
    bare = Who(lab.mac("bare"), lab.ip("bare", 4), lab.ip("bare", 6))
    whole = lab.present
    frames = [
        udp(bare, bare.ip),
        udp(bare, bare.ip6),
        tcp(bare, bare.ip),
        tcp(bare, bare.ip6),
        Ether(src=bare.mac, dst=BROADCAST) / ARP(op=1, hwsrc=bare.mac, psrc=bare.ip, pdst="10.89.1.3"),
    ]
    binding = {
        item
        for item in whole
        if isinstance(item, Element)
        and item.family == "bridge"
        and item.set != "ports"
        and bare.mac in item.item
    }
    assert len(binding) == 6
    for lost in (binding, {item for item in binding if item.set == "macs"}):
        lab.change(whole - lost)
        lab["web"]("capture", "eth0")
        lab["bare"]("send", "eth0", [bytes(frame).hex() for frame in frames])
        lab["evil"]("tell", lab.ip("web", 4), 7, MARK)
        arrived = lab["web"]("captured", "eth0", MARK, 10.0)
        # A binding says whose MAC and address a port may use, and that is all that TCP is asked.
        bound = lost is not binding
        passed = [frame for frame in frames if bytes(frame).hex() in arrived]
        assert passed == [frame for frame in frames if TCP in frame and bound]
        lab.change(whole)
