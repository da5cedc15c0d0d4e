"""What an overlay network costs a cluster: the time until others connect, and what one more endpoint takes.

There is no rival here. The time from `netd run` on one host to the first connection from a container of
another, by name; then, of a network of some hosts with hardly an endpoint and with a thousand: how long one
more takes to be known on all others, how often etcd is asked for it, and what each of the others writes to
its kernel; and how long it takes until all of a host's endpoints are known again when its daemon comes back.

Endpoints are attached as a CNI runtime does it, to namespaces without a process.

    python -m tests.bench.cluster [ROUNDS [HOSTS [ENDPOINTS]]]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.bench.rivals import machine
from tests.bench.throughput import STREAM
from tests.e2e.etcd import CLIENTS, TTL, Cluster, member
from tests.e2e.host import HERE, PYTHON, Host, end, eventually
from tests.e2e.test_overlay import create

SMALL = ("--driver", "overlay", "--subnet", "10.5.0.0/24")
LARGE = ("--driver", "overlay", "--subnet", "10.60.0.0/16", "--subnet", "fd00:60::/64")
CROWD = (PYTHON, "-IS", HERE / "crowd.py")
LONG = 900.0
"""Seconds in which even a busy machine has attached a thousand endpoints."""


# --- two hosts ----------------------------------------------------------------------------------------


def first_connection(cluster: Cluster) -> float:
    """Seconds from `netd run` on one host to the first connection from a container of another, by name."""
    one, two = cluster.hosts
    inside = ("netd", "exec", "asks", "--", PYTHON, "-ISc", STREAM.read_text())
    client = two.spawn(*inside, "until", "fresh", "80", "30")
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    began = time.monotonic()
    serve = ("busybox", "httpd", "-f", "-p", "80", "-h", "/tmp")
    one.netd("run", "-d", "--name", "fresh", "--network", "fabric", "--", *serve)
    output, _ = client.communicate(timeout=60)
    one.netd("rm", "-f", "fresh")
    return float(output) - began


def two_hosts(rounds: int) -> None:
    """Print how long a new container takes to be reached."""
    with Cluster(2) as cluster:
        cluster.start_all()
        create(cluster, "fabric", *SMALL)
        cluster.hosts[1].netd("run", "-d", "--name", "asks", "--network", "fabric", "--", "sleep", "3600")
        taken = [first_connection(cluster) for _ in range(rounds + 1)][1:]
        cluster.clean()
    low, middle, high = (each * 1e3 for each in (min(taken), statistics.median(taken), max(taken)))
    print(
        "From `netd run` on one host to the first connection from another, by name: "
        f"{middle:.0f} ms ({low:.0f}-{high:.0f})\n",
        flush=True,
    )


# --- many ---------------------------------------------------------------------------------------------

WATCH = """
import socket, struct, time
ear = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
ear.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
ear.bind((0, 1 << 2 | 1 << 0 | 1 << 6 | 1 << 10))  # RTMGRP_NEIGH, LINK, IPV4_ROUTE, IPV6_ROUTE
print("ready", flush=True)
while True:
    data, now, offset = ear.recv(1 << 17), time.monotonic(), 0
    while offset + 28 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        family, state = data[offset + 16], *struct.unpack_from("=H", data, offset + 24)
        # Of neighbours those that the kernel does not make itself: permanent ones, static ones of bridges.
        written = kind not in (28, 29) or state & 0x80 or (family == 7 and state & 0x40)
        # Nor does anybody write that a link has come up (linkwatch): such news has no changed flags.
        if kind == 16:
            written = any(data[offset + 28:offset + 32])
        if written:
            print(kind, now, flush=True)
        offset += (length + 3) & ~3
"""
"""Tells of every neighbour, forwarding entry, link and route that somebody writes, and when."""


def requests(cluster: Cluster) -> int:
    """How many requests about keys the members of etcd have answered."""
    total = 0.0
    for number in cluster.members:
        metrics = cluster.wire.output("curl", "-sS", f"http://{member(number)}:{CLIENTS}/metrics")
        for line in metrics.splitlines():
            if line.startswith("grpc_server_handled_total") and 'grpc_service="etcdserverpb.KV"' in line:
                total += float(line.rpartition(" ")[2])
    return int(total)


def generation(host: Host) -> int:
    """How many nft transactions there were."""
    return int(host.output(*CROWD, "generation"))


@dataclass(frozen=True)
class Cost:
    """What one more endpoint took: until the last host had it, of etcd, and of each other host's kernel."""

    seconds: float
    requests: int
    entries: list[int]
    transactions: list[int]

    def row(self, what: str) -> str:
        """As a line of the table."""
        spread = [f"{min(each)}-{max(each)}" for each in (self.entries, self.transactions)]
        return f"| {what} | {self.seconds * 1e3:.0f} ms | {self.requests} | {' | '.join(spread)} |"


