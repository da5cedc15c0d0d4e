from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from netd import etcfiles
from netd.model import Endpoint, Network, Subnet


def network(name: str, *subnets: str) -> Network:
    return Network(
        id=name,
        name=name,
        driver="bridge",
        subnets=tuple(Subnet(cidr=ip_network(s), gateway=ip_network(s)[1]) for s in subnets),
        mtu=1500,
    )


def endpoint(network: str, *addresses: str) -> Endpoint:
    return Endpoint(
        id=network,
        network=network,
        sandbox="web",
        ifname="eth0",
        mac="02:00:00:00:00:01",
        addresses=tuple(map(ip_interface, addresses)),
    )


NETWORKS = {
    "front": network("front", "10.0.0.0/24", "fd00::/64"),
    "back": network("back", "10.1.0.0/24", "10.3.0.0/24"),
}
FRONT = endpoint("front", "10.0.0.2/24", "fd00::2/64")
BACK = endpoint("back", "10.1.0.2/24")


def test_resolv_conf_of_one_network_searches_it() -> None:
    assert etcfiles.resolv_conf([FRONT], NETWORKS) == (
        "nameserver 10.0.0.1\nnameserver fd00::1\nsearch front\noptions ndots:0\n"
    )


def test_resolv_conf_of_several_networks_searches_none() -> None:
    assert etcfiles.resolv_conf([FRONT, BACK], NETWORKS) == (
        "nameserver 10.0.0.1\nnameserver fd00::1\nnameserver 10.1.0.1\noptions ndots:0\n"
    )


def test_resolv_conf_says_where_to_look_and_how() -> None:
    servers = "nameserver 10.0.0.1\nnameserver fd00::1\n"
    for searches, options, lines in (
        (["corp.example", "lab"], ["timeout:1"], "search corp.example lab\noptions ndots:0 timeout:1\n"),
        (["."], ["ndots:2", "rotate"], "options ndots:2 rotate\n"),
        ([], ["rotate"], "search front\noptions ndots:0 rotate\n"),
    ):
        assert etcfiles.resolv_conf([FRONT], NETWORKS, searches, options) == servers + lines


def test_resolv_conf_without_network_is_empty() -> None:
    assert etcfiles.resolv_conf([], {}) == ""


def test_hosts_names_the_container_and_what_was_asked_for() -> None:
    text = etcfiles.hosts(
        hostname="w1", name="web", endpoints=[FRONT, BACK], extra=[("db", ip_address("10.9.9.9"))]
    )
    assert text.startswith("127.0.0.1\tlocalhost\n::1\tlocalhost")
    assert text.endswith("10.9.9.9\tdb\n10.0.0.2\tw1 web\nfd00::2\tw1 web\n10.1.0.2\tw1 web\n")


def test_a_hostname_that_is_the_name_is_written_once() -> None:
    text = etcfiles.hosts(hostname="web", name="web", endpoints=[BACK], extra=[], base="")
    assert text == "10.1.0.2\tweb\n"


def test_the_hosts_own_file_is_completed_to_whole_lines() -> None:
    text = etcfiles.hosts(
        hostname="h", name="web", endpoints=[], extra=[("db", ip_address("::9"))], base="127.0.0.1 localhost"
    )
    assert text == "127.0.0.1 localhost\n::9\tdb\n"
