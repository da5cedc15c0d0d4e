"""One container that begins connections without end: its limit ends them, and the others notice nothing.

The size of the connection tracking table belongs to the machine and can be set in no other network namespace
than its first, so what is measured is what fills it: how many entries the container gets.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from netd import firewall, names
from netd.model import PTP
from netd.objects import Element
from tests.e2e.host import eventually
from tests.kernel.packetlab import FAMILIES, FAR, FAR4, HOST, Lab, tcp

pytestmark = pytest.mark.root

LIMIT, SPRAYED = 20, 200


@pytest.fixture(scope="module", params=[False, True], ids=["bridge-nf off", "bridge-nf on"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(bridge_nf=request.param) as lab:
        options = {"connlimit": str(LIMIT)}
        front = lab.network("front", "10.89.1.0/24", "fd00:1::/64", options=options)
        alone = lab.network("alone", "10.89.2.0/24", "fd00:2::/64", options=options, driver=PTP)
        lab.network("free", "10.89.3.0/24", "fd00:3::/64")
        lab.container("web", front, ports=[tcp(8080, 80)])
        lab.container("greedy", front)
        lab.container("modest", front)
        lab.container("apart", alone)
        yield lab


def spray(lab: Lab, who: str, family: int, target: str, first: int = 20000) -> None:
    """Datagrams of one container, each of a conversation of its own."""
    net = lab.network_of(who)
    bridge = lab.mac_of_bridge(net.name) if net.bridged else lab["host"].mac(lab_link(lab, who))
    layer = IP if family == 4 else IPv6
    frames: list[Packet] = [
        Ether(src=lab.mac(who), dst=bridge)
        / layer(src=lab.ip(who, family), dst=target)
        / UDP(sport=first + number, dport=9)
        / Raw(b"x")
        for number in range(SPRAYED)
    ]
    lab[who]("send", "eth0", [bytes(frame).hex() for frame in frames])


def lab_link(lab: Lab, who: str) -> str:
    return names.host_ifname(lab.endpoints[who][0])


def entries(lab: Lab, who: str, family: int) -> int:
    """How many connections that the container began are tracked."""
    listed = lab["host"].run("conntrack", "-L", "-f", f"ipv{family}", "-s", lab.ip(who, family))
    return len(listed.splitlines())


def forget(lab: Lab) -> None:
    lab["host"].run("conntrack", "-F")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("who", ["greedy", "apart"])
@pytest.mark.parametrize("where", ["outside", "the host", "a published port"])
def test_no_container_has_more_connections_than_its_limit(
    lab: Lab, who: str, where: str, family: int
) -> None:
    forget(lab)
    target = FAR[family] if where == "outside" else HOST[family]
    spray(lab, who, family, target)
    # What was sent may still be in the queue of one processor when another handles what comes now.
    eventually("the limit is reached", lambda: entries(lab, who, family) >= LIMIT)
    if where == "a published port":
        published = ("tcp", HOST[family], 8080)
        assert lab[who].ask(published, seconds=0.3) == {published: None}
    assert 0 < entries(lab, who, family) <= LIMIT
    forget(lab)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_others_open_new_ones_meanwhile(lab: Lab, family: int) -> None:
    """At least 99 of 100, and the greedy one none any more."""
    forget(lab)
    spray(lab, "greedy", family, FAR[family])
    answers = []
    for first in range(5):
        spray(lab, "greedy", family, FAR[family], first=30000 + first * SPRAYED)
        # As many at a time as one may have: the limit is for each by itself.
        answers += lab["modest"]("ask", [("tcp", FAR[family], 80)] * LIMIT, 5.0)
        lab["host"].run("conntrack", "-D", "-f", f"ipv{family}", "-s", lab.ip("modest", family))
    greedy = lab["greedy"]("ask", [("tcp", FAR[family], 80)] * 2, 0.3)
    answered, full = sum(answer is not None for answer in answers), entries(lab, "greedy", family)
    print(f"{answered} of {len(answers)} of the other's connections were made; the greedy one has {full}")
    assert answered >= len(answers) * 0.99
    assert not any(greedy)
    assert full <= LIMIT
    forget(lab)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_others_begin_with_it_is_not_counted(lab: Lab, family: int) -> None:
    forget(lab)
    answers = lab["client"]("ask", [("tcp", HOST[family], 8080)] * (LIMIT * 2), 5.0)
    assert all(answers)
    spray(lab, "web", family, FAR[family])
    assert all(lab["client"]("ask", [("tcp", HOST[family], 8080)] * 5, 5.0))
    forget(lab)


def test_without_a_limit_there_is_none(lab: Lab) -> None:
    """So it is the limit that the other tests see."""
    forget(lab)
    limits = {item for item in lab.present if isinstance(item, Element) and item.set.startswith("connlimit")}
    assert {item.value for item in limits} == {(LIMIT,)}
    assert ip_address(lab.ip("greedy", 4)) in {item.item[0] for item in limits}
    before = lab.present
    lab.change(before - limits)
    spray(lab, "greedy", 4, FAR4)
    assert entries(lab, "greedy", 4) == SPRAYED
    lab.change(before)
    forget(lab)


def test_a_limit_is_changed_in_place(lab: Lab) -> None:
    forget(lab)
    before = lab.present
    old = next(i for i in before if isinstance(i, Element) and i.item == (ip_address(lab.ip("greedy", 4)),))
    new = Element("inet", "connlimit4", old.item, (LIMIT * 2,))
    host = lab["host"]
    host.run("nft", firewall.element_text("delete", old) + "; " + firewall.element_text("add", new))
    spray(lab, "greedy", 4, FAR4)
    assert LIMIT < entries(lab, "greedy", 4) <= LIMIT * 2
    host.run("nft", firewall.element_text("delete", new) + "; " + firewall.element_text("add", old))
    forget(lab)
