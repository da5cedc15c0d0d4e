"""What only a real host shows: foreign things, half-made things, and what an administrator would see."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, ip_interface

import pytest

from netd.errors import AlreadyExists, Denied, KernelError
from netd.kernel import fastnl
from netd.kernel.dumps import BIRTH_GROUP
from netd.kernel.host import HostKernel
from netd.kernel.ports import ApplyError
from netd.model import Netns
from netd.names import LINK_GROUPS
from netd.objects import (
    Add,
    Address,
    Bridge,
    BridgePort,
    Change,
    KernelObject,
    Remove,
    Route,
    Sysctl,
    Up,
    Veth,
)

Shell = Callable[[str], str]
BRIDGE = Bridge("nd-front", "netd:front", "netd-front-0a1b2c", "02:42:00:00:00:01", 1500)
GATEWAY = Address("nd-front", IPv4Interface("10.89.0.1/24"))


def veth(netns: Netns, number: int = 2) -> Veth:
    mac = f"02:42:0a:59:00:{number:02x}"
    return Veth(f"ve-{number}", f"netd:c{number}@front", "", 1500, "eth0", mac, netns)


async def make(kernel: HostKernel, *objects: KernelObject) -> None:
    await kernel.apply([Add(item) for item in objects])


async def unmake(kernel: HostKernel, *objects: KernelObject) -> None:
    await kernel.apply([Remove(item) for item in objects])


async def refusal(kernel: HostKernel, op: Add | Remove | Change) -> Exception:
    with pytest.raises(ApplyError) as caught:
        await kernel.apply([op])
    return caught.value.cause


async def test_a_foreign_link_is_neither_taken_over_nor_deleted(host_kernel: HostKernel, sh: Shell) -> None:
    sh("ip link add nd-front type bridge && ip link set nd-front alias 'made by hand'")
    before = sh("ip -d link show nd-front")
    for wanted in (BRIDGE, replace(BRIDGE, altname="")):
        error = await refusal(host_kernel, Add(wanted))
        assert isinstance(error, AlreadyExists)
        assert "made by hand" in str(error)
    assert isinstance(await refusal(host_kernel, Remove(BRIDGE)), Denied)
    assert isinstance(await refusal(host_kernel, Add(GATEWAY)), Denied)
    assert isinstance(await refusal(host_kernel, Change(replace(BRIDGE, mtu=1400), BRIDGE)), AlreadyExists)
    assert sh("ip -d link show nd-front") == before
    assert await host_kernel.observe() == frozenset()
    sh("ip link del nd-front")


async def test_foreign_links_in_the_same_deletion_keep_everything(host_kernel: HostKernel, sh: Shell) -> None:
    netns = await host_kernel.netns_create("web")
    await make(host_kernel, veth(netns))
    sh("ip link add ve-9 type bridge")
    foreign = veth(netns, 9)
    with pytest.raises(ApplyError, match="ve-9"):
        await host_kernel.apply([Remove(veth(netns)), Remove(foreign)])
    assert await host_kernel.observe() == {veth(netns)}
    await unmake(host_kernel, veth(netns))
    sh("ip link del ve-9")
    await host_kernel.netns_delete(netns)


async def test_a_link_says_what_it_stands_for_now(host_kernel: HostKernel, sh: Shell) -> None:
    netns = await host_kernel.netns_create("web")
    old = replace(veth(netns), altname="web.eth0@front.0a1b2c")
    new = replace(old, alias="netd:shop@front", altname="shop.eth0@front.0a1b2c")
    await make(host_kernel, old)
    await host_kernel.apply([Change(old, new)])
    assert await host_kernel.observe() == {new}
    assert old.altname not in sh(f"ip link show {old.name}")
    # Killed between the two: the alias is new, the altname is not, and the next one sees it.
    await host_kernel.apply([Change(new, replace(new, altname=old.altname))])
    (half,) = await host_kernel.observe()
    await host_kernel.apply([Change(half, new), Change(new, new)])
    assert await host_kernel.observe() == {new}
    await unmake(host_kernel, new)
    await host_kernel.netns_delete(netns)


async def test_a_half_made_link_is_netds_and_is_made_anew(host_kernel: HostKernel, sh: Shell) -> None:
    """What a daemon leaves that is killed between creating a link and tagging it."""
    with fastnl.Socket() as link:
        link.request(fastnl.bridge_create("nd-front", "02:00:00:00:00:99", 1400, BIRTH_GROUP))
    (half,) = await host_kernel.observe()
    assert half.key == BRIDGE.key
    assert half != BRIDGE
    await make(host_kernel, BRIDGE)
    assert await host_kernel.observe() == {BRIDGE}
    assert "group default" in sh("ip link show nd-front")
    await unmake(host_kernel, BRIDGE)


async def test_a_half_made_link_that_nobody_wants_can_be_removed(host_kernel: HostKernel) -> None:
    with fastnl.Socket() as link:
        link.request(fastnl.bridge_create("nd-front", "02:00:00:00:00:99", 1400, BIRTH_GROUP))
    (half,) = await host_kernel.observe()
    await unmake(host_kernel, half)
    assert await host_kernel.observe() == frozenset()


async def test_a_taken_altname_leaves_no_half_made_link(host_kernel: HostKernel, sh: Shell) -> None:
    sh(f"ip link add other type bridge && ip link property add dev other altname {BRIDGE.altname}")
    error = await refusal(host_kernel, Add(BRIDGE))
    assert isinstance(error, AlreadyExists)
    assert "'other'" in str(error)
    assert await host_kernel.observe() == frozenset()
    sh("ip link del other")


async def test_what_somebody_set_down_renamed_or_resized_is_seen_and_mended(
    host_kernel: HostKernel, sh: Shell
) -> None:
    netns = await host_kernel.netns_create("web")
    pair = veth(netns)
    await make(host_kernel, BRIDGE, pair)
    sh("ip link set nd-front down mtu 1300; ip link set ve-2 down")
    seen = await host_kernel.observe()
    assert seen == {replace(BRIDGE, up=False, mtu=1300), replace(pair, up=False)}
    await host_kernel.apply(
        [Change(replace(BRIDGE, up=False, mtu=1300), BRIDGE), Change(replace(pair, up=False), pair)]
    )
    assert await host_kernel.observe() == {BRIDGE, pair}
    sh("ip link set nd-front name br9")
    assert await host_kernel.observe() == {replace(BRIDGE, name="br9"), pair}
    await unmake(host_kernel, replace(BRIDGE, name="br9"), pair)
    await host_kernel.netns_delete(netns)


async def test_a_pair_stays_in_its_group(host_kernel: HostKernel, sh: Shell) -> None:
    """The rules tell networks without a bridge apart by it; a group of an administrator's own is let be."""
    netns = await host_kernel.netns_create("web")
    pair = replace(veth(netns), group=LINK_GROUPS | 7)
    await make(host_kernel, pair)
    assert await host_kernel.observe() == {pair}
    assert f"group {pair.group}" in sh("ip link show ve-2")
    sh("ip link set ve-2 group 42")
    seen = replace(pair, group=0)
    assert await host_kernel.observe() == {seen}
    await host_kernel.apply([Change(seen, pair)])
    assert await host_kernel.observe() == {pair}
    await host_kernel.apply([Change(pair, seen)])
    sh("ip link set ve-2 group 42")
    before = host_kernel.writes
    await make(host_kernel, seen)
    assert await host_kernel.observe() == {seen}
    assert "group 42" in sh("ip link show ve-2")
    assert host_kernel.writes == before + 1, "only the attempt to make it"
    await unmake(host_kernel, pair)
    await host_kernel.netns_delete(netns)


