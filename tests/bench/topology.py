"""Row 13: a topology of a hundred hosts on ten networks, up and down, beside Mininet in one run.

Mininet gives each host a network namespace and a shell; netd gives it a file system, processes, names and
isolation of its own too. Mininet is Debian's, with Linux bridges in place of Open vSwitch, which is its
fastest way. Both are on a host of their own, and their rounds alternate.

    python -m tests.bench.topology [--rounds N] [--sizes 20,50,100,200,500] [--alone]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.rivals import machine
from tests.e2e.host import NETD, PYTHON, Host, Lab

PROBE = Path(__file__).with_name("mininet_probe.py")
STOPWATCH = Path(__file__).with_name("stopwatch.py")
PER_NETWORK = 10
SIZES = (20, 50, 100, 200, 500)
TARGETS = {100: (2.4, 1.5)}
"""Seconds, up and down."""


def file(size: int) -> str:
    """A topology of `size` hosts, `PER_NETWORK` of them on a network."""
    count = size // PER_NETWORK
    services = [f"  h{n}: {{scale: {PER_NETWORK}, networks: [n{n}]}}" for n in range(count)]
    networks = [f"  n{n}: {{}}" for n in range(count)]
    return "\n".join(["name: bench", "services:", *services, "networks:", *networks, ""])


def netd(host: Host, size: int) -> list[float]:
    """Seconds that netd takes, as a person types it: up and down."""
    path = host.lab.directory / f"{size}.yaml"
    path.write_text(file(size))
    commands = [[str(NETD), "topology", verb, "-q", str(path)] for verb in ("up", "down")]
    wrote = host.output(PYTHON, "-IS", STOPWATCH, input=json.dumps(commands), timeout=600)
    seconds: list[float] = json.loads(wrote)
    return seconds


def mininet(host: Host, size: int) -> list[float]:
    """Seconds that Mininet takes, without the start of its interpreter."""
    seconds: list[float] = json.loads(
        host.output(PYTHON, "-B", PROBE, str(size), str(PER_NETWORK), timeout=600).splitlines()[-1]
    )
    return seconds


def report(rounds: int, sizes: Sequence[int] = SIZES, alone: bool = False) -> None:
    """Measure all sizes and print the table."""
    rivals = {} if alone or not shutil.which("mn") else {"Mininet": mininet}
    taken: dict[tuple[str, int], list[list[float]]] = {}
    with ExitStack() as labs:
        hosts = {name: labs.enter_context(Lab()).host for name in (*rivals, "netd")}
        hosts["netd"].start()
        for size in sizes:
            for number in range(rounds + 1):
                for name, once in {**rivals, "netd": netd}.items():
                    seconds = once(hosts[name], size)
                    if number:  # the first round warms caches up and does not count
                        taken.setdefault((name, size), []).append(seconds)
            print(f"topology of {size} hosts", file=sys.stderr)
        hosts["netd"].stop()
    print(f"\n{machine()}; {PER_NETWORK} hosts a network, medians of {rounds} rounds\n")
    print(table(taken, [*rivals, "netd"], sizes))


def table(taken: dict[tuple[str, int], list[list[float]]], names: Sequence[str], sizes: Sequence[int]) -> str:
    """The figures as Markdown."""
    lines = [f"| hosts | | {' | '.join(names)} | target |", "|---" * (len(names) + 3) + "|"]
    for size in sizes:
        for n, verb in enumerate(("up", "down")):
            medians = [statistics.median(each[n] for each in taken[name, size]) for name in names]
            target = TARGETS[size][n] if size in TARGETS else None
            verdict = "" if target is None else "met" if medians[-1] <= target else "**missed**"
            shown = " | ".join(f"{each:.2f} s" for each in medians)
            lines.append(f"| {size} | {verb} | {shown} | {f'{target:g} s: {verdict}' if target else ''} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    report(options.rounds, [int(size) for size in options.sizes.split(",")], options.alone)
