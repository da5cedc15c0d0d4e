"""The isolation matrix: who reaches what, as one table, and a knock at every door of it.

A cell names the protocols that get through: t(cp), u(dp), i(cmp). Capitals get through by the daemon's
relay, so only while there is a daemon. Everything else must not, in either family, with and without
br_netfilter: in the steady state, while the daemon is stopped and started, and while it repairs what
somebody flushed.

There are two hosts, for an overlay: all destinations are on the first, the overlay's peer on the second.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.e2e.fabric import Fabric, underlay
from tests.e2e.host import HERE, HOST, PYTHON, Host, Node, end, eventually
from tests.e2e.test_overlay import NETWORK as OVERLAY
from tests.e2e.test_overlay import create, knows

pytestmark = pytest.mark.timeout(600)

PROBER = HERE / "prober.py"
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "front": (),
    "quiet": ("--no-icc",),
    "plain": ("--gateway-mode", "routed"),
    "inside": ("--internal",),
}
SERVERS = {
    "web": ("front", 8080),
    "monk": ("quiet", 8081),
    "edge": ("plain", 8082),
    "vault": ("inside", 0),
    "loom": ("cloth", 8083),
}
ASKERS = {"api": "front", "nun": "quiet", "rim": "plain", "clerk": "inside", "mate": "cloth"}
SOURCES = (*ASKERS, "peer", "lan", "host")
SERVICE, LOOPBACK = 7000, 8090
FLUSHES = 5

TABLE = """
destination       api    nun    rim    clerk  mate   peer   lan    host
                  front  quiet  plain  inside cloth  cloth

web      80       tui    -      -      -      -      -      -      tui
web      81       tu     -      -      -      -      -      -      tu
web      8080     tu     tu     tu     -      tu     tu     tu     tu

monk     80       -      -      -      -      -      -      -      tui
monk     81       -      -      -      -      -      -      -      tu
monk     8081     tu     TU     tu     -      tu     tu     tu     tu

edge     80       tu     tu     tui    -      tu     tui    tui    tui
edge     81       -      -      tu     -      -      -      -      tu
edge     8082     tu     tu     tu     -      tu     tu     tu     tu

vault    80       -      -      -      tui    -      -      -      tui
vault    81       -      -      -      tu     -      -      -      tu

loom     80       -      -      -      -      tui    tui    -      tui
loom     81       -      -      -      -      tu     tu     -      tu
loom     8083     tu     tu     tu     -      tu     tu     tu     tu

loopback 8090     -      -      -      -      -      -      -      TU

gateway  front    tui    -      -      -      -      -      -      tui
gateway  quiet    -      tui    -      -      -      -      -      tui
gateway  plain    -      -      tui    -      -      -      -      tui
gateway  inside   -      -      -      i      -      -      -      tui
gateway  cloth    -      -      -      -      tui    i      -      tui
service  7000     tui    tui    tui    -      tui    tui    tui    tui
"""
"""NAME 80 is the published container port at the container's own address, 81 one that is not published,
the higher ones the port that it is published as, at the host's address. `loopback` is web's port,
published on 127.0.0.1 and [::1] only. `service` is a program on the host, which listens everywhere, so
`gateway` is that program at the gateway address of a network.

`peer` is on another host of the overlay `cloth`, and that host knows the way to every container here, as
`lan` does. Its own gateway is next door, where no such program runs; what it calls this host's address is the
one that both hosts' wire has."""


@dataclass(frozen=True)
class Cell:
    """One question: may `source` reach `target`? `relayed`: only while a daemon runs;
    `inside`: it has a container's own address."""

    source: str
    what: str
    target: str
    passes: bool
    relayed: bool
    inside: bool


