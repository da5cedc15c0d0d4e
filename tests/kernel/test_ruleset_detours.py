"""Packets that name a way of their own, or come in pieces, get nowhere that a plain one does not.

Every frame carries a word in its payload; it got through if the word is heard at the container's interface.
Source routes are tried on a host that follows them, too, although no kernel does unless it is told to:
what holds must not hang on that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_LSRR, IPOption_SSRR, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrRouting, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from netd.model import GatewayMode
from tests.kernel.packetlab import (
    CLIENT,
    CLIENT4,
    CLIENT6,
    FAMILIES,
    FAR,
    FAR4,
    HOST,
    HOST4,
    HOST6,
    MARK,
    Lab,
    tcp,
    udp,
)

pytestmark = pytest.mark.root

PUBLISHED, UNPUBLISHED = 8080, 81
_words = itertools.count()


@pytest.fixture(scope="module", params=[False, True], ids=["bridge-nf off", "bridge-nf on"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(bridge_nf=request.param) as lab:
        front = lab.network("front", "10.89.1.0/24", "fd00:1::/64")
        back = lab.network("back", "10.89.2.0/24", "fd00:2::/64")
        inner = lab.network("inner", "10.89.4.0/24", "fd00:4::/64", internal=True)
        routed = lab.network("routed", "10.89.5.0/24", "fd00:5::/64", gateway_mode=GatewayMode.ROUTED)
        loopback = [udp(8082, 80, ip_address(address)) for address in ("127.0.0.1", "::1")]
        lab.container("web", front, ports=[udp(PUBLISHED, 80), tcp(PUBLISHED, 80), *loopback])
        lab.container("api", front)
        lab.container("db", back, ports=[udp(8090, 80)])
        lab.container("in", inner)
        lab.container("own", routed, ports=[udp(8084, 80)])
        yield lab


@pytest.fixture(params=[0, 1], ids=["refuses", "follows"])
def follows(request: pytest.FixtureRequest, lab: Lab) -> Iterator[int]:
    """Whether the host does what source routes ask for."""
    switches = [
        f"/proc/sys/net/ipv{family}/conf/{name}/accept_source_route"
        for family in FAMILIES
        for name in ("all", "eth0", lab.bridge("front"))
    ]
    with written(lab, dict.fromkeys(switches, str(request.param))):
        yield int(request.param)


@contextmanager
def written(lab: Lab, files: dict[str, str]) -> Iterator[None]:
    host = lab["host"]
    before = {path: host.run("cat", path).strip() for path in files}
    for path, value in files.items():
        host("write", path, value)
    try:
        yield
    finally:
        for path, value in before.items():
            host("write", path, value)


def word() -> bytes:
    return b"word-%06d." % next(_words)


def heard(lab: Lab, sender: str, frames: Sequence[Packet], said: bytes, *, at: str) -> bool:
    """Whether what was `said` in frames of `sender` comes to the interface of `at`."""
    lab[at]("capture", "eth0")
    lab[sender]("send", "eth0", [bytes(frame).hex() for frame in frames])
    lab["host"]("tell", address_of(lab, at, 4), 7, MARK)  # heard after them: they have been dealt with
    captured = lab[at]("captured", "eth0", MARK, 10.0)
    return any(said in bytes.fromhex(frame) for frame in captured)


def to_the_host(lab: Lab, sender: str) -> Ether:
    """What a frame begins with by which the host is asked to forward."""
    if sender in lab.endpoints:
        return Ether(src=lab.mac(sender), dst=lab.mac_of_bridge(lab.network_of(sender).name))
    return Ether(src=lab[sender].mac("eth0"), dst=lab["host"].mac("eth0"))


def address_of(lab: Lab, who: str, family: int) -> str:
    neighbours = {"client": CLIENT, "far": FAR}
    return neighbours[who][family] if who in neighbours else lab.ip(who, family)


def detour(
    lab: Lab, sender: str, family: int, via: str, then: str, port: int, said: bytes
) -> Sequence[Packet]:
    """A datagram to `via` that asks to be sent on to `then`: loosely, strictly, and on from there."""
    head, source = to_the_host(lab, sender), address_of(lab, sender, family)
    datagram = UDP(sport=40000, dport=port) / Raw(said * 3)
    if family == 4:
        datagram.chksum = 0  # scapy would reckon with the last address; connection tracking with the next
        return [
            head / IP(src=source, dst=via, options=[kind(routers=routers)]) / datagram
            for kind in (IPOption_LSRR, IPOption_SSRR)
            for routers in ([then], [then, FAR4])
        ]
    return [
        head
        / IPv6(src=source, dst=via)
        / IPv6ExtHdrRouting(type=type, addresses=[then], segleft=1)
        / datagram
        for type in (0, 2, 3, 4)
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("sender", "target"),
    [("client", "web"), ("client", "db"), ("client", "in"), ("api", "db"), ("api", "in"), ("api", "own")],
)
def test_a_source_route_leads_to_no_port_that_is_not_open(
    lab: Lab, follows: int, sender: str, target: str, family: int
) -> None:
    via = lab.gateway("front", family) if sender == "api" else HOST[family]
    for port in (UNPUBLISHED, 80) if target != "own" else (UNPUBLISHED,):
        said = word()
        frames = detour(lab, sender, family, via, lab.ip(target, family), port, said)
        assert not heard(lab, sender, frames, said, at=target)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_source_route_does_not_lead_on_from_a_published_port(lab: Lab, follows: int, family: int) -> None:
    """The published port's own container may get it; whom the route names does not."""
    said = word()
    frames = detour(lab, "client", family, HOST[family], lab.ip("db", family), PUBLISHED, said)
    assert not heard(lab, "client", frames, said, at="db")


