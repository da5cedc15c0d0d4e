"""Encrypted overlays between real hosts: what is seen of them on the wire, and what becomes of them.

The test machines' kernel has no WireGuard; wireguard-go, which the daemons start, does it in its place.
"""

from __future__ import annotations

import json
import select
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6MLReport2, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RS, IPv6
from scapy.layers.l2 import ARP
from scapy.layers.vxlan import VXLAN

from netd import keys, names
from tests.e2e.etcd import CLIENTS, Cluster
from tests.e2e.fabric import PORT, STRANGER, Fabric, heard_until, underlay
from tests.e2e.host import NETD, PYTHON, WIRE, Host, end, eventually
from tests.e2e.test_overlay import SEND, Forgery, create, has, knows, reached, targets

GO = shutil.which("wireguard-go") or ""
pytestmark = pytest.mark.skipif(not GO, reason="needs wireguard-go (a package of Debian 12)")

SECRET = ("--driver", "overlay", "--opt", "encrypted=wireguard")
NETWORK = (*SECRET, "--subnet", "10.5.0.0/24", "--subnet", "fd05::/64")
PLAIN = ("--driver", "overlay", "--subnet", "10.6.0.0/24", "--subnet", "fd06::/64")
MARK = "sesame"
"""Part of the names of all containers, and so of all that they say to each other."""
SPOKEN = 51820
HANDSHAKE, ANSWER, DATA = b"\1\0\0\0", b"\2\0\0\0", b"\4\0\0\0"
"""How WireGuard's messages begin (wireguard.com/protocol)."""
NEIGHBOURLY = (ICMPv6ND_NS, ICMPv6ND_NA, ICMPv6ND_RS, ICMPv6MLReport2)


@pytest.fixture(params=[4, 6], ids=["over IPv4", "over IPv6"])
def fabric(request: pytest.FixtureRequest) -> Iterator[Fabric]:
    """Two nodes and a stranger, daemons running, one encrypted network called `secret`."""
    yield from _fabric(request.param)


@pytest.fixture
def fabric4() -> Iterator[Fabric]:
    """As `fabric`, over IPv4 only."""
    yield from _fabric(4)


def _fabric(family: int) -> Iterator[Fabric]:
    with Fabric(2, family) as fabric:
        # A copy, so that a test can take it away.
        fabric.wireguard_go = shutil.copy(GO, str(fabric.directory / "wireguard-go"))
        try:
            secrets = [keys.new() for _ in fabric.hosts]
            for host, secret in zip(fabric.hosts, secrets, strict=True):
                # A network leaves the key of its node behind, so here it was there before.
                host.sh(f"umask 077; mkdir -p /var/lib/netd; echo {secret} >/var/lib/netd/wireguard.key")
            fabric.start_all()
            create(fabric, "secret", *NETWORK)
            yield fabric
            fabric.clean()
            assert not any(process(host) for host in fabric.hosts)
            assert not any(secret in fabric.logs() for secret in secrets)
        finally:
            print(fabric.logs())


def has_device(host: Host) -> bool:
    return host.run("ip", "link", "show", "dev", names.WIREGUARD).returncode == 0


def process(host: Host) -> str:
    """The number of the process that does WireGuard, on the host; "" for none."""
    return host.run("pgrep", "-f", f"/wireguard-go -f {names.WIREGUARD}$").stdout.strip()


def has_key(host: Host) -> bool:
    """Whether a host has a private key; if so, only root can read it."""
    found = host.run("stat", "-c", "%a %U", "/var/lib/netd/wireguard.key")
    assert found.returncode != 0 or found.stdout == "600 root\n"
    return found.returncode == 0


def kill(host: Host) -> None:
    """SIGKILL the process that does WireGuard."""
    host.sh(f"kill -9 {process(host)}")


def peer_keys(host: Host) -> set[str]:
    """The public keys of those with whom a host speaks WireGuard."""
    program = (
        "from netd.kernel import wireguard; print(*(p.public_key for p in wireguard.read('wg-netd').peers))"
    )
    return set(host.output(sys.executable, "-c", program).split())


