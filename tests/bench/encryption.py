"""What `--opt encrypted=wireguard` costs: netd's encrypted overlay beside its plain one, on the same hosts.

As rows 9 and 10 it is one TCP connection, and one byte there and back over one, in rounds that alternate,
longer ones, since TCP finds out slowly how much a process can take. The test machines' kernel has no
WireGuard, so it is wireguard-go that is measured, which takes each packet through a process on either host.
The processor time, for a byte or a round trip, is that of both ends and of both processes.

    python -m tests.bench.encryption [ROUNDS]
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys

from tests.bench.rivals import machine
from tests.bench.throughput import Way, spread, tunnelled
from tests.e2e.etcd import Cluster
from tests.e2e.host import Host, end
from tests.e2e.test_wireguard import process

NETWORKS = {
    "plain": ("--subnet", "10.5.0.0/24"),
    "encrypted": ("--subnet", "10.6.0.0/24", "--opt", "encrypted=wireguard"),
}
SECONDS = 2.0
TICK = 1e9 / os.sysconf("SC_CLK_TCK")


def busy(hosts: list[Host]) -> float:
    """Nanoseconds of processor time that wireguard-go has taken on all hosts."""
    stats = [host.output("cat", f"/proc/{process(host)}/stat").rpartition(")")[2].split() for host in hosts]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) * TICK


def compared(cluster: Cluster, ways: dict[str, Way], rounds: int) -> None:
    """Measure in turns, and print a line of throughput and one of round trips."""
    for verb, title, unit, scale in (
        ("pour", "TCP throughput", "Mbit/s", 8e-6),
        ("pingpong", "round trips", "k/s", 1e-3),
    ):
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name in list(ways)[:: 1 if number % 2 else -1]:
                before = busy(cluster.hosts)
                rate, cost = ways[name].take(verb, SECONDS)
                cost += (busy(cluster.hosts) - before) / (rate * SECONDS)
                if number:  # the first round warms caches up and does not count
                    taken[name].append((rate, cost))
        pairs = list(zip(taken["plain"], taken["encrypted"], strict=True))
        ratio = statistics.median(ours[0] / theirs[0] for theirs, ours in pairs)
        cost = statistics.median(ours[1] / theirs[1] for theirs, ours in pairs)
        cells = [title, *(spread(taken[name], scale, unit) for name in ways), f"{ratio:.3f}", f"{cost:.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def report(rounds: int) -> None:
    """Measure and print."""
    program = shutil.which("wireguard-go")
    if not program:
        print("\nencryption: not measured, there is no wireguard-go")
        return
    print(f"\n{machine()}\n\n| between hosts | plain | encrypted (wireguard-go) | ratio | processor time |")
    print("|---|---|---|---|---|", flush=True)
    with Cluster(2) as cluster:
        cluster.wireguard_go = program
        cluster.start_all()
        ways = {name: tunnelled(cluster, name, *flags) for name, flags in NETWORKS.items()}
        compared(cluster, ways, rounds)
        for way in ways.values():
            end(way.server)


if __name__ == "__main__":
    report(int(sys.argv[1]) if sys.argv[1:] else 5)