async def test_ports_do_not_change_the_bridges_mtu_or_mac(host_kernel: HostKernel, sh: Shell) -> None:
    await make(host_kernel, BRIDGE)
    sh(
        "ip link add small type bridge; ip link add p0 mtu 1280 address 00:00:00:00:00:05 type veth peer p1;"
        "ip link set p0 master nd-front up; ip link set p0 mtu 1290"
    )
    assert await host_kernel.observe() == {BRIDGE}
    sh("ip link del small; ip link del p0")
    await unmake(host_kernel, BRIDGE)


async def test_an_administrator_sees_whose_everything_is(host_kernel: HostKernel, sh: Shell) -> None:
    netns = await host_kernel.netns_create("web")
    pair = replace(veth(netns), altname="web.eth0@front.0a1b2c")
    route = Route(IPv4Network("192.0.2.0/24"), "eth0", IPv4Address("10.89.0.9"), netns)
    inside = Address("eth0", IPv4Interface("10.89.0.2/24"), netns)
    await make(host_kernel, BRIDGE, GATEWAY, pair, BridgePort("ve-2", "nd-front", True, False))
    await make(host_kernel, inside, Up("eth0", netns), route)
    assert "alias netd:front" in sh("ip link show netd-front-0a1b2c")
    shown = sh("ip -d link show web.eth0@front.0a1b2c")
    assert f"alias netd:c2@front peer eth0 {pair.peer_mac} ns {netns.device}:{netns.inode} web" in shown
    assert "isolated on" in shown
    assert "proto 78" in sh(f"nsenter --net={netns.path} ip route show 192.0.2.0/24")
    assert "brd 10.89.0.255" in sh(f"nsenter --net={netns.path} ip address show dev eth0")
    await unmake(host_kernel, pair, BRIDGE)
    await host_kernel.netns_delete(netns)


