from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from netd import compile, names
from netd.drivers import bridge, driver, overlay
from netd.errors import Invalid, NetdError, Unsupported
from netd.model import Network, Node, RemoteEndpoint, Scope, Subnet
from netd.objects import Bridge, Element, Sysctl

NET = Network(
    id="n1",
    name="fabric",
    driver="overlay",
    subnets=tuple(
        Subnet(cidr=cidr, gateway=cidr[1]) for cidr in map(ip_network, ("10.1.0.0/24", "fd00:1::/64"))
    ),
    mtu=1450,
    scope=Scope.CLUSTER,
    vni=4097,
)
OURS = Node(name="h1", address=ip_address("192.0.2.1"))
OTHER = Node(name="h2", address=ip_address("2001:db8::2"))
WEB = RemoteEndpoint(
    id="e1",
    network="n1",
    node="h2",
    sandbox="c1",
    name="web",
    mac="02:42:0a:01:00:02",
    addresses=(ip_interface("fd00:1::2/64"), ip_interface("10.1.0.2/24")),
)


def test_the_driver_is_found() -> None:
    assert driver("overlay") is overlay


def test_on_each_host_it_is_a_bridge_network_with_the_same_gateway_and_mac() -> None:
    assert list(overlay.network(NET)) == list(bridge.network(NET))
    [made] = [item for item in overlay.network(NET) if isinstance(item, Bridge)]
    assert made.mac == names.mac_of("n1"), "follows from what all hosts know"


def test_its_way_out_is_clamped() -> None:
    clamped = Element("inet", "clamped", (names.bridge_name(NET),))
    assert clamped in compile.network(NET)
    assert clamped not in compile.network(replace(NET, driver="bridge", scope=Scope.LOCAL))


def test_a_tunnel_end() -> None:
    assert str(overlay.tunnel(NET, OURS, 4789)) == (
        f"link   {names.vxlan_name(NET)} vxlan alias netd:vxlan@fabric "
        f"altname netd-vxlan-fabric-{names.digest('n1', 6)} vni 4097 local 192.0.2.1 port 4789 "
        f"mac {names.mac_of('h1/n1')} mtu 1450 up master {names.bridge_name(NET)}"
    )
    assert overlay.tunnel(replace(NET, icc=False), OURS, 4789).isolated
    assert overlay.tunnel(replace(NET, options={"multicast": "on"}), OURS, 4789).multicast


def test_a_remote_endpoint() -> None:
    [made] = overlay.remote(NET, WEB, OTHER, OURS, "eth0")
    assert str(made) == (
        f"remote 02:42:0a:01:00:02 10.1.0.2 fd00:1::2 dev {names.bridge_name(NET)} via 2001:db8::2 "
        f"dev {names.vxlan_name(NET)}"
    )


@pytest.mark.parametrize(
    ("underlay", "family", "limit", "mtu"),
    [
        (1500, 4, 0, 1450),
        (1500, 6, 0, 1430),
        (9000, 4, 0, 8950),
        (1500, 4, 1400, 1400),
        (1400, 6, 1400, 1330),
    ],
)
def test_the_mtu_leaves_room_for_the_tunnel(underlay: int, family: int, limit: int, mtu: int) -> None:
    assert overlay.localised(replace(NET, mtu_limit=limit), underlay, family).mtu == mtu


def test_the_mtu_never_falls_below_what_ip_needs() -> None:
    assert overlay.localised(NET, 1280, 6).mtu == 1280, "or the kernel would take IPv6 away"
    assert overlay.localised(replace(NET, subnets=NET.subnets[:1]), 600, 4).mtu == 576


@pytest.mark.parametrize(
    ("net", "kind", "words"),
    [
        (replace(NET, scope=Scope.LOCAL), Invalid, "needs a cluster"),
        (replace(NET, options={"bridge.name": "br0"}), Invalid, "no option 'bridge.name'"),
        (replace(NET, options={"multicast": "yes"}), Invalid, "choose one of: on, off"),
        (replace(NET, options={"encrypted": "ipsec"}), Invalid, "choose one of: wireguard"),
        (replace(NET, options={"encrypted": "wireguard", "encap": "auto"}), Invalid, "in clear"),
        (replace(NET, options={"encap": "maybe"}), Invalid, "choose one of: auto, always, never"),
        (replace(NET, options={"encap": "auto"}, internal=True), Invalid, "use encap=always"),
        (replace(NET, options={"encap": "never"}, icc=False), Invalid, "use encap=always"),
        (replace(NET, options={"encap": "never", "multicast": "on"}), Invalid, "use encap=auto"),
    ],
)
def test_refuses(net: Network, kind: type[NetdError], words: str) -> None:
    with pytest.raises(kind, match=words):
        overlay.check(net)


