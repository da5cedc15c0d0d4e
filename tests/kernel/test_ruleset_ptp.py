"""Networks without a bridge (driver ptp), judged by what comes through, as the others are.

Containers hang on links of their own here, which br_netfilter never sees; it is on for those beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from netd import names
from netd.model import GatewayMode
from netd.names import link_local
from netd.objects import Element
from tests.kernel.packetlab import CLIENT, FAMILIES, FAR, HOST, TOWARDS_FAR, Lab, both, expect, tcp, udp

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(bridge_nf=True) as lab:
        front = lab.network("front", "10.89.1.0/24", "fd00:1::/64", driver="ptp")
        back = lab.network("back", "10.89.2.0/24", "fd00:2::/64", driver="ptp")
        quiet = lab.network("quiet", "10.89.3.0/24", "fd00:3::/64", driver="ptp", icc=False)
        inner = lab.network("inner", "10.89.4.0/24", "fd00:4::/64", driver="ptp", internal=True)
        routed = lab.network(
            "routed", "10.89.5.0/24", "fd00:5::/64", driver="ptp", gateway_mode=GatewayMode.ROUTED
        )
        bridged = lab.network("bridged", "10.89.6.0/24", "fd00:6::/64")
        lab.container(
            "web",
            front,
            ports=[
                *(tcp(8080, 80), udp(8080, 80), tcp(53, 80), udp(53, 80)),
                *(tcp(8081, 81, ip_address(HOST[family])) for family in FAMILIES),
            ],
        )
        lab.container("api", front)
        lab.container("db", back)
        lab.container("shy", quiet, ports=[tcp(8083, 80), udp(8083, 80)])
        lab.container("sly", quiet)
        lab.container("in1", inner)
        lab.container("in2", inner)
        lab.container("own", routed, ports=[tcp(8084, 80), udp(8084, 80)])
        lab.container("old", bridged, ports=[tcp(8085, 80), udp(8085, 80)])
        # Publishes by the first; db is behind its second link, old next to it on a third.
        lab.container("many", front, back, bridged, ports=[tcp(8086, 80), udp(8086, 80)])
        # Publishes by a bridge; api is behind its second link.
        lab.container("other", bridged, front, ports=[tcp(8087, 80), udp(8087, 80)])
        yield lab


# --- publishing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", ["client", "host", "db", "api", "shy", "own", "old", "web"])
def test_a_published_port_is_reached_and_sees_who_asks(lab: Lab, source: str, family: int) -> None:
    """Only who asks for itself is not seen: its own answer would never leave it."""
    seen = {"client": CLIENT[family], "host": HOST[family], "web": lab.gateway("front", family)}
    address = seen[source] if source in seen else lab.ip(source, family)
    expect(
        lab,
        source,
        {
            **dict.fromkeys(both(HOST[family], 8080), f"web {address}"),
            ("tcp", HOST[family], 8081): f"web {address}",
        },
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_ports_are_reached_by_any_gateway_address(lab: Lab, family: int) -> None:
    for source, network in (("db", "front"), ("api", "front"), ("old", "front"), ("api", "bridged")):
        port, peer = (8080, "web") if network == "front" else (8085, "old")
        address = lab.gateway(network, family)
        expect(lab, source, dict.fromkeys(both(address, port), f"{peer} {lab.ip(source, family)}"))


@pytest.mark.parametrize("family", FAMILIES)
def test_without_icc_a_published_port_is_everybodys(lab: Lab, family: int) -> None:
    for source in ("client", "api", "sly", "old"):
        seen = CLIENT[family] if source == "client" else lab.ip(source, family)
        expect(lab, source, dict.fromkeys(both(HOST[family], 8083), f"shy {seen}"))
    expect(lab, "shy", dict.fromkeys(both(HOST[family], 8083), f"shy {lab.gateway('quiet', family)}"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_port_of_a_container_with_a_shorter_way_back_is_reached(lab: Lab, family: int) -> None:
    """Its answer would take that way, from an address that it must not use there."""
    for source in ("db", "old", "client", "api"):
        address = {
            "db": lab.gateway("front", family),
            "old": lab.gateway("front", family),
            "client": CLIENT[family],
            "api": lab.ip("api", family),
        }[source]
        expect(lab, source, dict.fromkeys(both(HOST[family], 8086), f"many {address}"))
    expect(lab, "api", dict.fromkeys(both(HOST[family], 8087), f"other {lab.gateway('bridged', family)}"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_port_53_does_not_take_the_dns_away(lab: Lab, family: int) -> None:
    own, other = lab.gateway("front", family), lab.gateway("back", family)
    expect(lab, "api", dict.fromkeys(both(own, 53), f"host {lab.ip('api', family)}"))
    expect(lab, "client", dict.fromkeys(both(HOST[family], 53), f"web {CLIENT[family]}"))
    expect(lab, "api", dict.fromkeys(both(other, 53), None))


# --- the way out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_containers_leave_behind_the_host_or_as_themselves(lab: Lab, family: int) -> None:
    expect(lab, "api", dict.fromkeys(both(FAR[family], 80), f"far {TOWARDS_FAR[family]}"))
    expect(lab, "own", dict.fromkeys(both(FAR[family], 80), f"far {lab.ip('own', family)}"))


@pytest.mark.parametrize("family", FAMILIES)
def test_internal_containers_leave_for_nowhere(lab: Lab, family: int) -> None:
    for target in (FAR[family], CLIENT[family]):
        lab.route("in1", target)
        expect(lab, "in1", dict.fromkeys([*both(target, 80), ("icmp", target, 0)]))


# --- isolation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_containers_of_one_network_reach_each_other(lab: Lab, family: int) -> None:
    for source, peer in (("api", "web"), ("in1", "in2")):
        address = lab.ip(peer, family)
        seen = f"{peer} {lab.ip(source, family)}"
        expect(lab, source, {**dict.fromkeys(both(address, 80), seen), ("icmp", address, 0): "pong"})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("source", "peer"),
    [
        ("api", "db"),
        ("api", "in1"),
        ("in1", "api"),
        ("api", "shy"),
        ("sly", "shy"),
        ("own", "web"),
        ("old", "web"),
        ("api", "old"),
        ("client", "web"),
        ("client", "in1"),
        ("far", "db"),
    ],
)
def test_nobody_else_reaches_a_container(lab: Lab, source: str, peer: str, family: int) -> None:
    address = lab.ip(peer, family)
    lab.route(source, address)
    expect(lab, source, dict.fromkeys([*both(address, 80), *both(address, 81), ("icmp", address, 0)]))


@pytest.mark.parametrize("family", FAMILIES)
def test_only_published_ports_of_a_routed_network_are_open(lab: Lab, family: int) -> None:
    address = lab.ip("own", family)
    seen = f"own {CLIENT[family]}"
    expect(
        lab,
        "client",
        {
            **dict.fromkeys(both(address, 80), seen),
            **dict.fromkeys(both(address, 81), None),
            ("icmp", address, 0): "pong",
        },
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_container_reaches_the_host_but_no_others_gateway(lab: Lab, family: int) -> None:
    own, other = lab.gateway("front", family), lab.gateway("back", family)
    told = f"host {lab.ip('api', family)}"
    expect(
        lab,
        "api",
        {
            **dict.fromkeys([*both(own, 7000), *both(HOST[family], 7000)], told),
            **dict.fromkeys([*both(other, 7000), ("icmp", other, 0)], None),
        },
    )
    inner = lab.gateway("inner", family)
    lab.route("in1", HOST[family])
    answers = {("udp", inner, 53): f"host {lab.ip('in1', family)}", ("icmp", inner, 0): "pong"}
    expect(lab, "in1", {**answers, ("tcp", inner, 7000): None, ("tcp", HOST[family], 7000): None})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_host_reaches_every_container_as_its_gateway(lab: Lab, family: int) -> None:
    for name, network in (("web", "front"), ("sly", "quiet"), ("in1", "inner"), ("own", "routed")):
        address = lab.ip(name, family)
        expect(lab, "host", dict.fromkeys(both(address, 81), f"{name} {lab.gateway(network, family)}"))


# --- who one is ------------------------------------------------------------------------------------


def heard(lab: Lab, sender: str, frames: list[Packet], to: str = "web") -> list[Packet]:
    """Those of `frames`, each with a payload of its own, whose payload gets to `to`."""
    marked = [frame / Raw(f"frame-{number}".encode()) for number, frame in enumerate(frames)]
    arrived = lab.exchange(sender, marked, listener=to, last=lab.ip(to, 4))
    payloads = b"".join(bytes(frame) for frame in arrived)
    return [frame for number, frame in enumerate(frames) if f"frame-{number}".encode() in payloads]


def datagram(lab: Lab, source: str, target: str, mac: str = "") -> Packet:
    layer = IPv6(src=source, dst=target) if ":" in source else IP(src=source, dst=target)
    gateway = lab["host"].mac(names.host_ifname(lab.endpoints["api"][0]))
    return Ether(src=mac or lab.mac("api"), dst=gateway) / layer / UDP(sport=5, dport=5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_container_speaks_from_its_own_addresses_alone(lab: Lab, family: int) -> None:
    web, own, other = lab.ip("web", family), lab.ip("api", family), lab.ip("many", family)
    honest = datagram(lab, own, web)
    forged = [
        datagram(lab, other, web),
        datagram(lab, lab.gateway("front", family), web),
        datagram(lab, HOST[family], web),
        datagram(lab, CLIENT[family], web),
        datagram(lab, own, web, mac=lab.mac("web")),
    ]
    assert heard(lab, "api", [honest]) == [honest], "or nothing would be shown"
    assert heard(lab, "api", forged) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_forged_sources_pass_where_the_guard_does_not_know_the_link(lab: Lab, family: int) -> None:
    """What the guard alone keeps out: reverse path filtering is an administrator's to switch off."""
    host, link = lab["host"], names.host_ifname(lab.endpoints["api"][0])
    switches = [f"/proc/sys/net/ipv4/conf/{name}/rp_filter" for name in ("all", link)]
    forged = [datagram(lab, lab.ip("many", family), lab.ip("web", family))]
    for switch in switches:
        host("write", switch, "0")
    try:
        assert heard(lab, "api", forged) == []
        before = lab.present
        lab.change(before - {Element("inet", "ptp", (link,))})
        assert heard(lab, "api", forged) == forged
        lab.change(before)
    finally:
        host("write", switches[1], "1")


