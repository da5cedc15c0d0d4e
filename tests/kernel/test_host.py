"""The contract of `netd.kernel.ports.Kernel`, case by case, on the fake and on the real kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

import pytest

from netd.errors import AlreadyExists, Invalid, KernelError, NetdError, NotFound
from netd.kernel.fake import FakeKernel
from netd.kernel.ports import ApplyError, Kernel
from netd.model import Netns
from netd.objects import (
    Add,
    Address,
    Bridge,
    BridgePort,
    Change,
    Element,
    KernelObject,
    Op,
    Remove,
    Route,
    Sysctl,
    Up,
    Veth,
)

BRIDGE = Bridge("nd-front", "netd:front", "netd-front-0a1b2c", "02:42:00:00:00:01", 1500)
GATEWAYS = (
    Address("nd-front", IPv4Interface("10.89.0.1/24")),
    Address("nd-front", IPv6Interface("fd00:89::1/64")),
)
ACCEPT_RA = Sysctl(("net", "ipv6", "conf", "nd-front", "accept_ra"), "0")
NAT = Element("inet", "nat", ("nd-front",))


def veth(netns: Netns) -> Veth:
    return Veth("ve-web", "netd:web@front", "web.eth0@front.0a1b2c", 1400, "eth0", "02:42:0a:59:00:02", netns)


def inside(netns: Netns) -> tuple[KernelObject, ...]:
    """What one endpoint has in its namespace, in an order that works."""
    return (
        Sysctl(("net", "ipv6", "conf", "eth0", "accept_dad"), "0", netns),
        Sysctl(("net", "ipv4", "conf", "eth0", "arp_notify"), "1", netns),
        Address("eth0", IPv4Interface("10.89.0.2/24"), netns),
        Address("eth0", IPv6Interface("fd00:89::2/64"), netns),
        Up("eth0", netns),
        Route(IPv4Network("192.0.2.0/24"), "eth0", None, netns),
        Route(IPv4Network("0.0.0.0/0"), "eth0", IPv4Address("10.89.0.1"), netns),
        Route(IPv6Network("::/0"), "eth0", GATEWAYS[1].address.ip, netns),
    )


def added(*objects: KernelObject) -> list[Op]:
    return [Add(item) for item in objects]


async def refused(kernel: Kernel, ops: Sequence[Op]) -> ApplyError:
    with pytest.raises(ApplyError) as caught:
        await kernel.apply(ops)
    return caught.value


async def seen(kernel: Kernel) -> frozenset[KernelObject]:
    return await kernel.observe([ACCEPT_RA.path])


async def endpoint(kernel: Kernel, label: str = "web") -> tuple[Netns, Veth, BridgePort]:
    """A network and one endpoint in it, complete on the host's side."""
    netns = await kernel.netns_create(label)
    pair = veth(netns)
    port = BridgePort("ve-web", "nd-front", isolated=True, hairpin=True)
    await kernel.apply(added(BRIDGE, ACCEPT_RA, *GATEWAYS, NAT, pair, port))
    return netns, pair, port


async def tear_down(kernel: Kernel, *namespaces: Netns) -> None:
    """Remove all that is on the host, and the namespaces."""
    present = await kernel.observe()
    links = [Remove(item) for item in present if isinstance(item, Bridge | Veth)]
    await kernel.apply([*links, *(Remove(item) for item in present if isinstance(item, Element))])
    for netns in namespaces:
        await kernel.netns_delete(netns)


async def test_what_was_asked_for_is_what_is_observed(kernel: Kernel) -> None:
    netns, pair, port = await endpoint(kernel)
    assert await seen(kernel) == {BRIDGE, ACCEPT_RA, *GATEWAYS, NAT, pair, port}
    await tear_down(kernel, netns)
    assert await seen(kernel) == frozenset()


async def test_a_sandbox_is_observed_as_it_was_asked_for(kernel: Kernel) -> None:
    netns, _, _ = await endpoint(kernel)
    objects = inside(netns)
    await kernel.apply(added(*objects))
    paths = [item.path for item in objects if isinstance(item, Sysctl)]
    assert await kernel.observe_sandbox(netns, ["eth0"], paths) == frozenset(objects)
    assert await kernel.observe_sandbox(netns, [], []) == frozenset()
    await tear_down(kernel, netns)


async def test_everything_can_be_added_twice(kernel: Kernel) -> None:
    netns, pair, port = await endpoint(kernel)
    objects = (BRIDGE, ACCEPT_RA, *GATEWAYS, NAT, pair, port, *inside(netns))
    await kernel.apply(added(*objects))
    before = await seen(kernel)
    await kernel.apply(added(*objects))
    assert await seen(kernel) == before
    await tear_down(kernel, netns)


