"""How many connections an endpoint may have begun: what can be asked for, and who gets what."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_interface

import pytest

from netd import firewall
from netd.drivers import connlimit, driver
from netd.errors import Invalid
from netd.model import Endpoint, Network
from netd.objects import Element
from tests.unit.drivers import test_bridge, test_link, test_overlay, test_ptp

ENDPOINT = Endpoint(
    id="e1",
    network="n1",
    sandbox="s1",
    ifname="eth0",
    mac="02:42:0a:59:00:02",
    addresses=(ip_interface("10.1.0.2/24"), ip_interface("fd00:1::2/64")),
)
NETWORKS = [test_bridge.NET, test_ptp.NET, test_overlay.NET]


def counted(net: Network, endpoint: Endpoint) -> dict[str, tuple[object, ...]]:
    found = [item for item in firewall.endpoint(net, endpoint) if item.set.startswith("connlimit")]
    return {str(item.item[0]): item.value for item in found}


@pytest.mark.parametrize("net", NETWORKS, ids=lambda net: net.driver)
def test_each_address_has_the_networks_limit_or_its_endpoints_own(net: Network) -> None:
    limited = replace(net, options={**net.options, "connlimit": "200"})
    driver(net.driver).check(limited)
    assert counted(limited, ENDPOINT) == {"10.1.0.2": (200,), "fd00:1::2": (200,)}
    own = replace(ENDPOINT, options={"connlimit": "5"})
    assert counted(limited, own) == counted(net, own) == {"10.1.0.2": (5,), "fd00:1::2": (5,)}
    assert counted(net, ENDPOINT) == {}


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "1000001", "", "٣", "9" * 30, " 5"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    for net in NETWORKS:
        limited = replace(net, options={**net.options, "connlimit": text})
        if text:
            with pytest.raises(Invalid, match="between 1 and 1000000"):
                driver(net.driver).check(limited)
        assert counted(limited, ENDPOINT) == {}


def test_the_least_and_the_most() -> None:
    for text in ("1", str(connlimit.MOST)):
        connlimit.check({"connlimit": text})
        assert connlimit.of(test_bridge.NET, replace(ENDPOINT, options={"connlimit": text})) == int(text)


def test_a_link_counts_nothing() -> None:
    with pytest.raises(Invalid, match="no option 'connlimit'"):
        driver("link").check(replace(test_link.NET, options={"connlimit": "5"}))


def test_as_nft_has_it() -> None:
    element = Element("inet", "connlimit4", (IPv4Address("10.1.0.2"),), (5,))
    assert firewall.element_text("add", element) == (
        "add element inet netd connlimit4 { 10.1.0.2 ct count over 5 }"
    )
    assert firewall.element_text("delete", element) == "delete element inet netd connlimit4 { 10.1.0.2 }"
