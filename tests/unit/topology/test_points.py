from __future__ import annotations

import pytest

from netd.errors import Invalid
from netd.topology.points import recorded, short, targets
from tests.unit.topology.paper import project

SHOP = """\
name: shop
services: {web: {networks: [front], scale: 2}}
networks: {front: }
x-netd: {capture: [{on: network:front, filter: arp}, {on: "web:eth0"}]}
"""


def test_the_files_names_and_the_daemons() -> None:
    shop = project(SHOP)
    pairs = {
        "web": "shop-web-1:*",
        "web:*": "shop-web-1:*",
        "web-2:eth0": "shop-web-2:eth0",
        "network:front": "shop_front",
        "host:eth0": "host:eth0",
    }
    pairs["network:front"] = "network:shop_front"
    assert targets(shop, pairs) == list(pairs.values())
    for name, called in pairs.items():
        if name not in ("web", "web:*"):
            assert short(shop, called) == name
    assert short(shop, "shop-web-1:eth1") == "web:eth1"
    assert short(shop, "other-web-1:eth0") == "other-web-1:eth0"


def test_what_is_recorded_is_what_the_file_says_or_everything() -> None:
    assert recorded(project(SHOP)) == [("network:front", "arp"), ("web:eth0", "")]
    assert recorded(project(SHOP), "udp") == [("network:front", "udp"), ("web:eth0", "udp")]
    bare = project(SHOP.split("x-netd")[0])
    assert recorded(bare, "tcp") == [("shop-web-1:*", "tcp"), ("shop-web-2:*", "tcp")]


@pytest.mark.parametrize("point", ["network:back", "db", "db:eth0"])
def test_what_is_not_in_the_file_is_named(point: str) -> None:
    with pytest.raises(Invalid, match=point.rpartition(":")[2] if "network" in point else "'db'"):
        targets(project(SHOP), [point])