async def test_everything_can_be_removed_twice(kernel: Kernel) -> None:
    netns, pair, port = await endpoint(kernel)
    objects = inside(netns)
    await kernel.apply(added(*objects))
    gone = [Remove(item) for item in (*reversed(objects), port, pair, NAT, *GATEWAYS, BRIDGE)]
    await kernel.apply(gone)
    assert await kernel.observe() == frozenset()
    await kernel.apply(gone)
    await kernel.netns_delete(netns)
    await kernel.netns_delete(netns)


async def test_a_removed_address_route_and_port_are_gone_alone(kernel: Kernel) -> None:
    netns, pair, port = await endpoint(kernel)
    await kernel.apply(added(*inside(netns)))
    v4, v6 = GATEWAYS
    objects = inside(netns)
    default6 = objects[-1]
    await kernel.apply([Remove(port), Remove(v6), Remove(default6)])
    assert await seen(kernel) == {BRIDGE, ACCEPT_RA, v4, NAT, pair}
    left = await kernel.observe_sandbox(netns, ["eth0"], [])
    assert left == {item for item in objects if not isinstance(item, Sysctl)} - {default6}
    await tear_down(kernel, netns)


async def test_links_and_ports_change_in_place(kernel: Kernel) -> None:
    netns, pair, port = await endpoint(kernel)
    wider = replace(BRIDGE, mtu=1400, mac="02:42:00:00:00:09", altname="netd-front-ffffff")
    narrower = replace(pair, mtu=1300, altname="web.eth0@front.ffffff")
    open_port = replace(port, isolated=False, hairpin=False)
    await kernel.apply([Change(BRIDGE, wider), Change(pair, narrower), Change(port, open_port)])
    assert await seen(kernel) == {wider, narrower, open_port, ACCEPT_RA, *GATEWAYS, NAT}
    await tear_down(kernel, netns)


async def test_routes_sysctls_and_elements_change_in_place(kernel: Kernel) -> None:
    netns, _, _ = await endpoint(kernel)
    objects = inside(netns)
    await kernel.apply(added(*objects))
    route, sysctl = objects[6], objects[1]
    assert isinstance(route, Route)
    assert isinstance(sysctl, Sysctl)
    elsewhere = replace(route, via=IPv4Address("10.89.0.254"))
    off = replace(sysctl, value="0")
    old = Element("inet", "any4", ("tcp", 8080), (IPv4Address("10.89.0.2"), 80))
    new = replace(old, value=(IPv4Address("10.89.0.3"), 81))
    await kernel.apply([Add(old), Change(route, elsewhere), Change(sysctl, off), Change(old, new)])
    found = await kernel.observe_sandbox(netns, ["eth0"], [sysctl.path])
    assert {elsewhere, off} <= found
    assert not {route, sysctl} & found
    assert new in await kernel.observe()
    await tear_down(kernel, netns)


async def test_a_deleted_link_takes_along_what_stands_on_it(kernel: Kernel) -> None:
    netns, pair, _ = await endpoint(kernel)
    await kernel.apply(added(*inside(netns)))
    await kernel.apply([Remove(pair)])
    assert await seen(kernel) == {BRIDGE, ACCEPT_RA, *GATEWAYS, NAT}
    assert await kernel.observe_sandbox(netns, ["eth0"], []) == frozenset()
    await tear_down(kernel, netns)


async def test_many_links_are_deleted_together(kernel: Kernel) -> None:
    netns = await kernel.netns_create("many")
    pairs = [
        Veth(f"ve-{n}", f"netd:many{n}@x", "", 1500, f"eth{n}", f"02:42:00:00:01:{n:02x}", netns)
        for n in range(12)
    ]
    await kernel.apply(added(*pairs))
    await kernel.apply([Remove(item) for item in pairs[1:]])
    assert await kernel.observe() == {pairs[0]}
    await tear_down(kernel, netns)


async def test_a_name_of_another_owner_is_refused(kernel: Kernel) -> None:
    await kernel.apply(added(BRIDGE))
    error = await refused(kernel, added(NAT, replace(BRIDGE, alias="netd:back")))
    assert isinstance(error.cause, AlreadyExists)
    assert "'nd-front'" in str(error)
    assert "netd:front" in str(error)
    assert error.done == (Add(NAT),)
    assert BRIDGE in await kernel.observe()
    await tear_down(kernel)


