from __future__ import annotations

import pytest

from netd.errors import Invalid, NetdError
from netd.topology.compose import Forward, Netem
from netd.topology.links import Pass, loss_rules, options, passes, router_rules
from netd.topology.picture import picture
from tests.unit.topology.paper import project

ROUTER = """\
name: p
services:
  r1:
    networks: {a: {ipv4_address: 10.1.0.254, ipv6_address: "fd01::fe"}, b: }
    x-netd: {forward: {policy: drop, allow: ["a->b tcp/80"]}}
  leaf: {networks: [a], x-netd: {routes: %s}}
  old: {networks: [b], sysctls: {net.ipv4.ip_forward: 1}}
networks: {a: {ipam: {config: [{subnet: 10.1.0.0/24}]}}, b: }
"""


def test_rate_and_loss_become_options_of_the_endpoint() -> None:
    assert options(Netem(rate="1.5mbit", loss="0.5%"), "p") == {
        "bandwidth.ingress": "1500000",
        "bandwidth.egress": "1500000",
        "topology.rate": "1500000",
        "topology.loss": "0.5",
    }
    assert options(None, "p") == options(Netem(), "p") == {}


def test_what_waits_or_comes_twice_is_one_option() -> None:
    assert options(Netem(delay="20ms", jitter="1.5ms", duplicate="0.5%", seed=7), "p") == {
        "topology.netem": "20000000 1500000 0.5 7"
    }
    assert options(Netem(delay="1s"), "p") == {"topology.netem": "1000000000 0 0 0"}


@pytest.mark.parametrize(
    ("netem", "path"),
    [
        (Netem(rate="fast"), "p.rate: 'fast'"),
        (Netem(loss="0.5"), "p.loss: '0.5'"),
        (Netem(loss="101%"), "p.loss: '101%'"),
        (Netem(seed=7), "p.seed: 7"),
        (
            Netem(delay="1ms", loss="1%", seed=7),
            "p.seed: 7 is where the chance of jitter",
        ),
        (Netem(duplicate="1%", seed=-1), "p.seed: -1"),
        (Netem(delay="20"), "p.delay: '20'"),
        (Netem(jitter="2ms"), "p.jitter: '2ms' is how much a delay varies"),
        (Netem(duplicate="2"), "p.duplicate: '2'"),
    ],
)
def test_what_cannot_be_read_is_named(netem: Netem, path: str) -> None:
    with pytest.raises(NetdError) as raised:
        options(netem, "p")
    assert str(raised.value).startswith(path)


def test_loss_is_chance_both_ways_and_can_be_taken_back() -> None:
    some = loss_rules("eth0", 0.5).splitlines()
    table = some[0].removeprefix("add table ")
    assert some == [
        f"add table {table}",
        f"delete table {table}",
        f"add table {table}",
        f'add chain {table} ingress {{ type filter hook ingress device "eth0" priority 0; policy accept; }}',
        f"add rule {table} ingress numgen random mod 100000 < 500 drop",
        f'add chain {table} egress {{ type filter hook egress device "eth0" priority 0; policy accept; }}',
        f"add rule {table} egress numgen random mod 100000 < 500 drop",
    ]
    assert f"add rule {table} ingress drop" in loss_rules("eth0", 100).splitlines()
    assert loss_rules("eth0", 0).splitlines() == some[:2]


def test_what_a_router_lets_through() -> None:
    forward = Forward(policy="drop", allow=["a->b tcp/80", "b -> * udp/5000-5010", "*->a icmp", "a->a"])
    assert passes(forward, {"a": "", "b": ""}, "p")[:2] == [
        Pass(source="a", target="b", proto="tcp", ports="80"),
        Pass(source="b", target="*", proto="udp", ports="5000-5010"),
    ]
    assert router_rules(forward, {"a": "lan0", "b": "wan0"}).splitlines()[2:] == [
        "add table inet netd_router",
        "add chain inet netd_router forward { type filter hook forward priority filter; policy drop; }",
        "add rule inet netd_router forward ct state established,related accept",
        'add rule inet netd_router forward iifname "lan0" oifname "wan0" tcp dport 80 accept',
        'add rule inet netd_router forward iifname "wan0" udp dport 5000-5010 accept',
        'add rule inet netd_router forward oifname "lan0" meta l4proto { icmp, icmpv6 } accept',
        'add rule inet netd_router forward iifname "lan0" oifname "lan0" accept',
    ]


@pytest.mark.parametrize(
    "text", ["a", "a->c", "a->b tcp", "a->b tcp/0", "a->b sctp/1", "a->b tcp/9-8", "->b"]
)
def test_an_entry_that_is_none_is_named(text: str) -> None:
    with pytest.raises(Invalid, match=r"^p\.allow\[0\]: "):
        passes(Forward(allow=[text]), {"a": "", "b": ""}, "p")


def test_only_routers_may_send_packets_of_others() -> None:
    whole = project(ROUTER % "[]")
    for name, router in (("r1", True), ("old", True), ("leaf", False)):
        assert all(
            (each.options.get("router") == "yes") is router for each in whole.container(name).request.networks
        )


def test_a_changed_filter_needs_a_new_router() -> None:
    one, two = (project(text % "[]").container("r1") for text in (ROUTER, ROUTER.replace("tcp/80", "tcp/81")))
    assert one.digest != two.digest


def test_routes_lead_through_the_network_of_their_gateway() -> None:
    routes = "[10.2.0.0/16 via r1, 'fd02::/64 via r1', 10.3.0.0/16 via 10.1.0.77]"
    leaf = project(ROUTER % routes).container("leaf")
    assert list(leaf.request.networks[0].routes) == [
        "10.2.0.0/16 via 10.1.0.254",
        "fd02::/64 via fd01::fe",
        "10.3.0.0/16 via 10.1.0.77",
    ]


@pytest.mark.parametrize(
    "route",
    [
        "10.2.0.0/16",
        "10.2.0.1/16 via r1",
        "10.2.0.0/16 via nobody",
        "10.2.0.0/16 via old",
        "10.2.0.0/16 via 10.9.0.1",
    ],
)
def test_a_route_that_leads_nowhere_is_named(route: str) -> None:
    with pytest.raises(Invalid, match=r"^t\.yaml: services\.leaf\.x-netd\.routes\[0\]: "):
        project(ROUTER % f"['{route}']")


def test_a_network_says_it_for_all_its_links_and_a_link_for_itself() -> None:
    text = """\
services:
  a: {networks: [n]}
  b: {networks: {n: {x-netd: {netem: {rate: 1mbit}}}}}
networks: {n: {x-netd: {netem: {loss: 3%}}}}
"""
    whole = project(text)
    assert dict(whole.container("a").request.networks[0].options) == {"topology.loss": "3"}
    assert [box.wires[0].impairment for box in picture(whole).boxes] == ["3 % lost", "1 Mbit/s"]
