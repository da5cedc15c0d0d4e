"""Rows 9 and 10: what netd's rules and tunnels cost a packet, against the same devices made by hand.

By hand means: on hosts without netd, so without a single nft rule, the bridge, the veth pairs and the
VXLAN devices with static entries that netd would make. Many short rounds of all of them alternate.
Throughput is one TCP connection, the request/response rate one byte there and back over one; and a frame
of one is sent again and again, which says what a frame costs to a hundredth, on a busy machine too. The
ratio is the median of the rounds' ratios: of what each reached, and, since that says little while others
compute too, of the processor time that each took for a byte, a round trip or a frame.

All is measured on hosts as they are by themselves, and as Docker and Kubernetes want them
(bridge-nf-call-iptables=1), where the kernel shows every frame on a bridge to the rules of IP.

    python -m tests.bench.throughput [ROUNDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench.rivals import machine
from tests.bench.scale import verdict
from tests.e2e.etcd import Cluster
from tests.e2e.fabric import Fabric, underlay
from tests.e2e.host import PYTHON, Host, Lab, end, eventually
from tests.e2e.test_overlay import create

STREAM = Path(__file__).with_name("stream.py")
SECONDS, TIMES = 0.25, 4
"""How long one measurement takes, and how many of them make up for a long round of other rows."""
TARGET = 0.97
"""Of what the devices made by hand reach."""
VNI, MTU = 77, 1450
PINNED = "02:42:0a:05:00:01"
"""A bridge that takes over the MAC of a new port forgets its permanent neighbours."""
NETWORKS = {
    "netd": ("--subnet", "10.5.0.0/24"),
    "netd's routes": ("--subnet", "10.6.0.0/24", "--opt", "encap=never"),
}
HAND = "by hand"


@dataclass(frozen=True)
class Way:
    """A client's namespace, on which host, and the address at which the server listens."""

    host: Host
    netns: str
    address: str
    server: subprocess.Popen[str]

    def take(self, what: str, seconds: float = SECONDS) -> tuple[float, float]:
        """Bytes or round trips a second, and nanoseconds of processor time for each."""
        command = ("nsenter", f"--net={self.netns}", PYTHON, "-IS", STREAM, what, self.address, str(seconds))
        rate, cost = map(float, self.host.output(*command).split())
        return rate, cost


def listening(host: Host, netns: str) -> subprocess.Popen[str]:
    """The server, in a namespace."""
    server = host.spawn("nsenter", f"--net={netns}", PYTHON, "-IS", STREAM, "serve")
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return server


# --- by hand ------------------------------------------------------------------------------------------


def guest(host: Host, name: str, number: int, mtu: int) -> str:
    """A namespace with a veth pair in bridge `hand`; where it can be opened."""
    mac = f"02:42:0a:05:00:{number:02x}"
    host.sh(
        f"ip netns add {name}; "
        f"ip link add v{name} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}; "
        f"ip link set v{name} master hand up; ip -n {name} link set eth0 address {mac} up; "
        f"ip -n {name} link set lo up; ip -n {name} addr add 10.5.0.{number}/24 dev eth0"
    )
    return f"/run/netns/{name}"


def bridged_by_hand(host: Host) -> Way:
    """Two namespaces on one bridge."""
    host.sh(f"ip link add hand address {PINNED} type bridge; ip link set hand up")
    host.sh("ip addr add 10.5.0.1/24 dev hand")
    one, two = (guest(host, name, number, 1500) for name, number in (("one", 2), ("two", 3)))
    return Way(host, one, "10.5.0.3", listening(host, two))


def tunnelled_by_hand(fabric: Fabric) -> Way:
    """One namespace on each of two hosts, with a static VXLAN between them."""
    places = []
    for number, host in enumerate(fabric.hosts, 1):
        far, other = underlay(3 - number, 4), 4 - number
        mac = f"02:42:0a:05:00:{other:02x}"
        host.sh(
            f"ip link add hand mtu {MTU} address {PINNED} type bridge; ip link set hand up; "
            "ip addr add 10.5.0.1/24 dev hand; "
            f"ip link add vx mtu {MTU} type vxlan id {VNI} local {underlay(number, 4)} dstport 4789 "
            "nolearning; "
            "ip link set vx master hand; bridge link set dev vx neigh_suppress on learning off flood off; "
            f"ip link set vx up; bridge fdb add {mac} dev vx dst {far} self permanent; "
            f"bridge fdb add {mac} dev vx master static; "
            f"ip neigh add 10.5.0.{other} lladdr {mac} dev hand nud permanent"
        )
        places.append(guest(host, "guest", number + 1, MTU))
    return Way(fabric.hosts[0], places[0], "10.5.0.3", listening(fabric.hosts[1], places[1]))


# --- netd's -------------------------------------------------------------------------------------------