async def test_a_peer_name_that_is_taken_is_refused(kernel: Kernel) -> None:
    netns, pair, _ = await endpoint(kernel)
    error = await refused(kernel, added(replace(pair, name="ve-other", alias="netd:other@front")))
    assert isinstance(error.cause, AlreadyExists)
    assert "'eth0'" in str(error)
    assert "'web'" in str(error)
    await tear_down(kernel, netns)


async def test_an_untagged_link_cannot_be_asked_for(kernel: Kernel) -> None:
    error = await refused(kernel, added(replace(BRIDGE, alias="front")))
    assert isinstance(error.cause, Invalid)
    assert await kernel.observe() == frozenset()


async def test_what_stands_on_a_missing_link_is_refused_by_name(kernel: Kernel) -> None:
    error = await refused(kernel, added(GATEWAYS[0]))
    assert isinstance(error.cause, KernelError)
    assert "10.89.0.1/24 dev nd-front" in str(error)
    error = await refused(kernel, added(BridgePort("ve-web", "nd-front", isolated=False, hairpin=False)))
    assert isinstance(error.cause, KernelError)


async def test_the_operations_before_a_failure_are_named(kernel: Kernel) -> None:
    netns = await kernel.netns_create("web")
    missing = Address("eth7", IPv4Interface("10.0.0.1/8"), netns)
    ops = added(NAT, BRIDGE, GATEWAYS[0], veth(netns), Up("eth0", netns), missing, Up("lo", netns))
    error = await refused(kernel, ops)
    assert error.done == tuple(ops[:5])
    await tear_down(kernel, netns)


async def test_nft_elements_are_one_transaction(kernel: Kernel) -> None:
    taken = Element("inet", "any4", ("tcp", 8080), (IPv4Address("10.89.0.2"), 80))
    await kernel.apply(added(taken))
    other = replace(taken, value=(IPv4Address("10.89.0.3"), 80))
    error = await refused(kernel, added(NAT, other))
    assert isinstance(error.cause, AlreadyExists)
    assert error.done == ()
    assert await kernel.observe() == {taken}
    await tear_down(kernel)


async def test_an_element_that_does_not_fit_is_refused(kernel: Kernel) -> None:
    error = await refused(kernel, added(Element("inet", "nat", ('x" }; flush ruleset',))))
    assert isinstance(error.cause, Invalid)
    assert await kernel.observe() == frozenset()


async def test_concurrent_callers_do_not_fail_each_other(kernel: Kernel) -> None:
    taken = Element("inet", "any4", ("tcp", 8080), (IPv4Address("10.89.0.2"), 80))
    await kernel.apply(added(taken))
    mine = [Element("inet", "any4", ("udp", 1000 + n), (IPv4Address("10.89.0.2"), 80)) for n in range(20)]
    thief = replace(taken, value=(IPv4Address("10.89.0.9"), 80))
    calls = [kernel.apply(added(item)) for item in (*mine[:10], thief, *mine[10:])]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result).__name__ for result in results if result is not None] == ["ApplyError"]
    assert isinstance(results[10], ApplyError)
    assert await kernel.observe() == {taken, *mine}
    await tear_down(kernel)


async def test_one_of_many_makers_of_a_link_wins(kernel: Kernel) -> None:
    bridges = [replace(BRIDGE, alias=f"netd:front{n}", altname="") for n in range(16)]
    calls = (kernel.apply(added(item)) for item in bridges)
    results = await asyncio.gather(*calls, return_exceptions=True)
    winners = [item for item, result in zip(bridges, results, strict=True) if result is None]
    assert len(winners) == 1
    assert await kernel.observe() == set(winners)
    await tear_down(kernel)


async def test_a_vanished_namespace_refuses_additions_and_accepts_removals(kernel: Kernel) -> None:
    netns = await kernel.netns_create("web")
    await kernel.apply(added(BRIDGE))
    await kernel.netns_delete(netns)
    for item in (veth(netns), Up("eth0", netns), inside(netns)[0]):
        error = await refused(kernel, added(NAT, item))
        assert isinstance(error.cause, NotFound)
        assert "'web'" in str(error)
        assert error.done == (Add(NAT),)
    await kernel.apply([Remove(item) for item in inside(netns)])
    with pytest.raises(NotFound):
        await kernel.observe_sandbox(netns, ["eth0"], [])
    await tear_down(kernel)


