from __future__ import annotations

from dataclasses import replace

import pytest

from netd.drivers import veth
from netd.model import Sandbox
from tests.unit.drivers.test_bridge import LEGACY, NET, WEB, endpoint, sysctls


def test_a_pair_is_tagged_and_named_for_people() -> None:
    pair = veth.pair(NET, WEB, endpoint(NET))
    assert (pair.alias, pair.mtu, pair.peer, pair.netns) == ("netd:web@front", 1450, "eth0", WEB.netns)
    assert pair.altname.startswith("web.eth0@front.")
    assert pair.group == 0
    assert veth.pair(NET, WEB, endpoint(NET), group=7).group == 7


def test_whatever_a_runtime_calls_a_sandbox_the_kernel_takes_it() -> None:
    odd: Sandbox = replace(WEB, name="a/b ü" * 40)
    pair = veth.pair(replace(NET, name="n" * 63), odd, endpoint(NET))
    assert len(pair.altname.encode()) < 128
    assert pair.altname.isascii()
    assert not set("/ ") & set(pair.altname)


@pytest.mark.parametrize("forward", [True, False])
def test_who_is_a_gateway_forwards_or_does_not_and_believes_nobody(forward: bool) -> None:
    objects = list(veth.gateway_sysctls(NET, "x", forward=forward))
    for family in (4, 6):
        assert sysctls(list(objects), family)["forwarding"] == str(int(forward))
        assert sysctls(list(objects), family)["accept_redirects"] == "0"
    assert sysctls(list(objects), 6)["accept_ra"] == "0"
    assert (
        sysctls(list(objects), 4)["rp_filter"] == "1"
    )  # strict: the kernel takes the greater of this and of "all"


def test_without_ipv6_it_is_off() -> None:
    for objects in (
        veth.gateway_sysctls(LEGACY, "x", forward=True),
        veth.inside(LEGACY, WEB, endpoint(LEGACY)),
    ):
        assert sysctls(list(objects), 6) == {"disable_ipv6": "1"}


def test_the_default_route_leads_by_the_gateway_of_the_first_address() -> None:
    assert [str(route) for route in veth.default_routes(NET, WEB, endpoint(NET), {6, 4})] == [
        "route  default via 10.1.0.1 dev eth0 [netns web]",
        "route  default via fd00:1::1 dev eth0 [netns web]",
    ]
    assert list(veth.default_routes(NET, WEB, endpoint(NET), ())) == []
