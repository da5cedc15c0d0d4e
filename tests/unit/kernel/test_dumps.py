"""What the kernel's messages are decoded to, and what an alias remembers of a veth's other end."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface

import pytest

from netd.kernel import dumps, fastnl
from netd.kernel.dumps import BIRTH_GROUP, Link
from netd.model import Netns
from netd.names import ALIAS_PREFIX, ROUTE_PROTOCOL
from netd.objects import Bridge, BridgePort, Veth

NETNS = Netns(label="web", path="/run/netd/netns/web", device=4, inode=4026532281)
VETH = Veth("ve-1", "netd:web@front", "web.eth0@front.0a1b2c", 1500, "eth0", "02:42:0a:59:00:02", NETNS)
LINK = Link(
    index=7,
    name="ve-1",
    flags=fastnl.IFF_UP,
    mac="02:42:00:00:00:07",
    mtu=1500,
    alias=dumps.veth_alias(VETH),
    altnames=(VETH.altname,),
    kind="veth",
    master=3,
    group=0,
    isolated=True,
    hairpin=False,
)


def body(message: bytes) -> bytes:
    return message[fastnl.HEADER.size :]


def test_a_link_is_decoded_from_what_describes_it() -> None:
    message = fastnl.link_change(
        7, up=True, mac=LINK.mac, mtu=1500, master=3, alias=LINK.alias, group=0, port=(True, False)
    )
    properties = fastnl.attribute(fastnl.IFLA_PROP_LIST, fastnl.text(fastnl.IFLA_ALT_IFNAME, VETH.altname))
    decoded = dumps.link(body(message) + fastnl.text(fastnl.IFLA_IFNAME, "ve-1") + properties)
    assert decoded == replace(LINK, kind="", port={4: b"\0", 33: b"\1"})


def test_a_link_that_says_little_is_decoded_too() -> None:
    bare = dumps.link(fastnl.IFINFO.pack(0, 0, 9, 0, 0))
    assert (bare.index, bare.name, bare.alias, bare.master, bare.ours, bare.up) == (
        9,
        "",
        "",
        0,
        False,
        False,
    )


def test_a_veth_is_seen_as_it_was_asked_for() -> None:
    assert dumps.veth_of(LINK) == VETH
    assert dumps.veth_of(LINK).netns.label == "web"
    assert str(dumps.veth_of(LINK)) == str(VETH)
    assert dumps.port_of(LINK, "nd-1") == BridgePort("ve-1", "nd-1", isolated=True, hairpin=False)


def test_a_veth_that_is_down_is_not_the_one_that_was_asked_for() -> None:
    assert dumps.veth_of(replace(LINK, flags=0)) == replace(VETH, up=False)


def test_a_veth_whose_note_is_damaged_is_still_a_veth_of_netd() -> None:
    damaged = replace(LINK, alias="netd:web@front")
    assert damaged.ours
    assert dumps.veth_of(damaged).key == VETH.key
    assert dumps.veth_of(damaged) != VETH


@pytest.mark.parametrize("label", ["x" * 200, "ü" * 100, ""])
def test_a_long_label_gives_way(label: str) -> None:
    name = "n" * 63
    veth = replace(VETH, alias=f"netd:{name}@{name}", netns=replace(NETNS, label=label))
    alias = dumps.veth_alias(veth)
    assert len(alias.encode()) <= dumps.ALIAS_SIZE
    assert dumps.veth_of(replace(LINK, alias=alias)) == veth


def test_a_bridge_is_seen_as_it_was_asked_for() -> None:
    link = replace(LINK, name="nd-1", kind="bridge", alias="netd:front", altnames=("netd-front-0a1b2c",))
    assert dumps.bridge_of(link) == Bridge(
        "nd-1", "netd:front", "netd-front-0a1b2c", "02:42:00:00:00:07", 1500
    )


def test_of_several_altnames_ours_is_told_from_those_of_udev() -> None:
    link = replace(LINK, altnames=("enx024200000007", VETH.altname))
    assert dumps.veth_of(link).altname == VETH.altname
    assert dumps.veth_of(replace(LINK, altnames=())).altname == ""


@pytest.mark.parametrize(
    ("alias", "group", "ours"),
    [
        (f"{ALIAS_PREFIX}front", 0, True),
        ("", BIRTH_GROUP, True),
        ("", 0, False),
        ("uplink", 0, False),
        ("uplink", BIRTH_GROUP, False),
        ("notnetd:front", 0, False),
    ],
)
def test_only_what_is_tagged_is_ours(alias: str, group: int, ours: bool) -> None:
    assert replace(LINK, alias=alias, group=group).ours is ours


@pytest.mark.parametrize("onlink", [True, False])
@pytest.mark.parametrize("address", [IPv4Interface("10.89.0.2/24"), IPv6Interface("fd00::2/64")])
def test_addresses(address: IPv4Interface | IPv6Interface, onlink: bool) -> None:
    message = fastnl.address_add(4, address, ROUTE_PROTOCOL, onlink=onlink)
    assert dumps.address(body(message)) == (4, address, onlink, ROUTE_PROTOCOL)


def test_routes() -> None:
    destination, gateway = IPv4Network("192.0.2.0/24"), IPv4Address("10.89.0.1")
    route = dumps.route(body(fastnl.route_add(destination, 6, gateway, ROUTE_PROTOCOL)))
    assert (route.destination, route.index, route.via, route.protocol) == (
        destination,
        6,
        gateway,
        ROUTE_PROTOCOL,
    )
    default = dumps.route(body(fastnl.route_add(IPv4Network("0.0.0.0/0"), 6, None, 4)))
    assert (default.destination, default.via) == (IPv4Network("0.0.0.0/0"), None)
