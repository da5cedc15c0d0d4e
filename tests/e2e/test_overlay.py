"""Overlays between real hosts: who reaches whom, by what, and what nobody can make of it.

Each test runs on an IPv4 and on an IPv6 underlay where that can make a difference.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from tests.e2e.fabric import PORT, Fabric, heard_until, inner, peers, strange, underlay
from tests.e2e.host import PYTHON, WIRE, Host, end, eventually, eventually_equal

NETWORK = ("--driver", "overlay", "--subnet", "10.5.0.0/24", "--subnet", "fd05::/64")


@pytest.fixture(params=[4, 6], ids=["over IPv4", "over IPv6"])
def fabric(request: pytest.FixtureRequest) -> Iterator[Fabric]:
    """Two nodes and a stranger, daemons running, one network called `fabric`."""
    with woven("fabric", request.param) as fabric:
        yield fabric


@pytest.fixture
def fabric4() -> Iterator[Fabric]:
    """As `fabric`, over IPv4 only."""
    with woven("fabric", 4) as fabric:
        yield fabric


@contextlib.contextmanager
def woven(network: str, family: int) -> Iterator[Fabric]:
    """Two hosts with an overlay network over one family, and nothing of it left afterwards."""
    with Fabric(2, family) as fabric:
        try:
            fabric.start_all()
            create(fabric, network, *NETWORK)
            yield fabric
            fabric.clean()
        finally:
            print(fabric.logs())


def create(fabric: Fabric, name: str, *flags: str, hosts: Sequence[Host] = ()) -> None:
    """Make a network on the first host and wait until every host has it, or those `hosts`."""
    fabric.hosts[0].netd("network", "create", *flags, name)
    for host in hosts or fabric.hosts:
        eventually(f"{name} is everywhere", partial(has, host, name))


def has(host: Host, network: str) -> bool:
    """Whether a host has a network of that name."""
    return host.run("netd", "network", "inspect", network).returncode == 0


def knows(host: Host, address: str) -> bool:
    """Whether a host has a permanent neighbour of that address."""
    family = "-6" if ":" in address else "-4"
    return f"{address} " in host.sh(f"ip {family} neigh show nud permanent proto 78")


def forgot(host: Host, address: str) -> bool:
    return not knows(host, address)


def pair(fabric: Fabric, network: str = "fabric", *flags: str) -> tuple[Host, Host]:
    """A container `a` on the first host and `b` on the second, that know of each other."""
    one, two = fabric.hosts
    one.serve("a", "--network", network, *flags)
    two.serve("b", "--network", network, *flags)
    eventually("a knows b", lambda: knows(one, two.address("b")))
    eventually("b knows a", lambda: knows(two, one.address("a")))
    return one, two


def targets(host: Host, container: str) -> list[str]:
    addresses = [host.address(container, family=family) for family in (4, 6)]
    return [f"{kind},{address},80" for kind in ("tcp", "udp") for address in addresses]


def reached(host: Host, container: str, wanted: list[str], seconds: float = 5.0) -> list[str]:
    """Those of `wanted` that answer a container."""
    return [t for t, answer in host.container_ask(container, *wanted, seconds=seconds).items() if answer]


def test_both_ways_in_both_families_by_address_and_by_name_and_silent(fabric: Fabric) -> None:
    with fabric.listening() as frames:
        one, two = pair(fabric)
        assert reached(one, "a", targets(two, "b")) == targets(two, "b")
        assert reached(two, "b", targets(one, "a")) == targets(one, "a")
        answer = one.container_ask("a", "tcp,b,80", seconds=5)["tcp,b,80"]
        assert answer is not None
        assert answer.split()[0] == "b"
        assert ip_address(answer.split()[1]) in {ip_address(one.address("a", family=f)) for f in (4, 6)}
        # Nobody has these; and nobody else is to hear that somebody asks.
        nobody = ["udp,10.5.0.200,80", "udp,fd05::c8,80", "udp,10.5.0.255,80", "udp,224.1.2.3,80"]
        assert not reached(one, "a", nobody, 0.5)
    ends = {underlay(number, fabric.family) for number in (1, 2)}
    assert strange(frames, ends) == []
    carried = {(frame.src, frame.dst) for frame in inner(frames)}
    macs = {host.inspect(name)["endpoints"][0]["mac"] for host, name in ((one, "a"), (two, "b"))}
    assert {mac for two_macs in carried for mac in two_macs} == macs, "only what they said to each other"


def test_the_gateway_is_the_same_everywhere_and_next_door(fabric4: Fabric) -> None:
    one, two = pair(fabric4)
    bridges = [host.network("fabric")["bridge"] for host in (one, two)]
    macs = {host.output("cat", f"/sys/class/net/{bridges[0]}/address") for host in (one, two)}
    assert bridges[0] == bridges[1]
    assert len(macs) == 1
    with fabric4.listening() as frames:
        for gateway in ("10.5.0.1", "fd05::1"):
            for host, name in ((one, "a"), (two, "b")):
                host.netd("exec", name, "--", "ping", "-c1", "-W5", gateway)
    assert not inner(frames)


def test_out_and_in_by_the_containers_own_host(fabric4: Fabric) -> None:
    one, two = fabric4.hosts
    one.serve("a", "--network", "fabric", "-p", "8080:80")
    two.serve("b", "--network", "fabric")
    with two.lab.client.talker("serve", "outside", "tcp:90") as server:
        for mine, client in (("203.0.113.2", "203.0.113.10"), ("2001:db8:1::2", "2001:db8:1::10")):
            published = f"tcp,{mine},8080"
            assert one.lab.client.answer(published) == f"a {client}", "the client is seen as it is"
            assert two.lab.client.ask(published) == {published: None}, "by that host and no other"
            answer = two.container_ask("b", f"tcp,{client},90", seconds=5)[f"tcp,{client},90"]
            assert answer is not None
            assert answer.split()[:2] == ["outside", mine], "masqueraded behind its own host"
        end(server)


def has_mtu(host: Host, container: str, mtu: int) -> bool:
    """Whether the container's interface has that MTU."""
    return int(host.netd("exec", container, "--", "cat", "/sys/class/net/eth0/mtu")) == mtu


