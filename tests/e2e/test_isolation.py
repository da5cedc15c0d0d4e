"""Who can talk to whom: everybody who should not is tried, in both families, with and without
br_netfilter, which makes bridged frames pass the rules for routed packets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.host import CLIENT, HOST, INTERNET, ROUTER, Host, Lab, serving

NETWORKS = {
    "front": (),
    "back": (),
    "inside": ("--internal",),
    "quiet": ("--no-icc",),
    "plain": ("--gateway-mode", "routed"),
}
WHERE = {
    "web": "front",
    "api": "front",
    "db": "back",
    "vault": "inside",
    "clerk": "inside",
    "monk": "quiet",
    "nun": "quiet",
    "edge": "plain",
}
PAIRS = [(one, other) for one in WHERE for other in WHERE if one != other]


@dataclass
class City:
    """A host full of networks; `addresses` of each container by family."""

    host: Host
    addresses: dict[str, dict[int, str]]

    def targets(self, name: str) -> list[str]:
        return [f"{kind},{self.addresses[name][family]},80" for family in (4, 6) for kind in ("tcp", "udp")]


@pytest.fixture(scope="module", params=["0", "1"], ids=["bridge-nf-off", "bridge-nf-on"])
def city(request: pytest.FixtureRequest) -> Iterator[City]:
    with Lab() as lab:
        names = ("arptables", "iptables", "ip6tables")
        lab.host.sh(
            f"sysctl -qw {' '.join(f'net.bridge.bridge-nf-call-{name}={request.param}' for name in names)}"
        )
        with serving(lab) as host:
            for node in (lab.client, lab.router):
                node.talker("serve", node.name, "tcp:80", "udp:80")
            for name, flags in NETWORKS.items():
                host.netd("network", "create", name, "--ipv6", *flags)
            for name, network in WHERE.items():
                host.serve(name, "--network", network)
            addresses = {name: {f: host.address(name, family=f) for f in (4, 6)} for name in WHERE}
            _route_straight_to_containers(lab)
            yield City(host, addresses)
            # Whatever was tried above, the switch that netd does not own is as it was.
            assert host.sh("sysctl -n net.bridge.bridge-nf-call-iptables").strip() == request.param


def _route_straight_to_containers(lab: Lab) -> None:
    """Both neighbours on the LAN know the way to every container, which is no secret."""
    for network in lab.host.json("network", "ls"):
        for subnet in network["subnets"]:
            via = HOST[":" in subnet["cidr"]]
            for node in (lab.client, lab.router):
                node.sh(f"ip route add {subnet['cidr']} via {via}")


def test_containers_talk_exactly_within_their_network(city: City) -> None:
    wrong = []
    for name, network in WHERE.items():
        asked = [target for other in WHERE if other != name for target in city.targets(other)]
        answers = city.host.container_ask(name, *asked, seconds=1.5)
        for other, theirs in WHERE.items():
            allowed = network == theirs and network != "quiet"
            for target in city.targets(other) if other != name else []:
                if (answers[target] is not None) != allowed:
                    wrong.append(f"{name}@{network} -> {other}@{theirs} {target}: {answers[target]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("neighbour", ["client", "router"])
def test_a_neighbour_that_routes_to_a_container_reaches_nothing(city: City, neighbour: str) -> None:
    node = getattr(city.host.lab, neighbour)
    targets = [target for name in WHERE for target in city.targets(name)]
    answers = node.ask(*targets, seconds=1.5)
    assert {target: answer for target, answer in answers.items() if answer} == {}


@pytest.mark.parametrize("name", ["web", "db", "monk"])
def test_containers_go_out_behind_the_hosts_address(city: City, name: str) -> None:
    for family in (0, 1):
        for kind in ("tcp", "udp"):
            for server, address in (("client", CLIENT[family]), ("router", INTERNET[family])):
                target = f"{kind},{address},80"
                answer = city.host.container_ask(name, target, seconds=5)[target]
                assert answer is not None, target
                assert answer.split(" ")[:2] == [server, HOST[family]]


def test_a_routed_network_goes_out_with_its_own_addresses(city: City) -> None:
    for family, number in ((0, 4), (1, 6)):
        target = f"tcp,{ROUTER[family]},80"
        answer = city.host.container_ask("edge", target, seconds=5)[target]
        assert answer is not None, target
        assert answer.split(" ")[:2] == ["router", city.addresses["edge"][number]]


@pytest.mark.parametrize("name", ["vault", "clerk"])
def test_an_internal_network_has_no_way_out(city: City, name: str) -> None:
    targets = [f"{kind},{address},80" for kind in ("tcp", "udp") for address in (*INTERNET, *CLIENT)]
    assert set(city.host.container_ask(name, *targets).values()) == {None}
    for family in ("-4", "-6"):
        assert city.host.netd("exec", name, "--", "ip", family, "route", "show", "default") == ""


@pytest.mark.parametrize("through", ["front", "inside", "back"])
def test_a_route_of_ones_own_making_leads_nowhere(city: City, through: str) -> None:
    """Even a container that may set routes cannot use a gateway as a way into other networks."""
    host = city.host
    host.serve("rogue", "--network", through, "--cap-add", "NET_ADMIN")
    try:
        for family in (4, 6):
            gateways = host.inspect("rogue")["endpoints"][0]["gateways"]
            gateway = next(each for each in gateways if (":" in each) == (family == 6))
            host.netd(
                "exec", "rogue", "--", "ip", f"-{family}", "route", "replace", "default", "via", gateway
            )
        others = [name for name, network in WHERE.items() if network != through]
        targets = [target for name in others for target in city.targets(name)]
        if through == "inside":
            targets += [f"tcp,{address},80" for address in (*INTERNET, *CLIENT)]
        answers = host.container_ask("rogue", *targets, seconds=1.5)
        assert {target: answer for target, answer in answers.items() if answer} == {}
    finally:
        host.netd("rm", "-f", "rogue")


def test_the_host_itself_reaches_its_containers(city: City) -> None:
    targets = [target for name in ("web", "db", "edge") for target in city.targets(name)]
    answers = city.host.ask(*targets, seconds=5)
    assert None not in answers.values(), answers
