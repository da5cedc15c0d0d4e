"""How many packets a second `netd capture` records into a file without losing one.

A container sends datagrams at a pace, for a second, from a process of its own; the pace doubles until
frames are lost or the sender cannot keep it. The last pace without a loss is the figure.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
from pathlib import Path

from tests.e2e.host import NETD, PYTHON, Host, Lab, inside, serving

PACES = (5_000, 10_000, 20_000, 40_000, 80_000, 160_000)
SENDER = """
import socket, sys, time
pace, where = int(sys.argv[1]), (sys.argv[2], 9)
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
data, began, sent = bytes(64), time.monotonic(), 0
while sent < pace and time.monotonic() < began + 2:
    due = min(pace, int((time.monotonic() - began) * pace) + 1)
    while sent < due:
        out.sendto(data, where)
        sent += 1
print(sent, time.monotonic() - began)
"""
RESULT = re.compile(r"(\d+) packets? recorded, (\d+) lost")


def once(host: Host, pace: int, file: Path) -> tuple[float, int]:
    """(packets a second that were really sent, how many were lost)."""
    recording = host.spawn(NETD, "capture", "web", "-w", file, "-c", str(pace), "udp", stderr=subprocess.PIPE)
    assert recording.stderr is not None
    recording.stderr.readline()
    wrote = host.netd("exec", "web", "--", PYTHON, "-ISc", SENDER, str(pace), host.address("api"))
    sent, took = wrote.split()
    try:
        _, complaint = recording.communicate(timeout=5)
        found = RESULT.search(complaint)
        assert found, complaint
        lost = int(sent) - int(found[1])
    except subprocess.TimeoutExpired:  # as many as were sent do not come: some were lost
        os.kill(inside(recording), signal.SIGINT)
        found = RESULT.search(recording.communicate(timeout=30)[1])
        lost = int(sent) - (int(found[1]) if found else 0)
    return int(sent) / float(took), max(lost, 0)


def report(rounds: int) -> None:
    """Measure and print."""
    found: list[float] = []
    with Lab() as lab, serving(lab) as host:
        host.netd("network", "create", "front")
        for name in ("web", "api"):
            host.netd("run", "-d", "--name", name, "--network", "front", "--", "sleep", "3600")
        for number in range(rounds):
            best = 0.0
            for pace in PACES:
                rate, lost = once(host, pace, lab.directory / f"{number}-{pace}.pcapng")
                if lost:
                    break
                best = rate
                if rate < pace * 0.9:
                    break
            found.append(best)
    shown = ", ".join(f"{each:,.0f}" for each in found)
    print(f"\nnetd capture without a loss: {statistics.median(found):,.0f} packets a second ({shown})")


if __name__ == "__main__":
    report(3)