def test_the_mtu_leaves_room_and_follows(fabric: Fabric) -> None:
    one, two = pair(fabric)
    overhead = 50 if fabric.family == 4 else 70
    for size in (1500, 9000, 1500):
        for host in (one, two):
            host.sh(f"ip link set under mtu {size}")
        for host, name in ((one, "a"), (two, "b")):
            eventually(f"{name} follows", partial(has_mtu, host, name, size - overhead))
        fits = size - overhead - 28
        one.netd("exec", "a", "--", "ping", "-c1", "-W5", "-M", "do", "-s", str(fits), two.address("b"))
        more = one.run(
            "netd", "exec", "a", "--", "ping", "-c1", "-W1", "-M", "do", "-s", str(fits + 1), two.address("b")
        )
        assert more.returncode != 0
    assert one.network("fabric")["mtu"] == 1500 - overhead


def test_tcp_agrees_on_what_fits_on_the_way_out(fabric4: Fabric) -> None:
    """The container's own MTU would let 1,410 bytes into a segment; the way out is narrower."""
    one = fabric4.hosts[0]
    one.serve("a", "--network", "fabric")
    one.sh("ip link set eth0 mtu 1300")
    ear = one.lab.client.talker("listen", "eth0", "20")
    with one.lab.client.talker("serve", "outside", "tcp:90") as server:
        for client in ("203.0.113.10", "2001:db8:1::10"):
            assert one.container_ask("a", f"tcp,{client},90", seconds=5)[f"tcp,{client},90"]
        end(server)
    output, _ = ear.communicate("", timeout=30)
    offers = []
    for line in output.split():
        frame = Ether(bytes.fromhex(line))
        if TCP in frame and frame[TCP].flags == "S" and frame[TCP].dport == 90:
            offers.append(dict(frame[TCP].options)["MSS"])
    assert offers == [1300 - 40, 1300 - 60]
    one.sh("ip link set eth0 mtu 1500")


