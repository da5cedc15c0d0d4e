"""Plain routes to other nodes, by a link that is not netd's, and the proxy entries that go with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network

from netd.kernel.fake import FakeKernel
from netd.kernel.host import HostKernel
from netd.kernel.ports import Underlay
from netd.model import IPAddress
from netd.objects import Add, Bridge, KernelObject, Proxy, Remove, Route, Sysctl
from netd.plan import plan

Shell = Callable[[str], str]
Either = FakeKernel | HostKernel

BRIDGE = Bridge("nd-f", "netd:fabric", "netd-fabric-0a1b2c", "02:42:00:00:00:01", 1500)
HOP4, HOP6 = IPv4Address("192.0.2.2"), IPv6Address("2001:db8:2::2")


def way(address: str, hop: IPAddress) -> frozenset[KernelObject]:
    """What leads to one address, as the overlay driver says it."""
    destination = ip_network(address)
    return frozenset(
        [Route(destination, "under", hop), Proxy("nd-f", destination.network_address)],
    )


FOUR, FOUR_BY_SIX, SIX = way("10.5.0.9", HOP4), way("10.5.0.10", HOP6), way("fd05::9", HOP6)


def on_underlay(kernel: Either, sh: Shell) -> None:
    if isinstance(kernel, FakeKernel):
        kernel.underlays[IPv4Address("192.0.2.1")] = Underlay("under", 1500)
    else:
        sh(
            "ip link add under type veth peer wire; ip link set wire up; ip link set under up; "
            "ip addr add 192.0.2.1/24 dev under; ip addr add 2001:db8:2::1/64 dev under nodad"
        )


async def test_ways_are_made_seen_changed_and_removed(kernel: Either, sh: Shell) -> None:
    on_underlay(kernel, sh)
    wanted = frozenset({BRIDGE}) | FOUR | FOUR_BY_SIX | SIX
    await kernel.apply(plan(wanted, ()))
    assert await kernel.observe() == wanted
    assert plan(wanted, await kernel.observe()) == ()
    before = kernel.writes
    moved = frozenset({BRIDGE}) | way("10.5.0.9", IPv4Address("192.0.2.7")) | FOUR_BY_SIX | SIX
    await kernel.apply(plan(moved, await kernel.observe()))
    assert await kernel.observe() == moved
    assert kernel.writes - before <= 2, "a way that leads elsewhere costs what it changes"
    for _ in range(2):
        await kernel.apply([Remove(item) for item in moved - {BRIDGE}])
    assert await kernel.observe() == {BRIDGE}
    await kernel.apply([Remove(BRIDGE)])
    if isinstance(kernel, HostKernel):
        sh("ip link del under")


async def test_what_somebody_else_made_is_left_alone(host_kernel: HostKernel, sh: Shell) -> None:
    on_underlay(host_kernel, sh)
    sh("ip route add 10.5.0.44/32 via 192.0.2.2 dev under")
    await host_kernel.apply([Add(BRIDGE)])
    sh("ip neigh add proxy 10.5.0.44 dev nd-f")
    theirs = way("10.5.0.44", HOP4)
    assert await host_kernel.observe() == {BRIDGE}
    await host_kernel.apply([Remove(item) for item in theirs])
    assert "10.5.0.44" in sh("ip route show dev under")
    assert "10.5.0.44" in sh("ip neigh show proxy")
    await host_kernel.apply([Remove(BRIDGE)])
    sh("ip link del under")


async def test_askers_are_answered_and_those_who_knew_better_are_told(
    host_kernel: HostKernel, sh: Shell
) -> None:
    """A neighbour that has another MAC in its cache has the bridge's as soon as the entry is made."""
    on_underlay(host_kernel, sh)
    delays = [Sysctl(("net", f"ipv{family}", "neigh", "nd-f", "proxy_delay"), "0") for family in (4, 6)]
    answering = Sysctl(("net", "ipv6", "conf", "nd-f", "proxy_ndp"), "1")
    before: tuple[KernelObject, ...] = (BRIDGE, *delays, answering)
    await host_kernel.apply([Add(item) for item in before])
    sh(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; ip netns add guest; "
        "ip addr add 10.5.0.1/24 dev nd-f; ip addr add fd05::1/64 dev nd-f nodad; "
        "ip link add ve type veth peer eth0 netns guest; ip link set ve master nd-f up; "
        "ip -n guest link set eth0 up; ip -n guest addr add 10.5.0.2/24 dev eth0; "
        "ip -n guest addr add fd05::2/64 dev eth0 nodad; "
        "ip -n guest neigh add 10.5.0.9 lladdr 02:42:0a:05:00:09 dev eth0 nud stale; "
        "ip -n guest neigh add fd05::9 lladdr 02:42:0a:05:00:09 dev eth0 nud stale; "
    )
    # An entry that is younger than this keeps what it says.
    sh("ip netns exec guest sysctl -qw net.ipv4.neigh.eth0.locktime=0")
    try:
        await host_kernel.apply(
            [Add(item) for item in sorted(FOUR | SIX, key=lambda o: isinstance(o, Proxy))]
        )
        for address in ("10.5.0.9", "fd05::9"):
            deadline = time.monotonic() + 10
            while BRIDGE.mac not in (seen := sh(f"ip -n guest neigh show {address} dev eth0")):
                assert time.monotonic() < deadline, f"nobody told: {seen}"
        sh("ip -n guest neigh flush all")
        for address in ("10.5.0.9", "fd05::9"):
            sh(f"ip netns exec guest ping -c1 -W1 {address} >/dev/null || true")
            assert BRIDGE.mac in sh(f"ip -n guest neigh show {address} dev eth0")
        sh("ip netns exec guest ping -c1 -W1 10.5.0.77 >/dev/null || true")
        assert BRIDGE.mac not in sh("ip -n guest neigh show 10.5.0.77 dev eth0")
    finally:
        await host_kernel.apply([Remove(item) for item in FOUR | SIX])
        await host_kernel.apply([Remove(BRIDGE)])
        sh(
            "ip netns del guest; ip link del ve 2>/dev/null || true; "
            "ip link del under; umount /run/netns || true"
        )
