"""The rule set, judged by what comes through: every promise of `netd.ruleset` as packets.

Everything runs twice, with br_netfilter off and on, because hosts have it either way, and a rule that
holds only one way does not hold. Both families, wherever both can have the case.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6ND_Redirect, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from netd import firewall
from netd.model import GatewayMode
from netd.objects import Element
from tests.kernel.packetlab import (
    CLIENT,
    CLIENT4,
    CLIENT6,
    FAMILIES,
    FAR,
    HOST,
    HOST4,
    HOST6,
    TOWARDS_FAR,
    Lab,
    both,
    expect,
    tcp,
    udp,
)

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", params=[False, True], ids=["bridge-nf off", "bridge-nf on"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(bridge_nf=request.param) as lab:
        front = lab.network("front", "10.89.1.0/24", "fd00:1::/64")
        back = lab.network("back", "10.89.2.0/24", "fd00:2::/64")
        quiet = lab.network("quiet", "10.89.3.0/24", "fd00:3::/64", icc=False)
        inner = lab.network("inner", "10.89.4.0/24", "fd00:4::/64", internal=True)
        routed = lab.network("routed", "10.89.5.0/24", "fd00:5::/64", gateway_mode=GatewayMode.ROUTED)
        lab.container(
            "web",
            front,
            ports=[
                *(tcp(8080, 80), udp(8080, 80)),
                *(tcp(8081, 81, ip_address(address)) for address in (HOST4, HOST6)),
                *(tcp(8082, 81, ip_address(address)) for address in ("127.0.0.1", "::1")),
                # What somebody else's server far away listens on, and what the host's DNS does.
                *(tcp(80, 80), udp(80, 80), tcp(53, 80), udp(53, 80)),
            ],
        )
        lab.container("api", front)
        lab.container("db", back)
        # Publishes by the first; db is its neighbour on the second.
        lab.container("two", front, back, ports=[tcp(8086, 80), udp(8086, 80)])
        lab.container("shy", quiet, ports=[tcp(8083, 80), udp(8083, 80)])
        lab.container("sly", quiet)
        lab.container("in1", inner)
        lab.container("in2", inner)
        mute = lab.network("mute", "10.89.6.0/24", icc=False, gateway_mode=GatewayMode.ROUTED)
        lab.container("m1", mute, ports=[tcp(8087, 80), udp(8087, 80)])
        lab.container("m2", mute)
        lab.container("own", routed, ports=[tcp(8084, 80), udp(8084, 80), tcp(8085, 81, ip_address(HOST4))])
        yield lab


# --- publishing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("source", "seen_as"),
    [("client", "client"), ("host", "host"), ("db", "db"), ("web", "gateway"), ("api", "gateway")],
)
def test_a_published_port_is_reached_and_sees_who_asks(
    lab: Lab, source: str, seen_as: str, family: int
) -> None:
    seen = {
        "client": CLIENT[family],
        "host": HOST[family],
        "db": lab.ip("db", family),
        "gateway": lab.gateway("front", family),
    }[seen_as]
    expect(
        lab,
        source,
        {
            **dict.fromkeys(both(HOST[family], 8080), f"web {seen}"),
            ("tcp", HOST[family], 8081): f"web {seen}",
        },
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_port_of_one_host_address_is_not_reached_by_another(lab: Lab, family: int) -> None:
    other = lab.gateway("front", family)
    expect(lab, "api", {("tcp", other, 8080): f"web {other}", ("tcp", other, 8081): None})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_port_of_another_network_is_reached_by_its_gateway_address(lab: Lab, family: int) -> None:
    expect(lab, "db", {("tcp", lab.gateway("front", family), 8080): f"web {lab.ip('db', family)}"})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_port_of_a_container_that_is_a_neighbour_too_is_reached(lab: Lab, family: int) -> None:
    """Its answer would go straight to the neighbour, from an address that it must not use there."""
    seen = {"db": lab.gateway("front", family), "client": CLIENT[family], "shy": lab.ip("shy", family)}
    for source, address in seen.items():
        expect(lab, source, dict.fromkeys(both(HOST[family], 8086), f"two {address}"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_port_of_loopback_is_left_to_the_relay(lab: Lab, family: int) -> None:
    expect(lab, "client", {("tcp", HOST[family], 8082): None})


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_is_left_to_the_relay(lab: Lab, address: str) -> None:
    expect(lab, "host", dict.fromkeys(both(address, 8080), f"host {address.replace('1.2.3', '0.0.1')}"))


def test_a_link_local_client_is_left_to_the_relay(lab: Lab) -> None:
    """A container could not answer it: link-local addresses are not routed."""
    [address] = lab["host"].addresses("eth0", "link")
    [client] = lab["client"].addresses("eth0", "link")
    expect(lab, "client", dict.fromkeys(both(f"{address}%eth0", 8080), f"host {client}"))


@pytest.mark.parametrize("family", FAMILIES)
def test_transit_traffic_to_the_same_port_is_not_touched(lab: Lab, family: int) -> None:
    expect(lab, "client", dict.fromkeys(both(FAR[family], 80), f"far {CLIENT[family]}"))
    expect(lab, "api", dict.fromkeys(both(FAR[family], 80), f"far {TOWARDS_FAR[family]}"))


def test_a_published_port_53_does_not_take_the_dns_away(lab: Lab) -> None:
    for family in FAMILIES:
        own, other = lab.gateway("front", family), lab.gateway("back", family)
        expect(lab, "api", dict.fromkeys(both(own, 53), f"host {lab.ip('api', family)}"))
        expect(lab, "client", dict.fromkeys(both(HOST[family], 53), f"web {CLIENT[family]}"))
        expect(lab, "api", dict.fromkeys(both(other, 53), None))


def test_no_neighbour_is_advised_to_go_straight(lab: Lab) -> None:
    """The kernel answers a hairpin with a redirect; one that is obeyed avoids the translation.

    Between two who never spoke before, because the kernel limits the rate of redirects to each.
    """
    if lab.bridge_nf:
        pytest.skip("the hairpin is bridged, and nothing is redirected")
    present = lab.present
    net = lab.network("fresh", "10.89.7.0/24", "fd00:7::/64")
    lab.container("f1", net, ports=[tcp(8090, 80)])
    lab.container("f2", net)
    lab["host"]("write", "/proc/sys/net/ipv4/conf/all/send_redirects", "1")
    lab.wait_for_link_local(lab.bridge("fresh"))
    for family in FAMILIES:
        question = (
            Ether(src=lab.mac("f2"), dst=lab.mac_of_bridge("fresh"))
            / network_layer(lab.ip("f2", family), HOST[family])
            / TCP(sport=40000, dport=8090, flags="S")
        )
        heard = lab.exchange("f2", [question], listener="f2", last=HOST[family])
        assert any(TCP in frame and frame[TCP].flags == "SA" for frame in heard), "the hairpin itself"
        assert not [frame for frame in heard if _is_redirect(frame)]
    lab.change(present)


# --- isolation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_containers_of_one_network_reach_each_other(lab: Lab, family: int) -> None:
    for source, peer in (("api", "web"), ("in1", "in2")):
        address = lab.ip(peer, family)
        expect(
            lab,
            source,
            {
                **dict.fromkeys([*both(address, 80), *both(address, 81)], f"{peer} {lab.ip(source, family)}"),
                ("icmp", address, 0): "pong",
            },
        )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("source", "peer"),
    [
        ("api", "db"),
        ("db", "web"),
        ("api", "shy"),
        ("api", "in1"),
        ("in1", "api"),
        ("shy", "web"),
        ("own", "web"),
        ("client", "web"),
        ("client", "shy"),
        ("client", "in1"),
        ("far", "db"),
    ],
)
def test_nobody_else_reaches_a_container(lab: Lab, source: str, peer: str, family: int) -> None:
    """Not by routing straight to its address, and whether its port is published or not."""
    lab.route(source, lab.ip(peer, family))
    address = lab.ip(peer, family)
    expect(lab, source, dict.fromkeys([*both(address, 80), *both(address, 81), ("icmp", address, 0)]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", ["api", "in1", "sly", "own", "client"])
def test_a_gateway_address_belongs_to_its_network(lab: Lab, source: str, family: int) -> None:
    """Host services bound to all addresses are not reached by the gateway of somebody else's network."""
    other = lab.gateway("back", family)
    lab.route(source, other)
    expect(lab, source, dict.fromkeys([*both(other, 7000), *both(other, 53), ("icmp", other, 0)]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_container_reaches_the_host(lab: Lab, family: int) -> None:
    own = lab.gateway("front", family)
    expect(
        lab,
        "api",
        {
            **dict.fromkeys([*both(own, 7000), *both(HOST[family], 7000)], f"host {lab.ip('api', family)}"),
            ("icmp", own, 0): "pong",
        },
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_host_may_use_a_gateway_address_itself(lab: Lab, family: int) -> None:
    """Ask its own services there (the containers' DNS), and ask others in its name."""
    own = lab.gateway("front", family)
    expect(lab, "host", dict.fromkeys(both(own, 53), f"host {own}"))
    lab["host"].run("ping", "-c1", "-W5", "-I", own, CLIENT[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_host_reaches_every_container(lab: Lab, family: int) -> None:
    for name, network in (("web", "front"), ("sly", "quiet"), ("in1", "inner"), ("own", "routed")):
        address = lab.ip(name, family)
        expect(
            lab,
            "host",
            {
                **dict.fromkeys(both(address, 81), f"{name} {lab.gateway(network, family)}"),
                ("icmp", address, 0): "pong",
            },
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_without_icc_neighbours_are_apart(lab: Lab, family: int) -> None:
    """Nor are they less apart by a route to the neighbour that leads by the gateway."""
    address = lab.ip("shy", family)
    closed = [*both(address, 80), *both(address, 81), ("icmp", address, 0)]
    expect(lab, "sly", dict.fromkeys(closed))
    lab.route("sly", address)
    expect(lab, "sly", dict.fromkeys(closed))


@pytest.mark.parametrize(("source", "peer"), [("sly", "shy"), ("m2", "m1")])
def test_without_icc_not_even_one_packet_gets_through_the_host(lab: Lab, source: str, peer: str) -> None:
    """Not to a published port either, which in routed mode (m1) is open at the container's own address."""
    address = lab.ip(peer, 4)
    lab.route(source, address)
    assert not lab.arrives(source, address, 80, at=peer)
    assert lab.arrives("host", address, 80, at=peer)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_icc_a_published_port_is_left_to_the_relay(lab: Lab, family: int) -> None:
    """For neighbours and the container itself; everybody else is translated."""
    for source in ("sly", "shy"):
        seen = f"host {lab.ip(source, family)}"
        for address in (HOST[family], lab.gateway("quiet", family)):
            expect(lab, source, dict.fromkeys(both(address, 8083), seen))
    expect(lab, "sly", dict.fromkeys(both(HOST[family], 8080), f"web {lab.ip('sly', family)}"))
    expect(lab, "client", dict.fromkeys(both(HOST[family], 8083), f"shy {CLIENT[family]}"))
    expect(lab, "api", dict.fromkeys(both(HOST[family], 8083), f"shy {lab.ip('api', family)}"))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_internal_network_has_its_gateway_and_nothing_else(lab: Lab, family: int) -> None:
    own = lab.gateway("inner", family)
    for target in (CLIENT[family], HOST[family], lab.ip("web", family)):
        lab.route("in1", target)
    expect(
        lab,
        "in1",
        {
            **dict.fromkeys(both(own, 53), f"host {lab.ip('in1', family)}"),
            ("icmp", own, 0): "pong",
            **dict.fromkeys([*both(own, 7000), *both(own, 8080)]),
            **dict.fromkeys([*both(HOST[family], 7000), *both(HOST[family], 8080), *both(HOST[family], 53)]),
            **dict.fromkeys([*both(CLIENT[family], 80), ("icmp", CLIENT[family], 0)]),
        },
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_leads_into_an_internal_network(lab: Lab, family: int) -> None:
    """Not even a translation, which netd itself does not make but another program may."""
    target = (ip_address(lab.ip("in1", family)), 80)
    with lab.holding(Element("inet", f"any{family}", ("udp", 8099), target)):
        for source in ("client", "api"):
            assert not lab.arrives(source, HOST[family], 8099, at="in1")
        assert lab.arrives("host", HOST[family], 8099, at="in1")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["api", "sly", "in1"])
def test_container_and_gateway_find_each_other(lab: Lab, name: str, family: int) -> None:
    """With empty caches on both sides, whoever asks first."""
    net = lab.network_of(name)
    gateway, address = lab.gateway(net.name, family), lab.ip(name, family)
    for source, target in ((name, gateway), ("host", address)):
        lab[name].run("ip", "neigh", "flush", "dev", "eth0")
        lab["host"].run("ip", "neigh", "flush", "dev", lab.bridge(net.name))
        expect(lab, source, {("icmp", target, 0): "pong"})


# --- going out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_container_goes_out_behind_the_host(lab: Lab, family: int) -> None:
    for source in ("api", "sly"):
        expect(
            lab,
            source,
            {
                **dict.fromkeys(both(CLIENT[family], 80), f"client {HOST[family]}"),
                ("icmp", CLIENT[family], 0): "pong",
            },
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_in_routed_mode_a_container_has_its_own_address_outside(lab: Lab, family: int) -> None:
    own = lab.ip("own", family)
    expect(lab, "own", dict.fromkeys(both(CLIENT[family], 80), f"client {own}"))
    expect(
        lab,
        "client",
        {
            **dict.fromkeys([*both(own, 80), *both(HOST[family], 8084)], f"own {CLIENT[family]}"),
            ("icmp", own, 0): "pong",
            **dict.fromkeys(both(own, 81)),
        },
    )
    expect(
        lab,
        "api",
        {
            **dict.fromkeys(both(own, 80), f"own {lab.ip('api', family)}"),
            ("icmp", own, 0): None,
            **dict.fromkeys(both(own, 81)),
        },
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_conntrack_cannot_place_does_not_leave_untranslated(lab: Lab, family: int) -> None:
    stray = (
        Ether(src=lab.mac("api"), dst=lab.mac_of_bridge("front"))
        / network_layer(lab.ip("api", family), CLIENT[family])
        / TCP(sport=41000, dport=80, flags="FA", seq=7, ack=9)
    )
    heard = lab.exchange("api", [stray], listener="client", last=CLIENT[family])
    assert not [frame for frame in heard if TCP in frame and frame[TCP].sport == 41000]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_host_that_did_not_route_does_not_begin_to(lab: Lab, family: int) -> None:
    transit = dict.fromkeys([*both(FAR[family], 80), ("icmp", FAR[family], 0)])
    with lab.holding(firewall.closed(family)):
        expect(lab, "client", transit)
        expect(lab, "client", dict.fromkeys(both(HOST[family], 8080), f"web {CLIENT[family]}"))
        expect(lab, "api", dict.fromkeys(both(FAR[family], 80), f"far {TOWARDS_FAR[family]}"))
    expect(lab, "client", {("tcp", FAR[family], 80): f"far {CLIENT[family]}"})


def test_a_bridge_of_somebody_else_is_let_be(lab: Lab) -> None:
    """br_netfilter shows its frames to the rules; without routing nothing of them is transit."""
    lab.foreign_bridge("br-other", "east", "west")
    with lab.holding(firewall.closed(4)), lab.holding(firewall.closed(6)):
        lab["east"].run("ping", "-c1", "-W5", "192.0.2.2")
        lab["east"].run("ping", "-c1", "-W5", "2001:db8:5::2")


@pytest.mark.parametrize("family", FAMILIES)
def test_somebody_elses_policy_may_know_connections_that_stay_on_a_bridge(lab: Lab, family: int) -> None:
    """What bridge-nf-call-iptables is turned on for: rules that let a neighbour connect one way only."""
    if not lab.bridge_nf:
        pytest.skip("without br_netfilter no such rule sees a frame that stays on a bridge")
    web, api, front = lab.ip("web", family), lab.ip("api", family), lab.bridge("front")
    ip = "ip" if family == 4 else "ip6"
    lab["host"].run(
        "nft",
        "table inet foreign { chain forward { type filter hook forward priority 10; policy accept;"
        f" iifname {front} oifname {front} ct state established accept;"
        f" iifname {front} oifname {front} {ip} saddr {api} tcp dport 80 accept;"
        f" iifname {front} oifname {front} meta l4proto tcp drop; }}; }}",
    )
    try:
        expect(lab, "api", {("tcp", web, 80): f"web {api}"})
        expect(lab, "web", {("tcp", api, 80): None})
    finally:
        lab["host"].run("nft", "delete", "table", "inet", "foreign")


# --- martians --------------------------------------------------------------------------------------------


def test_loopback_is_not_reached_from_the_wire(lab: Lab) -> None:
    """Even where something else on the host has turned route_localnet on (moby #41872)."""
    host = lab["host"]
    for ifname in ("eth0", lab.bridge("front")):
        host("write", f"/proc/sys/net/ipv4/conf/{ifname}/route_localnet", "1")
    try:
        for sender, ifname, source in (("client", "eth0", CLIENT4), ("api", lab.bridge("front"), None)):
            frame = (
                Ether(src=lab[sender].mac("eth0"), dst=host.mac(ifname))
                / IP(src=source or lab.ip("api", 4), dst="127.0.0.1")
                / TCP(sport=42000, dport=7000, flags="S")
            )
            heard = lab.exchange(sender, [frame], listener=sender, last=HOST4)
            assert not [heard_ for heard_ in heard if TCP in heard_ and heard_[TCP].dport == 42000]
    finally:
        for ifname in ("eth0", lab.bridge("front")):
            host("write", f"/proc/sys/net/ipv4/conf/{ifname}/route_localnet", "0")


@pytest.mark.parametrize(
    ("source", "destination"),
    [("127.0.0.1", HOST4), ("::1", HOST6), (CLIENT6, "::1")],
)
def test_loopback_addresses_do_not_come_from_the_wire(lab: Lab, source: str, destination: str) -> None:
    """Counted around the rule: for IPv4 the kernel has a guard of its own behind it, for IPv6 before."""
    frame = (
        Ether(src=lab["client"].mac("eth0"), dst=lab["host"].mac("eth0"))
        / network_layer(source, destination)
        / TCP(sport=42001, dport=7000, flags="S")
    )
    with lab.passing("tcp sport 42001", priority=-300) as passed:
        lab.exchange("client", [frame, frame, frame], listener="client", last=HOST4)
        assert passed() == (0 if ":" in source else 3, 0)


# --- one text, loaded again ------------------------------------------------------------------------------


def test_loading_the_rules_again_changes_nothing_and_interrupts_nothing(lab: Lab) -> None:
    host = lab["host"]
    before = host.run("nft", "list", "ruleset")
    host.run("nft", "-f", "-", input=firewall.RULESET)
    assert host.run("nft", "list", "ruleset") == before
    assert f'"{firewall.VERSION}"' in host.run("nft", "list", "set", "inet", "netd", "version")
    assert f'"{firewall.VERSION}"' in host.run("nft", "list", "set", "bridge", "netd", "version")


def test_an_upgrade_replaces_rules_and_keeps_elements(lab: Lab) -> None:
    """Rules that an older version, or anybody, left in the chains are gone; who is who is not forgotten."""
    host = lab["host"]
    before = host.run("nft", "list", "ruleset")
    host.run("nft", "add", "rule", "inet", "netd", "forward", "drop")
    host.run("nft", "flush", "set", "inet", "netd", "version")
    expect(lab, "client", {("tcp", HOST4, 8080): f"web {CLIENT4}"})
    host.run("nft", "-f", "-", input=firewall.RULESET)
    assert host.run("nft", "list", "ruleset") == before


# --- taking down -------------------------------------------------------------------------------------------


def test_what_is_removed_leaves_no_element(lab: Lab) -> None:
    """Also proves that every element the product makes can be added and deleted."""
    host = lab["host"]
    before, present = host.run("nft", "list", "ruleset"), lab.present
    net = lab.network("brief", "10.89.9.0/24", "fd00:9::/64", gateway_mode=GatewayMode.ROUTED)
    lab.container("passer", net, ports=[tcp(9000, 80), udp(9001, 80, ip_address(HOST4))])
    expect(lab, "client", {("tcp", HOST4, 9000): f"passer {CLIENT4}"})
    lab.change(present)
    assert host.run("nft", "list", "ruleset") == before
    expect(lab, "client", {("tcp", HOST4, 9000): None})


def network_layer(source: str, destination: str) -> Packet:
    kind = IPv6 if ":" in source else IP
    return kind(src=source, dst=destination)


def _is_redirect(frame: Packet) -> bool:
    return bool(frame.haslayer(ICMPv6ND_Redirect)) or (ICMP in frame and frame[ICMP].type == 5)
