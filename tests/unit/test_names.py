from __future__ import annotations

import re
from ipaddress import IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd import names
from netd.errors import Invalid
from netd.model import Endpoint, Network, Subnet


def network(id: str, **options: str) -> Network:
    cidr = ip_network("10.89.0.0/24")
    subnets = (Subnet(cidr=cidr, gateway=cidr[1]),)
    return Network(id=id, name="front", driver="bridge", subnets=subnets, mtu=1500, options=options)


@pytest.mark.parametrize("name", ["a", "0", "web-1", "a.b_c-d", "x" * 63])
def test_names_that_are_welcome(name: str) -> None:
    assert names.check_name("network", name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "_a", "a b", "a/b", "ä", "x" * 64, "a\n", "a;flush ruleset"]
)
def test_names_that_are_refused_are_quoted_in_the_message(name: str) -> None:
    with pytest.raises(Invalid, match=re.escape(f"container name {name!r} is not valid")):
        names.check_name("container", name)


@pytest.mark.parametrize("name", ["eth0", "a", "x" * 15, "eth0.7", "wan-1"])
def test_interface_names_that_the_kernel_accepts(name: str) -> None:
    assert names.check_ifname(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "x" * 16, "ä"])
def test_interface_names_that_it_refuses(name: str) -> None:
    with pytest.raises(Invalid, match="interface name"):
        names.check_ifname(name)


@given(st.text(min_size=1))
def test_derived_names_fit_and_are_stable(id: str) -> None:
    bridge = names.bridge_name(network(id))
    link = names.host_ifname(
        Endpoint(id=id, network="n", sandbox="s", ifname="eth0", mac="02:00:00:00:00:01", addresses=())
    )
    assert names.check_ifname(bridge) == bridge == names.bridge_name(network(id))
    assert names.check_ifname(link) == link
    assert bridge.startswith("nd-")
    assert link.startswith("ve-")


def test_the_user_may_name_the_bridge() -> None:
    assert names.bridge_name(network("1", **{"bridge.name": "br-lab"})) == "br-lab"


@given(st.text())
def test_macs_are_unicast_and_locally_administered(key: str) -> None:
    first = int(names.mac_of(key).split(":")[0], 16)
    assert (first & 0x03) == 0x02
    assert names.mac_of(key) == names.mac_of(key)


def test_link_local_is_what_the_kernel_derives() -> None:
    assert names.link_local("02:42:ac:11:00:02") == IPv6Address("fe80::42:acff:fe11:2")
    assert names.link_local("00:00:5e:00:53:01") == IPv6Address("fe80::200:5eff:fe00:5301")


@given(st.text())
def test_unique_local_subnets_lie_in_fd00(id: str) -> None:
    subnet = names.ula_subnet(id)
    assert subnet.prefixlen == 64
    assert subnet.subnet_of(IPv6Network("fd00::/8"))