async def test_the_hosts_end_speaks_no_ipv6_of_its_own(host_kernel: HostKernel, sh: Shell) -> None:
    netns = await host_kernel.netns_create("web")
    pair = veth(netns)
    await make(host_kernel, BRIDGE, pair, BridgePort("ve-2", "nd-front", False, True), Up("eth0", netns))
    assert "inet6" not in sh("ip address show dev ve-2")
    assert "inet6 fe80" in sh(f"nsenter --net={netns.path} ip address show dev eth0")
    await unmake(host_kernel, pair, BRIDGE)
    await host_kernel.netns_delete(netns)


async def test_ipv6_addresses_work_at_once(host_kernel: HostKernel) -> None:
    netns = await host_kernel.netns_create("web")
    pair = veth(netns)
    gateway = Address("nd-front", IPv6Interface("fd00:89::1/64"))
    inside = Address("eth0", IPv6Interface("fd00:89::2/64"), netns)
    await make(host_kernel, BRIDGE, gateway, pair, BridgePort("ve-2", "nd-front", False, True))
    await make(host_kernel, inside, Up("eth0", netns))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("fd00:89::1", 0))  # a tentative address cannot be bound
    await unmake(host_kernel, pair, BRIDGE)
    await host_kernel.netns_delete(netns)


@pytest.mark.parametrize("address", ["10.89.0.7/24", "fd00:89::7/64"])
async def test_an_address_that_somebody_else_set_is_left_alone(
    host_kernel: HostKernel, sh: Shell, address: str
) -> None:
    await make(host_kernel, BRIDGE)
    sh(f"ip address add {address} dev nd-front")
    theirs = Address("nd-front", ip_interface(address))
    assert await host_kernel.observe() == {BRIDGE}
    error = await refusal(host_kernel, Add(theirs))
    assert isinstance(error, AlreadyExists)
    assert address in str(error)
    await unmake(host_kernel, theirs)
    assert address in sh("ip address show dev nd-front")
    await unmake(host_kernel, BRIDGE)


async def test_a_route_that_somebody_else_set_is_left_alone(host_kernel: HostKernel, sh: Shell) -> None:
    await make(host_kernel, BRIDGE, GATEWAY)
    sh("ip route add 192.0.2.0/24 via 10.89.0.9")
    theirs = Route(IPv4Network("192.0.2.0/24"), "nd-front", IPv4Address("10.89.0.9"))
    ours = replace(theirs, via=IPv4Address("10.89.0.8"))
    assert await host_kernel.observe() == {BRIDGE, GATEWAY}
    for op in (Add(ours), Add(theirs)):
        assert isinstance(await refusal(host_kernel, op), AlreadyExists)
    await unmake(host_kernel, theirs, ours)
    assert "via 10.89.0.9" in sh("ip route show 192.0.2.0/24")
    await unmake(host_kernel, BRIDGE)


