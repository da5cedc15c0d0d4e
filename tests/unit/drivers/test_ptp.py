from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest

from netd import names
from netd.drivers import driver, ptp
from netd.errors import Invalid
from netd.model import Endpoint, Network, StaticRoute, Subnet
from netd.objects import Address, BridgePort, KernelObject, Redirect, Route, Sysctl, Up, Veth
from tests.unit.drivers.test_bridge import WEB, sysctls

NET = Network(
    id="n1",
    name="front",
    driver="ptp",
    subnets=tuple(
        Subnet(cidr=cidr, gateway=cidr[1])
        for cidr in map(ip_network, ("10.1.0.0/24", "10.2.0.0/24", "fd00:1::/64"))
    ),
    mtu=1450,
)
LEGACY = replace(NET, subnets=NET.subnets[:1])


def of(net: Network, families: tuple[int, ...] = (4, 6), **more: object) -> list[KernelObject]:
    endpoint = Endpoint(
        id="e1",
        network=net.id,
        sandbox="web",
        ifname="eth0",
        mac="02:42:0a:01:00:02",
        addresses=tuple(
            ip_interface(f"{cidr[2]}/{cidr.prefixlen}")
            for cidr in (next(s.cidr for s in net.subnets if s.family == f) for f in net.families)
        ),
        **more,  # type: ignore[arg-type]
    )
    return list(ptp.endpoint(net, WEB, endpoint, families))


def test_it_is_looked_up_by_name_and_makes_no_bridge() -> None:
    assert driver("ptp") is ptp
    assert list(ptp.network(NET)) == []
    assert not [item for item in of(NET) if isinstance(item, BridgePort)]
    assert not NET.bridged


def test_options_are_refused() -> None:
    ptp.check(NET)
    with pytest.raises(Invalid, match=r"the ptp driver has no option 'bridge.name'"):
        ptp.check(replace(NET, options={"bridge.name": "br0"}))


def test_each_link_has_all_gateways_and_leads_to_the_container() -> None:
    [link] = [item for item in of(NET) if isinstance(item, Veth)]
    assert link.group == names.link_group(NET) != names.link_group(replace(NET, id="n2"))
    host = [item for item in of(NET) if isinstance(item, Address | Route) and item.netns is None]
    assert [str(item) for item in host] == [
        f"addr   fe80::1/64 dev {link.name}",
        f"addr   10.1.0.1/32 dev {link.name}",
        f"addr   10.2.0.1/32 dev {link.name}",
        f"addr   fd00:1::1/128 dev {link.name}",
        f"route  10.1.0.2/32 dev {link.name}",
        f"route  fd00:1::2/128 dev {link.name}",
    ]


def test_inside_everything_but_the_gateway_is_behind_it() -> None:
    routes = [item for item in of(NET) if isinstance(item, Route) and item.netns]
    near = {str(route.destination) for route in routes if route.via is None}
    assert near == {"10.1.0.1/32", "10.2.0.1/32", "fd00:1::1/128"}
    assert {f"{route.destination} {route.via}" for route in routes if route.via} == {
        "10.1.0.0/24 10.1.0.1",
        "10.2.0.0/24 10.2.0.1",
        "fd00:1::/64 fd00:1::1",
        "0.0.0.0/0 10.1.0.1",
        "::/0 fd00:1::1",
    }
    assert [str(item) for item in of(NET) if isinstance(item, Address) and item.netns] == [
        "addr   10.1.0.2/24 dev eth0 noprefixroute [netns web]",
        "addr   fd00:1::2/64 dev eth0 noprefixroute [netns web]",
    ]
    assert [item for item in of(NET) if isinstance(item, Up)] == [Up("eth0", WEB.netns)]


def test_without_the_default_route_the_network_is_still_reached() -> None:
    routes = [item for item in of(NET, families=()) if isinstance(item, Route) and item.netns and item.via]
    assert {str(route.destination) for route in routes} == {"10.1.0.0/24", "10.2.0.0/24", "fd00:1::/64"}


def test_static_routes_are_inside() -> None:
    static = StaticRoute(destination=ip_network("192.0.2.0/24"), via=NET.subnets[0].gateway)
    [route] = [
        r for r in of(NET, routes=(static,)) if isinstance(r, Route) and r.destination == static.destination
    ]
    assert (route.via, route.netns) == (static.via, WEB.netns)


def test_without_ipv6_it_is_off_on_both_sides() -> None:
    assert {i.value for i in of(LEGACY) if isinstance(i, Sysctl) and i.path[1] == "ipv6"} == {"1"}
    assert not [item for item in of(LEGACY) if isinstance(item, Address) and item.address.version == 6]


@pytest.mark.parametrize(
    ("policy", "forward"),
    [({}, "1"), ({"internal": True}, "1"), ({"icc": False}, "1"), ({"internal": True, "icc": False}, "0")],
)
def test_the_link_forwards_unless_there_is_nowhere_to_go(policy: dict[str, bool], forward: str) -> None:
    host = [item for item in of(replace(NET, **policy)) if isinstance(item, Sysctl) and item.netns is None]  # type: ignore[arg-type]
    assert {sysctls(list(host), family)["forwarding"] for family in (4, 6)} == {forward}


def test_bandwidth_is_limited_as_anywhere() -> None:
    assert [i for i in of(NET, options={"bandwidth.egress": "1000000"}) if isinstance(i, Redirect)]
