"""Rows 11 and 12: a restart with a thousand endpoints and published ports, and what they cost in memory.

There is no rival here: what Docker takes for it (minutes at 400 containers, moby #34660; 162 MB for
dockerd and containerd with none) is quoted in the targets. Packets lost are counted by
tests/e2e/test_scale.py, which asks for the same with traffic. Memory is resident memory, shared pages
included, of the daemon and its DNS.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from tests.bench.rivals import machine
from tests.e2e.host import HERE, PYTHON, Host, Lab

ENDPOINTS = 1000
READY, EMPTY, FULL = 2.0, 80, 150
"""Targets: seconds, and MB with none and with all endpoints."""


def resident(host: Host) -> dict[str, float]:
    """MB of the daemon and of every other process of netd's."""
    found = {"daemon": _resident(host.daemon_pid)}
    for line in host.sh("ps -eo pid=,rss=,args=").splitlines():
        _, kibibytes, *words = line.split()
        if any("netd_dns" in word for word in words):
            found["DNS"] = int(kibibytes) / 1000
        elif any("netd.runtime" in word for word in words):
            found["launcher"] = int(kibibytes) / 1000
    return found


def _resident(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000


def report(rounds: int) -> None:
    """Measure and print both rows."""
    crowd = (PYTHON, "-IS", HERE / "crowd.py")
    with Lab() as lab:
        host = lab.host
        host.start()
        host.netd("network", "create", "front", "--ipv6")
        empty = resident(host)
        print(f"rows 11 and 12: attaching {ENDPOINTS}", file=sys.stderr)
        host.output(*crowd, "up", str(ENDPOINTS), timeout=900)
        full = resident(host)
        host.restart()  # settles the order in which the daemon knows things
        before, took = host.output(*crowd, "generation"), []
        for _ in range(rounds):
            host.kill()
            took.append(host.start())
        writes = int(host.output(*crowd, "generation")) - int(before)
        fresh = resident(host)
        host.output(*crowd, "down", str(ENDPOINTS), timeout=900)
        host.remove_everything()
        host.stop()
    ready = statistics.median(took)
    print(f"\n{machine()}\n\n| # | work | netd | target | |\n|---|---|---|---|---|")
    shown = f"{ready:.2f} s ({min(took):.2f}-{max(took):.2f}), {writes} nft transactions"
    met = ready <= READY and writes == 0
    print(f"| 11 | ready after SIGKILL, {ENDPOINTS} endpoints | {shown} | {READY:g} s, 0 | {verdict(met)} |")
    for what, found, target in (
        ("none", empty, EMPTY),
        (f"{ENDPOINTS}", full, FULL),
        (f"{ENDPOINTS}, restarted", fresh, FULL),
    ):
        parts = " + ".join(f"{name} {size:.0f}" for name, size in found.items())
        total = sum(size for name, size in found.items() if name != "launcher")
        print(f"| 12 | memory, endpoints: {what} | {parts} MB | {target} MB | {verdict(total <= target)} |")


def verdict(met: bool) -> str:
    """As the other tables word it."""
    return "met" if met else "**missed**"


if __name__ == "__main__":
    report(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