async def test_a_bad_route_is_refused_in_the_kernels_words(host_kernel: HostKernel) -> None:
    await make(host_kernel, BRIDGE, GATEWAY)
    nowhere = Route(IPv4Network("192.0.2.0/24"), "nd-front", IPv4Address("203.0.113.1"))
    error = await refusal(host_kernel, Add(nowhere))
    assert isinstance(error, KernelError)
    assert error.hint
    assert "192.0.2.0/24 via 203.0.113.1 dev nd-front" in str(error)
    await unmake(host_kernel, BRIDGE)


async def test_an_isolated_port_is_never_open_while_its_container_lives(
    host_kernel: HostKernel, sh: Shell
) -> None:
    netns = await host_kernel.netns_create("web")
    pair, port = veth(netns), BridgePort("ve-2", "nd-front", isolated=True, hairpin=False)
    await make(host_kernel, BRIDGE, pair, port, Up("eth0", netns))
    sh("ip link set ve-2 nomaster")
    assert await host_kernel.observe() == {BRIDGE, pair}
    monitor = await asyncio.create_subprocess_exec(
        "bridge", "-d", "monitor", "link", stdout=asyncio.subprocess.PIPE
    )
    assert monitor.stdout is not None
    sh("ip link add ready type bridge; ip link add r0 type veth peer r1; ip link set r0 master ready")
    while b"r0" not in await monitor.stdout.readline():
        pass  # it listens
    await make(host_kernel, port)
    assert await host_kernel.observe() == {BRIDGE, pair, port}
    line = b""
    while b"ve-2" not in line or b"state forwarding" not in line:
        line = await monitor.stdout.readline()
    assert b"isolated on" in await monitor.stdout.readline(), "it forwarded before it was isolated"
    monitor.terminate()
    await monitor.communicate()
    sh("ip link del r0; ip link del ready")
    await unmake(host_kernel, pair, BRIDGE)
    await host_kernel.netns_delete(netns)


async def test_sysctls_are_those_of_the_namespace(host_kernel: HostKernel, sh: Shell) -> None:
    netns = await host_kernel.netns_create("web")
    path = ("net", "ipv4", "conf", "all", "rp_filter")
    there, here = Sysctl(path, "2", netns), Sysctl(path, "1")
    await make(host_kernel, here, there)
    assert await host_kernel.sysctl(path) == "1"
    assert await host_kernel.observe_sandbox(netns, [], [path]) == {there}
    assert await host_kernel.observe([path]) == {here}
    missing = Sysctl(("net", "ipv4", "conf", "eth9", "rp_filter"), "1", netns)
    error = await refusal(host_kernel, Add(missing))
    assert isinstance(error, KernelError)
    assert "eth9" in str(error)
    assert isinstance(await refusal(host_kernel, Add(replace(here, value="maybe"))), KernelError)
    await host_kernel.netns_delete(netns)


async def test_deleting_many_links_waits_once(host_kernel: HostKernel, sh: Shell) -> None:
    """Not a matter of time but of requests: one deletion, however many links."""
    netns = await host_kernel.netns_create("many")
    pairs = [replace(veth(netns, number), peer=f"eth{number}") for number in range(2, 42)]
    await make(host_kernel, *pairs)
    sh("ip link add bystander type bridge")
    before = host_kernel.writes
    await unmake(host_kernel, *pairs)
    assert await host_kernel.observe() == frozenset()
    assert "bystander" in sh("ip link show")
    await host_kernel.close()
    assert host_kernel.writes - before == len(pairs) + 1
    await host_kernel.start()
    sh("ip link del bystander")
    await host_kernel.netns_delete(netns)


async def test_a_link_that_vanishes_while_it_is_deleted_is_gone(host_kernel: HostKernel, sh: Shell) -> None:
    netns = await host_kernel.netns_create("web")
    for _ in range(10):
        await make(host_kernel, veth(netns))
        await asyncio.gather(
            unmake(host_kernel, veth(netns)),
            asyncio.to_thread(sh, "ip link del ve-2 2>/dev/null || true"),
            unmake(host_kernel, veth(netns)),
        )
        assert await host_kernel.observe() == frozenset()
    await host_kernel.netns_delete(netns)