async def test_a_vanished_namespace_takes_its_pair_along(kernel: Kernel) -> None:
    netns, _, _ = await endpoint(kernel)
    await kernel.apply(added(*inside(netns)))
    await kernel.netns_delete(netns)

    async def alone() -> bool:
        return await kernel.observe([ACCEPT_RA.path]) == {BRIDGE, ACCEPT_RA, *GATEWAYS, NAT}

    async with asyncio.timeout(10):  # the kernel ends a namespace in its own time, and tells nobody
        while not await alone():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await tear_down(kernel)


async def test_namespaces_are_made_opened_and_let_go(kernel: Kernel) -> None:
    netns = await kernel.netns_create("web")
    assert netns.label == "web"
    assert await kernel.netns_alive(netns)
    assert await kernel.netns_open(netns.path, "again") == netns
    with pytest.raises(AlreadyExists, match="web"):
        await kernel.netns_create("web")
    assert not await kernel.netns_alive(replace(netns, inode=netns.inode + 1))
    await kernel.netns_delete(netns)
    assert not await kernel.netns_alive(netns)
    with pytest.raises(NotFound, match="web"):
        await kernel.netns_open(netns.path, "web")


async def test_a_namespace_is_never_confused_with_a_later_one_at_its_path(kernel: Kernel) -> None:
    first = await kernel.netns_create("web")
    holder = await kernel.netns_create("holder")  # so that the second cannot get the first one's number
    await kernel.netns_delete(first)
    second = await kernel.netns_create("web")
    stale = replace(first, inode=first.inode if first != second else first.inode + 1)
    assert not await kernel.netns_alive(stale)
    error = await refused(kernel, added(Up("lo", stale)))
    assert isinstance(error.cause, NotFound)
    for netns in (second, holder):
        await kernel.netns_delete(netns)


async def test_letting_go_late_does_not_hit_the_next_one_at_the_path(kernel: Kernel) -> None:
    first = await kernel.netns_create("web")
    holder = await kernel.netns_create("holder")
    await kernel.netns_delete(first)
    second = await kernel.netns_create("web")
    stale = replace(first, inode=first.inode if first != second else first.inode + 1)
    await kernel.netns_delete(stale)
    assert await kernel.netns_alive(second)
    await kernel.netns_delete(replace(second, inode=0))
    assert not await kernel.netns_alive(second)
    await kernel.netns_delete(holder)


async def test_writes_count_what_was_changed_and_nothing_else(kernel: Kernel) -> None:
    start = kernel.writes
    await kernel.apply(added(BRIDGE, NAT))
    after = kernel.writes
    assert after >= start + 2
    await kernel.observe()
    await kernel.host_networks()
    await kernel.host_addresses()
    await kernel.uplink()
    assert kernel.writes == after
    await tear_down(kernel)
    assert kernel.writes > after


async def test_networks_of_netd_are_networks_of_the_host(kernel: Kernel) -> None:
    await kernel.apply(added(BRIDGE, *GATEWAYS))
    networks = {(name, prefix) for name, _, prefix in await kernel.host_networks()}
    assert {("nd-front", 24), ("nd-front", 64)} <= networks
    assert {item.address.ip for item in GATEWAYS} <= set(await kernel.host_addresses())
    await tear_down(kernel)


async def test_changes_by_others_are_heard(kernel: Kernel) -> None:
    drifts = kernel.watch()
    assert isinstance(drifts, AsyncGenerator)

    async def first() -> str:
        async for drift in drifts:
            return str(drift.what)
        return "ended"

    await kernel.apply(added(NAT))
    if isinstance(kernel, FakeKernel):
        kernel.tamper(NAT)  # whose own writes are no news
    async with asyncio.timeout(5):
        assert await first() == "nft", "what happened before the first look was not missed"
    await drifts.aclose()
    await tear_down(kernel)


async def test_watching_ends_when_the_kernel_port_is_closed(kernel: Kernel) -> None:
    async def all_of_them() -> None:
        async for _ in kernel.watch():
            pass

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(all_of_them())
        await asyncio.sleep(0)
        await kernel.close()
    await kernel.start()


async def test_nothing_is_carried_out_before_start_or_after_close(kernel: Kernel) -> None:
    await kernel.close()
    with pytest.raises(NetdError):
        await kernel.apply(added(BRIDGE))
    await kernel.start()
    assert await kernel.observe() == frozenset()


async def test_an_interface_inside_is_seen_as_it_is_now(kernel: Kernel) -> None:
    netns, pair, _ = await endpoint(kernel)
    assert await kernel.interface(netns, "eth0") == (pair.peer_mac, pair.mtu)
    assert await kernel.interface(netns, "eth1") is None
    await tear_down(kernel, netns)
    with pytest.raises(NotFound):
        await kernel.interface(netns, "eth0")
