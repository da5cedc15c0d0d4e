"""Networks: what is made, how containers are attached, what is given back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from tests.e2e.host import NETD, Host, eventually


def test_a_network_is_a_bridge_with_a_readable_altname(host: Host) -> None:
    host.netd("network", "create", "front", "--subnet", "10.7.0.0/24", "--ipv6")
    network = host.network("front")
    (link,) = json.loads(host.sh("ip -j -d link show type bridge"))
    assert link["ifname"] == network["bridge"]
    assert len(link["ifname"]) <= 15
    assert any("front" in name for name in link["altnames"])
    assert link["ifalias"].startswith("netd:")
    addresses = host.sh(f"ip -br addr show {network['bridge']}")
    assert "10.7.0.1/24" in addresses
    assert f"{network['subnets'][1]['gateway']}/64" in addresses
    mac = link["address"]
    host.serve("web", "--network", "front")
    (link,) = json.loads(host.sh("ip -j link show type bridge"))
    assert link["address"] == mac, "the bridge's MAC is pinned: ports that come and go do not change it"


def test_subnets_come_from_the_pools_and_avoid_the_hosts_routes(lab_routes: Host) -> None:
    host = lab_routes
    taken = [ip_network("10.89.0.0/24"), ip_network("10.89.2.0/23")]
    found = []
    for name in ("a", "b", "c"):
        host.netd("network", "create", name)
        found.append(ip_network(host.network(name)["subnets"][0]["cidr"]))
    assert all(subnet.prefixlen == 24 for subnet in found)
    assert not [one for one in found for other in taken if one.overlaps(other)]
    assert len(set(found)) == 3


@pytest.fixture
def lab_routes(host: Host) -> Iterator[Host]:
    host.sh("ip route add 10.89.0.0/24 via 203.0.113.1; ip route add 10.89.2.0/23 via 203.0.113.1")
    yield host
    host.sh("ip route del 10.89.0.0/24; ip route del 10.89.2.0/23")


def test_ipv6_gives_a_unique_local_subnet(host: Host) -> None:
    host.netd("network", "create", "front", "--ipv6")
    four, six = host.network("front")["subnets"]
    assert ip_network(four["cidr"]).version == 4
    subnet = ip_network(six["cidr"])
    assert subnet.prefixlen == 64
    assert subnet.subnet_of(ip_network("fd00::/8"))  # type: ignore[arg-type]


def test_several_subnets_a_family(host: Host) -> None:
    subnets = ["10.7.0.0/24", "10.8.0.0/24", "fd00:7::/64", "fd00:8::/64"]
    host.netd("network", "create", "front", *(word for cidr in subnets for word in ("--subnet", cidr)))
    assert [subnet["cidr"] for subnet in host.network("front")["subnets"]] == subnets
    host.serve("web", "--network", "front,ip=10.8.0.9,ip6=fd00:8::9")
    assert host.address("web") == "10.8.0.9"
    assert host.address("web", family=6) == "fd00:8::9"
    host.serve("db", "--network", "front")
    answers = host.container_ask("db", "tcp,10.8.0.9,80", "tcp,fd00:8::9,80")
    assert None not in answers.values()


def test_gateway_range_and_reserved_addresses_are_honoured(host: Host) -> None:
    host.netd(
        *("network", "create", "front", "--subnet", "10.7.0.0/24", "--gateway", "10.7.0.254"),
        *("--ip-range", "10.7.0.8/30", "--aux-address", "printer=10.7.0.9"),
    )
    subnet = host.network("front")["subnets"][0]
    assert subnet["gateway"] == "10.7.0.254"
    assert subnet["ip_range"] == "10.7.0.8/30"
    assert subnet["aux_addresses"] == {"printer": "10.7.0.9"}
    for name in ("a", "b", "c"):
        host.serve(name, "--network", "front")
    found = {host.address(name) for name in ("a", "b", "c")}
    assert found == {"10.7.0.8", "10.7.0.10", "10.7.0.11"}
    message = host.refused("run", "--network", "front", "--", "true")
    assert "front" in message
    host.serve("static", "--network", "front,ip=10.7.0.77")
    assert host.address("static") == "10.7.0.77"
    assert "10.7.0.9" in host.refused("run", "--network", "front,ip=10.7.0.9", "--", "true")
    assert "default via 10.7.0.254" in host.netd("exec", "a", "--", "ip", "route")


def test_static_addresses_and_macs_are_honoured_and_checked_against_use(host: Host) -> None:
    host.netd("network", "create", "front", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64")
    host.serve("web", "--network", "front,ip=10.7.0.50,ip6=fd00:7::50,mac=02:00:00:00:00:50,ifname=lan0")
    link = host.netd("exec", "web", "--", "ip", "-br", "link", "show", "lan0")
    assert "02:00:00:00:00:50" in link
    addresses = host.netd("exec", "web", "--", "ip", "-br", "addr", "show", "lan0")
    assert "10.7.0.50/24" in addresses
    assert "fd00:7::50/64" in addresses
    assert "web" in host.refused("run", "--network", "front,ip=10.7.0.50", "--", "true")
    assert "web" in host.refused("run", "--network", "front,ip6=fd00:7::50", "--", "true")
    assert "web" in host.refused("run", "--network", "front,mac=02:00:00:00:00:50", "--", "true")


def test_a_freed_address_rests_before_it_is_handed_out_again(host: Host) -> None:
    host.netd("network", "create", "front", "--subnet", "10.7.0.0/24")
    seen = []
    for _ in range(3):
        host.serve("web", "--network", "front")
        seen.append(host.address("web"))
        host.netd("rm", "-f", "web")
    assert len(set(seen)) == 3


def test_the_inside_of_a_container_is_set_up_as_promised(host: Host) -> None:
    host.netd("network", "create", "front", "--ipv6")
    host.netd("network", "create", "four")
    host.serve("web", "--network", "front", "--network", "four")

    def sysctl(name: str) -> str:
        return host.netd("exec", "web", "--", "cat", f"/proc/sys/net/{name.replace('.', '/')}").strip()

    assert sysctl("ipv6.conf.eth0.accept_ra") == "0"
    assert sysctl("ipv6.conf.eth0.accept_dad") == "0"
    assert sysctl("ipv6.conf.eth0.forwarding") == "0"
    assert sysctl("ipv4.conf.eth0.forwarding") == "0"
    assert sysctl("ipv4.ip_forward") == "0"
    assert sysctl("ipv6.conf.eth0.disable_ipv6") == "0"
    assert sysctl("ipv6.conf.eth1.disable_ipv6") == "1", "a network without IPv6 has none on its link"
    assert "inet6" not in host.netd("exec", "web", "--", "ip", "addr", "show", "eth1")
    assert "tentative" not in host.netd("exec", "web", "--", "ip", "addr")
    assert "UNKNOWN" in host.netd("exec", "web", "--", "ip", "-br", "link", "show", "lo")


def test_the_uplinks_mtu_is_taken_unless_another_is_given(host: Host) -> None:
    host.sh("ip link set eth0 mtu 1400")
    try:
        _mtu(host)
    finally:
        host.sh("ip link set eth0 mtu 1500")


def _mtu(host: Host) -> None:
    host.netd("network", "create", "front")
    host.netd("network", "create", "jumbo", "--mtu", "9000")
    assert host.network("front")["mtu"] == 1400
    host.serve("web", "--network", "front", "--network", "jumbo")
    links = host.netd("exec", "web", "--", "ip", "link")
    assert "mtu 1400" in links
    assert "mtu 9000" in links
    assert "mtu 9000" in host.sh(f"ip link show {host.network('jumbo')['bridge']}")


def test_interfaces_follow_the_order_and_one_default_route_the_priority(host: Host) -> None:
    for name in ("a", "b", "c"):
        host.netd("network", "create", name, "--ipv6")
    host.serve("web", "--network", "a", "--network", "b,gw-priority=7", "--network", "c")
    endpoints = host.inspect("web")["endpoints"]
    assert [(endpoint["network"], endpoint["ifname"]) for endpoint in endpoints] == [
        ("a", "eth0"),
        ("b", "eth1"),
        ("c", "eth2"),
    ]
    assert [endpoint["default_route"] for endpoint in endpoints] == [[], [4, 6], []]
    for family in ("-4", "-6"):
        routes = host.netd("exec", "web", "--", "ip", family, "route", "show", "default").splitlines()
        assert len(routes) == 1
        assert "dev eth1" in routes[0]
    host.netd("network", "disconnect", "b", "web")
    for family in ("-4", "-6"):
        routes = host.netd("exec", "web", "--", "ip", family, "route", "show", "default").splitlines()
        assert len(routes) == 1
        assert "dev eth0" in routes[0]


def test_connect_and_disconnect_while_the_container_runs(host: Host) -> None:
    host.netd("network", "create", "front", "--ipv6")
    host.netd("network", "create", "back", "--ipv6", "--subnet", "10.7.0.0/24")
    host.serve("web", "--network", "front")
    host.serve("db", "--network", "back")
    for family in (4, 6):
        target = f"tcp,{host.address('db', family=family)},80"
        assert host.container_ask("web", target) == {target: None}
    host.netd("network", "connect", "back", "web", "--ip", "10.7.0.77", "--alias", "shop")
    endpoint = host.inspect("web")["endpoints"][1]
    assert endpoint["ifname"] == "eth1"
    assert endpoint["addresses"][0] == "10.7.0.77/24"
    assert endpoint["aliases"] == ["shop"]
    for family in (4, 6):
        target = f"tcp,{host.address('db', family=family)},80"
        assert host.container_ask("web", target)[target] is not None
    assert "'back' already" in host.refused("network", "connect", "back", "web")
    host.netd("network", "disconnect", "back", "web")
    assert "eth1" not in host.netd("exec", "web", "--", "ip", "link")
    assert "back" in host.refused("network", "disconnect", "back", "web")
    for family in (4, 6):
        target = f"tcp,{host.address('db', family=family)},80"
        assert host.container_ask("web", target) == {target: None}


def test_a_network_in_use_is_not_removed_and_says_by_whom(host: Host) -> None:
    host.netd("network", "create", "front")
    host.serve("web", "--network", "front")
    assert "web" in host.refused("network", "rm", "front")
    host.netd("network", "create", "idle")
    host.netd("network", "create", "idle-2")
    assert sorted(host.netd("network", "prune").split()) == ["idle", "idle-2"]
    assert [network["name"] for network in host.json("network", "ls")] == ["front"]
    done = host.run(NETD, "network", "rm", "front", "nowhere")
    assert done.returncode == 1
    host.netd("rm", "-f", "web")
    assert host.netd("network", "rm", "front").strip() == "front"
    assert host.json("network", "ls") == []


def test_names_are_unique_and_overlapping_subnets_are_refused(host: Host) -> None:
    host.netd("network", "create", "front", "--subnet", "10.7.0.0/24")
    assert "front" in host.refused("network", "create", "front")
    message = host.refused("network", "create", "other", "--subnet", "10.7.0.128/25")
    assert "front" in message
    assert "10.7.0.128/25" in message


def test_a_container_without_a_network_gets_the_default_one_and_none_gets_none(host: Host) -> None:
    host.serve("web")
    assert host.inspect("web")["endpoints"][0]["network"] == "default"
    host.serve("lone", "--network", "none")
    assert host.inspect("lone")["endpoints"] == []
    assert "eth0" not in host.netd("exec", "lone", "--", "ip", "link")
    host.netd("run", "--name", "native", "--rm", "--network", "host", "--", "ip", "link", "show", "eth0")


def test_what_others_made_is_never_touched(host: Host) -> None:
    """Bridges, tables and routes of an administrator survive create, remove and restart."""
    host.sh(
        "ip link add br-admin type bridge; ip addr add 10.7.0.1/24 dev br-admin; ip link set br-admin up;"
        "nft add table inet admin; nft add chain inet admin mine; ip route add 10.6.0.0/24 via 203.0.113.1"
    )
    host.netd("network", "create", "front")
    host.serve("web", "--network", "front")
    host.restart()
    host.netd("rm", "-f", "web")
    host.netd("network", "rm", "front")
    assert "10.7.0.1/24" in host.sh("ip -br addr show br-admin")
    assert "chain mine" in host.sh("nft list table inet admin")
    assert "10.6.0.0/24" in host.sh("ip route")
    host.sh("ip link del br-admin; nft delete table inet admin; ip route del 10.6.0.0/24")


def test_removing_a_container_removes_its_names_and_addresses(host: Host) -> None:
    host.netd("network", "create", "front", "--ipv6")
    host.serve("web", "--network", "front,alias=www")
    host.serve("probe", "--network", "front")
    for name in ("web", "www"):
        found = host.netd("exec", "probe", "--", "getent", "ahosts", name)
        assert host.address("web") in found
        assert host.address("web", family=6) in found
    host.netd("rm", "-f", "web")
    assert host.run(NETD, "exec", "probe", "--", "getent", "ahosts", "web").returncode == 2
    used = host.network("front")["subnets"][0]["used"]
    assert used == 1
    assert ip_address(host.address("probe")) in ip_network(host.network("front")["subnets"][0]["cidr"])


def test_forwarding_that_is_turned_on_later_leaves_out_what_must_not_forward(host: Host) -> None:
    host.netd("network", "create", "wire", "--driver", "link", "--subnet", "10.9.0.0/31")
    host.netd("network", "create", "shut", "--driver", "ptp", "--internal", "--no-icc", "--ipv6")
    host.netd("network", "create", "inner", "--internal", "--ipv6")
    for network in ("wire", "shut"):
        host.netd("run", "-d", "--name", network, "--network", network, "--", "sleep", "60")
    alias = {link["ifname"]: link.get("ifalias", "") for link in json.loads(host.sh("ip -j link"))}
    both = [name for name, text in alias.items() if "@shut" in text or text.endswith(":inner")]
    wire = [name for name, text in alias.items() if "@wire" in text]
    assert (len(both), len(wire)) == (2, 1), alias
    switches = [f"/proc/sys/net/ipv4/conf/{name}/forwarding" for name in (*both, *wire)]
    switches += [f"/proc/sys/net/ipv6/conf/{name}/forwarding" for name in both]
    assert set(host.output("cat", *switches).split()) == {"0"}
    host.netd("network", "create", "front", "--ipv6")
    assert host.sh("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding").split() == ["1", "1"]
    assert set(host.output("cat", *switches).split()) == {"0"}


def test_a_limit_of_connections_is_each_endpoints_and_survives_a_restart(host: Host) -> None:
    before = host.census()
    host.netd("network", "create", "front", "--ipv6", "--opt", "connlimit=40")
    host.serve("many", "--network", "front")
    host.serve("few", "--network", "front,connlimit=7")
    refused = host.refused("run", "-d", "--network", "front,connlimit=none", "--", "true")
    assert "connlimit 'none' is no number of connections" in refused
    wanted = {
        f"{host.address(name, family=family)} ct count over {limit}"
        for name, limit in (("many", 40), ("few", 7))
        for family in (4, 6)
    }

    def limits() -> set[str]:
        rules = host.sh("nft list table inet netd || true")  # for a moment there is none
        return set(re.findall(r"[0-9a-f.:]+ ct count over \d+", rules))

    assert limits() == wanted
    rules = host.sh("nft list table inet netd")
    host.restart()
    assert host.sh("nft list table inet netd") == rules
    host.sh("nft flush ruleset")
    eventually("limits put back", lambda: limits() == wanted)
    host.remove_everything()
    assert host.census() == before
