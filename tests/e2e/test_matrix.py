"""The isolation matrix: who reaches what, as one table, and a knock at every door of it.

A cell names the protocols that get through: t(cp), u(dp), i(cmp). Capitals get through by the daemon's
relay, so only while there is a daemon. Everything else must not, in either family, with and without
br_netfilter: in the steady state, while the daemon is stopped and started, and while it repairs what
somebody flushed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.e2e.host import HERE, HOST, PYTHON, Host, Lab, Node, eventually, serving

PROBER = HERE / "prober.py"
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "front": (),
    "quiet": ("--no-icc",),
    "plain": ("--gateway-mode", "routed"),
    "inside": ("--internal",),
}
SERVERS = {"web": ("front", 8080), "monk": ("quiet", 8081), "edge": ("plain", 8082), "vault": ("inside", 0)}
ASKERS = {"api": "front", "nun": "quiet", "rim": "plain", "clerk": "inside"}
SOURCES = (*ASKERS, "lan", "host")
SERVICE, LOOPBACK = 7000, 8090

TABLE = """
destination       api    nun    rim    clerk  lan    host
                  front  quiet  plain  inside

web      80       tui    -      -      -      -      tui
web      81       tu     -      -      -      -      tu
web      8080     tu     tu     tu     -      tu     tu

monk     80       -      -      -      -      -      tui
monk     81       -      -      -      -      -      tu
monk     8081     tu     TU     tu     -      tu     tu

edge     80       tu     tu     tui    -      tui    tui
edge     81       -      -      tu     -      -      tu
edge     8082     tu     tu     tu     -      tu     tu

vault    80       -      -      -      tui    -      tui
vault    81       -      -      -      tu     -      tu

loopback 8090     -      -      -      -      -      TU

gateway  front    tui    -      -      -      -      tui
gateway  quiet    -      tui    -      -      -      tui
gateway  plain    -      -      tui    -      -      tui
gateway  inside   -      -      -      i      -      tui
service  7000     tui    tui    tui    -      tui    tui
"""
"""NAME 80 is the published container port at the container's own address, 81 one that is not published,
the higher ones the port that it is published as, at the host's address. `loopback` is web's port,
published on 127.0.0.1 and [::1] only. `service` is a program on the host, which listens everywhere, so
`gateway` is that program at the gateway address of a network."""


@dataclass(frozen=True)
class Cell:
    """One question: may `source` reach `target`? `relayed`: only while a daemon runs."""

    source: str
    what: str
    target: str
    passes: bool
    relayed: bool


@dataclass
class City:
    """A host with all kinds of networks, and the table filled in with its addresses."""

    host: Host
    cells: list[Cell]
    netns: dict[str, str]

    def node(self, source: str) -> Node:
        return self.host.lab.client if source == "lan" else self.host

    def command(self, source: str, *arguments: str) -> list[str]:
        """`prober.py` with `arguments`, in the network of `source`. It does not depend on a daemon."""
        prober = [PYTHON, "-IS", str(PROBER), *arguments]
        if source in ASKERS:
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


def stop(pushing: dict[str, subprocess.Popen[str]]) -> dict[tuple[str, str], tuple[int, int]]:
    """End them; knocks and answers by source and target."""
    counted = {}
    for source, process in pushing.items():
        output, _ = process.communicate(timeout=60)
        for target, (knocks, answers) in json.loads(output).items():
            counted[source, target] = (knocks, answers)
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
                    address = HOST[family == 6]
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
                    )


@pytest.fixture(scope="module", params=["0", "1"], ids=["bridge-nf-off", "bridge-nf-on"])
def city(request: pytest.FixtureRequest) -> Iterator[City]:
    with Lab() as lab:
        switches = [f"net.bridge.bridge-nf-call-{name}={request.param}" for name in ("iptables", "ip6tables")]
        lab.host.sh(f"sysctl -qw {' '.join(switches)}")
        with serving(lab) as host:
            furnish(host)
            yield City(host, list(cells(host)), {name: host.inspect(name)["netns"] for name in ASKERS})


def furnish(host: Host) -> None:
    lab = host.lab
    host.talker("serve", "host", f"tcp:{SERVICE}", f"udp:{SERVICE}")
    for name, options in NETWORKS.items():
        host.netd("network", "create", name, "--ipv6", *options)
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
    for network in host.json("network", "ls"):
        for subnet in network["subnets"]:
            v6 = ":" in subnet["cidr"]
            # Neighbours on the LAN know the way to every container, and one that should have no way out
            # finds itself one.
            lab.client.sh(f"ip route add {subnet['cidr']} via {HOST[v6]}")
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
    passed = {door: count for door, count in counted.items() if count[1]}
    print(f"{sum(knocks for knocks, _ in counted.values())} knocks at {len(counted)} closed doors")
    assert not passed, passed
    lost = {door: (knocks, answers) for door, (knocks, answers) in kept.items() if answers < knocks - 1}
    assert not lost, lost
    assert all(knocks > 1 for knocks, _ in (*counted.values(), *kept.values()))


def test_every_cell_after_the_rules_were_flushed(city: City) -> None:
    host = city.host
    before = host.sh("nft -s list ruleset")
    host.sh("nft flush ruleset")
    eventually("the rules are back", lambda: host.sh("nft -s list ruleset") == before)
    wrong = city.wrong()
    assert not wrong, "\n".join(wrong)
