from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from netd.cni import config, spec, wishes
from netd.cni.config import Config
from netd.cni.results import Result
from netd.cni.spec import Call, CniError
from netd.model import Netns, PortMapping, Proto, StaticRoute
from tests.unit.cni.test_results import NETWORK

NETNS = Netns(label="pod1", path="/run/netns/pod1", device=4, inode=7)
GIVEN = Result(
    ips=({"address": "10.1.0.9/16", "gateway": "10.1.0.1"}, {"address": "fd00:1::9/64"}),
    routes=({"dst": "0.0.0.0/0"}, {"dst": "10.7.0.0/16", "gw": "10.1.0.7"}),
)


def parsed(**keys: Any) -> Config:
    text = json.dumps({"cniVersion": "1.0.0", "name": "front", "type": "netd", **keys})
    return config.parse(text.encode(), "ADD")


def called(args: str = "", container: str = "pod1") -> Call:
    variables = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": container, "CNI_NETNS": "/x", "CNI_IFNAME": "eth0"}
    return spec.call({**variables, "CNI_ARGS": args}, b"", None)


def test_a_network_of_ones_own() -> None:
    found = wishes.network_request(
        parsed(
            bridge="cni0",
            subnets=["10.1.0.0/16", {"subnet": "fd00:1::/64", "gateway": "fd00:1::f"}],
            gateway="10.1.0.9",
            ipMasq=False,
            mtu=1400,
            internal=True,
            portIsolation=True,
        ),
        None,
    )
    assert (found.name, found.subnets) == ("front", ("10.1.0.0/16", "fd00:1::/64"))
    assert found.gateways == ("10.1.0.9", "fd00:1::f")
    assert (found.gateway_mode, found.mtu, found.internal, found.icc) == ("routed", 1400, True, False)
    assert found.options == {"bridge.name": "cni0"}


def test_a_network_without_a_bridge() -> None:
    assert wishes.network_request(parsed(mode="ptp"), None).driver == "ptp"
    assert wishes.network_request(parsed(mode="bridge"), None).driver == "bridge"
    assert (
        wishes.digest(parsed(mode="ptp")) != wishes.digest(parsed()) == wishes.digest(parsed(mode="bridge"))
    )


def test_a_network_without_subnets_leaves_the_choice_to_netd() -> None:
    found = wishes.network_request(parsed(), None)
    assert (found.subnets, found.gateways, found.gateway_mode, found.options) == ((), (), "nat", {})


def test_ranges_come_from_everywhere() -> None:
    found = wishes.network_request(
        parsed(
            ranges=[[{"subnet": "10.1.0.0/16"}]],
            ipam={"ranges": [[{"subnet": "10.2.0.0/16"}]]},
            runtimeConfig={"ipRanges": [[{"subnet": "10.3.0.0/16"}]]},
        ),
        None,
    )
    assert found.subnets == ("10.1.0.0/16", "10.3.0.0/16", "10.2.0.0/16")


def test_ranges_narrow_in_all_of_host_locals_shapes() -> None:
    subnet = {"subnet": "10.1.0.0/16"}
    ranges = [
        [
            {**subnet, "rangeStart": "10.1.4.7", "rangeEnd": "10.1.4.9"},
            {**subnet, "rangeStart": "10.1.255.9"},
        ],
        [{"subnet": "fd00:1::/64", "rangeEnd": "fd00:1::5"}],
    ]
    found = wishes.network_request(parsed(ranges=ranges), None)
    assert found.subnets == ("10.1.0.0/16", "fd00:1::/64")
    assert found.ip_ranges == ("10.1.4.7-10.1.4.9", "10.1.255.9-10.1.255.254", "fd00:1::1-fd00:1::5")


