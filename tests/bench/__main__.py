"""`make bench`: netd beside Docker in one run, medians of several rounds, against the targets.

Absolute times drift from machine to machine, so what counts is the ratio; a target that is missed is
printed as missed. The rounds of the two alternate, so that a busy minute hurts both.

    --rounds N    how often each row is measured (default 5)
    --rows 4,7    only these rows; 1 to 3 are CNI, see cni.py, 8 is the DNS, see dns.py, 9 and 10 are
                  throughput.py, 11 and 12 scale.py, 13 whole topologies, see topology.py; "capture" is
                  netd capture, see capture.py, "encryption" an encrypted overlay, see encryption.py,
                  "cluster" what an endpoint costs ten hosts, see cluster.py
    --live 1,200  CNI attachments that there are already (default 1,200,1000)
    --rivals-live N   up to how many of them the other CNI plugins are measured too (default 200)
    --alone       without Docker
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.bench import capture, cluster, cni, dns, encryption, scale, throughput, topology
from tests.bench.rivals import Docker, Netd, Rival, machine, measure
from tests.e2e.host import Failed, Lab

CONTAINERS = 30
PORTS = 200


@dataclass
class Row:
    """One figure: how it is measured once, and how many times faster netd must be."""

    number: str
    what: str
    target: float
    once: Callable[[Rival], float]
    taken: dict[str, list[float]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def run_true(rival: Rival) -> float:
    return measure(rival, rival.run("--rm", command=["/bin/true"]))


def thirty(rival: Rival) -> float:
    names = [f"b{number}" for number in range(CONTAINERS)]
    commands = [
        rival.run("-d", "--name", name, "-p", f"{9000 + number}:80", command=["/bin/sleep", "3600"])
        for number, name in enumerate(names)
    ]
    took = measure(rival, *commands)
    rival.clear(*names)
    return took


def many_ports(rival: Rival) -> float:
    ports = f"20000-{19999 + PORTS}:80-{79 + PORTS}"
    before = rival.cost()[0]
    took = measure(rival, rival.run("-d", "--name", "ports", "-p", ports, command=["/bin/sleep", "3600"]))
    count, resident = rival.cost()
    extra[rival.name] = f"{rival.name}: {count - before} processes more, {resident / 1e6:.0f} MB in all"
    rival.clear("ports")
    return took


def network(rival: Rival) -> float:
    return measure(rival, rival.create("fleeting"), rival.remove("fleeting"))


def network_api(rival: Rival) -> float:
    return rival.api_seconds(10)


extra: dict[str, str] = {}
"""What `many_ports` saw beside the time, by rival."""

ROWS = [
    Row("4", "run --rm of true, CLI to CLI", 3, run_true),
    Row("5", f"{CONTAINERS} containers with a published port, one after another", 5, thirty),
    Row("6", f"one container with {PORTS} published ports", 30, many_ports),
    Row("7", "network create + rm, CLI to CLI", 10, network),
    Row("7a", "network create + rm, API to API", 10, network_api),
]


def table(rows: list[Row], docker: str, netd: str) -> str:
    """The figures as Markdown; medians in milliseconds, with the fastest and slowest round."""
    lines = [f"| # | work | {docker} | {netd} | ratio | target | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        theirs, ours = (row.taken.get(name, []) for name in (docker, netd))
        ratio = statistics.median(theirs) / statistics.median(ours) if theirs and ours else None
        verdict = "not measured" if ratio is None else "met" if ratio >= row.target else "**missed**"
        shown = "-" if ratio is None else f"{ratio:.1f}x"
        cells = [row.number, row.what, spread(theirs), spread(ours), shown, f"{row.target:g}x", verdict]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(seconds: list[float]) -> str:
    """ "median (fastest-slowest) ms"."""
    if not seconds:
        return "-"
    return f"{statistics.median(seconds) * 1e3:.0f} ({min(seconds) * 1e3:.0f}-{max(seconds) * 1e3:.0f}) ms"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default="")
    parser.add_argument("--live", default="1,200,1000")
    parser.add_argument("--rivals-live", type=int, default=200)
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    wanted = options.rows.split(",") if options.rows else []
    chosen = [row for row in ROWS if not wanted or row.number in wanted]
    if not wanted or {"1", "2", "3"} & set(wanted):
        levels = [int(text) for text in options.live.split(",")]
        cni.report(options.rounds, levels, options.rivals_live, options.alone)
    if not wanted or "8" in wanted:
        dns.report(options.rounds, options.alone)
    if not wanted or {"9", "10"} & set(wanted):
        throughput.report(options.rounds, tuple(wanted or ("9", "10")))
    if not wanted or "cluster" in wanted:
        cluster.report(options.rounds)
    if not wanted or {"11", "12"} & set(wanted):
        scale.report(options.rounds)
    if not wanted or "13" in wanted:
        topology.report(min(options.rounds, 3), alone=options.alone)
    if not wanted or "capture" in wanted:
        capture.report(min(options.rounds, 3))
    if not wanted or "encryption" in wanted:
        encryption.report(options.rounds)
    if not chosen:
        return 0
    with contextlib.ExitStack() as labs:
        rivals: list[Rival] = []
        docker = "Docker"
        if not options.alone:
            try:
                rivals.append(Docker(labs.enter_context(Lab())))
                docker = rivals[0].name
            except Failed as error:
                print(f"Docker cannot be measured here: {error}", file=sys.stderr)
        rivals.append(Netd(labs.enter_context(Lab())))
        for row in chosen:
            for number in range(options.rounds + 1):
                for rival in rivals:
                    took = row.once(rival)
                    if number:  # the first round warms caches up and does not count
                        row.taken.setdefault(rival.name, []).append(took)
                print(f"row {row.number}: round {number} of {options.rounds}", file=sys.stderr)
        print(f"\n{machine()}; medians of {options.rounds} rounds\n")
        print(table(chosen, docker, rivals[-1].name))
        if extra:
            print("\nRow 6: " + "; ".join(extra.values()) + ".")
    return 0


if __name__ == "__main__":
    sys.exit(main())