@pytest.mark.parametrize("way", ["restart", "kill"])
def test_no_packet_is_lost_without_a_daemon_or_by_its_start(fabric4: Fabric, way: str) -> None:
    one, two = pair(fabric4)
    # By nsenter and not by netd, whose daemon is about to go.
    netns = one.inspect("a")["netns"]
    ask = ("nsenter", f"--net={netns}", PYTHON, "-IS", WIRE, "flood")
    talks = [
        one.spawn(*ask, kind, two.address("b", family=f), "80") for kind in ("tcp", "udp") for f in (4, 6)
    ]
    for talk in talks:
        assert talk.stdout is not None
        assert talk.stdout.readline() == "ready\n"
    for number, host in enumerate((one, two), 1):
        if way == "kill":
            host.kill()
        else:
            host.stop()
        fabric4.start(number)
    eventually("it is known again", lambda: knows(one, two.address("b")))
    for talk in talks:
        output, _ = talk.communicate("", timeout=30)
        result = json.loads(output.splitlines()[-1])
        assert result["sent"] == result["answered"] > 0


def leads_to(host: Host, mac: str, address: str) -> bool:
    """Whether frames for a MAC go to the node at an address."""
    return f"{mac} dst {address} " in host.sh(
        "for dev in /sys/class/net/vx-*; do bridge fdb show dev ${dev##*/}; done"
    )


def test_a_node_that_comes_back_with_another_address_is_reached_there(fabric4: Fabric) -> None:
    one, two = pair(fabric4)
    mac = two.inspect("b")["endpoints"][0]["mac"]
    for old, new in (("192.0.2.2", "192.0.2.7"), ("192.0.2.7", "192.0.2.2")):
        two.stop()
        two.sh(f"ip addr del {old}/24 dev under; ip addr add {new}/24 dev under")
        fabric4.start(2, new)
        eventually("h1 has heard", partial(leads_to, one, mac, new))
        assert f"{old} " not in one.sh("bridge fdb show")
        assert old not in peers(one)
        assert reached(one, "a", targets(two, "b")) == targets(two, "b")
        assert reached(two, "b", targets(one, "a")) == targets(one, "a")


def test_a_node_that_dies_leaves_nothing_behind(fabric4: Fabric) -> None:
    one, two = pair(fabric4)
    address, mac = two.address("b"), two.inspect("b")["endpoints"][0]["mac"]
    two.kill()
    fabric4.forget("h2")
    eventually("the neighbour is gone", lambda: not knows(one, address))
    assert mac not in one.sh("bridge fdb show")
    assert "192.0.2.2" not in peers(one)
    assert one.container_ask("a", "tcp,b,80", seconds=0.5) == {"tcp,b,80": None}
    fabric4.start(2)
    eventually("it is back", lambda: knows(one, address))
    assert reached(one, "a", targets(two, "b")) == targets(two, "b")


def test_a_container_that_moves_is_reached_at_its_new_host_at_once(fabric4: Fabric) -> None:
    one, two = fabric4.hosts
    one.serve("a", "--network", "fabric")
    address = "10.5.0.77"
    for home, other in ((two, one), (one, two)):
        home.serve("b", "--network", f"fabric,ip={address}")
        if home is two:
            eventually("it is known", partial(knows, one, address))
        for target in (f"tcp,{address},80", "tcp,b,80"):
            assert reached(one, "a", [target], 2.0) == [target]
        home.netd("rm", "-f", "b")
        eventually("it is free", partial(forgot, other, address))


def test_an_internal_overlay_reaches_its_own_and_nothing_else(fabric4: Fabric) -> None:
    create(
        fabric4,
        "inner",
        "--driver",
        "overlay",
        "--subnet",
        "10.6.0.0/24",
        "--subnet",
        "fd06::/64",
        "--internal",
    )
    one, two = pair(fabric4, "inner")
    assert reached(one, "a", targets(two, "b")) == targets(two, "b")
    with one.lab.client.talker("serve", "outside", "tcp:90") as server:
        assert not reached(one, "a", ["tcp,203.0.113.10,90", "tcp,2001:db8:1::10,90"], 0.5)
        end(server)


