"""Overlays without tunnels: plain routes between nodes on one segment, and tunnels to the rest."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from tests.e2e.etcd import TTL, Cluster
from tests.e2e.fabric import heard_until, plug, underlay
from tests.e2e.host import HERE, PYTHON, WIRE, Host, Node, end, eventually
from tests.e2e.test_cluster import running, speaks
from tests.e2e.test_overlay import NETWORK, create, has_mtu, reached

pytestmark = pytest.mark.skipif(not shutil.which("etcd"), reason="needs etcd-server")

GENERATION = (PYTHON, "-IS", HERE / "crowd.py", "generation")
"""How many transactions nftables has seen."""
FOUR = ("--driver", "overlay", "--subnet", "10.5.0.0/24")


def leads(host: Host, address: str) -> bool:
    """Whether a host has a plain route of netd's to an address."""
    return bool(host.sh(f"ip {'-6' if ':' in address else '-4'} route show {address} proto 78").strip())


def pair(cluster: Cluster, *flags: str) -> tuple[Host, Host]:
    """A container `a` on the first host and `b` on the second, with plain routes to each other."""
    one, two = cluster.hosts[:2]
    one.serve("a", "--network", "fabric", *flags)
    two.serve("b", "--network", "fabric", *flags)
    eventually("h1 has a route to b", lambda: leads(one, two.address("b")))
    eventually("h2 has a route to a", lambda: leads(two, one.address("a")))
    return one, two


def between(frames: Sequence[Any], *addresses: str) -> list[Any]:
    """The frames whose outermost addresses are these, which no tunnel carries."""
    found = []
    for frame in frames:
        outer = frame.getlayer(1)
        if isinstance(outer, IP | IPv6) and {outer.src, outer.dst} <= set(addresses):
            found.append(frame)
    return found


def test_never_over_ipv6_routes_both_families_and_carries_no_tunnel() -> None:
    flags = (*NETWORK, "--opt", "encap=never")
    with running(2, 6, flags=flags) as cluster:
        one, two = cluster.hosts
        with cluster.listening() as frames:
            pair(cluster)
            for host, name, other, target in ((one, "a", two, "b"), (two, "b", one, "a")):
                assert has_mtu(host, name, 1500)
                speaks(host, name, other, target)
                named = host.container_ask(name, f"tcp,{target},80", seconds=5)[f"tcp,{target},80"]
                assert named is not None
                assert named.split()[0] == target
            seen = one.container_ask("a", f"tcp,{two.address('b')},80", seconds=5)
            [answer] = seen.values()
            assert answer is not None
            assert answer.split()[:2] == ["b", one.address("a")], "nothing is translated"
            full = ("ping", "-c1", "-W5", "-M", "do", "-s", "1472", two.address("b"))
            one.netd("exec", "a", "--", *full)
            # Nobody has that address, and nobody else hears that somebody asks.
            assert not reached(one, "a", ["udp,10.5.0.200,80"], 0.5)
        assert not [frame for frame in frames if VXLAN in frame]
        for family in (4, 6):
            assert between(frames, one.address("a", family=family), two.address("b", family=family))
        assert not [f for f in frames if IP in f and "10.5.0.200" in (f[IP].src, f[IP].dst)]
        assert not one.sh("ip -o link show type vxlan")

        # A published port, and the way out, are the host's own as ever.
        two.serve("web", "--network", "fabric", "-p", "8080:80")
        assert two.lab.client.answer("tcp,203.0.113.2,8080").split()[:2] == ["web", "203.0.113.10"]
        with two.lab.client.talker("serve", "outside", "tcp:90") as server:
            answer = two.container_ask("b", "tcp,203.0.113.10,90", seconds=5)["tcp,203.0.113.10,90"]
            assert answer is not None
            assert answer.split()[:2] == ["outside", "203.0.113.2"]
            end(server)

        # A container that moves is reached at once, by neighbours that resolved it next door, too.
        one.serve("mover", "--network", "fabric,ip=10.5.0.222,ip6=fd05::de")
        assert reached(one, "a", ["tcp,10.5.0.222,80", "tcp,fd05::de,80"])
        one.netd("rm", "-f", "mover")
        two.serve("mover", "--network", "fabric,ip=10.5.0.222,ip6=fd05::de")
        eventually("h1 knows where it went", lambda: leads(one, "10.5.0.222") and leads(one, "fd05::de"))
        assert reached(one, "a", ["tcp,10.5.0.222,80", "tcp,fd05::de,80"], 2.0)
        two.netd("rm", "-f", "mover")
        one.serve("mover", "--network", "fabric,ip=10.5.0.222,ip6=fd05::de")
        assert reached(one, "a", ["tcp,10.5.0.222,80", "tcp,fd05::de,80"], 2.0)

        # A restart changes nothing.
        before, count = one.census(), one.output(*GENERATION)
        one.restart()
        cluster.wait_until_connected()
        assert (one.census(), one.output(*GENERATION)) == (before, count)