def bridged(host: Host) -> Way:
    """The same as containers of one network."""
    host.start()
    host.netd("network", "create", "front")
    for name in ("one", "two"):
        host.netd("run", "-d", "--name", name, "--network", "front", "--", "sleep", "3600")
    server = listening(host, host.inspect("two")["netns"])
    return Way(host, host.inspect("one")["netns"], host.address("two"), server)


def tunnelled(cluster: Cluster, network: str, *flags: str) -> Way:
    """The same as containers of one overlay network."""
    one, two = cluster.hosts
    create(cluster, network, "--driver", "overlay", *flags)
    for host in (one, two):
        host.netd("run", "-d", "--name", f"c-{network}", "--network", network, "--", "sleep", "3600")
    address = two.address(f"c-{network}")
    server = listening(two, two.inspect(f"c-{network}")["netns"])
    eventually("the way is known", lambda: f"{address} " in one.sh("ip neigh show; ip route show"))
    return Way(one, one.inspect(f"c-{network}")["netns"], address, server)


# --- the rows -----------------------------------------------------------------------------------------


def compared(row: str, what: str, ways: Mapping[str, Way], rounds: int) -> None:
    """Measure `ways` in turns; print a line of each of three measures for each but the first."""
    for verb, title, unit, scale in (
        ("pour", "TCP throughput", "Gbit/s", 8e-9),
        ("pingpong", "round trips", "k/s", 1e-3),
        ("replay", "frames in a second of processor time", "k/s", 1e-3),
    ):
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(rounds * TIMES + 1):
            # Whoever is first in one round is last in the next.
            for name in list(ways)[:: 1 if number % 2 else -1]:
                measured = ways[name].take(verb)
                if number:  # the first round warms caches up and does not count
                    taken[name].append(measured)
        print(f"row {row}: {title} measured {rounds * TIMES} times", file=sys.stderr)
        theirs = taken.pop(HAND)
        for name, ours in taken.items():
            pairs = list(zip(theirs, ours, strict=True))
            ratio = statistics.median(our[0] / their[0] for their, our in pairs)
            cost = statistics.median(our[1] / their[1] for their, our in pairs)
            goal = (f"{TARGET}", verdict(ratio >= TARGET)) if verb == "pour" else ("-", "")
            cells = [row, f"{title} {what}, {name}", *(spread(each, scale, unit) for each in (theirs, ours))]
            print(f"| {' | '.join([*cells, f'{ratio:.3f}', *goal, f'{cost:.3f}'])} |", flush=True)


def spread(measured: list[tuple[float, float]], scale: float, unit: str) -> str:
    """ "median (slowest-fastest) unit"."""
    rates = [rate * scale for rate, _ in measured]
    return f"{statistics.median(rates):.1f} ({min(rates):.1f}-{max(rates):.1f}) {unit}"


def settings(hosts: Iterable[Host], what: str) -> Iterator[str]:
    """`what`, with br_netfilter's switches off in all hosts, and then on."""
    if not Path("/proc/sys/net/bridge").exists():
        yield what  # not loaded: as if it were off
        return
    for value, suffix in ((0, ""), (1, ", bridge-nf-call-iptables=1")):
        for host in hosts:
            for family in ("ip", "ip6", "arp"):
                host.sh(f"sysctl -qw net.bridge.bridge-nf-call-{family}tables={value}")
        yield what + suffix


def row_9(rounds: int) -> None:
    """Two containers of one network on one host."""
    with Lab() as plain, Lab() as lab:
        ways = {HAND: bridged_by_hand(plain.host), "netd": bridged(lab.host)}
        for what in settings((plain.host, lab.host), "within a host"):
            compared("9", what, ways, rounds)
        lab.host.remove_everything()
        lab.host.stop()


def row_10(rounds: int) -> None:
    """Two containers of one network on two hosts; plain routes besides."""
    with Fabric(2) as hand, Cluster(2) as cluster:
        ways = {HAND: tunnelled_by_hand(hand)}
        cluster.start_all()
        ways |= {name: tunnelled(cluster, f"n{i}", *net) for i, (name, net) in enumerate(NETWORKS.items())}
        for what in settings((*hand.hosts, *cluster.hosts), "over VXLAN between hosts"):
            compared("10", what, ways, rounds)
        for way in ways.values():
            end(way.server)
        cluster.clean()


def report(rounds: int, rows: tuple[str, ...] = ("9", "10")) -> None:
    """Measure and print."""
    print(f"\n{machine()}\n\n| # | work | {HAND} | netd | ratio | target | | processor time |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for row, measure in (("9", row_9), ("10", row_10)):
        if row in rows:
            measure(rounds)


if __name__ == "__main__":
    report(int(sys.argv[1]) if sys.argv[1:] else 5)