def test_without_icc_an_overlay_only_leads_out(fabric4: Fabric) -> None:
    create(
        fabric4,
        "quiet",
        "--driver",
        "overlay",
        "--subnet",
        "10.6.0.0/24",
        "--subnet",
        "fd06::/64",
        "--no-icc",
    )
    one, two = pair(fabric4, "quiet")
    assert not reached(one, "a", targets(two, "b"), 0.5)
    with one.lab.client.talker("serve", "outside", "tcp:90") as server:
        ways_out = ["tcp,203.0.113.10,90", "tcp,2001:db8:1::10,90"]
        assert reached(one, "a", ways_out) == ways_out
        end(server)


SEND = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as s:
    try:
        s.sendto(bytes.fromhex(sys.argv[2]), (sys.argv[1], int(sys.argv[3])))
    except PermissionError:
        pass  # refused at once, which is as good
"""


class Forgery:
    """A frame from `b` on the second host to `a` on the first, or back, in VXLAN; it says who forged it."""

    def __init__(self, fabric: Fabric, network: str = "fabric") -> None:
        self.fabric = fabric
        self.one, self.two = pair(fabric, network, "--cap-add", "NET_RAW")
        self.ends = [
            (host.inspect(name)["endpoints"][0]["mac"], host.address(name))
            for host, name in ((self.one, "a"), (self.two, "b"))
        ]
        self.vni = int(self.one.sh("ip -d link show type vxlan").split("vxlan id ")[1].split()[0])

    def packet(self, who: str, *, to_first: bool = False) -> bytes:
        """The payload of the datagram."""
        source, target = reversed(self.ends) if to_first else self.ends
        frame = Ether(src=source[0], dst=target[0]) / IP(src=source[1], dst=target[1]) / UDP(sport=9, dport=9)
        return bytes(VXLAN(vni=self.vni, flags=8) / frame / Raw(f"forged by {who}".encode()))

    def genuine(self, *, to_first: bool = False) -> str:
        """The same as a peer's kernel would send it, for the wire: nobody can tell it from an honest one."""
        near, far = (underlay(number, self.fabric.family) for number in ((2, 1) if to_first else (1, 2)))
        return self.on_wire("a peer", near, far, PORT, to_first=to_first)

    def on_wire(self, who: str, near: str, far: str, port: int, *, to_first: bool = False) -> str:
        """It from `near` to `far`, two addresses of one family, as the wire between the hosts carries it."""
        hosts = (self.two, self.one) if to_first else (self.one, self.two)
        macs = [host.sh("cat /sys/class/net/under/address").strip() for host in hosts]
        outer = IPv6(src=near, dst=far) if ":" in near else IP(src=near, dst=far)
        payload = self.packet(who, to_first=to_first)
        return bytes(Ether(src=macs[0], dst=macs[1]) / outer / UDP(sport=4000, dport=port) / payload).hex()

    def from_container(self, name: str, to: str, *, to_first: bool = False) -> None:
        """Let a container of the first host send it."""
        payload = self.packet(f"{name} to {to}", to_first=to_first).hex()
        self.one.netd("exec", name, "--", PYTHON, "-IS", "-c", SEND, to, payload, str(PORT))


def test_nobody_but_a_peer_puts_a_frame_into_another_hosts_network(fabric: Fabric) -> None:
    """The last one is a peer's, and shows that there is nothing wrong with the frame itself."""
    forgery = Forgery(fabric)
    one, two = forgery.one, forgery.two
    one.netd("network", "create", "plain", "--ipv6")
    one.serve("evil", "--network", "plain")
    far = underlay(2, fabric.family)
    with heard_until(two, "b", b"forged by", "a peer") as heard:
        for name in ("a", "evil"):
            forgery.from_container(name, far)
        for uid in ("0", "65534"):
            user = ("setpriv", f"--reuid={uid}", "--regid=65534", "--clear-groups", PYTHON, "-IS", "-c", SEND)
            for host in (one, two):
                host.output(*user, far, forgery.packet(f"user {uid}").hex(), str(PORT))
        stranger = forgery.packet("the stranger").hex()
        fabric.stranger.output(PYTHON, "-IS", "-c", SEND, far, stranger, str(PORT))
        one.output(PYTHON, "-IS", WIRE, "send", "under", forgery.genuine())
    assert heard == ["a peer"]