def test_death_and_return_with_another_mac_and_another_address() -> None:
    with running(flags=(*FOUR, "--opt", "encap=never")) as cluster:
        one, two = pair(cluster)
        address, own = two.address("b"), mac(two)
        wanted = [f"tcp,{address},80"]
        two.kill()
        two.sh("ip link set under down")
        eventually("its route is gone", lambda: not leads(one, address), TTL + 10)
        assert address not in one.sh("ip neigh show proxy; nft list ruleset")
        two.sh("ip link set under address 02:00:00:00:22:22")
        plug(2, two)
        cluster.start(2)
        eventually("it is back", lambda: reached(one, "a", wanted, 1.0) == wanted)
        assert "02:00:00:00:22:22" in one.sh("nft list set inet netd behind4")
        # And while its daemon runs.
        two.sh("ip link set under address 02:00:00:00:22:23")
        eventually("h1 hears", lambda: "02:00:00:00:22:23" in one.sh("nft list set inet netd behind4"))
        two.sh("ip addr del 192.0.2.2/24 dev under; ip addr add 192.0.2.22/24 dev under")
        eventually("h1 follows", lambda: "via 192.0.2.22" in one.sh(f"ip route show {address}"))
        eventually("b is reached", lambda: reached(one, "a", wanted, 1.0) == wanted)
        two.sh("ip addr del 192.0.2.22/24 dev under; ip addr add 192.0.2.2/24 dev under")
        two.sh(f"ip link set under address {own}")
        eventually("and back", lambda: "via 192.0.2.2 " in one.sh(f"ip route show {address}"))
        # A wire that was cut takes the routes along, and nobody but netd brings them back.
        one.sh("ip link set under down")
        plug(1, one)
        eventually("the route is back", lambda: leads(one, address))
        eventually("b is reached", lambda: reached(one, "a", wanted, 1.0) == wanted)


