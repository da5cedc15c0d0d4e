from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from netd import names
from netd.cni import results
from netd.cni.results import Result
from netd.cni.spec import VERSIONS, CniError
from netd.model import Endpoint, Netns, Network, Owner, Sandbox, StaticRoute, Subnet

NETWORK = Network(
    id="n1",
    name="front",
    driver="bridge",
    mtu=1400,
    subnets=(
        Subnet(cidr=ip_network("10.1.0.0/16"), gateway=ip_address("10.1.0.1")),
        Subnet(cidr=ip_network("fd00:1::/64"), gateway=ip_address("fd00:1::1")),
    ),
)
ENDPOINT = Endpoint(
    id="e1",
    network="n1",
    sandbox="pod1/eth0",
    ifname="eth0",
    mac="02:00:00:00:00:01",
    addresses=(ip_interface("10.1.0.2/16"), ip_interface("fd00:1::2/64")),
    routes=(StaticRoute(destination=ip_network("10.9.0.0/16"), via=ip_address("10.1.0.9")),),
)
NETNS = Netns(label="pod1", path="/run/netns/pod1", device=4, inode=7)
SANDBOX = Sandbox(id="pod1/eth0", name="web", owner=Owner.CNI, netns=NETNS)
WHOLE = results.of(NETWORK, SANDBOX, ENDPOINT, (4, 6), {"nameservers": ["10.1.0.1"]})


def rendered(version: str, result: Result = WHOLE) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(results.render(result, version))
    assert found.pop("cniVersion") == version
    return found


def test_without_a_bridge_there_is_the_pair_alone() -> None:
    net = replace(NETWORK, driver="ptp")
    found = rendered("1.0.0", results.of(net, SANDBOX, ENDPOINT, (4, 6), {}))
    assert [each["name"] for each in found["interfaces"]] == [names.host_ifname(ENDPOINT), "eth0"]
    assert [each["interface"] for each in found["ips"]] == [1, 1]


def test_the_newest_shape() -> None:
    assert rendered("1.1.0") == {
        "interfaces": [
            {"name": names.bridge_name(NETWORK), "mac": names.mac_of("n1"), "mtu": 1400},
            {"name": names.host_ifname(ENDPOINT), "mtu": 1400},
            {"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1400, "sandbox": "/run/netns/pod1"},
        ],
        "ips": [
            {"address": "10.1.0.2/16", "gateway": "10.1.0.1", "interface": 2},
            {"address": "fd00:1::2/64", "gateway": "fd00:1::1", "interface": 2},
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "10.1.0.1"},
            {"dst": "::/0", "gw": "fd00:1::1"},
            {"dst": "10.9.0.0/16", "gw": "10.1.0.9"},
        ],
        "dns": {"nameservers": ["10.1.0.1"]},
    }


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0"])
def test_older_shapes_have_no_mtu_and_the_oldest_of_them_a_version(version: str) -> None:
    found = rendered(version)
    assert not any("mtu" in each for each in found["interfaces"])
    wanted = [None, None] if version == "1.0.0" else ["4", "6"]
    assert [ip.get("version") for ip in found["ips"]] == wanted


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_the_oldest_shape(version: str) -> None:
    assert rendered(version) == {
        "ip4": {
            "ip": "10.1.0.2/16",
            "gateway": "10.1.0.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.9"}],
        },
        "ip6": {"ip": "fd00:1::2/64", "gateway": "fd00:1::1", "routes": [{"dst": "::/0", "gw": "fd00:1::1"}]},
        "dns": {"nameservers": ["10.1.0.1"]},
    }


def test_no_default_route_is_told_that_is_not_there() -> None:
    routes = results.of(NETWORK, SANDBOX, ENDPOINT, (), {}).routes
    assert [route["dst"] for route in routes] == ["10.9.0.0/16"]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_rendered_can_be_read_again(version: str) -> None:
    read = results.parse(json.loads(results.render(WHOLE, version)))
    assert [ip["address"] for ip in read.ips] == ["10.1.0.2/16", "fd00:1::2/64"]
    assert {route["dst"] for route in read.routes} == {route["dst"] for route in WHOLE.routes}
    assert read.dns == WHOLE.dns


def test_behind_another_plugin_indexes_move_and_its_dns_stays_if_we_have_none() -> None:
    before = Result(
        interfaces=({"name": "other0"},),
        ips=({"address": "192.0.2.1/24", "interface": 0},),
        routes=({"dst": "192.0.2.0/24"},),
        dns={"domain": "before"},
    )
    found = WHOLE.after(before)
    assert found.interfaces[0]["name"] == "other0"
    assert [ip["interface"] for ip in found.ips] == [0, 3, 3]
    assert found.routes[0] == {"dst": "192.0.2.0/24"}
    assert found.dns == {"nameservers": ["10.1.0.1"]}
    assert results.of(NETWORK, SANDBOX, ENDPOINT, (), {}).after(before).dns == {"domain": "before"}
    assert WHOLE.after(Result()) == WHOLE


@pytest.mark.parametrize(
    "found",
    [
        {"ips": 7},
        {"ips": [{}]},
        {"ips": [{"address": "x"}]},
        {"routes": [{"dst": "x"}]},
        {"ip4": {"ip": "x"}},
        {"interfaces": [7]},
    ],
)
def test_what_is_no_result_has_code_7(found: dict[str, Any]) -> None:
    with pytest.raises(CniError) as caught:
        results.parse(found)
    assert caught.value.cni == 7
