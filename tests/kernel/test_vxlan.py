"""Tunnels and remote endpoints: made, seen again, changed, repaired and removed; on paper and on a host."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from netd.errors import AlreadyExists, KernelError
from netd.firewall import RULESET
from netd.kernel.fake import FakeKernel
from netd.kernel.host import HostKernel
from netd.kernel.ports import ApplyError
from netd.model import IPAddress
from netd.objects import Add, Bridge, Change, Flood, KernelObject, Remote, Remove, Vxlan
from netd.plan import plan

Shell = Callable[[str], str]
Either = FakeKernel | HostKernel

BRIDGE = Bridge("nd-f", "netd:fabric", "netd-fabric-0a1b2c", "02:42:00:00:00:01", 1450)
TUNNEL = Vxlan(
    "vx-f",
    "netd:vxlan@fabric",
    "netd-vxlan-fabric-0a1b2c",
    vni=4097,
    local=IPv4Address("192.0.2.1"),
    port=4789,
    mac="02:42:00:00:00:02",
    mtu=1450,
    bridge="nd-f",
)
PEER, OTHER = IPv4Address("192.0.2.2"), IPv4Address("192.0.2.3")
WEB = Remote("nd-f", "vx-f", "02:42:0a:05:00:02", (IPv4Address("10.5.0.2"), IPv6Address("fd05::2")), PEER)
FLOOD = Flood("vx-f", PEER)
ALL: frozenset[KernelObject] = frozenset({BRIDGE, TUNNEL, WEB, FLOOD})


async def build(kernel: Either, *objects: KernelObject) -> None:
    await kernel.apply(plan(objects, ()))


async def unbuild(kernel: Either) -> None:
    await kernel.apply([Remove(item) for item in (WEB, FLOOD, TUNNEL, BRIDGE)])
    assert await kernel.observe() == frozenset()


@pytest.mark.parametrize("local", [IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")])
async def test_what_was_made_is_seen_as_it_was_asked_for(kernel: Either, local: IPAddress) -> None:
    other = PEER if local.version == 4 else IPv6Address("2001:db8::2")
    wanted: set[KernelObject] = {
        BRIDGE,
        replace(TUNNEL, local=local),
        replace(WEB, vtep=other),
        Flood("vx-f", other),
    }
    await build(kernel, *wanted)
    assert await kernel.observe() == wanted
    await unbuild(kernel)


@pytest.mark.parametrize(
    "tunnel",
    [
        replace(TUNNEL, isolated=True),
        replace(TUNNEL, multicast=True),
        replace(TUNNEL, mtu=8950),
        replace(TUNNEL, mac="02:42:00:00:00:03"),
        replace(TUNNEL, vni=4098),
        replace(TUNNEL, local=IPv4Address("192.0.2.9")),
        replace(TUNNEL, port=8472),
    ],
    ids=["isolated", "multicast", "mtu", "mac", "vni", "local", "port"],
)
async def test_a_tunnel_is_changed_and_nothing_is_lost(kernel: Either, tunnel: Vxlan) -> None:
    await build(kernel, *ALL)
    wanted: frozenset[KernelObject] = frozenset({BRIDGE, tunnel, WEB, FLOOD})
    for target in (wanted, ALL):
        await kernel.apply(plan(target, await kernel.observe()))
        assert await kernel.observe() == target
        assert plan(target, await kernel.observe()) == ()
    await unbuild(kernel)


async def test_a_remote_moves_and_changes_its_addresses(kernel: Either) -> None:
    await build(kernel, *ALL)
    moved = replace(WEB, vtep=OTHER, addresses=(IPv4Address("10.5.0.7"),))
    await kernel.apply([Change(WEB, moved)])
    assert await kernel.observe() == {BRIDGE, TUNNEL, FLOOD, moved}
    await kernel.apply([Remove(moved)])
    assert await kernel.observe() == {BRIDGE, TUNNEL, FLOOD}
    await unbuild(kernel)


async def test_an_address_that_moved_on_stays_with_its_new_holder(kernel: Either) -> None:
    """Its new MAC is told first, then the old one is withdrawn: the order in which a cluster may tell."""
    await build(kernel, BRIDGE, TUNNEL, WEB)
    successor = replace(WEB, mac="02:42:0a:05:00:99", vtep=OTHER)
    await kernel.apply([Add(successor), Remove(WEB)])
    seen = await kernel.observe()
    if isinstance(kernel, HostKernel):
        assert seen == {BRIDGE, TUNNEL, successor}
    await kernel.apply([Remove(successor)])
    await unbuild(kernel)


async def test_making_it_again_is_success(kernel: Either) -> None:
    for _ in range(2):
        await kernel.apply([Add(BRIDGE), Add(TUNNEL), Add(WEB), Add(FLOOD)])
    assert await kernel.observe() == ALL
    for _ in range(2):
        await kernel.apply([Remove(WEB), Remove(FLOOD), Remove(TUNNEL), Remove(BRIDGE)])
    assert await kernel.observe() == frozenset()


async def test_removing_the_network_takes_all_along(kernel: Either) -> None:
    await build(kernel, *ALL)
    ops = plan((), ALL)
    assert {op.object for op in ops if isinstance(op, Remove)} == {BRIDGE, TUNNEL}
    await kernel.apply(ops)
    assert await kernel.observe() == frozenset()


@pytest.mark.parametrize("item", [TUNNEL, WEB, FLOOD], ids=["tunnel", "remote", "flood"])
async def test_without_its_links_it_is_refused(kernel: Either, item: KernelObject) -> None:
    with pytest.raises(ApplyError) as caught:
        await kernel.apply([Add(item)])
    assert isinstance(caught.value.cause, KernelError)
    assert await kernel.observe() == frozenset()


DAMAGE = {
    "neighbour": "ip neigh del 10.5.0.2 dev nd-f",
    "a guess": "ip neigh replace 10.5.0.2 dev nd-f lladdr 02:42:0a:05:00:02 nud reachable",
    "another mac": "ip neigh replace 10.5.0.2 dev nd-f lladdr 02:42:0a:05:00:77 nud permanent",
    "ndp": "ip -6 neigh del fd05::2 dev nd-f",
    "bridge table": "bridge fdb del 02:42:0a:05:00:02 dev vx-f master",
    "tunnel table": "bridge fdb del 02:42:0a:05:00:02 dev vx-f self",
    "other tunnel": "bridge fdb replace 02:42:0a:05:00:02 dev vx-f dst 192.0.2.9 self permanent",
    "flood": "bridge fdb del 00:00:00:00:00:00 dev vx-f dst 192.0.2.2 self",
    "one flood more": "bridge fdb append 00:00:00:00:00:00 dev vx-f dst 192.0.2.9 self permanent",
    "learning": "bridge link set dev vx-f learning on",
    "flooding": "bridge link set dev vx-f flood on",
    "broadcast": "ip link set vx-f type bridge_slave bcast_flood on",
    "multicast": "bridge link set dev vx-f mcast_flood on",
    "suppression": "bridge link set dev vx-f neigh_suppress off",
    "device": "ip link del vx-f",
    "down": "ip link set vx-f down",
    "unplugged": "ip link set vx-f nomaster",
    "mtu": "ip link set vx-f mtu 1400",
    "stale remote": "bridge fdb add 02:42:0a:05:00:66 dev vx-f dst 192.0.2.9 self permanent",
}


@pytest.mark.parametrize("command", DAMAGE.values(), ids=DAMAGE.keys())
async def test_damage_is_seen_and_repaired(host_kernel: HostKernel, sh: Shell, command: str) -> None:
    await build(host_kernel, *ALL)
    sh(command)
    assert await host_kernel.observe() != ALL
    await host_kernel.apply(plan(ALL, await host_kernel.observe()))
    assert await host_kernel.observe() == ALL
    assert plan(ALL, await host_kernel.observe()) == ()
    await unbuild(host_kernel)


async def test_what_an_administrator_sees(host_kernel: HostKernel, sh: Shell) -> None:
    await build(host_kernel, *ALL)
    assert "nolearning" in sh("ip -d link show vx-f")
    port = sh("bridge -d link show dev vx-f")
    for flag in ("learning off", "flood off", "mcast_flood off", "bcast_flood off", "neigh_suppress on"):
        assert flag in port
    assert "inet6" not in sh("ip addr show vx-f"), "a port needs no address of its own"
    assert "10.5.0.2 lladdr 02:42:0a:05:00:02 PERMANENT proto 78" in sh("ip neigh show dev nd-f").replace(
        " \n", "\n"
    )
    await unbuild(host_kernel)


async def test_the_rules_know_it_by_its_group(host_kernel: HostKernel, sh: Shell) -> None:
    await build(host_kernel, BRIDGE, TUNNEL)
    (found,) = json.loads(sh("ip -j link show vx-f"))
    assert f"iifgroup {int(found['group'], 0):#x} accept" in RULESET
    await host_kernel.apply([Remove(TUNNEL), Remove(BRIDGE)])


async def test_another_device_with_the_same_vni_is_named(host_kernel: HostKernel, sh: Shell) -> None:
    sh("ip link add theirs type vxlan id 4097 local 192.0.2.1 dstport 4789 nolearning")
    await build(host_kernel, BRIDGE)
    with pytest.raises(ApplyError) as caught:
        await host_kernel.apply([Add(TUNNEL)])
    assert isinstance(caught.value.cause, AlreadyExists)
    assert "VNI 4097" in str(caught.value)
    await host_kernel.apply([Remove(BRIDGE)])
    sh("ip link del theirs")


async def test_an_administrators_neighbour_is_left_alone(host_kernel: HostKernel, sh: Shell) -> None:
    await build(host_kernel, BRIDGE, TUNNEL)
    sh("ip neigh add 10.5.0.3 dev nd-f lladdr 02:42:0a:05:00:03 nud permanent")
    assert await host_kernel.observe() == {BRIDGE, TUNNEL}
    await host_kernel.apply(
        [Remove(replace(WEB, mac="02:42:0a:05:00:03", addresses=(IPv4Address("10.5.0.3"),)))]
    )
    assert "10.5.0.3" in sh("ip neigh show dev nd-f")
    await unbuild(host_kernel)
