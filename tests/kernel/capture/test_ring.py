"""One ring on one end of a veth pair."""

from __future__ import annotations

import functools
import select
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from netd.capture.points import Point
from netd.capture.ring import Frame, Ring
from netd.errors import Invalid, KernelError

Shell = Callable[[str], str]
PAIR = """
ip link set lo up
ip link add one address 02:00:00:00:00:01 type veth peer name two address 02:00:00:00:00:02
sysctl -qw net.ipv6.conf.one.disable_ipv6=1 net.ipv6.conf.two.disable_ipv6=1
ip link set one up
ip link set two up
for name in one two; do until ip link show $name | grep -q 'state UP'; do :; done; done
"""
KIND = 0x88B6
HEAD = bytes.fromhex("020000000002020000000001") + KIND.to_bytes(2, "big")


def on_a_pair(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """The test with the two links there while it runs."""

    @functools.wraps(test)
    async def run(sh: Shell, **more: Any) -> None:
        sh(PAIR)
        try:
            await test(sh=sh, **more)
        finally:
            sh("ip link del one")

    return run


def ring(ifname: str, filter: str = "", name: str = "") -> Ring:
    point = Point(name or f"web:{ifname}", ifname, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    return Ring(point, filter)


def send(ifname: str, *frames: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as mouth:
        for frame in frames:
            mouth.sendto(frame, (ifname, 0))


def taken(ring: Ring, number: int) -> list[Frame]:
    """The next `number` frames of the experimental type."""
    found: list[Frame] = []
    while len(found) < number:
        assert select.select([ring], [], [], 5)[0], f"{len(found)} of {number} frames within 5 s"
        found += [frame for frame, kind in ring.read() if kind == KIND]
    return found


@on_a_pair
async def test_both_ways_with_the_kernels_time(sh: Shell) -> None:
    one, two = ring("one"), ring("two")
    before = time.time_ns()
    send("one", HEAD + b"hello")
    (out,), (arrived,) = taken(one, 1), taken(two, 1)
    assert (out.point, out.outgoing, out.data, out.length) == ("web:one", True, HEAD + b"hello", 19)
    assert (arrived.point, arrived.outgoing, arrived.data) == ("web:two", False, out.data)
    assert before <= out.time <= arrived.time <= time.time_ns()
    assert (two.mac, two.seen) == (bytes.fromhex("020000000002"), 1)
    one.close()
    two.close()


@on_a_pair
async def test_a_filter_is_in_force_from_the_first_frame_on(sh: Shell) -> None:
    two = ring("two", "ether[14] = 7")
    send("one", HEAD + b"\x06", HEAD + b"\x07")
    assert [frame.data[14] for frame in taken(two, 1)] == [7]
    two.count()
    assert (two.heard, two.dropped) == (1, 0)
    two.close()


@on_a_pair
async def test_tags_are_put_back(sh: Shell) -> None:
    """The kernel takes VLAN tags out of the frame before anybody sees it."""
    two = ring("two")
    tagged = HEAD[:12] + bytes.fromhex("81000007") + HEAD[12:] + b"tagged"
    send("one", tagged)
    assert select.select([two], [], [], 5)[0]
    assert [frame.data for frame, kind in two.read() if kind == 0x8100] == [tagged]
    two.close()


@on_a_pair
async def test_what_is_lost_is_counted_and_what_is_not_is_whole(sh: Shell) -> None:
    """Twice as much as fits, while nobody reads; then the ring goes on."""
    two = ring("two")
    frames = [HEAD + number.to_bytes(4, "big") + bytes(1400) for number in range(12000)]
    send("one", *frames)
    two.count()
    assert 1000 < two.dropped < 11000
    assert two.heard + two.dropped == len(frames)
    numbers = [int.from_bytes(frame.data[14:18], "big") for frame in taken(two, two.heard)]
    assert numbers == sorted(set(numbers))
    send("one", HEAD + b"again")
    assert taken(two, 1)[0].data == HEAD + b"again"
    two.close()


@on_a_pair
async def test_deaf_but_what_was_heard_stays(sh: Shell) -> None:
    two = ring("two")
    send("one", HEAD + b"before")
    two.deafen()
    send("one", HEAD + b"after")
    assert [frame.data[14:] for frame in taken(two, 1)] == [b"before"]
    two.count()
    assert two.heard == 1
    two.close()


@on_a_pair
async def test_a_bridge_shows_what_it_forwards(sh: Shell) -> None:
    sh("""
        ip link add bridge0 type bridge
        ip link add left type veth peer name port1
        ip link add right type veth peer name port2
        for dev in port1 port2; do ip link set $dev master bridge0; done
        for dev in bridge0 left right port1 port2; do ip link set $dev up; done
        for dev in left port2; do until ip link show $dev | grep -q 'state UP'; do :; done; done
    """)
    bridge = ring("bridge0", name="network:front")
    assert "promiscuity 1" in sh("ip -d link show bridge0")
    send("left", HEAD + b"between the ports")
    assert taken(bridge, 1)[0].data == HEAD + b"between the ports"
    bridge.close()
    assert "promiscuity 0" in sh("ip -d link show bridge0")
    for name in ("left", "right", "bridge0"):
        sh(f"ip link del {name}")


@on_a_pair
async def test_what_cannot_be_armed_is_closed(sh: Shell) -> None:
    point = Point("web:none", "none", socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    with pytest.raises(KernelError, match="capture at web:none"):
        Ring(point)
    assert point.ear.fileno() == -1
    with pytest.raises(Invalid, match="filter 'no such': "):
        Ring(Point("web:lo", "lo", socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)), "no such")