def test_nobody_but_a_peer_puts_a_frame_into_their_own_hosts_network(fabric: Fabric) -> None:
    """Not even a container that happens to have the address of a node."""
    forgery = Forgery(fabric)
    one, two = forgery.one, forgery.two
    ghost = "10.9.9.9" if fabric.family == 4 else "fd99::9"
    one.netd("network", "create", "plain", "--subnet", "10.9.9.0/24", "--subnet", "fd99::/64")
    one.serve("evil", "--network", f"plain,ip{'6' if fabric.family == 6 else ''}={ghost}")
    fabric.write_node("ghost", ghost)
    eventually("the ghost is a peer", lambda: ghost in peers(one))
    gateways = ("10.9.9.1", "10.5.0.1") if fabric.family == 4 else ("fd99::1", "fd05::1")
    with heard_until(one, "a", b"forged by", "a peer") as heard:
        for name in ("evil", "a"):
            for to in (underlay(1, fabric.family), *gateways):
                forgery.from_container(name, to, to_first=True)
        two.output(PYTHON, "-IS", WIRE, "send", "under", forgery.genuine(to_first=True))
    assert heard == ["a peer"]
    fabric.forget("ghost")
    eventually("the ghost is gone", lambda: ghost not in peers(one))


def test_damage_is_repaired(fabric4: Fabric) -> None:
    one, two = pair(fabric4)
    tunnel = one.sh("ls /sys/class/net | grep ^vx-").strip()
    mac = two.inspect("b")["endpoints"][0]["mac"]
    for damage in (
        f"ip link del {tunnel}",
        f"bridge fdb del {mac} dev {tunnel} self",
        f"ip neigh del {two.address('b')} dev {tunnel.replace('vx-', 'nd-')}",
        "nft flush set inet netd peers4",
    ):
        before = one.census()
        one.sh(damage)
        assert eventually_equal(before, one.census) == before, f"not repaired: {damage}"
        assert reached(one, "a", targets(two, "b")) == targets(two, "b")


def test_multicast_reaches_other_hosts_only_where_it_was_asked_for(fabric4: Fabric) -> None:
    one, two = fabric4.hosts
    subnets = iter((("10.6.0.0/24", "fd06::/64"), ("10.7.0.0/24", "fd07::/64")))
    for option, heard in (("on", True), ("off", False)):
        four, six = next(subnets)
        name = f"m{option}"
        flags = ("--driver", "overlay", "--subnet", four, "--subnet", six, "--opt", f"multicast={option}")
        create(fabric4, name, *flags)
        one.serve(f"a{option}", "--network", name)
        two.serve(f"b{option}", "--network", name)
        eventually("they know each other", partial(knows, one, two.address(f"b{option}")))
        with fabric4.listening() as frames:
            one.container_ask(f"a{option}", "udp,239.1.2.3,80", seconds=0.3)
        seen = [frame for frame in inner(frames) if frame.dst == "01:00:5e:01:02:03"]
        assert bool(seen) == heard
        assert strange(frames, {underlay(1, 4), underlay(2, 4)}) == []


def test_what_an_overlay_refuses_it_says(fabric4: Fabric) -> None:
    one = fabric4.hosts[0]
    assert "WireGuard" in one.refused(
        "network", "create", "--driver", "overlay", "--opt", "encrypted=wireguard", "x"
    )
    assert "encap=always" in one.refused(
        "network", "create", "--driver", "overlay", "--opt", "encap=auto", "--internal", "x"
    )
    assert [network["name"] for network in one.json("network", "ls")] == ["fabric"]