@dataclass
class City:
    """A host with all kinds of networks, and the table filled in with its addresses."""

    host: Host
    far: Host
    cells: list[Cell]
    netns: dict[str, str]

    def node(self, source: str) -> Node:
        return {"lan": self.host.lab.client, "peer": self.far}.get(source, self.host)

    def command(self, source: str, *arguments: str) -> list[str]:
        """`prober.py` with `arguments`, in the network of `source`. It does not depend on a daemon."""
        prober = [PYTHON, "-IS", str(PROBER), *arguments]
        if source in self.netns:
            return ["nsenter", f"--net={self.netns[source]}", *prober]
        return prober

    def wrong(self, *, relay: bool = True) -> list[str]:
        """Ask every cell; those that are not as the table says."""
        asked = {
            source: self.node(source).spawn(
                *self.command(source, "ask", "1.2", *(c.target for c in self.cells if c.source == source))
            )
            for source in SOURCES
        }
        answers = {
            source: json.loads(process.communicate(timeout=60)[0]) for source, process in asked.items()
        }
        return [
            f"{cell.source} -> {cell.what}: {cell.target} {'is closed' if cell.passes else 'IS OPEN'}"
            for cell in self.cells
            if answers[cell.source][cell.target] != cell.passes and (relay or not cell.relayed)
        ]

    def push(self, cells: list[Cell], period: str) -> dict[str, subprocess.Popen[str]]:
        """Start to knock at `cells` from where they start."""
        pushing = {}
        for source in SOURCES:
            if targets := [cell.target for cell in cells if cell.source == source]:
                process = self.node(source).spawn(*self.command(source, "push", period, *targets))
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                pushing[source] = process
        return pushing


Counted = dict[tuple[str, str], tuple[int, int, int]]
"""Knocks, answers and knocks since the last answer, by source and target."""


def stop(pushing: dict[str, subprocess.Popen[str]]) -> Counted:
    """End them."""
    counted: Counted = {}
    for source, process in pushing.items():
        output, _ = process.communicate(timeout=60)
        counted |= {(source, target): tuple(counts) for target, counts in json.loads(output).items()}
    return counted


def cells(host: Host) -> Iterator[Cell]:
    """The table with addresses, both families."""
    networks = {network["name"]: network for network in host.json("network", "ls")}
    for line in TABLE.splitlines()[4:]:
        name, port, *verdicts = line.split() or ("", "")
        for source, verdict in zip(SOURCES, verdicts, strict=False):
            for family in (4, 6):
                if name == "gateway":
                    gateways = [subnet["gateway"] for subnet in networks[port]["subnets"]]
                    (address,) = (each for each in gateways if (":" in each) == (family == 6))
                elif name == "loopback" and source == "host":
                    address = "127.0.0.1" if family == 4 else "::1"
                elif name in SERVERS and port in ("80", "81"):
                    address = host.address(name, family=family)
                else:
                    address = underlay(1, family) if source == "peer" else HOST[family == 6]
                number = port if port.isdigit() else str(SERVICE)
                kinds = ["tcp", "udp"]
                if number in ("80", str(SERVICE)):
                    kinds.append("icmp")
                for kind in kinds:
                    yield Cell(
                        source,
                        f"{name} {port}",
                        f"{kind},{address},{number if kind != 'icmp' else 0}",
                        passes=kind[0] in verdict.lower(),
                        relayed=kind[0].upper() in verdict,
                        inside=name in SERVERS and port in ("80", "81"),
                    )


@pytest.fixture(scope="module", params=[0, 1], ids=["bridge-nf-off", "bridge-nf-on"])
def city(request: pytest.FixtureRequest) -> Iterator[City]:
    with Fabric(2, family=(4, 6)[request.param]) as fabric:
        host, far = fabric.hosts
        for each in fabric.hosts:
            names = [
                f"net.bridge.bridge-nf-call-{name}={request.param}" for name in ("iptables", "ip6tables")
            ]
            each.sh(f"sysctl -qw {' '.join(names)}")
        try:
            fabric.start_all()
            service = host.talker("serve", "host", f"tcp:{SERVICE}", f"udp:{SERVICE}")
            furnish(fabric)
            netns = {name: host.inspect(name)["netns"] for name in ASKERS}
            yield City(host, far, list(cells(host)), {**netns, "peer": far.inspect("peer")["netns"]})
            end(service)
            far.sh("ip route flush via 192.0.2.1; ip -6 route flush via 2001:db8:2::1")
            fabric.clean()
        finally:
            print(fabric.logs())