def test_source_routes_work_here_where_they_may(lab: Lab, follows: int) -> None:
    """Another LAN is reached by one exactly if the host follows it, so one that got through is heard."""
    said = word()
    frames = detour(lab, "client", 4, HOST4, FAR4, 80, said)
    assert heard(lab, "client", frames, said, at="far") == bool(follows)


@pytest.mark.parametrize("target", ["web", "db", "in", "own"])
def test_a_source_route_does_not_lead_on_from_a_conversation_with_the_host(
    lab: Lab, follows: int, target: str
) -> None:
    """The rules see a packet of a conversation that they know: its address is replaced behind them."""
    said, head = word(), to_the_host(lab, "client")
    plain = head / IP(src=CLIENT4, dst=HOST4) / UDP(sport=40009, dport=7000) / Raw(b"how do you do")
    lab.exchange("client", [plain], listener="client", last=HOST4)
    routes = [kind(routers=[lab.ip(target, 4)]) for kind in (IPOption_LSRR, IPOption_SSRR)]
    frames = [
        head
        / IP(src=CLIENT4, dst=HOST4, options=[route])
        / UDP(sport=40009, dport=7000, chksum=0)
        / Raw(said * 3)
        for route in routes
    ]
    assert not heard(lab, "client", frames, said, at=target)


@pytest.mark.parametrize("target", ["127.0.0.1", "127.1.2.3"])
def test_a_source_route_does_not_lead_to_loopback(lab: Lab, follows: int, target: str) -> None:
    """Not to a port published there, whatever else is turned on (moby #41872, CVE-2020-8558)."""
    switches = [f"/proc/sys/net/ipv4/conf/{name}/route_localnet" for name in ("eth0", lab.bridge("front"))]
    with written(lab, dict.fromkeys(switches, "1")):
        for sender, via in (("client", HOST4), ("api", lab.gateway("front", 4))):
            for port in (8082, 80):
                said = word()
                frames = detour(lab, sender, 4, via, target, port, said)
                assert not heard(lab, sender, frames, said, at="web")


def pieces(lab: Lab, sender: str, family: int, target: str, port: int, said: bytes) -> Sequence[Packet]:
    """A datagram that fills three fragments, the word in each."""
    head, source = to_the_host(lab, sender), address_of(lab, sender, family)
    datagram = UDP(sport=40001, dport=port) / Raw(said * 300)
    if family == 4:
        return [
            head / part
            for part in fragment(IP(src=source, dst=target, id=next(_words)) / datagram, 1400)  # type: ignore[no-untyped-call]
        ]
    whole = IPv6(src=source, dst=target) / IPv6ExtHdrFragment(id=next(_words)) / datagram
    return [head / part for part in fragment6(whole, 1400)]  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("order", ["in order", "backwards"])
