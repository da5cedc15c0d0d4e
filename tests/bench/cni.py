"""Rows 1, 2 and 3: CNI ADD and DEL with one published port, whole processes, beside the reference plugins.

The reference is the chain that most nodes run: bridge with host-local, then portmap, from Debian's
containernetworking-plugins. netd is measured by its compiled entrypoint and by its Python one. Each is
on a host of its own, with the same network, and what a runtime sees is what is counted.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.rivals import machine
from tests.e2e.host import PYTHON, ROOT, Host, Lab

REFERENCE = Path("/usr/lib/cni")
PROBE = Path(__file__).with_name("cni_probe.py")
TOGETHER = 20
SUBNETS = {"IPv4": ["10.60.0.0/16"], "dual stack": ["10.60.0.0/16", "fd00:60::/64"]}
TARGET = 10.0
GROWTH = 1.2

Times = Mapping[str, list[float]]


def reference(subnets: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """The chain of reference plugins."""
    base = {"cniVersion": "1.0.0", "name": "bench"}
    routes = [{"dst": "0.0.0.0/0" if "." in subnet else "::/0"} for subnet in subnets]
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets], "routes": routes}
    bridge = {**base, "type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "ipam": ipam}
    portmap = {**base, "type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    return [(f"{REFERENCE}/bridge", bridge), (f"{REFERENCE}/portmap", portmap)]


def ours(program: Path, subnets: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """netd, by one of its entrypoints."""
    return [
        (str(program), {"cniVersion": "1.0.0", "name": "bench", "type": "netd", "subnets": list(subnets)})
    ]


def times(host: Host, chain: object, rounds: int, live: int) -> Times:
    """What the probe measures on a host."""
    asked = {"chain": chain, "rounds": rounds, "live": live, "together": TOGETHER}
    wrote = host.output(PYTHON, "-IS", PROBE, input=json.dumps(asked), timeout=900)
    found: Times = json.loads(wrote)
    return found


def shown(seconds: Sequence[float]) -> str:
    """ "median / 99th percentile ms"."""
    ordered = sorted(seconds)
    worst = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
    return f"{statistics.median(ordered) * 1e3:.1f} / {worst * 1e3:.1f}"


def report(rounds: int, levels: Sequence[int], alone: bool) -> None:
    """Measure everything and print the tables."""
    rounds = max(rounds, 20)
    entrypoints = {"netd": ROOT / "cni" / "netd-cni", "netd, Python": ROOT / "cni" / "netd_cni" / "main.py"}
    entrypoints = {name: path for name, path in entrypoints.items() if path.exists()}
    taken: dict[tuple[str, str, int], Times] = {}
    with ExitStack() as labs:
        beside = None
        if not alone and REFERENCE.exists() and shutil.which("iptables"):
            beside = labs.enter_context(Lab()).host
        host = labs.enter_context(Lab()).host
        host.start()
        for family, subnets in SUBNETS.items():
            for live in levels:
                print(f"CNI, {family}, {live} live", file=sys.stderr)
                if beside:
                    chain = reference(subnets)
                    taken["reference", family, live] = times(beside, chain, rounds, live)
                for name, path in entrypoints.items():
                    taken[name, family, live] = times(host, ours(path, subnets), rounds, live)
            host.remove_everything()
        host.stop()
    print(f"\n{machine()}; CNI with one published port, {rounds} rounds, median / 99th percentile in ms\n")
    print(table(taken, [*(["reference"] if beside else []), *entrypoints], levels))


def table(taken: Mapping[tuple[str, str, int], Times], names: Sequence[str], levels: Sequence[int]) -> str:
    """The figures as Markdown."""
    lines = [f"| work | live | {' | '.join(names)} | ratio |", "|---" * (len(names) + 3) + "|"]
    for family in SUBNETS:
        for verb in ("add", "del", "add together", "del together"):
            what = verb.upper().replace("TOGETHER", f"of {TOGETHER} together")
            for live in levels:
                row = [taken[name, family, live][verb] for name in names]
                ratio = "-"
                if names[0] == "reference":
                    times = statistics.median(row[0]) / statistics.median(row[1])
                    ratio = f"{times:.1f}x" + (
                        " **missed**" if times < TARGET and "together" not in verb else ""
                    )
                lines.append(f"| {what}, {family} | {live} | {' | '.join(map(shown, row))} | {ratio} |")
        growth = statistics.median(taken[names[-1], family, levels[-1]]["add"])
        growth /= statistics.median(taken[names[-1], family, levels[0]]["add"])
        verdict = "met" if growth <= GROWTH else "**missed**"
        lines.append(
            f"| ADD at {levels[-1]} against ADD at {levels[0]}, {family} | | "
            f"{'| ' * (len(names) - 1)}{growth:.2f}x | {verdict} |"
        )
    return "\n".join(lines)
