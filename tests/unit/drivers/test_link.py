from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from netd import compile, firewall
from netd.drivers import driver, link
from netd.errors import Invalid
from netd.model import Endpoint, GatewayMode, Netns, Network, Owner, Sandbox, StaticRoute, Subnet
from netd.names import host_ifname

NET = Network(
    id="n1",
    name="wan",
    driver="link",
    subnets=tuple(
        Subnet(cidr=cidr, gateway=None) for cidr in map(ip_network, ("10.9.0.0/31", "fd00:9::/127"))
    ),
    mtu=1400,
)
BOX = Sandbox(
    id="r1",
    name="r1",
    owner=Owner.CONTAINER,
    netns=Netns(label="r1", path="/run/netd/netns/r1", device=4, inode=7),
)
END = Endpoint(
    id="e1",
    network="n1",
    sandbox="r1",
    ifname="wan0",
    mac="02:42:0a:09:00:00",
    addresses=(ip_interface("10.9.0.0/31"), ip_interface("fd00:9::/127")),
    routes=(StaticRoute(destination=ip_network("0.0.0.0/0"), via=ip_address("10.9.0.1")),),
    options={"bandwidth.ingress": "8000000"},
)


def test_an_end_is_guarded_before_it_exists_and_joins_no_bridge() -> None:
    host = host_ifname(END)
    found = {str(item) for item in compile.sandbox(BOX, [END], {"n1": NET})}
    assert {line for line in found if "ipv6/conf" not in line and "wan0/" not in line} == {
        f"link   {host} veth alias netd:r1@wan altname r1.wan0@wan.73d0cb mtu 1400 up "
        "peer wan0 mac 02:42:0a:09:00:00 [netns r1]",
        f"nft    element inet netd ptp {{ {host} }}",
        f"sysctl net/ipv4/conf/{host}/arp_ignore = 8",
        f"sysctl net/ipv4/conf/{host}/forwarding = 0",
        f"queue  dev {host} rate 1000000 burst 20000",
        "addr   10.9.0.0/31 dev wan0 [netns r1]",
        "addr   fd00:9::/127 dev wan0 [netns r1]",
        "up     wan0 [netns r1]",
        "route  default via 10.9.0.1 dev wan0 [netns r1]",
    }


def test_two_ends_are_led_to_each_other() -> None:
    one, other = END, replace(END, id="e2", sandbox="r2")
    first, second = host_ifname(one), host_ifname(other)
    assert {str(item) for item in link.wire(one, other)} == {
        f"queue  dev {first} redirect to {second}",
        f"queue  dev {second} redirect to {first}",
    }
    assert set(link.wire(one, other)) == set(link.wire(other, one))


def test_the_network_itself_is_nothing() -> None:
    assert driver("link") is link
    assert list(firewall.network(NET)) == list(link.network(NET)) == []
    assert compile.network(NET) == frozenset()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"options": {"bridge.name": "x"}}, "option 'bridge.name'"),
        ({"internal": True}, "--internal"),
        ({"icc": False}, "--no-icc"),
        ({"gateway_mode": GatewayMode.ROUTED}, "--gateway-mode routed"),
        ({"dns": (ip_address("9.9.9.9"),)}, "--dns 9.9.9.9"),
    ],
)
def test_what_has_no_meaning_is_refused(change: dict[str, object], named: str) -> None:
    link.check(NET)
    with pytest.raises(Invalid, match=rf"network 'wan': .*{named}"):
        link.check(replace(NET, **change))  # type: ignore[arg-type]