def test_ipv6_subnets_alone_bring_no_ipv4() -> None:
    assert not wishes.network_request(parsed(subnets=["fd00:1::/64"]), None).ipv4
    given = Result(ips=({"address": "fd00:1::9/64"},))
    assert not wishes.network_request(parsed(ipam={"type": "static"}), given).ipv4
    assert wishes.network_request(parsed(subnets=["fd00:1::/64", "10.1.0.0/16"]), None).ipv4
    assert wishes.network_request(parsed(), None).ipv4


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"ranges": [[{"subnet": "10.1.0.0/16", "rangeStart": "10.2.0.5"}]]}, "10.2.0.5 to 10.1.255.254"),
        ({"ranges": [[{"subnet": "10.1.0.0/16", "rangeEnd": "10.1.0.0"}]]}, "10.1.0.1 to 10.1.0.0"),
        ({"ranges": [[{"subnet": "10.1.0.0/16", "rangeStart": "x"}]]}, "rangeStart 'x'"),
        ({"ranges": [[{"subnet": "10.1.0.0/16", "rangeStart": "fd00::1"}]]}, "fd00::1"),
        ({"subnets": ["10.1.0.0/99"]}, "'10.1.0.0/99'"),
        ({"gateway": "10.1.0.1"}, "10.1.0.1"),
        ({"subnets": ["10.1.0.0/16"], "gateway": ["x"]}, "gateway 'x'"),
    ],
)
def test_wrong_networks_have_code_7_and_name_the_value(keys: dict[str, Any], named: str) -> None:
    with pytest.raises(CniError) as caught:
        wishes.network_request(parsed(**keys), None)
    assert caught.value.cni == 7
    assert named in str(caught.value)


def test_another_plugins_addresses_make_the_subnets() -> None:
    found = wishes.network_request(parsed(ipam={"type": "static"}), GIVEN)
    assert (found.subnets, found.gateways) == (("10.1.0.0/16", "fd00:1::/64"), ("10.1.0.1",))


def test_all_of_host_locals_ranges_are_the_networks() -> None:
    """The next pod may get its address from another one of the set."""
    ranges = [[{"subnet": "10.1.0.0/16"}, {"subnet": "10.2.0.0/16", "gateway": "10.2.0.9"}]]
    found = wishes.network_request(parsed(ipam={"type": "host-local", "ranges": ranges}), GIVEN)
    assert found.subnets == ("10.1.0.0/16", "fd00:1::/64", "10.2.0.0/16")
    assert found.gateways == ("10.1.0.1", "10.2.0.9")


def test_the_digest_is_of_what_defines_a_network() -> None:
    base = wishes.digest(parsed(subnets=["10.1.0.0/16"]))
    same = parsed(subnets=["10.1.0.0/16"], dns={"domain": "x"}, runtimeConfig={"ips": ["10.1.0.7"]})
    assert wishes.digest(same) == base
    for other in ({"subnets": ["10.2.0.0/16"]}, {"subnets": ["10.1.0.0/16"], "mtu": 1400}):
        assert wishes.digest(parsed(**other)) != base


def test_a_place_asked_for_by_the_runtime() -> None:
    runtime = {"ips": ["10.1.0.7/16", "fd00:1::7"], "mac": "02:00:00:00:00:0A", "aliases": ["a"]}
    found = wishes.want(parsed(runtimeConfig=runtime, aliases=["b"]), called(), NETWORK, None)
    assert (found.network, found.ifname, found.mac) == ("n1", "eth0", "02:00:00:00:00:0a")
    assert (found.ip, found.ip6) == (ip_address("10.1.0.7"), ip_address("fd00:1::7"))
    assert found.aliases == ("b", "a")


def test_limits_become_options_of_the_endpoint() -> None:
    limits = {"ingressRate": 8000, "ingressBurst": 100, "egressRate": 9000}
    found = wishes.want(parsed(runtimeConfig={"bandwidth": limits}), called(), NETWORK, None)
    assert found.options == {"bandwidth.ingress": "8000/100", "bandwidth.egress": "9000/0"}
    assert wishes.want(parsed(), called(), NETWORK, None).options == {}


def test_podman_groups_aliases_by_network() -> None:
    grouped = {"front": ["a"], "back": ["b"]}
    assert wishes.want(parsed(runtimeConfig={"aliases": grouped}), called(), NETWORK, None).aliases == ("a",)


def test_older_ways_to_ask_for_addresses_and_macs() -> None:
    by_args = wishes.want(parsed(), called("IP=10.1.0.7;MAC=02:00:00:00:00:0b"), NETWORK, None)
    assert (str(by_args.ip), by_args.mac) == ("10.1.0.7", "02:00:00:00:00:0b")
    by_cni = wishes.want(
        parsed(args={"cni": {"ips": ["10.1.0.8"], "mac": "x"}}), called("IP=1.2.3.4"), NETWORK, None
    )
    assert (str(by_cni.ip), by_cni.mac) == ("10.1.0.8", "x")


