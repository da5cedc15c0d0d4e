"""What a request means, and what is wrong with the others."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from netd import requests
from netd.errors import AlreadyExists, Invalid
from netd.model import (
    Endpoint,
    GatewayMode,
    Netns,
    Network,
    NetworkRequest,
    Owner,
    Sandbox,
    StaticRoute,
    Want,
)
from netd.settings import Settings

SANDBOX = Sandbox(
    id="s", name="web", owner=Owner.CONTAINER, netns=Netns(label="web", path="", device=1, inode=1)
)


def resolve(request: NetworkRequest, networks: list[Network] | None = None, mtu: int = 0) -> Network:
    return requests.network(
        request, id="ab" * 16, created=7.0, settings=Settings(), networks=networks or [], host=[], mtu=mtu
    )


FRONT = resolve(NetworkRequest(name="front", ipv6=True))


def test_what_is_left_out_is_filled_in() -> None:
    net = resolve(NetworkRequest(name="front"))
    assert (net.driver, net.mtu, net.gateway_mode, net.icc, net.internal) == (
        "bridge", 1500, GatewayMode.NAT, True, False,
    )  # fmt: skip
    assert str(net.subnets[0].cidr) == "10.89.0.0/24"
    assert net.created == 7.0
    assert resolve(NetworkRequest(name="front"), mtu=9000).mtu == 9000


@pytest.mark.parametrize("name", ["none", "host"])
def test_a_name_that_stands_for_no_network_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match=f"'{name}' has a meaning of its own"):
        resolve(NetworkRequest(name=name))


def test_what_is_given_is_kept() -> None:
    net = resolve(
        NetworkRequest(
            name="n",
            subnets=("10.7.0.0/16", "fd07::/64"),
            gateways=("10.7.0.9",),
            ip_ranges=("10.7.5.0/24",),
            aux_addresses={"printer": "10.7.5.7"},
            internal=True,
            icc=False,
            gateway_mode="routed",
            mtu=1400,
            dns=("9.9.9.9", "2620:fe::fe"),
            labels={"a": "b"},
            options={"bridge.name": "br7"},
        )
    )
    four, six = net.subnets
    assert (str(four.gateway), str(four.range), four.reserved) == (
        "10.7.0.9", "10.7.5.0/24", {"printer": ip_address("10.7.5.7")},
    )  # fmt: skip
    assert six.cidr == ip_network("fd07::/64")
    assert (net.internal, net.icc, net.gateway_mode, net.mtu) == (True, False, GatewayMode.ROUTED, 1400)
    assert net.dns == (ip_address("9.9.9.9"), ip_address("2620:fe::fe"))
    assert (net.labels, net.options) == ({"a": "b"}, {"bridge.name": "br7"})


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"name": "-front"}, "network name '-front' is not valid"),
        ({"name": "a" * 64}, "is not valid"),
        ({"driver": "macvlan"}, "driver 'macvlan' does not exist"),
        ({"gateway_mode": "bridged"}, "gateway mode 'bridged' does not exist; choose one of: nat, routed"),
        ({"dns": ("resolver",)}, "DNS server 'resolver' is not an IP address"),
        ({"mtu": 67}, "MTU 67 is not possible; it must lie between 68 and 65535"),
        ({"mtu": 1279, "ipv6": True}, "MTU 1279 .* between 1280 and 65535"),
        ({"mtu": 65536}, "MTU 65536 is not possible"),
        ({"mtu": -1}, "MTU -1 is not possible"),
        ({"options": {"colour": "red"}}, "no option 'colour'"),
        ({"subnets": ("10.7.0.1/16",)}, "did you mean 10.7.0.0/16"),
    ],
)
def test_a_wrong_network_is_refused(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Invalid, match=complaint):
        resolve(replace(NetworkRequest(name="front"), **wrong))


def test_two_networks_cannot_share_a_bridge() -> None:
    first = resolve(NetworkRequest(name="a", options={"bridge.name": "br0"}))
    with pytest.raises(AlreadyExists, match="bridge br0 belongs to network 'a'"):
        resolve(NetworkRequest(name="b", options={"bridge.name": "br0"}), [first])


def end(**fields: Any) -> Endpoint:
    given: dict[str, Any] = {"ifname": "eth0", "order": 0, "network": "other"} | fields
    return Endpoint(id="e", sandbox="s", mac="", addresses=(), **given)


@pytest.mark.parametrize(
    ("want", "siblings", "error", "complaint"),
    [
        (
            Want(network="front"),
            [end(network=FRONT.id)],
            AlreadyExists,
            "container 'web' is in network 'front' already",
        ),
        (Want(network="front", ifname="eth0"), [end()], AlreadyExists, "has an interface 'eth0' already"),
        (Want(network="front", ifname="a b"), [], Invalid, "interface name 'a b' is not valid"),
        (Want(network="front", ifname="all"), [], Invalid, "'all' has a meaning of its own"),
        (Want(network="front", aliases=("*x",)), [], Invalid, r"alias name '\*x' is not valid"),
        (Want(network="front", aliases=("x/y",)), [], Invalid, "alias name 'x/y' is not valid"),
    ],
)
def test_a_wrong_wish_is_refused(
    want: Want, siblings: list[Endpoint], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        requests.check_wants("web", [want], [FRONT], siblings)


@pytest.mark.parametrize(
    ("destination", "via", "complaint"),
    [
        ("0.0.0.0/0", None, "default route follows from the gateway priority"),
        ("10.0.0.0/8", "10.90.0.1", "lies in no subnet of network 'front'"),
        ("10.0.0.0/8", "fd00::1", "of the other address family"),
    ],
)
def test_a_route_that_cannot_be_is_refused(destination: str, via: str | None, complaint: str) -> None:
    route = StaticRoute(destination=ip_network(destination), via=ip_address(via) if via else None)
    with pytest.raises(Invalid, match=complaint):
        requests.check_wants("web", [Want(network="front", routes=(route,))], [FRONT], [])


def test_a_route_of_a_family_that_the_network_lacks_is_refused() -> None:
    four = resolve(NetworkRequest(name="four"))
    route = StaticRoute(destination=ip_network("fd77::/64"))
    with pytest.raises(Invalid, match="network 'four' has no IPv6"):
        requests.check_wants("web", [Want(network="four", routes=(route,))], [four], [])
    good = StaticRoute(destination=ip_network("10.0.0.0/8"), via=four.gateways(4)[0])
    requests.check_wants("web", [Want(network="four", routes=(good,))], [four], [])


def test_sysctls_of_an_interface_that_there_will_not_be_are_refused() -> None:
    paths = ("net/ipv4/conf/eth0/rp_filter", "net/ipv6/conf/all/disable_ipv6")
    requests.check_sysctls(replace(SANDBOX, sysctls=dict.fromkeys(paths, "1")), [end(ifname="eth0")])
    other = replace(SANDBOX, sysctls={"net/ipv4/conf/eth7/rp_filter": "2"})
    with pytest.raises(Invalid, match=r"net\.ipv4\.conf\.eth7\.rp_filter: .* no interface 'eth7', only eth0"):
        requests.check_sysctls(other, [end(ifname="eth0")])


LINKS = resolve(NetworkRequest(name="links", driver="ptp", subnets=("10.7.0.0/24",), ipv6=True))


@pytest.mark.parametrize("via", [None, "10.7.0.9"])
def test_without_a_bridge_only_the_gateway_leads_anywhere(via: str | None) -> None:
    route = StaticRoute(destination=ip_network("10.0.0.0/8"), via=ip_address(via) if via else None)
    with pytest.raises(Invalid, match="nothing is next to a container but its gateway"):
        requests.check_wants("web", [Want(network="links", routes=(route,))], [LINKS], [])
    good = replace(route, via=ip_address("10.7.0.1"))
    requests.check_wants("web", [Want(network="links", routes=(good,))], [LINKS], [])


def test_without_a_bridge_nobody_routes_for_others() -> None:
    router = Want(network="links", options={"router": "yes"})
    with pytest.raises(Invalid, match="network 'links' can have no router"):
        requests.check_wants("web", [router], [LINKS], [])
    requests.check_wants("web", [router], [FRONT], [])


def test_two_networks_without_a_bridge_are_never_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(LINKS, id="cd" * 16, name="other")
    request = NetworkRequest(name="new", driver="ptp", subnets=("10.8.0.0/24",))
    assert resolve(request, [other]).driver == "ptp"
    monkeypatch.setattr("netd.names.link_group", lambda network: 7)
    with pytest.raises(AlreadyExists, match="in the group of network 'other'; try again"):
        resolve(request, [other])


def test_interfaces_are_numbered_around_the_names_that_were_asked_for() -> None:
    def made(want: Want, siblings: list[Endpoint], named: list[str]) -> Endpoint:
        return requests.endpoint(
            want,
            FRONT,
            SANDBOX,
            id="x",
            siblings=siblings,
            named=named,
            addresses=(ip_interface("10.89.0.2/24"),),
            mac="02:00:00:00:00:01",
            announced=False,
        )

    assert (made(Want(network="front"), [], []).ifname, made(Want(network="front"), [], []).order) == (
        "eth0",
        0,
    )
    assert made(Want(network="front"), [], ["eth0"]).ifname == "eth1"
    after = made(Want(network="front"), [end(ifname="eth1", order=4)], [])
    assert (after.ifname, after.order) == ("eth0", 5)
    assert made(Want(network="front", ifname="wan"), [end()], ["wan"]).ifname == "wan"
