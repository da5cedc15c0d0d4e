"""What is said about the cluster, in any order, comes to the same objects; and costs what it changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from netd.drivers import overlay
from netd.model import Node
from netd.objects import Element, Flood, Remote, Vxlan
from netd.tunnels import Difference, Tunnels
from tests.unit.cluster_double import OTHER, OURS, THIRD, fabric, remote

NET = replace(fabric(), mtu=1450)
GUARD = Element("inet", "vxlan", (4789,))
DB, WEB = remote(), remote("web", 10, "h3")


def fresh() -> Tunnels:
    return Tunnels(OURS, 4789)


def whole(*, multicast: bool = False) -> Tunnels:
    tunnels = fresh()
    tunnels.set_network(replace(NET, options={"multicast": "on"}) if multicast else NET)
    for node in (OTHER, THIRD):
        tunnels.set_node(node)
    for each in (DB, WEB):
        tunnels.set_remote(each)
    return tunnels


def test_alone_there_is_only_the_guard() -> None:
    assert fresh().objects() == {GUARD}


def test_everything_that_follows() -> None:
    assert whole().objects() == {
        GUARD,
        Element("inet", "peers4", (OTHER.address,)),
        Element("inet", "peers4", (THIRD.address,)),
        overlay.tunnel(NET, OURS, 4789),
        overlay.remote(NET, DB, OTHER),
        overlay.remote(NET, WEB, THIRD),
    }


def test_the_order_does_not_matter() -> None:
    said: list[Callable[[Tunnels], Difference]] = [
        lambda t: t.set_network(NET),
        lambda t: t.set_node(OTHER),
        lambda t: t.set_node(THIRD),
        lambda t: t.set_remote(DB),
        lambda t: t.set_remote(WEB),
    ]
    for seed in range(20):
        random.Random(seed).shuffle(said)
        tunnels = fresh()
        applied = tunnels.objects()
        for say in said:
            difference = say(tunnels)
            assert difference.old <= applied
            applied = (applied - difference.old) | difference.new
            assert applied == tunnels.objects()
        assert tunnels.objects() == whole().objects()
        assert tunnels.of_network(NET.id) == whole().of_network(NET.id)


def test_one_more_endpoint_costs_one_object_however_many_there_are() -> None:
    tunnels = whole()
    for number in range(20, 200):
        tunnels.set_remote(remote(f"c{number}", number))
    added = remote("new", 11)
    assert tunnels.set_remote(added) == Difference(new=frozenset({overlay.remote(NET, added, OTHER)}))
    assert tunnels.drop_remote(NET.id, added.id) == Difference(
        old=frozenset({overlay.remote(NET, added, OTHER)})
    )
    assert not tunnels.set_remote(DB), "said again, it changes nothing"
    assert not tunnels.drop_remote(NET.id, "never heard of")


def test_a_node_that_moves_takes_its_endpoints_along_and_no_others() -> None:
    tunnels = whole()
    moved = Node(name="h2", address=ip_address("2001:db8::2"))
    difference = tunnels.set_node(moved)
    assert difference.old == {Element("inet", "peers4", (OTHER.address,)), overlay.remote(NET, DB, OTHER)}
    assert difference.new == {Element("inet", "peers6", (moved.address,)), overlay.remote(NET, DB, moved)}


def test_a_node_that_is_gone_takes_its_endpoints_along() -> None:
    tunnels = whole()
    assert tunnels.reachable(DB)
    difference = tunnels.drop_node("h2")
    assert difference.old == {Element("inet", "peers4", (OTHER.address,)), overlay.remote(NET, DB, OTHER)}
    assert difference.new == frozenset()
    assert not tunnels.reachable(DB)
    assert tunnels.reachable(WEB)
    tunnels.set_node(OTHER)
    assert tunnels.objects() == whole().objects()


def test_this_nodes_own_address_changes_its_end_and_makes_it_no_peer() -> None:
    tunnels = whole()
    moved = replace(OURS, address=ip_address("192.0.2.99"))
    difference = tunnels.set_node(moved)
    assert difference.new == {overlay.tunnel(NET, moved, 4789)}
    assert difference.old == {overlay.tunnel(NET, OURS, 4789)}


def test_an_endpoint_that_moves_to_another_node_is_led_there() -> None:
    tunnels = whole()
    difference = tunnels.set_remote(replace(DB, node="h3"))
    assert difference.new == {overlay.remote(NET, DB, THIRD)}
    assert not tunnels.at("h2")
    assert {each.name for each in tunnels.at("h3")} == {"db", "web"}


@pytest.mark.parametrize("old_first", [True, False])
def test_one_mac_said_twice_leads_to_the_later_and_stays_when_the_earlier_goes(old_first: bool) -> None:
    tunnels = whole()
    twin = replace(DB, id="ep-twin", node="h3", addresses=(ip_interface("10.5.0.77/24"),))
    assert tunnels.set_remote(twin).new == {overlay.remote(NET, twin, THIRD)}
    tunnels.drop_remote(NET.id, DB.id if old_first else twin.id)
    left = overlay.remote(NET, twin, THIRD) if old_first else overlay.remote(NET, DB, OTHER)
    assert [item for item in tunnels.objects() if isinstance(item, Remote) and item.mac == DB.mac] == [left]


def test_multicast_goes_to_nodes_that_have_an_endpoint_there() -> None:
    tunnels = fresh()
    tunnels.set_network(replace(NET, options={"multicast": "on"}))
    tunnels.set_node(OTHER)
    tunnels.set_node(THIRD)
    assert not _floods(tunnels)
    second = remote("second", 12)
    tunnels.set_remote(DB)
    tunnels.set_remote(second)
    assert _floods(tunnels) == {OTHER.address}
    tunnels.set_remote(WEB)
    assert _floods(tunnels) == {OTHER.address, THIRD.address}
    tunnels.drop_remote(NET.id, DB.id)
    assert _floods(tunnels) == {OTHER.address, THIRD.address}
    tunnels.drop_remote(NET.id, second.id)
    assert _floods(tunnels) == {THIRD.address}
    assert not _floods(whole()), "and nowhere without the option"


def _floods(tunnels: Tunnels) -> set[object]:
    return {item.vtep for item in tunnels.objects() if isinstance(item, Flood)}


def test_a_sync_is_the_whole_truth() -> None:
    tunnels = whole(multicast=True)
    difference = tunnels.sync([OURS, THIRD], [WEB, remote("new", 11, "h3")])
    assert {item for item in difference.new if isinstance(item, Remote)} == {
        overlay.remote(NET, remote("new", 11, "h3"), THIRD)
    }
    assert overlay.remote(NET, DB, OTHER) in difference.old
    assert not any(isinstance(item, Vxlan) for item in difference.old | difference.new)
    assert not tunnels.sync([OURS, THIRD], [WEB, remote("new", 11, "h3")]), "said again, it changes nothing"
    assert {remote.name for remote in tunnels.all_remotes()} == {"web", "new"}


def test_a_network_that_goes_takes_its_objects_along_and_is_remembered() -> None:
    tunnels = whole()
    own = tunnels.of_network(NET.id)
    assert len(own) == 3
    assert tunnels.drop_network(NET.id).old == own
    assert len(tunnels.objects()) == 3
    tunnels.set_network(NET)
    assert tunnels.objects() == whole().objects()
