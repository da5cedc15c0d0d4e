from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from netd.model import Netns
from netd.objects import Add, Address, Bridge, BridgePort, Change, Element, Remove, Route, Sysctl, Up, Veth

WEB = Netns(label="web", path="/run/netd/netns/1", device=4, inode=4026532001)
OTHER = Netns(label="web", path="/run/netd/netns/1", device=4, inode=4026532002)


def test_every_object_is_one_line_that_reads_like_the_host() -> None:
    objects = [
        Bridge("nd-1", alias="netd:front", altname="front", mac="02:00:00:00:00:01", mtu=1500),
        Veth(
            "ve-1", "netd:web@front", "web.front", 1500, peer="eth0", peer_mac="02:00:00:00:00:02", netns=WEB
        ),
        BridgePort("ve-1", bridge="nd-1", isolated=True, hairpin=True),
        Sysctl(("net", "ipv6", "conf", "eth0", "accept_ra"), "0", WEB),
        Address("eth0", ip_interface("10.89.0.2/24"), WEB),
        Up("eth0", WEB),
        Route(ip_network("0.0.0.0/0"), "eth0", via=ip_address("10.89.0.1"), netns=WEB),
        Route(ip_network("10.7.0.0/16"), "nd-1"),
        Element("inet", "published", ("tcp", 8080), (ip_address("10.89.0.2"), 80)),
        Element("bridge", "bindings", ("ve-1", "02:00:00:00:00:02")),
    ]
    assert "\n".join(map(str, objects)) == (
        "link   nd-1 bridge alias netd:front altname front mac 02:00:00:00:00:01 mtu 1500 up\n"
        "link   ve-1 veth alias netd:web@front altname web.front mtu 1500 up"
        " peer eth0 mac 02:00:00:00:00:02 [netns web]\n"
        "port   ve-1 master nd-1 isolated hairpin\n"
        "sysctl net/ipv6/conf/eth0/accept_ra = 0 [netns web]\n"
        "addr   10.89.0.2/24 dev eth0 [netns web]\n"
        "up     eth0 [netns web]\n"
        "route  default via 10.89.0.1 dev eth0 [netns web]\n"
        "route  10.7.0.0/16 dev nd-1\n"
        "nft    element inet netd published { tcp . 8080 : 10.89.0.2 . 80 }\n"
        "nft    element bridge netd bindings { ve-1 . 02:00:00:00:00:02 }"
    )


def test_keys_tell_things_apart_and_not_their_content() -> None:
    route = Route(ip_network("0.0.0.0/0"), "eth0", via=ip_address("10.89.0.1"), netns=WEB)
    moved = Route(ip_network("0.0.0.0/0"), "eth0", via=ip_address("10.89.0.9"), netns=WEB)
    assert route.key == moved.key
    assert route != moved
    elsewhere = Route(ip_network("0.0.0.0/0"), "eth0", via=ip_address("10.89.0.1"), netns=OTHER)
    assert route.key != elsewhere.key, "a namespace is known by device and inode, not by its path"
    first = Element("inet", "published", ("tcp", 8080), (ip_address("10.89.0.2"), 80))
    second = Element("inet", "published", ("tcp", 8080), (ip_address("10.89.0.3"), 80))
    assert first.key == second.key
    assert len({Up("eth0").key, Up("eth0", WEB).key, Address("eth0", ip_interface("10.0.0.1/8")).key}) == 3


def test_operations_read_as_sentences() -> None:
    old, new = Sysctl(("net", "a"), "0"), Sysctl(("net", "a"), "1")
    assert str(Add(old)) == "add    sysctl net/a = 0"
    assert str(Remove(old)) == "remove sysctl net/a = 0"
    assert str(Change(old, new)) == "change sysctl net/a = 0 -> sysctl net/a = 1"