def neighbours(lab: Lab, name: str) -> str:
    """The host's neighbour table on a container's link."""
    return lab["host"].run("ip", "neigh", "show", "dev", names.host_ifname(lab.endpoints[name][0]))


def tell_and_wait(lab: Lab, frames: list[Packet]) -> None:
    """Send frames from `api` to the host; whatever they do, they have done it by the end."""
    lab["api"]("send", "eth0", [bytes(frame).hex() for frame in frames])
    expect(lab, "api", {("udp", lab.gateway("front", 4), 7): f"host {lab.ip('api', 4)}"})


def test_a_container_is_nobody_elses_neighbour(lab: Lab) -> None:
    """By ARP and neighbour discovery it can speak for itself only; each other name would get an entry."""
    mac, own, gateway = lab.mac("api"), lab.ip("api", 4), lab.gateway("front", 4)
    own6, gateway6 = str(link_local(mac)), lab.gateway("front", 6)
    for name in ("all", names.host_ifname(lab.endpoints["api"][0])):
        lab["host"]("write", f"/proc/sys/net/ipv4/conf/{name}/rp_filter", "0")
    forged4 = ["10.89.1.77", lab.ip("web", 4), CLIENT[4], HOST[4], gateway]
    frames: list[Packet] = []
    for address in forged4:
        for operation in (1, 2):
            claim = ARP(op=operation, hwsrc=mac, psrc=address, hwdst="00:00:00:00:00:00", pdst=gateway)
            frames.append(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / claim)
    for address in ("fd00:1::77", lab.ip("web", 6), CLIENT[6], "fe80::77"):
        ask = ICMPv6ND_NS(tgt=gateway6) / ICMPv6NDOptSrcLLAddr(lladdr=mac)
        say = ICMPv6ND_NA(tgt=address, R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=mac)
        for layer in (ask, say):
            packet = IPv6(src=address, dst="ff02::1:ff00:1", hlim=255) / layer
            frames.append(Ether(src=mac, dst="33:33:ff:00:00:01") / packet)
    moved = ARP(op=1, hwsrc="02:00:00:00:00:99", psrc=own, pdst=gateway)
    tell_and_wait(lab, [*frames, Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / moved])
    known = {line.split()[0] for line in neighbours(lab, "api").splitlines()}
    assert known <= {own, lab.ip("api", 6), own6}, known
    assert "02:00:00:00:00:99" not in neighbours(lab, "api")
    # Without the guard it is as bad as that.
    before, link = lab.present, names.host_ifname(lab.endpoints["api"][0])
    lab.change(before - {Element("arp", "ptp", (link,)), Element("inet", "ptp", (link,))})
    tell_and_wait(lab, frames)
    known = {line.split()[0] for line in neighbours(lab, "api").splitlines()}
    assert {"10.89.1.77", "fe80::77"} & known
    lab.change(before)
    lab["host"].run("ip", "neigh", "flush", "dev", link)


@pytest.mark.parametrize("family", FAMILIES)
def test_fragments_are_judged_whole(lab: Lab, family: int) -> None:
    """A datagram too large for one packet, from the container itself."""
    address = lab.ip("web", family)
    size = ["-s", "4000"]
    lab["api"].run("ping", "-c1", "-W5", *size, address)
    lab["api"].run("ping", "-c1", "-W5", *size, lab.gateway("front", family))
