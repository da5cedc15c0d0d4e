"""Real hosts, real daemons, a real etcd: what a cluster goes through, and what its containers notice."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from scapy.layers.inet import IP, UDP

from tests.e2e.etcd import TTL, Cluster
from tests.e2e.fabric import inner, plug
from tests.e2e.host import Host, eventually
from tests.e2e.test_overlay import NETWORK, create, forgot, knows, pair, reached, targets

pytestmark = pytest.mark.skipif(not shutil.which("etcd"), reason="needs etcd-server")


@contextmanager
def running(
    size: int = 2, family: int = 4, grace: float = 3600.0, flags: Sequence[str] = NETWORK
) -> Iterator[Cluster]:
    """Hosts whose daemons follow etcd, with one network called `fabric`; clean afterwards."""
    with Cluster(size, family, grace) as cluster:
        try:
            cluster.start_all()
            create(cluster, "fabric", *flags)
            yield cluster
            cluster.wait_until_connected()
            cluster.clean()
            left = cluster.etcdctl("get", "--prefix", "/netd/v1/", "--keys-only").split()
            assert {key.split("/")[3] for key in left} == {"nodes"}, f"left in etcd: {left}"
        finally:
            print(cluster.logs())


def speaks(host: Host, container: str, other: Host, name: str) -> None:
    """A container reaches another one by everything that it has, as soon as both hosts know of both."""
    wanted = targets(other, name)
    eventually(f"{container} reaches {name}", lambda: reached(host, container, wanted, 2.0) == wanted)


@pytest.mark.parametrize("family", [4, 6])
def test_one_network_on_two_hosts(family: int) -> None:
    """Names, reachability, published ports, a move; and nothing else on the wire."""
    with running(2, family) as cluster, cluster.listening() as frames:
        one, two = pair(cluster)
        speaks(one, "a", two, "b")
        speaks(two, "b", one, "a")
        answer = one.container_ask("a", "tcp,b,80", seconds=5)["tcp,b,80"]
        assert answer is not None
        assert answer.startswith("b ")

        two.serve("web", "--network", "fabric", "-p", "8080:80")
        assert two.lab.client.answer("tcp,203.0.113.2,8080").startswith("web")

        fixed = ("--network", "fabric,ip=10.5.0.222,ip6=fd05::de")
        one.serve("mover", *fixed)
        assert two.container_ask("b", "tcp,mover,80", seconds=5)["tcp,mover,80"]
        assert "h1" in two.refused("run", "-d", "--name", "thief", *fixed, "true")
        one.netd("rm", "-f", "mover")
        two.serve("mover", *fixed)
        eventually("a knows where it went", lambda: knows(one, "10.5.0.222"), 2.0)
        for target in ("tcp,10.5.0.222,80", "tcp,fd05::de,80", "tcp,mover,80"):
            assert one.container_ask("a", target, seconds=5)[target]
        assert "in use by" in one.refused("network", "rm", "fabric")
    assert cluster.strange(frames) == []


def test_a_host_dies_and_comes_back_elsewhere() -> None:
    with running() as cluster:
        one, two = pair(cluster)
        address = two.address("b")
        two.kill()
        two.sh("ip link set under down")
        eventually("h1 forgets what was there", lambda: forgot(one, address), TTL + 5)
        assert {node["name"]: node["state"] for node in one.json("node", "ls")["nodes"]}["h2"] == "down"
        assert one.container_ask("a", "tcp,b,80")["tcp,b,80"] is None, "its name is gone, too"
        two.sh("ip addr del 192.0.2.2/24 dev under; ip addr add 192.0.2.22/24 dev under")
        plug(2, two)
        cluster.start(2)
        eventually("h1 knows b again", lambda: knows(one, address), 2.0)
        speaks(one, "a", two, "b")
        # And once more while the daemon runs: it notices, and so does everybody.
        two.sh("ip addr del 192.0.2.22/24 dev under; ip addr add 192.0.2.2/24 dev under")
        eventually("it is heard", lambda: _address_of(one, "h2") == "192.0.2.2", 5.0)
        speaks(one, "a", two, "b")


def _address_of(host: Host, node: str) -> str:
    return str({each["name"]: each["address"] for each in host.json("node", "ls")["nodes"]}[node])


def test_etcd_is_away() -> None:
    """Containers speak, start and stop; what others must know they hear when etcd is back."""
    with running() as cluster:
        one, two = pair(cluster)
        old = two.address("b")
        for number in (1, 2, 3):
            cluster.kill_member(number)
        eventually("h1 notices", lambda: not cluster.connected(one), 10.0)
        speaks(one, "a", two, "b")
        one.serve("late", "--network", "fabric")
        speaks(one, "late", one, "a")
        assert "cluster" in one.refused("network", "create", "--driver", "overlay", "other")
        two.netd("rm", "-f", "b")
        one.restart()
        two.restart()
        assert reached(one, "a", targets(one, "late")), "a start without etcd takes nothing away"
        assert knows(one, old), "nobody could tell it yet"
        for number in (1, 2, 3):
            cluster.start_member(number)
        eventually("h1 hears that b is gone", lambda: forgot(one, old), 15.0)
        two.serve("new", "--network", "fabric")
        eventually("h2 knows late", lambda: knows(two, one.address("late")))
        speaks(two, "new", one, "late")


def test_the_leader_is_killed_in_the_middle_of_things() -> None:
    with running() as cluster:
        one, two = pair(cluster)
        leader = cluster.leader()
        cluster.kill_member(leader)
        two.serve("next", "--network", "fabric")
        eventually("h1 hears", lambda: knows(one, two.address("next")), 10.0)
        speaks(one, "a", two, "next")
        cluster.start_member(leader)


def test_a_node_is_cut_off_from_etcd_and_the_past_is_compacted() -> None:
    with running() as cluster:
        one, two = pair(cluster)
        gone = two.address("b")
        with cluster.cut_off(one):
            eventually("h1 notices", lambda: not cluster.connected(one), 3 * TTL + 10)
            two.netd("rm", "-f", "b")
            two.serve("c", "--network", "fabric")
            revision = two.json("node", "ls")["revision"]
            cluster.etcdctl("compact", str(revision))
        healed = time.monotonic()
        eventually("h1 has the truth", lambda: forgot(one, gone) and knows(one, two.address("c")), 5.0)
        assert time.monotonic() - healed < 5.0
        eventually("h2 has a back", lambda: knows(two, one.address("a")), 5.0)
        speaks(one, "a", two, "c")


def test_a_paused_daemon_wakes_up_after_its_lease() -> None:
    """Its block is another node's by then, and so is an address that it had given."""
    with running(2, grace=0.0) as cluster:
        one, two = pair(cluster)
        address = two.address("b")
        assert two.daemon is not None
        os.kill(two.daemon_pid, signal.SIGSTOP)  # and nsenter, its parent, stops itself with it
        try:
            eventually("h1 takes h2 for dead", lambda: forgot(one, address), TTL + 5)
            one.serve("heir", "--network", f"fabric,ip={address}")
        finally:
            os.kill(two.daemon.pid, signal.SIGCONT)
        eventually("h2 is back", lambda: _address_of(one, "h2") == "192.0.2.2")
        eventually("h2 says so", lambda: "start its container again" in two.json("node", "ls")["problem"])
        assert forgot(one, address), "the address is h1's, and stays it"
        two.netd("rm", "-f", "b")
        two.serve("b", "--network", "fabric")
        speaks(two, "b", one, "heir")