def pair(fabric: Fabric, network: str = "secret", suffix: str = "") -> tuple[Host, Host]:
    """A container on each host, that know of each other."""
    one, two = fabric.hosts[:2]
    for host, name in ((one, "a"), (two, "b")):
        host.serve(f"{MARK}-{name}{suffix}", "--network", network)
    eventually("a knows b", lambda: knows(one, two.address(f"{MARK}-b{suffix}")))
    eventually("b knows a", lambda: knows(two, one.address(f"{MARK}-a{suffix}")))
    return one, two


def everything_answers(fabric: Fabric) -> None:
    """Both containers of `pair` reach each other, in both families, by address and by name."""
    one, two = fabric.hosts[:2]
    for host, mine, other, name in ((one, "a", two, "b"), (two, "b", one, "a")):
        wanted = [*targets(other, f"{MARK}-{name}"), f"tcp,{MARK}-{name},80"]
        assert reached(host, f"{MARK}-{mine}", wanted, 15.0) == wanted


class Silence:
    """Nothing of `a` reaches `b`, and nobody on the wire sees that it tries; with a daemon or without."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        one, two = fabric.hosts[:2]
        self._netns = one.inspect(f"{MARK}-a")["netns"]
        self._wanted = targets(two, f"{MARK}-b")

    def check(self) -> None:
        ask = (PYTHON, "-IS", WIRE, "ask", "1.0")
        with self._fabric.listening() as frames:
            answers = json.loads(
                self._fabric.hosts[0].output("nsenter", f"--net={self._netns}", *ask, *self._wanted)
            )
        assert answers == dict.fromkeys(self._wanted)
        assert in_clear(frames) == []


def in_clear(frames: list[Any]) -> list[str]:
    """Those of `frames` that show anything of what travels in tunnels."""
    return [
        frame.summary()
        for frame in frames
        if VXLAN in frame or MARK.encode() in bytes(frame) or _port(frame) in (PORT, PORT + 1)
    ]


def _port(frame: Any) -> int:
    return int(frame[UDP].dport) if UDP in frame else 0


def _kind(frame: Any) -> bytes:
    """How a message of WireGuard begins; nothing for anything else."""
    return bytes(frame[UDP].payload)[:4] if _port(frame) == SPOKEN else b""


def _is_of_etcd(frame: Any) -> bool:
    return TCP in frame and CLIENTS in (frame[TCP].sport, frame[TCP].dport)


def _source(frame: Any) -> str:
    return str((frame.getlayer(IP) or frame.getlayer(IPv6)).src)


def strange(frames: list[Any], ends: set[str]) -> list[str]:
    """Those of `frames` that are neither WireGuard between `ends` nor how they find each other."""
    return [repr(frame) for frame in frames if not _is_expected(frame, ends)]


def _is_expected(frame: Any, ends: set[str]) -> bool:
    if ARP in frame:
        return {frame[ARP].psrc, frame[ARP].pdst} <= ends
    outer = frame.getlayer(IP) or frame.getlayer(IPv6)
    if outer is None:
        return False
    if any(kind in frame for kind in NEIGHBOURLY):
        # The hosts' own, and therefore of any address of theirs; what tunnels carry is in UDP.
        return UDP not in frame
    return {outer.src, outer.dst} <= ends and _kind(frame) in (HANDSHAKE, ANSWER, DATA)


def test_everything_answers_and_nothing_shows(fabric: Fabric) -> None:
    """The plain network on the same hosts shows that what is looked for would be found."""
    with fabric.listening() as frames:
        pair(fabric)
        everything_answers(fabric)
    assert frames
    assert in_clear(frames) == []
    assert strange(frames, {underlay(number, fabric.family) for number in (1, 2)}) == []

    # One frame of the underlay holds the biggest of the containers', and is full then.
    one, two = fabric.hosts
    mtu = 1500 - 70 - (60 if fabric.family == 4 else 80)
    assert one.network("secret")["mtu"] == mtu
    with fabric.listening() as frames:
        ask = ("exec", f"{MARK}-a", "--", "ping", "-c1", "-W9", "-M", "do", "-s", str(mtu - 28))
        one.netd(*ask, two.address(f"{MARK}-b"))
    assert 1500 < max(len(frame) for frame in frames) <= 1514

    create(fabric, "plain", *PLAIN)
    with fabric.listening() as frames:
        pair(fabric, "plain", "-plain")
        wanted = targets(two, f"{MARK}-b-plain")
        assert reached(one, f"{MARK}-a-plain", wanted) == wanted
    assert len(in_clear(frames)) >= 8


SCATTER = """
import contextlib, socket, sys
for place in sys.argv[2:]:
    to, port = place.split(",")
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s, contextlib.suppress(OSError):
        s.sendto(bytes.fromhex(sys.argv[1]), (to, int(port)))