def test_only_a_node_sends_for_its_own_containers() -> None:
    """Not even into a connection that there is: the last one is the node's own and shows nothing is wrong."""
    flags = ("--driver", "overlay", "--subnet", "10.5.0.0/24", "--opt", "encap=never")
    with running(3, flags=flags) as cluster:
        one, two = pair(cluster, "--cap-add", "NET_RAW")
        three = cluster.hosts[2]
        three.serve("c", "--network", "fabric")
        eventually("h1 knows c", lambda: leads(one, three.address("c")))
        one.netd("network", "create", "plain")
        one.serve("evil", "--network", "plain", "--cap-add", "NET_RAW")
        a, b = one.address("a"), two.address("b")
        near = mac(one)

        def frame(node: Node, who: str) -> str:
            packet = Ether(src=mac(node), dst=near) / IP(src=b, dst=a) / UDP(sport=4000, dport=80)
            return bytes(packet / Raw(f"sent by {who}".encode())).hex()

        with heard_until(one, "a", b"sent by ", "last") as heard:
            two.output(PYTHON, "-IS", WIRE, "send", "under", frame(two, "first"))
            eventually("it is a connection", lambda: "sport=4000" in one.sh("conntrack -L 2>/dev/null"))
            cluster.stranger.output(
                PYTHON, "-IS", WIRE, "send", "under", frame(cluster.stranger, "a stranger")
            )
            three.output(PYTHON, "-IS", WIRE, "send", "under", frame(three, "another node"))
            one.netd(
                "exec", "evil", "--", PYTHON, "-IS", "/wire.py", "send", "eth0", frame(two, "a container")
            )
            two.output(PYTHON, "-IS", WIRE, "send", "under", frame(two, "last"))
        assert set(heard) == {"first", "last"}  # each also in the answer
        # Other networks have no way in either, by the route that their host has.
        assert one.container_ask("evil", f"tcp,{b},80", seconds=0.5) == {f"tcp,{b},80": None}


def mac(node: Node) -> str:
    return node.sh('ip -j link show under | sed \'s/.*"address":"\\([0-9a-f:]*\\)".*/\\1/\'').strip()


def test_auto_routes_to_neighbours_and_tunnels_to_other_segments() -> None:
    with Cluster(3) as cluster:
        try:
            three = cluster.hosts[2]
            three.sh(
                "ip addr del 192.0.2.3/24 dev under; ip addr add 198.51.100.3/24 dev under; "
                "ip route add 192.0.2.0/24 dev under src 198.51.100.3"
            )
            for node in (*cluster.hosts[:2], cluster.wire):
                node.sh(f"ip route add 198.51.100.0/24 dev {'lan' if node is cluster.wire else 'under'}")
            cluster.start(1)
            cluster.start(2)
            cluster.start(3, "198.51.100.3")
            cluster.wait_until_met({1: "192.0.2.1", 2: "192.0.2.2", 3: "198.51.100.3"})
            create(cluster, "fabric", *NETWORK, "--opt", "encap=auto")
            one, two = pair(cluster)
            three.serve("c", "--network", "fabric")
            with cluster.listening() as frames:
                for host, name in ((one, "a"), (two, "b"), (three, "c")):
                    for other, target in ((one, "a"), (two, "b"), (three, "c")):
                        if host is not other:
                            assert has_mtu(host, name, 1450)
                            speaks(host, name, other, target)
            assert not leads(one, three.address("c"))
            assert not leads(three, one.address("a"))
            tunnelled = {frozenset((f[IP].src, f[IP].dst)) for f in frames if VXLAN in f}
            far = {frozenset((underlay(number, 4), "198.51.100.3")) for number in (1, 2)}
            assert far <= tunnelled
            assert between(frames, one.address("a"), two.address("b"))
            inside = [
                f[VXLAN].payload
                for f in frames
                if VXLAN in f and frozenset((f[IP].src, f[IP].dst)) not in far
            ]
            assert not [frame for frame in inside if IP in frame], "IPv6 only: it has no routes by IPv4"

            # A network without tunnels does not reach that far, and says so.
            create(cluster, "local", "--driver", "overlay", "--subnet", "10.6.0.0/24", "--opt", "encap=never")
            one.serve("d", "--network", "local")
            eventually("h3 says so", lambda: "'h1'" in three.json("node", "ls")["problem"])
            assert "encap=auto" in three.refused("run", "-d", "--network", "local", "true")
            two.serve("e", "--network", "local")
            eventually("d reaches e", lambda: reached(one, "d", ["tcp,e,80"], 1.0) == ["tcp,e,80"])
            assert "IPv6" in one.refused(
                *("network", "create", "--driver", "overlay", "--ipv6", "--opt", "encap=never", "six")
            )
            cluster.clean()
        finally:
            print(cluster.logs())