def test_a_published_port_takes_fragments(lab: Lab, family: int, order: str) -> None:
    said = word()
    frames = pieces(lab, "client", family, HOST[family], PUBLISHED, said)
    assert len(frames) >= 3
    assert heard(lab, "client", frames if order == "in order" else frames[::-1], said, at="web")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("sender", "target", "port"),
    [
        ("client", "web", UNPUBLISHED),
        ("client", "web", 80),
        ("client", "in", 80),
        ("api", "db", 80),
        ("api", "in", 80),
    ],
)
def test_fragments_lead_to_no_port_that_is_not_open(
    lab: Lab, sender: str, target: str, port: int, family: int
) -> None:
    """Whole, without the first of them, which alone tells ports, and the first of them alone."""
    for chosen in (slice(None), slice(1, None), slice(1)):
        said = word()
        frames = pieces(lab, sender, family, lab.ip(target, family), port, said)[chosen]
        assert not heard(lab, sender, frames, said, at=target)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fragment_behind_a_published_port_changes_nothing_of_it(lab: Lab, family: int) -> None:
    """One that overlaps the first and says another port, before it and after it (RFC 1858, RFC 5722)."""
    for order in (1, -1):
        said, number = word(), next(_words)
        true = bytes(UDP(sport=40002, dport=PUBLISHED, len=8 + 24, chksum=0) / Raw(said[:8] * 3))
        false = bytes(UDP(sport=40002, dport=UNPUBLISHED, len=8 + 24, chksum=0) / Raw(said[:8] * 3))
        parts = [(0, true[:16], 1), (0, false[:16], 1), (2, true[16:], 0)][::order]
        frames = [piece(lab, family, at, data, more, number) for at, data, more in parts]
        lab["web"]("capture", "eth0")
        lab["client"]("send", "eth0", [bytes(frame).hex() for frame in frames])
        lab["host"]("tell", lab.ip("web", 4), 7, MARK)
        found = [Ether(bytes.fromhex(frame)) for frame in lab["web"]("captured", "eth0", MARK, 10.0)]
        assert [frame[UDP].dport for frame in found if UDP in frame and frame[UDP].sport == 40002] in (
            [],
            [80],
        )


def piece(lab: Lab, family: int, at: int, data: bytes, more: int, number: int) -> Packet:
    head, proto = to_the_host(lab, "client"), 17
    if family == 4:
        flags = "MF" if more else 0
        return head / IP(src=CLIENT4, dst=HOST4, id=number, flags=flags, frag=at, proto=proto) / Raw(data)
    extra = IPv6ExtHdrFragment(nh=proto, offset=at, m=more, id=number)
    return head / IPv6(src=CLIENT6, dst=HOST6, nh=44) / extra / Raw(data)


def test_fragments_do_not_lead_to_loopback(lab: Lab) -> None:
    switches = [f"/proc/sys/net/ipv4/conf/{name}/route_localnet" for name in ("eth0", lab.bridge("front"))]
    with written(lab, dict.fromkeys(switches, "1")):
        for sender in ("client", "api"):
            said = word()
            frames = pieces(lab, sender, 4, "127.0.0.1", 8082, said)
            assert not heard(lab, sender, frames, said, at="web")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_header_cut_in_two_opens_nothing(lab: Lab, family: int) -> None:
    """A TCP header whose ports are in the first piece and whose flags are in the second (RFC 3128)."""
    number = next(_words)
    source, target = CLIENT[family], lab.ip("web", family)
    layer = (IP if family == 4 else IPv6)(src=source, dst=target)
    segment = bytes(layer / TCP(sport=40003, dport=80, flags="S", options=[("MSS", 1000)]))[len(layer) :]
    cut: list[Packet]
    if family == 4:
        cut = [
            IP(src=source, dst=target, id=number, flags="MF", proto=6) / Raw(segment[:8]),
            IP(src=source, dst=target, id=number, frag=1, proto=6) / Raw(segment[8:]),
        ]
    else:
        layer = IPv6(src=source, dst=target, nh=44)
        cut = [
            layer / IPv6ExtHdrFragment(m=1, nh=6, id=number) / Raw(segment[:8]),
            layer / IPv6ExtHdrFragment(offset=1, nh=6, id=number) / Raw(segment[8:]),
        ]
    frames = [to_the_host(lab, "client") / part for part in cut]
    assert not heard(lab, "client", frames, segment[8:], at="web")