def one_more(cluster: Cluster, number: int) -> Cost:
    """Attach endpoint `number` on the first host and see what becomes of it on the others."""
    one, *others = cluster.hosts
    known, rules = [_known(host) for host in others], [generation(host) for host in others]
    ears = [host.spawn(PYTHON, "-ISc", WATCH) for host in others]
    for ear in ears:
        assert ear.stdout is not None
        assert ear.stdout.readline() == "ready\n"
    before, began = requests(cluster), time.monotonic()
    one.output(*CROWD, "up", "1", "crowd", str(number))
    for host, count in zip(others, known, strict=True):
        eventually("it is known", partial(_has, host, count + 1))
    asked = requests(cluster) - before
    heard = []
    for ear in ears:
        assert ear.stdout is not None
        end(ear)
        heard.append([float(line.split()[1]) for line in ear.stdout])
    changed = [generation(host) - count for host, count in zip(others, rules, strict=True)]
    return Cost(max(max(each) for each in heard) - began, asked, [len(each) for each in heard], changed)


def _known(host: Host) -> int:
    """How many endpoints of other hosts can be reached."""
    return len(host.sh("ip -4 neigh show nud permanent proto 78").splitlines())


def _has(host: Host, count: int) -> bool:
    return _known(host) == count


def everywhere(hosts: list[Host], count: int) -> float:
    """Wait until each of `hosts` knows `count` endpoints of others; seconds."""
    began = time.monotonic()
    for host in hosts:
        eventually(f"{count} are known", partial(_has, host, count), LONG)
    return time.monotonic() - began


def timed(what: str, do: Callable[[], object], hosts: list[Host], count: int) -> str:
    """A line: `do` it, and how long it took from its beginning until `hosts` know `count` endpoints."""
    print(what, file=sys.stderr)
    began = time.monotonic()
    do()
    done = time.monotonic() - began
    return f"| {what} | {done:.1f} s | {everywhere(hosts, count):.1f} s |"


def many_hosts(size: int, endpoints: int) -> None:
    """Print what one more endpoint costs, with hardly any there and with many, and how fast all are known."""
    share = endpoints // size

    def attach_all() -> None:
        for number, host in enumerate(cluster.hosts):
            host.output(*CROWD, "up", str(share), "crowd", str(1000 * (number + 1)), timeout=LONG)

    with Cluster(size) as cluster:
        cluster.start_all()
        create(cluster, "crowd", *LARGE)
        first, *others = cluster.hosts
        few = one_more(cluster, 0)
        lines = [timed(f"attach {endpoints}", attach_all, others, endpoints - share + 1)]
        everywhere([first], endpoints - share)
        many = one_more(cluster, 1)
        last = cluster.hosts[-1]
        there, gone = endpoints - share + 2, endpoints - 2 * share + 2
        lines.append(timed(f"the daemon of a host with {share} dies", last.kill, others[:-1], gone))
        lines.append(timed("it is back", lambda: cluster.start(size), others[:-1], there))
        lines.append(timed(f"a host reads all {endpoints}", last.restart, [last], there))
        for number, host in enumerate(cluster.hosts):
            host.output(*CROWD, "down", str(share), "crowd", str(1000 * (number + 1)), timeout=LONG)
        first.output(*CROWD, "down", "2", "crowd", "0")
    print(
        f"| one more endpoint, {size} hosts | known everywhere after | requests to etcd | entries written on "
        "each other host | nft transactions there |\n|---|---|---|---|---|"
    )
    print(few.row("the first"))
    print(many.row(f"after {endpoints} others"))
    print(f"\n| {size} hosts, {endpoints} endpoints | took | and until all others knew |\n|---|---|---|")
    print("\n".join(lines))
    print(f"\n(A host is dead when its lease of {TTL} s has ended.)", flush=True)


def report(rounds: int, size: int = 10, endpoints: int = 1000) -> None:
    """Measure and print all of it."""
    print(f"\n{machine()}\n")
    two_hosts(rounds)
    many_hosts(size, endpoints)


if __name__ == "__main__":
    report(*map(int, sys.argv[1:]) if sys.argv[1:] else (5,))