def test_draining() -> None:
    with running() as cluster:
        one, two = pair(cluster)
        one.netd("node", "drain", "h2")
        eventually("h2 knows", lambda: "drained" in two.run("netd", "run", "--rm", "true").stderr)
        assert "h2" in two.refused("run", "-d", "--network", "fabric", "true", status=1)
        speaks(one, "a", two, "b")
        one.netd("node", "drain", "--undo", "h2")
        eventually("h2 knows", lambda: not two.run("netd", "run", "--rm", "true").returncode)


@pytest.mark.parametrize("each", [4, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_everybody_reaches_everybody(each: int) -> None:
    """And nothing but unicast VXLAN between nodes, and what they say to etcd, is ever on the wire."""
    with running(3) as cluster, cluster.listening() as frames:
        for number, host in enumerate(cluster.hosts, 1):
            for n in range(each):
                host.serve(f"c{number}-{n}", "--network", "fabric")
        places = {
            f"c{number}-{n}": host.address(f"c{number}-{n}")
            for number, host in enumerate(cluster.hosts, 1)
            for n in range(each)
        }
        assert len(set(places.values())) == 3 * each, "no address was given twice"
        for number, host in enumerate(cluster.hosts, 1):
            others = [address for name, address in places.items() if not name.startswith(f"c{number}-")]
            eventually("it knows all", lambda: all(knows(host, address) for address in others), 30)  # noqa: B023
        for number, host in enumerate(cluster.hosts, 1):
            for n in range(each):
                wanted = [f"udp,{address},80" for name, address in places.items() if name != f"c{number}-{n}"]
                assert len(reached(host, f"c{number}-{n}", wanted)) == 3 * each - 1
                if each > 4:
                    _forget_neighbours(cluster)
    assert cluster.strange(frames) == []
    asked = {(frame[IP].src, frame[IP].dst) for frame in inner(frames) if IP in frame and UDP in frame}
    across = {
        (places[one], places[other])
        for one in places
        for other in places
        if one.split("-")[0] != other.split("-")[0]
    }
    assert asked == across, "each asked each on another host, and was answered"


def _forget_neighbours(cluster: Cluster) -> None:
    """All namespaces of a kernel share room for 1,024 neighbours (gc_thresh3), and whoever was heard of
    keeps its place for seconds: three hundred places for each that asks a hundred and fifty."""
    for host in cluster.hosts:
        host.sh("for ns in /run/netd/netns/*; do nsenter --net=$ns ip neigh flush dev eth0; done")