def furnish(fabric: Fabric) -> None:
    host, far = fabric.hosts
    for name, options in NETWORKS.items():
        host.netd("network", "create", name, "--ipv6", *options)
    create(fabric, "cloth", *OVERLAY)
    ports = ("tcp:80", "udp:80", "tcp:81", "udp:81")
    for name, (network, port) in SERVERS.items():
        published = [f"{port}:80", f"{port}:80/udp"] if port else []
        if name == "web":
            published += [f"{a}:{LOOPBACK}:80{k}" for a in ("127.0.0.1", "[::1]") for k in ("", "/udp")]
        host.serve(
            name, "--network", network, *(word for each in published for word in ("-p", each)), ports=ports
        )
    for name, network in ASKERS.items():
        host.serve(name, "--network", network)
    far.serve("peer", "--network", "cloth")
    eventually("peer knows loom", lambda: knows(far, host.address("loom")))
    eventually("loom knows peer", lambda: knows(host, far.address("peer")))
    for network in host.json("network", "ls"):
        for subnet in network["subnets"]:
            family = 6 if ":" in subnet["cidr"] else 4
            # Neighbours on the LAN know the way to every container, and one that should have no way out
            # finds itself one.
            host.lab.client.sh(f"ip route add {subnet['cidr']} via {HOST[family == 6]}")
            if network["name"] != "cloth":
                far.sh(f"ip route add {subnet['cidr']} via {underlay(1, family)}")
            if network["name"] == "inside":
                netns = host.inspect("clerk")["netns"]
                host.sh(f"nsenter --net={netns} ip route replace default via {subnet['gateway']}")


def forbidden(city: City) -> list[Cell]:
    return [cell for cell in city.cells if not cell.passes]


def test_every_cell(city: City) -> None:
    wrong = city.wrong()
    opened = sum(cell.passes for cell in city.cells)
    print(f"{len(city.cells)} cells, {opened} of them open")
    assert not wrong, "\n".join(wrong)


def test_every_cell_while_there_is_no_daemon_and_while_it_starts(city: City) -> None:
    host = city.host
    pushing = city.push(forbidden(city), "0.1")
    lasting = city.push(
        [c for c in city.cells if c.passes and not c.relayed and not c.target.startswith("tcp")], "0.05"
    )
    host.kill()
    host.start()
    host.restart()
    counted, kept = stop(pushing), stop(lasting)
    print(f"{total(counted)} knocks at {len(counted)} closed doors")
    assert answered(counted) == {}
    lost = {door: counts for door, counts in kept.items() if counts[1] < counts[0] - 1}
    assert not lost, lost
    assert all(knocks > 1 for knocks, _, _ in (*counted.values(), *kept.values()))


def test_every_cell_while_the_rules_are_flushed_and_repaired(city: City) -> None:
    """No container is reached. What is asked of the host itself in the moment without rules may be answered,
    and nothing of it goes on (docs/adr/0024)."""
    host = city.host
    before = host.sh("nft -s list ruleset")
    pushing = city.push(forbidden(city), "0.02")
    for _ in range(FLUSHES):
        host.sh("nft flush ruleset")
        eventually("the rules are back", lambda: host.sh("nft -s list ruleset") == before)
    closed = f"udp,{host.address('vault')},80"
    assert host.lab.client.ask(closed) == {closed: None}  # takes a second, in which the others go on knocking
    counted = stop(pushing)
    wrong = city.wrong()
    print(f"{total(counted)} knocks at {len(counted)} closed doors, {FLUSHES} flushes meanwhile")
    assert not wrong, "\n".join(wrong)
    inside = {(cell.source, cell.target) for cell in city.cells if cell.inside}
    passed = answered(counted)
    assert not passed.keys() & inside, passed
    going_on = {door: counts for door, counts in passed.items() if counts[2] <= 3}
    assert not going_on, going_on


def total(counted: Counted) -> int:
    return sum(knocks for knocks, _, _ in counted.values())


def answered(counted: Counted) -> Counted:
    return {door: counts for door, counts in counted.items() if counts[1]}
