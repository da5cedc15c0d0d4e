from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from netd.model import Endpoint, Network, Subnet, default_route_of


def subnet(cidr: str) -> Subnet:
    network = ip_network(cidr)
    return Subnet(cidr=network, gateway=network[1])


def network(id: str, *cidrs: str, internal: bool = False) -> Network:
    subnets = tuple(subnet(cidr) for cidr in cidrs)
    return Network(id=id, name=id, driver="bridge", mtu=1500, subnets=subnets, internal=internal)


def endpoint(network: str, *addresses: str, order: int = 0, priority: int | None = 0) -> Endpoint:
    return Endpoint(
        id=f"{network}-{order}",
        network=network,
        sandbox="web",
        ifname=f"eth{order}",
        mac="02:00:00:00:00:01",
        addresses=tuple(ip_interface(address) for address in addresses),
        order=order,
        gateway_priority=priority,
    )


def test_families_and_gateways_follow_the_subnets() -> None:
    net = network("front", "fd00:1::/64", "10.1.0.0/24", "10.2.0.0/24")
    assert net.families == (4, 6)
    assert net.gateways(4) == (ip_address("10.1.0.1"), ip_address("10.2.0.1"))
    assert net.gateways(6) == (ip_address("fd00:1::1"),)


NETWORKS = {
    "four": network("four", "10.1.0.0/24"),
    "dual": network("dual", "10.2.0.0/24", "fd00:2::/64"),
    "inside": network("inside", "10.3.0.0/24", "fd00:3::/64", internal=True),
}


def test_default_route_goes_to_the_first_network_that_has_the_family() -> None:
    four = endpoint("four", "10.1.0.2/24", order=0)
    dual = endpoint("dual", "10.2.0.2/24", "fd00:2::2/64", order=1)
    assert default_route_of((dual, four), NETWORKS, 4) is four
    assert default_route_of((dual, four), NETWORKS, 6) is dual


def test_priority_wins_over_order_and_none_never_wins() -> None:
    four = endpoint("four", "10.1.0.2/24", order=0)
    dual = endpoint("dual", "10.2.0.2/24", order=1, priority=5)
    assert default_route_of((four, dual), NETWORKS, 4) is dual
    never = endpoint("dual", "10.2.0.2/24", order=0, priority=None)
    assert default_route_of((never,), NETWORKS, 4) is None


def test_an_internal_network_has_no_way_out() -> None:
    inside = endpoint("inside", "10.3.0.2/24", "fd00:3::2/64", priority=100)
    assert default_route_of((inside,), NETWORKS, 4) is None
    assert default_route_of((inside,), NETWORKS, 6) is None
