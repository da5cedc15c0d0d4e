"""`make soak MINUTES=n`: coming and going, damage, restarts and probers, all at once, until time is up.

    --minutes N   how long (default 5)
    --seed N      what is done when; printed, so that a run can be repeated

A host with two networks and a published port. Eight callers attach and detach without end; at random
moments the daemon is killed or stopped and started again, or somebody takes something of netd's away. All
the while a neighbour talks through the published port, and knocks at doors that are closed to it. At
the end everything is removed and the census must be what it was.

Answers may be missed only around damage, which interrupts what it damages. What must not happen: that
an operation fails for another reason than a daemon that was away, that damage stays, that a flow through
a closed door outlives the repair, that something is left.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time

from tests.e2e.host import HERE, HOST, PYTHON, Host, Lab, eventually, eventually_equal, serving, unified

CROWD, PROBER = HERE / "crowd.py", HERE / "prober.py"
DAMAGE = (
    "nft flush ruleset",
    "nft delete table inet netd",
    "nft delete table bridge netd",
    "nft delete table arp netd",
    "nft flush chain inet netd forward",
    "ip link set {bridge} down",
    "ip link set {bridge} mtu 1400",
    "ip addr flush dev {bridge} scope global",
    "ip link set {veth} nomaster",
    "ip link set {veth} down",
    "sysctl -qw net.ipv4.ip_forward=0",
)
OPEN_AT_MOST = 0.5
"""Seconds that a closed door may answer after damage."""


def soak(host: Host, minutes: float, chance: random.Random) -> None:
    """Everything at once; raises AssertionError for what must not happen."""
    host.netd("network", "create", "front", "--ipv6")
    host.netd("network", "create", "back", "--ipv6")
    host.serve("web", "--network", "front", "-p", "8080:80", "-p", "8080:80/udp")
    host.serve("db", "--network", "back")
    for network in host.json("network", "ls"):
        for subnet in network["subnets"]:
            host.lab.client.sh(f"ip route add {subnet['cidr']} via {HOST[':' in subnet['cidr']]}")
    host.output(PYTHON, "-IS", CROWD, "up", "1")  # holds the port that callers of the churn ask for in vain
    bridge = host.network("front")["bridge"]
    veth = host.sh(f"ip -br link show master {bridge}").split("@")[0]
    closed = [f"udp,{host.address('db', family=family)},80" for family in (4, 6)]
    published = f"tcp,{HOST[0]},8080"
    deadline = time.monotonic() + minutes * 60
    rounds = cycles = damaged = restarted = knocks = answers = 0
    while time.monotonic() < deadline:
        rounds += 1
        churn = host.spawn(PYTHON, "-IS", CROWD, "churn", "40", "8", str(chance.randrange(1 << 32)))
        push = host.lab.client.spawn(PYTHON, "-IS", PROBER, "push", "0.005", *closed)
        assert push.stdout is not None
        assert push.stdout.readline() == "ready\n"
        harmed = 0
        for _ in range(chance.randrange(4)):
            time.sleep(chance.uniform(0, 0.3))  # the moment is the variable
            host.sh(chance.choice(DAMAGE).format(bridge=bridge, veth=veth))
            harmed += 1
        output, _ = churn.communicate(timeout=120)
        assert churn.returncode == 0, f"round {rounds}: churn failed"
        cycles += len(json.loads(output))
        if chance.random() < 0.5:
            (host.kill if chance.random() < 0.5 else host.stop)()
            host.start()
            restarted += 1
        eventually("repaired", lambda: host.lab.client.ask(published)[published], 10)
        for door, (tried, answered, _) in json.loads(push.communicate(timeout=30)[0]).items():
            knocks, answers = knocks + tried, answers + answered
            limit = harmed * OPEN_AT_MOST / 0.005
            assert answered <= limit, (
                f"round {rounds}: {door} answered {answered} times after {harmed} damages"
            )
        damaged += harmed
    print(
        f"{rounds} rounds: {cycles} cycles, {damaged} damages, {restarted} restarts; "
        f"{knocks} knocks at closed doors, {answers} answered, all within moments of a damage"
    )


def main() -> int:
    """Run it on a host of its own."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with Lab() as lab, serving(lab) as host:
        host.netd("network", "create", "early")  # so that what the first network turns on is on
        before = host.census()
        soak(host, options.minutes, random.Random(options.seed))
        host.output(PYTHON, "-IS", CROWD, "down", "1")
        host.netd("rm", "-f", "web", "db")
        host.netd(
            "network", "rm", *(each["name"] for each in host.json("network", "ls") if each["name"] != "early")
        )
        after = eventually_equal(before, host.census)
        assert after == before, "left behind:\n" + "\n".join(unified(before, after))
    return 0


if __name__ == "__main__":
    sys.exit(main())
