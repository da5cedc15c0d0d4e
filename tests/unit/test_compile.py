"""How networks and endpoints combine. The whole text of what they become is in tests/golden."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from netd import compile, names
from netd.model import Endpoint, Netns, Network, Owner, PortMapping, Proto, Sandbox, StaticRoute, Subnet
from netd.objects import Element, KernelObject, Route, Veth

NETNS = Netns(label="web", path="/run/netd/netns/web", device=4, inode=7)
PORT = PortMapping(proto=Proto.TCP, host_ip=None, host_port=8080, container_port=80)


def network(name: str, *cidrs: str, **policy: object) -> Network:
    subnets = tuple(Subnet(cidr=cidr, gateway=cidr[1]) for cidr in map(ip_network, cidrs))
    return Network(id=name, name=name, driver="bridge", subnets=subnets, mtu=1500, **policy)  # type: ignore[arg-type]


def endpoint(net: Network, order: int, **more: object) -> Endpoint:
    return Endpoint(
        id=f"e{order}",
        network=net.id,
        sandbox="web",
        ifname=f"eth{order}",
        mac=names.mac_of(f"e{order}"),
        addresses=tuple(ip_interface(f"{s.cidr[9]}/{s.cidr.prefixlen}") for s in net.subnets),
        order=order,
        **more,  # type: ignore[arg-type]
    )


FOUR = network("four", "10.1.0.0/24")
SIX = network("six", "fd00:2::/64")
BOTH = network("both", "10.3.0.0/24", "fd00:3::/64")
INNER = network("inner", "10.4.0.0/24", "fd00:4::/64", internal=True)
NETWORKS = {net.id: net for net in (FOUR, SIX, BOTH, INNER)}


def web(*endpoints: Endpoint) -> frozenset[KernelObject]:
    sandbox = Sandbox(id="web", name="web", owner=Owner.CONTAINER, netns=NETNS, ports=(PORT,))
    return compile.sandbox(sandbox, endpoints, NETWORKS)


def default_routes(objects: frozenset[KernelObject]) -> set[str]:
    return {
        f"IPv{item.destination.version} by {item.dev}"
        for item in objects
        if isinstance(item, Route) and item.destination.prefixlen == 0
    }


def targets(objects: frozenset[KernelObject]) -> set[str]:
    return {str(item.value[0]) for item in objects if isinstance(item, Element) and item.value}


def test_each_family_has_one_default_route_and_its_ports_there() -> None:
    objects = web(endpoint(FOUR, 0), endpoint(SIX, 1), endpoint(BOTH, 2))
    assert default_routes(objects) == {"IPv4 by eth0", "IPv6 by eth1"}
    assert targets(objects) == {"10.1.0.9", "fd00:2::9"}


def test_the_priority_decides_before_the_order() -> None:
    objects = web(endpoint(FOUR, 0), endpoint(SIX, 1), endpoint(BOTH, 2, gateway_priority=5))
    assert default_routes(objects) == {"IPv4 by eth2", "IPv6 by eth2"}
    assert targets(objects) == {"10.3.0.9", "fd00:3::9"}


def test_one_that_never_takes_the_default_route_publishes_nothing() -> None:
    objects = web(endpoint(BOTH, 0, gateway_priority=None))
    assert default_routes(objects) == set()
    assert targets(objects) == set()


def test_an_internal_network_has_neither_a_default_route_nor_published_ports() -> None:
    assert default_routes(web(endpoint(INNER, 0))) == set()
    assert targets(web(endpoint(INNER, 0))) == set()
    assert default_routes(web(endpoint(INNER, 0), endpoint(BOTH, 1))) == {"IPv4 by eth1", "IPv6 by eth1"}


def test_what_is_published_alone_is_part_of_the_whole() -> None:
    endpoints = (endpoint(BOTH, 0), endpoint(SIX, 1))
    alone = compile.publish(endpoints, NETWORKS, (PORT,))
    assert len(alone) == 2
    assert alone < web(*endpoints)
    assert web(*endpoints) - alone == compile.sandbox(
        Sandbox(id="web", name="web", owner=Owner.CONTAINER, netns=NETNS), endpoints, NETWORKS
    )


def test_static_routes_go_by_their_own_endpoint() -> None:
    routes = (
        StaticRoute(destination=ip_network("10.9.0.0/16"), via=ip_address("10.3.0.7")),
        StaticRoute(destination=ip_network("fd00:9::/48")),
    )
    objects = web(endpoint(FOUR, 0), endpoint(BOTH, 1, routes=routes))
    assert Route(ip_network("10.9.0.0/16"), "eth1", ip_address("10.3.0.7"), NETNS) in objects
    assert Route(ip_network("fd00:9::/48"), "eth1", None, NETNS) in objects


def test_the_default_route_goes_by_the_gateway_of_the_subnet_of_the_address() -> None:
    wide = network("wide", "10.5.0.0/24", "10.6.0.0/24")
    second = replace(endpoint(wide, 0), addresses=(ip_interface("10.6.0.9/24"),))
    objects = compile.sandbox(
        Sandbox(id="web", name="web", owner=Owner.CONTAINER, netns=NETNS), (second,), {"wide": wide}
    )
    assert Route(ip_network("0.0.0.0/0"), "eth0", ip_address("10.6.0.1"), NETNS) in objects


def test_no_two_objects_have_the_same_key() -> None:
    objects = [*web(endpoint(BOTH, 0), endpoint(SIX, 1), endpoint(INNER, 2)), *compile.network(BOTH)]
    assert len({item.key for item in objects}) == len(objects)


@pytest.mark.parametrize("net", [FOUR, SIX, BOTH, INNER])
def test_a_sandbox_needs_nothing_that_is_its_networks(net: Network) -> None:
    """Or removing the one would take from the other."""
    keys = {item.key for item in compile.network(net)}
    assert keys.isdisjoint(item.key for item in web(endpoint(net, 0)))
    assert any(isinstance(item, Veth) for item in web(endpoint(net, 0)))
