"""Rows 1, 2 and 3: CNI ADD and DEL with one published port, whole processes, beside the reference plugins.

The reference is the chain that most nodes run: bridge with host-local, then portmap, from Debian's
containernetworking-plugins. Netavark is what podman runs in their place; it is no CNI plugin, and gets
its addresses from its caller. netd is measured by its compiled entrypoint and by its Python one. Each is
on a host of its own, with the same network, and what a runtime sees is what is counted.

The two rivals slow down with what there is already, the reference to a quarter of a second, so by
default they are measured less far than netd (`--rivals-live`).
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from tests.bench.rivals import machine
from tests.e2e.host import PYTHON, ROOT, Failed, Host, Lab

REFERENCE = Path("/usr/lib/cni")
NETAVARK = Path("/usr/lib/podman/netavark")
PROBE = Path(__file__).with_name("cni_probe.py")
TOGETHER = 20
SUBNETS = {"IPv4": ["10.60.0.0/16"], "dual stack": ["10.60.0.0/16", "fd00:60::/64"]}
TARGET = 10.0
GROWTH = 1.2

Times = Mapping[str, list[float]]
Chain = list[tuple[str, dict[str, Any]]]


def reference(subnets: Sequence[str]) -> Chain:
    """The chain of reference plugins."""
    base = {"cniVersion": "1.0.0", "name": "bench"}
    routes = [{"dst": "0.0.0.0/0" if "." in subnet else "::/0"} for subnet in subnets]
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets], "routes": routes}
    bridge = {**base, "type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "ipam": ipam}
    portmap = {**base, "type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    return [(f"{REFERENCE}/bridge", bridge), (f"{REFERENCE}/portmap", portmap)]


def netavark(subnets: Sequence[str]) -> Chain:
    """What podman would tell netavark of the network."""
    network = {
        "name": "bench",
        "id": f"{7:064x}",
        "driver": "bridge",
        "network_interface": "podman1",
        "internal": False,
        "dns_enabled": False,
        "ipv6_enabled": len(subnets) > 1,
        "subnets": [{"subnet": each, "gateway": str(ip_network(each)[1])} for each in subnets],
        "ipam_options": {"driver": "host-local"},
    }
    return [(str(NETAVARK), {"network_info": {"bench": network}})]


def ours(program: Path, subnets: Sequence[str]) -> Chain:
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


def report(rounds: int, levels: Sequence[int], rivals_to: int, alone: bool) -> None:
    """Measure everything and print the tables. Rivals are measured up to `rivals_to` live attachments."""
    rounds = max(rounds, 20)
    entrypoints = {"netd": ROOT / "cni" / "netd-cni", "netd, Python": ROOT / "cni" / "netd_cni" / "main.py"}
    entrypoints = {name: path for name, path in entrypoints.items() if path.exists()}
    rivals = {} if alone or not shutil.which("iptables") else RIVALS
    rivals = {name: (path, chain) for name, (path, chain) in rivals.items() if path.exists()}
    taken: dict[tuple[str, str, int], Times] = {}
    with ExitStack() as labs:
        theirs = {name: labs.enter_context(Lab()).host for name in rivals}
        host = labs.enter_context(Lab()).host
        host.start()
        for family, subnets in SUBNETS.items():
            for live in levels:
                print(f"CNI, {family}, {live} live", file=sys.stderr)
                for name, (_, chain) in rivals.items():
                    if name not in theirs or live > rivals_to:
                        continue
                    try:
                        taken[name, family, live] = times(theirs[name], chain(subnets), rounds, live)
                    except Failed as error:
                        # netavark 1.4 fails now and then when many are deleted at once.
                        print(f"{name} is not measured any more: {error}", file=sys.stderr)
                        del theirs[name]
                for name, path in entrypoints.items():
                    taken[name, family, live] = times(host, ours(path, subnets), rounds, live)
            host.remove_everything()
        host.stop()
    print(f"\n{machine()}; CNI with one published port, {rounds} rounds, median / 99th percentile in ms\n")
    print(table(taken, [*rivals, *entrypoints], levels))


RIVALS: Mapping[str, tuple[Path, Callable[[Sequence[str]], Chain]]] = {
    "reference": (REFERENCE / "bridge", reference),
    "netavark": (NETAVARK, netavark),
}


def table(taken: Mapping[tuple[str, str, int], Times], names: Sequence[str], levels: Sequence[int]) -> str:
    """The figures as Markdown. The ratio is of the reference to netd's first entrypoint."""
    lines = [f"| work | live | {' | '.join(names)} | ratio |", "|---" * (len(names) + 3) + "|"]
    ours = [name for name in names if name.startswith("netd")]
    for family in SUBNETS:
        for verb in ("add", "del", "add together", "del together"):
            what = verb.upper().replace("TOGETHER", f"of {TOGETHER} together")
            for live in levels:
                row = [
                    taken[name, family, live][verb] if (name, family, live) in taken else () for name in names
                ]
                cells = " | ".join(shown(each) if each else "-" for each in row)
                ratio = ratio_of(taken, ours[0], family, live, verb)
                lines.append(f"| {what}, {family} | {live} | {cells} | {ratio} |")
        for name in ours if len(levels) > 1 else ():
            growth = statistics.median(taken[name, family, levels[-1]]["add"])
            growth /= statistics.median(taken[name, family, levels[0]]["add"])
            verdict = "met" if growth <= GROWTH else "**missed**"
            lines.append(
                f"| ADD at {levels[-1]} against ADD at {levels[0]}, {family} | "
                + "".join(f"| {f'{growth:.2f}x' if each == name else ''} " for each in names)
                + f"| {verdict} |"
            )
    return "\n".join(lines)


def ratio_of(
    taken: Mapping[tuple[str, str, int], Times], name: str, family: str, live: int, verb: str
) -> str:
    """How many times faster than the reference, and whether that is enough."""
    reference = taken.get(("reference", family, live))
    if reference is None:
        return "-"
    times = statistics.median(reference[verb]) / statistics.median(taken[name, family, live][verb])
    return f"{times:.1f}x" + (" **missed**" if times < TARGET and "together" not in verb else "")