@pytest.mark.parametrize("ips", [["x"], ["10.1.0.7", "10.1.0.8"]])
def test_wrong_addresses_have_code_7(ips: list[str]) -> None:
    with pytest.raises(CniError) as caught:
        wishes.want(parsed(runtimeConfig={"ips": ips}), called(), NETWORK, None)
    assert caught.value.cni == 7
    assert ips[0] in str(caught.value)


def test_another_plugins_addresses_and_routes_are_taken() -> None:
    found = wishes.want(parsed(ipam={"type": "static"}), called(), NETWORK, GIVEN)
    assert (str(found.ip), str(found.ip6)) == ("10.1.0.9", "fd00:1::9")
    assert found.routes == (StaticRoute(destination=ip_network("10.7.0.0/16"), via=ip_address("10.1.0.7")),)
    assert found.gateway_priority == 0


@pytest.mark.parametrize(
    ("keys", "given", "default"),
    [
        ({}, None, True),
        ({"isDefaultGateway": True, "routes": [{"dst": "10.9.0.0/16"}]}, None, True),
        ({"routes": [{"dst": "10.9.0.0/16"}]}, None, False),
        ({"routes": [{"dst": "::/0"}]}, None, True),
        ({"ipam": {"type": "static"}}, Result(ips=GIVEN.ips), False),
        ({"ipam": {"type": "static"}, "isDefaultGateway": True}, Result(ips=GIVEN.ips), True),
    ],
)
def test_who_has_the_default_route(keys: dict[str, Any], given: Result | None, default: bool) -> None:
    found = wishes.want(parsed(**keys), called(), NETWORK, given)
    assert (found.gateway_priority == 0) is default


def test_a_route_without_a_gateway_takes_the_networks() -> None:
    found = wishes.want(
        parsed(routes=[{"dst": "10.9.0.0/16"}, {"dst": "fd09::/64"}]), called(), NETWORK, None
    )
    assert [str(route.via) for route in found.routes] == ["10.1.0.1", "fd00:1::1"]


def test_the_owner_has_ports_labels_and_servers() -> None:
    keys = {
        "runtimeConfig": {
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "TCP"},
                {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
                {"hostPort": 0, "containerPort": 99},
            ],
            "dns": {"servers": ["9.9.9.9"]},
        },
        "args": {"cni": {"labels": [{"key": "app", "value": "x"}]}},
    }
    args = "IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=prod;Other=1"
    found = wishes.sandbox(parsed(**keys), called(args), NETNS)
    assert (found.id, found.name, found.hostname) == ("pod1/eth0", "web.prod", "web")
    assert found.ports == (
        PortMapping(proto=Proto.TCP, host_ip=None, host_port=8080, container_port=80),
        PortMapping(proto=Proto.UDP, host_ip=ip_address("127.0.0.1"), host_port=53, container_port=53),
    )
    assert found.dns == (ip_address("9.9.9.9"),)
    assert found.labels == {
        "app": "x",
        "K8S_POD_NAME": "web",
        "K8S_POD_NAMESPACE": "prod",
        wishes.NETWORK: "front",
    }


@pytest.mark.parametrize(
    ("port", "code"),
    [
        ({"hostPort": 80, "containerPort": 80, "protocol": "sctp"}, 2),
        ({"hostPort": 70000, "containerPort": 80}, 7),
        ({"hostPort": 80, "containerPort": 0}, 7),
        ({"hostPort": 80, "containerPort": 80, "hostIP": "x"}, 7),
    ],
)
def test_wrong_ports_are_refused(port: dict[str, Any], code: int) -> None:
    with pytest.raises(CniError) as caught:
        wishes.sandbox(parsed(runtimeConfig={"portMappings": [port]}), called(), NETNS)
    assert caught.value.cni == code


@pytest.mark.parametrize(
    ("args", "container", "name"),
    [
        ("K8S_POD_NAME=web;K8S_POD_NAMESPACE=web", "pod1", "web"),
        ("K8S_POD_NAME=web", "pod1", "web"),
        ("", "pod1", "pod1"),
        ("", "f" * 100, "f" * 63),
        (f"K8S_POD_NAME={'w' * 60};K8S_POD_NAMESPACE=prod", "pod1", "w" * 60),
    ],
)
def test_what_a_pod_is_called(args: str, container: str, name: str) -> None:
    assert wishes.name(called(args, container)) == name
