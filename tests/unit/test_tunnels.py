"""What is said about the cluster, in any order, comes to the same objects; and costs what it changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from netd import names
from netd.drivers import overlay
from netd.model import Network, Node, RemoteEndpoint
from netd.objects import Element, Flood, KernelObject, Proxy, Remote, Route, Vxlan
from netd.tunnels import Difference, Tunnels
from tests.unit.cluster_double import OTHER, OURS, THIRD, fabric, remote

NET = replace(fabric(), mtu=1450)
GUARD = Element("inet", "vxlan", (4789,))
DB, WEB = remote(), remote("web", 10, "h3")


def tunnelled(net: Network, endpoint: RemoteEndpoint, node: Node) -> KernelObject:
    """The one object that leads to an endpoint through a tunnel."""
    [made] = overlay.remote(net, endpoint, node, OURS, "eth0")
    return made


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
        tunnelled(NET, DB, OTHER),
        tunnelled(NET, WEB, THIRD),
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
    assert tunnels.set_remote(added) == Difference(new=frozenset({tunnelled(NET, added, OTHER)}))
    assert tunnels.drop_remote(NET.id, added.id) == Difference(old=frozenset({tunnelled(NET, added, OTHER)}))
    assert not tunnels.set_remote(DB), "said again, it changes nothing"
    assert not tunnels.drop_remote(NET.id, "never heard of")


def test_a_node_that_moves_takes_its_endpoints_along_and_no_others() -> None:
    tunnels = whole()
    moved = Node(name="h2", address=ip_address("2001:db8::2"))
    difference = tunnels.set_node(moved)
    assert difference.old == {Element("inet", "peers4", (OTHER.address,)), tunnelled(NET, DB, OTHER)}
    assert difference.new == {Element("inet", "peers6", (moved.address,)), tunnelled(NET, DB, moved)}


def test_a_node_that_is_gone_takes_its_endpoints_along() -> None:
    tunnels = whole()
    assert tunnels.reachable(DB)
    difference = tunnels.drop_node("h2")
    assert difference.old == {Element("inet", "peers4", (OTHER.address,)), tunnelled(NET, DB, OTHER)}
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
    assert difference.new == {tunnelled(NET, DB, THIRD)}
    assert not tunnels.at("h2")
    assert {each.name for each in tunnels.at("h3")} == {"db", "web"}


@pytest.mark.parametrize("old_first", [True, False])
def test_one_mac_said_twice_leads_to_the_later_and_stays_when_the_earlier_goes(old_first: bool) -> None:
    tunnels = whole()
    twin = replace(DB, id="ep-twin", node="h3", addresses=(ip_interface("10.5.0.77/24"),))
    assert tunnels.set_remote(twin).new == {tunnelled(NET, twin, THIRD)}
    tunnels.drop_remote(NET.id, DB.id if old_first else twin.id)
    left = tunnelled(NET, twin, THIRD) if old_first else tunnelled(NET, DB, OTHER)
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
        tunnelled(NET, remote("new", 11, "h3"), THIRD)
    }
    assert tunnelled(NET, DB, OTHER) in difference.old
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


# --- plain routes -------------------------------------------------------------------------------------

SEGMENT = ip_network("192.0.2.0/24")
HERE = replace(OURS, segment=SEGMENT, mac="02:00:00:00:00:01")
NEAR = replace(OTHER, segment=SEGMENT, mac="02:00:00:00:00:02")
FAR = replace(THIRD, address=ip_address("198.51.100.3"), segment=ip_network("198.51.100.0/24"), mac=NEAR.mac)
FOUR = replace(NET, subnets=NET.subnets[:1])
DB4 = replace(DB, addresses=DB.addresses[:1])
WEB4 = replace(WEB, addresses=WEB.addresses[:1])


def routed(encap: str, net: Network = NET, near: Node = NEAR) -> Tunnels:
    """This node and h2 on one segment, h3 elsewhere, each with an endpoint."""
    tunnels = Tunnels(HERE, 4789)
    tunnels.set_place(HERE, "eth0")
    tunnels.set_network(replace(net, options={"encap": encap}))
    for node in (near, FAR):
        tunnels.set_node(node)
    for each in (DB4, WEB4) if net is FOUR else (DB, WEB):
        tunnels.set_remote(each)
    return tunnels


def ways(tunnels: Tunnels) -> set[str]:
    """How each address of an endpoint elsewhere is reached."""
    found = set()
    for item in tunnels.objects():
        if isinstance(item, Route):
            found.add(f"{item.destination.network_address} via {item.via} dev {item.dev}")
            assert Proxy(names.bridge_name(NET), item.destination.network_address) in tunnels.objects()
        elif isinstance(item, Remote):
            found |= {f"{address} through {item.vtep}" for address in item.addresses}
    proxies = [item for item in tunnels.objects() if isinstance(item, Proxy)]
    assert len(proxies) == sum(" via " in way for way in found)
    return found


def test_auto_routes_to_neighbours_and_tunnels_to_the_rest() -> None:
    tunnels = routed("auto")
    assert ways(tunnels) == {
        "10.5.0.9 via 192.0.2.2 dev eth0",
        "fd05::9 through 192.0.2.2",  # IPv6 cannot be routed by way of an IPv4 address
        "10.5.0.10 through 198.51.100.3",
        "fd05::10 through 198.51.100.3",
    }
    assert any(isinstance(item, Vxlan) for item in tunnels.objects())
    assert not tunnels.problem(NET.id)


def test_over_ipv6_both_families_are_routed() -> None:
    prefix = ip_network("2001:db8::/64")
    near = replace(NEAR, address=prefix[2], segment=prefix)
    tunnels = routed("auto", near=near)
    tunnels.set_place(replace(HERE, address=prefix[1], segment=prefix), "eth0")
    assert {way for way in ways(tunnels) if " via " in way} == {
        "10.5.0.9 via 2001:db8::2 dev eth0",
        "fd05::9 via 2001:db8::2 dev eth0",
    }


def test_never_has_no_tunnel_and_says_whom_it_does_not_reach() -> None:
    tunnels = routed("never", FOUR)
    assert ways(tunnels) == {"10.5.0.9 via 192.0.2.2 dev eth0"}
    assert not any(isinstance(item, Vxlan | Flood) for item in tunnels.objects())
    assert tunnels.reachable(DB4)
    assert not tunnels.reachable(WEB4)
    assert "'h3' (198.51.100.3)" in tunnels.problem(NET.id)
    assert "h2" not in tunnels.problem(NET.id)
    tunnels.drop_remote(NET.id, WEB.id)
    assert not tunnels.problem(NET.id)


def test_always_routes_to_nobody() -> None:
    assert not any(" via " in way for way in ways(routed("always")))


def test_only_a_nodes_own_frames_may_come_by_its_route() -> None:
    bridge = names.bridge_name(NET)
    made = routed("never", FOUR).objects()
    address = ip_address("10.5.0.9")
    assert Element("inet", "far4", (bridge, address)) in made
    assert {item for item in made if isinstance(item, Element) and item.set == "behind4"} == {
        Element("inet", "behind4", ("eth0", NEAR.mac, address))
    }


@pytest.mark.parametrize(
    "lacking",
    [
        {"segment": None},
        {"mac": ""},
        {"segment": ip_network("192.0.2.0/25")},
        {"address": ip_address("203.0.113.2")},
    ],
    ids=["no segment", "no MAC", "another mask", "an address from elsewhere"],
)
def test_who_cannot_be_told_to_be_a_neighbour_is_reached_by_a_tunnel(lacking: dict[str, object]) -> None:
    near = replace(NEAR, **lacking)  # type: ignore[arg-type]
    assert not any(" via " in way for way in ways(routed("auto", near=near)))
    tunnels = routed("auto")
    tunnels.set_place(replace(HERE, **lacking), "eth0")  # type: ignore[arg-type]
    assert not any(" via " in way for way in ways(tunnels)), "and the other side thinks so too"


def test_routes_follow_a_node_that_moves_and_one_that_dies() -> None:
    tunnels = routed("auto", FOUR)
    moved = replace(NEAR, address=ip_address("192.0.2.7"), mac="02:00:00:00:00:07")
    difference = tunnels.set_node(moved)
    assert {str(item.via) for item in difference.new if isinstance(item, Route)} == {"192.0.2.7"}
    assert Element("inet", "behind4", ("eth0", moved.mac, ip_address("10.5.0.9"))) in difference.new
    assert Element("inet", "behind4", ("eth0", NEAR.mac, ip_address("10.5.0.9"))) in difference.old
    tunnels.drop_node("h2")
    assert ways(tunnels) == {"10.5.0.10 through 198.51.100.3"}


def test_this_node_moves_to_another_segment_and_by_another_interface() -> None:
    tunnels = routed("auto", FOUR)
    tunnels.set_place(HERE, "eth7")
    assert "10.5.0.9 via 192.0.2.2 dev eth7" in ways(tunnels)
    tunnels.set_place(replace(HERE, address=ip_address("198.51.100.1"), segment=FAR.segment), "eth0")
    assert ways(tunnels) == {"10.5.0.9 through 192.0.2.2", "10.5.0.10 via 198.51.100.3 dev eth0"}


def test_one_more_routed_endpoint_costs_the_same_however_many_there_are() -> None:
    tunnels = routed("never", FOUR)
    for number in range(20, 200):
        tunnels.set_remote(remote(f"c{number}", number))
    difference = tunnels.set_remote(remote("new", 11, addresses=(ip_interface("10.5.0.11/24"),)))
    assert not difference.old
    assert len(difference.new) == 4


# --- encrypted ------------------------------------------------------------------------------------------

SECRET = replace(NET, options={"encrypted": "wireguard"}, mtu=1370)
ONE, TWO, THREE = (
    replace(node, wireguard_key=f"{letter * 42}A=")
    for node, letter in zip((OURS, OTHER, THIRD), "BCD", strict=True)
)
INNER_GUARD = {
    Element("inet", "vxlan", (4790,)),
    Element("inet", "sealed", (4790,)),
    Element("inet", "ptp", ("wg-netd",)),
}
OUTER_GUARD = Element("inet", "wireguard", (51820,))


def sealed(*said: Callable[[Tunnels], Difference]) -> Tunnels:
    """A host with an encrypted network and both others, one with an endpoint; after it was told `said`."""
    tunnels = Tunnels(ONE, 4789)
    for say in (
        lambda t: t.set_network(SECRET),
        lambda t: t.set_node(TWO),
        lambda t: t.set_node(THREE),
        lambda t: t.set_remote(DB),
        *said,
    ):
        before = tunnels.objects()
        difference = say(tunnels)
        assert (before - difference.old) | difference.new == tunnels.objects()
    return tunnels


def led(tunnels: Tunnels) -> set[str]:
    """The addresses inside WireGuard to which anything leads."""
    return {str(each.vtep) for each in tunnels.objects() if isinstance(each, Remote)}


def test_the_first_encrypted_network_brings_a_device_its_guards_and_its_peers() -> None:
    wanted = {
        GUARD,
        *INNER_GUARD,
        OUTER_GUARD,
        Element("inet", "peers4", (OTHER.address,)),
        Element("inet", "peers4", (THIRD.address,)),
        overlay.wireguard(ONE, 1500),
        overlay.wireguard_address(ONE),
        overlay.wireguard_peer(TWO),
        overlay.wireguard_peer(THREE),
        overlay.tunnel(SECRET, ONE, 4789),
        *overlay.remote(SECRET, DB, TWO, ONE, ""),
    }
    assert sealed().objects() == wanted
    another = replace(SECRET, id="another")
    assert sealed(lambda t: t.set_network(another)).objects() == {
        *wanted,
        overlay.tunnel(another, ONE, 4789),
    }


def test_the_last_one_takes_them_along() -> None:
    plain = Tunnels(ONE, 4789)
    for node in (TWO, THREE):
        plain.set_node(node)
    another = replace(SECRET, id="another")
    both = sealed(lambda t: t.set_network(another))
    both.drop_network("another")
    assert both.objects() == sealed().objects()
    both.drop_network(SECRET.id)
    assert both.objects() == plain.objects()


def test_a_node_without_a_key_is_not_reached_by_another_way() -> None:
    tunnels = sealed(lambda t: t.set_node(OTHER))
    assert not led(tunnels)
    assert overlay.wireguard_peer(TWO) not in tunnels.objects()
    assert tunnels.objection("h2") == "node 'h2' has told no WireGuard key"
    assert not tunnels.objection("h3"), "nothing lives there"
    assert not tunnels.reachable(DB)
    tunnels.set_node(TWO)
    assert tunnels.objects() == sealed().objects()
    assert not tunnels.objection("h2")


def test_without_a_key_of_its_own_a_host_keeps_the_guards_and_has_no_device() -> None:
    bare = sealed(lambda t: t.set_node(OURS)).objects()
    assert bare >= INNER_GUARD
    assert not {OUTER_GUARD, overlay.wireguard_address(ONE), overlay.wireguard_peer(TWO)} & bare
    assert sealed(lambda t: t.set_node(OURS), lambda t: t.set_node(ONE)).objects() == sealed().objects()


def test_two_with_one_key_are_both_no_peers_until_one_has_another() -> None:
    copy = replace(THREE, wireguard_key=TWO.wireguard_key)
    for tunnels in (sealed(lambda t: t.set_node(copy)), Tunnels(ONE, 4789)):
        tunnels.set_network(SECRET)
        tunnels.set_remote(DB)
        tunnels.sync([copy, TWO], [DB])
        assert not led(tunnels)
        assert "the WireGuard key of node 'h3'" in tunnels.objection("h2")
        tunnels.set_node(THREE)
        assert tunnels.objects() == sealed().objects()
    mine = sealed(lambda t: t.set_node(replace(TWO, wireguard_key=ONE.wireguard_key)))
    assert not led(mine)
    assert "'h1'" in mine.objection("h2")
    mine.set_node(replace(ONE, wireguard_key=f"{'E' * 42}A="))
    assert led(mine), "it was this one that changed it"


def test_a_new_key_of_another_node_touches_its_peer_and_nothing_else() -> None:
    new = replace(TWO, wireguard_key=f"{'E' * 42}A=")
    difference = sealed().set_node(new)
    assert difference == Difference(
        frozenset({overlay.wireguard_peer(TWO)}), frozenset({overlay.wireguard_peer(new)})
    )
    [old], [changed] = difference.old, difference.new
    assert old.key == changed.key, "changed in one step"


def test_a_node_that_moves_or_dies() -> None:
    moved = replace(TWO, address=ip_address("192.0.2.7"))
    difference = sealed().set_node(moved)
    assert difference.new == {overlay.wireguard_peer(moved), Element("inet", "peers4", (moved.address,))}
    dead = sealed(lambda t: t.drop_node("h2"))
    assert not led(dead)
    assert overlay.wireguard_peer(TWO) not in dead.objects()


def test_the_device_follows_the_underlay() -> None:
    difference = sealed().set_place(ONE, "eth0", 9000)
    assert difference == Difference(
        frozenset({overlay.wireguard(ONE, 1500)}), frozenset({overlay.wireguard(ONE, 9000)})
    )
    assert not whole().set_place(OURS, "eth0", 9000)