"""
"""Send a datagram to many places; that one is refused at once is as good as that it is dropped."""


def test_only_what_a_peer_has_sealed_is_delivered_and_only_once(fabric: Fabric) -> None:
    """In clear nothing counts, whoever sends it from wherever to whichever port, and nothing sealed twice."""
    forgery = Forgery(fabric, "secret")
    one, two = forgery.one, forgery.two
    near, far, stranger = (underlay(number, fabric.family) for number in (1, 2, STRANGER))
    inside = [str(names.tunnel_address(name)) for name in ("h1", "h2")]
    honest = ("exec", "a", "--", PYTHON, "-IS", "-c", SEND, two.address("b"))
    with fabric.listening() as frames, heard_until(two, "b", b"forged by", "nobody"):
        one.netd(*honest, b"forged by nobody".hex(), "9")
    sealed = [bytes(frame).hex() for frame in frames if _kind(frame) == DATA and _source(frame) == near]
    assert sealed
    ports = (PORT, PORT + 1, SPOKEN)
    places = [f"{to},{port}" for to in (far, inside[1]) for port in ports]
    with heard_until(two, "b", b"forged by", "a peer") as heard:
        scatter = (PYTHON, "-IS", "-c", SCATTER)
        one.netd("exec", "a", "--", *scatter, forgery.packet("a container").hex(), *places)
        for uid in ("0", "65534"):
            user = ("setpriv", f"--reuid={uid}", "--regid=65534", "--clear-groups", *scatter)
            for host in (one, two):
                host.output(*user, forgery.packet(f"user {uid}").hex(), *places)
        raw = [
            forgery.on_wire(f"{ends[0]} at port {port}", *ends, port)
            for ends in ((near, far), (stranger, far), (inside[0], inside[1]))
            for port in ports
        ]
        one.output(PYTHON, "-IS", WIRE, "send", "under", *raw)
        fabric.stranger.output(PYTHON, "-IS", WIRE, "send", "under", *raw, *sealed)
        one.netd(*honest, b"forged by a peer".hex(), "9")
    assert heard == ["a peer"]


def test_without_its_process_nothing_passes_until_it_is_back(fabric4: Fabric) -> None:
    one, _ = pair(fabric4)
    everything_answers(fabric4)
    silence = Silence(fabric4)

    # Killed, it is started again by the daemon.
    killed = process(one)
    kill(one)
    eventually("it was started again", lambda: process(one) not in ("", killed))
    eventually("all is well", lambda: one.network("secret")["status"] == "ready")
    everything_answers(fabric4)

    # Where that cannot be, the network is degraded, and says so.
    touch = f"{NETD} network create unlike; {NETD} network rm unlike"
    ear = one.spawn(NETD, "events", "--json")
    heard = ear.stdout
    assert heard is not None
    eventually("events arrive", lambda: (one.sh(touch), select.select([heard], [], [], 0.5)[0])[1])
    told: list[tuple[str, str]] = []
    program = fabric4.directory / "wireguard-go"
    program.rename(fabric4.directory / "away")
    kill(one)
    eventually("it is noticed", lambda: one.network("secret")["status"].startswith("degraded: "))
    assert str(program) in one.network("secret")["status"]
    silence.check()
    doctor = json.loads(one.run(NETD, "doctor", "--json").stdout)
    assert [check["name"] for check in doctor if "cannot be repaired" in check["detail"]] == [
        "network secret"
    ]
    (fabric4.directory / "away").rename(program)
    eventually("it is ready again", lambda: one.network("secret")["status"] == "ready", 30)
    everything_answers(fabric4)
    while told[-1:] != [("network", "ready")]:
        event = json.loads(heard.readline())
        told.append((event["type"], event["action"]))
    end(ear)
    assert told.index(("network", "degraded")) < told.index(("repair", "add"))

    # Without a daemon nobody starts it, and still nothing shows, not even where a route leads the other way.
    one.stop()
    kill(one)
    eventually("the device is gone", lambda: not has_device(one))
    one.sh(f"ip -6 route add {names.TUNNEL_PREFIX} via {underlay(2, 6)} dev under")
    silence.check()
    one.sh(f"ip -6 route del {names.TUNNEL_PREFIX}")
    fabric4.start(1)
    everything_answers(fabric4)


def test_conversations_outlive_restarts_and_new_keys(fabric4: Fabric) -> None:
    """A message that is not answered within 2 s ends a conversation, so none may stand still for longer."""
    one, two = pair(fabric4)
    everything_answers(fabric4)
    ask = ("nsenter", f"--net={one.inspect(f'{MARK}-a')['netns']}", PYTHON, "-IS", WIRE, "flood")
    address = two.address(f"{MARK}-b")
    talks = [one.spawn(*ask, kind, address, "80") for kind in ("tcp", "udp")]
    for talk in talks:
        assert talk.stdout is not None
        assert talk.stdout.readline() == "ready\n"
    spoken = process(one)
    one.kill()
    fabric4.start(1)
    assert process(one) == spoken
    assert one.log.read_text().count("repaired") == 0
    for host, other in ((one, two), (two, one), (one, two)):
        (old,) = peer_keys(other)
        key = host.netd("node", "rotate-key").strip()
        assert key != old
        eventually("the other has the new key and no other", lambda: peer_keys(other) == {key})  # noqa: B023
        everything_answers(fabric4)
    for talk in talks:
        output, _ = talk.communicate("", timeout=30)
        result = json.loads(output.splitlines()[-1])
        assert result["sent"] == result["answered"] > 0


def test_a_node_that_leaves_or_tells_no_key_is_no_peer(fabric4: Fabric) -> None:
    one, two = pair(fabric4)
    everything_answers(fabric4)
    silence = Silence(fabric4)
    fabric4.forget("h2")
    eventually("it is no peer", lambda: not peer_keys(one))
    silence.check()
    fabric4.write_node("h2", underlay(2, 4))
    eventually(
        "its lack is named", lambda: "'h2' has told no WireGuard key" in one.run(NETD, "doctor").stdout
    )
    silence.check()
    two.stop()
    fabric4.start(2)
    eventually("it is a peer again", lambda: peer_keys(one))
    eventually("a knows b", lambda: knows(one, two.address(f"{MARK}-b")))
    everything_answers(fabric4)


def test_in_a_real_cluster_who_has_no_wireguard_has_no_such_network() -> None:
    """Two nodes that can, and one that joins later and cannot."""
    with Cluster(3) as cluster:
        one, two, three = cluster.hosts
        try:
            cluster.wireguard_go = GO
            cluster.start(1)
            cluster.start(2)
            assert not any(has_key(host) for host in (one, two))
            eventually("all follow etcd", lambda: all(map(cluster.connected, (one, two))))
            create(cluster, "secret", *NETWORK, hosts=(one, two))
            assert all(has_key(host) for host in (one, two))
            cluster.wireguard_go = ""
            cluster.start(3)
            eventually("the third follows etcd", lambda: cluster.connected(three))
            with cluster.listening() as frames:
                pair(cluster)
                everything_answers(cluster)
                old = peer_keys(two)
                key = one.netd("node", "rotate-key").strip()
                eventually("the other has heard", lambda: peer_keys(two) == {key} != old)
                everything_answers(cluster)
            # The names of containers are in etcd.
            assert in_clear([frame for frame in frames if not _is_of_etcd(frame)]) == []

            lack = "this kernel has no WireGuard"
            eventually("it says so", lambda: lack in three.netd("node", "ls", "--json"))
            assert not has(three, "secret")
            assert lack in three.refused("network", "create", *SECRET, "another")
            assert not any(has(host, "another") for host in cluster.hosts)
            assert not has_device(three)
            create(cluster, "plain", *PLAIN)
            one.netd("rm", "-f", f"{MARK}-a")
            two.netd("rm", "-f", f"{MARK}-b")
            one.netd("network", "rm", "secret")
            for host in (one, two):
                eventually("the device is gone", lambda: not has_device(host))  # noqa: B023
                eventually("its process too", lambda: not process(host))  # noqa: B023
        finally:
            print(cluster.logs())