def test_accepts_what_it_can_do() -> None:
    overlay.check(replace(NET, options={"multicast": "on", "encap": "always"}))
    overlay.check(replace(NET, options={"multicast": "on", "encap": "auto"}))
    overlay.check(replace(NET, options={"encap": "never"}))


def test_what_could_lead_nowhere_is_refused() -> None:
    never = replace(NET, options={"encap": "never"})
    with pytest.raises(Unsupported, match="no IPv6 routes by IPv4"):
        overlay.check_underlay(never, OURS)
    overlay.check_underlay(never, OTHER)
    overlay.check_underlay(replace(never, subnets=NET.subnets[:1]), OURS)
    overlay.check_underlay(replace(NET, options={"encap": "auto"}), OURS)


def test_routes_leave_the_underlays_mtu_and_tunnels_do_not() -> None:
    sizes = {
        encap: overlay.localised(replace(NET, options={"encap": encap}), 1500, 4).mtu
        for encap in ("always", "auto", "never")
    }
    assert sizes == {"always": 1450, "auto": 1450, "never": 1500}


def test_a_bridge_that_routes_answers_for_others_at_once() -> None:
    bridge_name = names.bridge_name(NET)
    extra = set(overlay.network(replace(NET, options={"encap": "auto"}))) - set(overlay.network(NET))
    assert extra == {
        Sysctl(("net", "ipv4", "neigh", bridge_name, "proxy_delay"), "0"),
        Sysctl(("net", "ipv6", "neigh", bridge_name, "proxy_delay"), "0"),
        Sysctl(("net", "ipv6", "conf", bridge_name, "proxy_ndp"), "1"),
    }


# --- encrypted ------------------------------------------------------------------------------------

SECRET = replace(NET, options={"encrypted": "wireguard"})
KEY = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
KEYED = replace(OTHER, wireguard_key=KEY, wireguard_port=4000)


def test_the_tunnels_of_an_encrypted_network_end_within_wireguard() -> None:
    inside = names.tunnel_address("h1")
    assert inside in names.TUNNEL_PREFIX
    made = overlay.tunnel(SECRET, OURS, 4789)
    assert (made.local, made.port) == (inside, 4790)
    [led] = overlay.remote(SECRET, WEB, KEYED, OURS, "eth0")
    assert f"via {names.tunnel_address('h2')}" in str(led)
    assert overlay.flood(SECRET, KEYED).vtep == names.tunnel_address("h2")
    assert overlay.flood(NET, KEYED).vtep == KEYED.address


def test_the_wireguard_device() -> None:
    assert str(overlay.wireguard(replace(OURS, wireguard_key=KEY), 1500)) == (
        "link   wg-netd wireguard alias netd:wireguard "
        f"altname netd-wireguard-{names.digest('wg-netd', 6)} mtu 1440 port 51820 key {KEY} up"
    )
    assert overlay.wireguard(KEYED, 1500).mtu == 1420, "over IPv6"
    assert overlay.wireguard(OURS, 1300).mtu == 1280, "or the kernel would take IPv6 away"
    assert str(overlay.wireguard_address(OURS)) == f"addr   {names.tunnel_address('h1')}/64 dev wg-netd"
    assert str(overlay.wireguard_peer(KEYED)) == (
        f"peer   {names.tunnel_address('h2')} dev wg-netd key {KEY} via 2001:db8::2 port 4000"
    )


@pytest.mark.parametrize(("family", "mtu"), [(4, 1500 - 60 - 70), (6, 1500 - 80 - 70)])
def test_the_mtu_leaves_room_for_wireguard_too(family: int, mtu: int) -> None:
    assert overlay.localised(SECRET, 1500, family).mtu == mtu
