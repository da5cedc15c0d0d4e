"""Observation under pressure: much to see, and a host that changes while it is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_network

from netd import compile, names
from netd.errors import Unavailable
from netd.kernel import fastnl
from netd.kernel.host import HostKernel
from netd.model import Endpoint, Netns, Network, Owner, PortMapping, Proto, Sandbox, Subnet
from netd.objects import KernelObject, Sysctl, Veth
from netd.plan import plan

CIDRS = [ip_network("10.89.0.0/16"), ip_network("fd00:89::/64")]
NETWORK = Network(
    id="n" * 12,
    name="front",
    driver="bridge",
    subnets=tuple(Subnet(cidr=cidr, gateway=cidr[1]) for cidr in CIDRS),
    mtu=1450,
)


def sandbox(number: int, netns: Netns) -> frozenset[KernelObject]:
    """All that one container with one published port needs."""
    box = Sandbox(
        id=f"s{number}",
        name=f"web{number}",
        owner=Owner.CONTAINER,
        netns=netns,
        ports=(PortMapping(proto=Proto.TCP, host_ip=None, host_port=8000 + number, container_port=80),),
    )
    endpoint = Endpoint(
        id=f"e{number}",
        network=NETWORK.id,
        sandbox=box.id,
        ifname="eth0",
        mac=names.mac_of(f"e{number}"),
        addresses=(
            IPv4Interface((CIDRS[0][number + 2], 16)),
            IPv6Interface((CIDRS[1][number + 2], 64)),
        ),
    )
    return compile.sandbox(box, [endpoint], {NETWORK.id: NETWORK})


def inside(item: KernelObject) -> bool:
    return getattr(item, "netns", None) is not None and not isinstance(item, Veth)


async def everything(kernel: HostKernel, wanted: frozenset[KernelObject]) -> frozenset[KernelObject]:
    paths = [item.path for item in wanted if isinstance(item, Sysctl) and item.netns is None]
    return await kernel.observe(paths)


async def furnish(kernel: HostKernel, number: int) -> tuple[list[Netns], frozenset[KernelObject]]:
    """A network with so many containers; gives their namespaces, and all that was asked for."""
    wanted = compile.network(NETWORK)
    await kernel.apply(plan(wanted, []))
    namespaces = [await kernel.netns_create(f"web{each}") for each in range(number)]
    for each, netns in enumerate(namespaces):
        one = sandbox(each, netns)
        await kernel.apply(plan(one, []))
        wanted |= one
    return namespaces, wanted


async def clear(kernel: HostKernel, namespaces: list[Netns]) -> None:
    """Take everything down again."""
    await kernel.apply(plan([], await kernel.observe()))
    assert await kernel.observe() == frozenset()
    for netns in namespaces:
        await kernel.netns_delete(netns)


async def test_what_a_whole_host_is_compiled_to_is_what_is_observed(host_kernel: HostKernel) -> None:
    """And so a restart with nothing changed has nothing to write."""
    namespaces, wanted = await furnish(host_kernel, 40)
    host = frozenset(item for item in wanted if not inside(item))
    assert plan(host, await everything(host_kernel, wanted)) == ()
    for number, netns in enumerate(namespaces):
        within = frozenset(item for item in sandbox(number, netns) if inside(item))
        paths = [item.path for item in within if isinstance(item, Sysctl)]
        assert plan(within, await host_kernel.observe_sandbox(netns, ["eth0"], paths)) == ()
    await clear(host_kernel, namespaces)


@contextlib.contextmanager
def churning() -> Iterator[threading.Event]:
    """Another thread makes and deletes links without end; the event is set when it has begun."""
    begun, stop = threading.Event(), threading.Event()

    def churn() -> None:
        with fastnl.Socket() as link:
            number = 0
            while not stop.is_set():
                number += 1
                name = f"churn{number % 7}"
                link.request(fastnl.bridge_create(name, "02:00:00:00:00:01", 1500, 0))
                begun.set()
                link.request(fastnl.address_add(socket.if_nametoindex(name), IPv4Interface("10.1.1.1/24"), 4))
                link.request(fastnl.link_delete(socket.if_nametoindex(name)))

    thread = threading.Thread(target=churn, daemon=True)
    thread.start()
    try:
        yield begun
    finally:
        stop.set()
        thread.join()


async def test_nothing_of_netds_is_ever_missed_on_a_host_that_changes_all_the_time(
    host_kernel: HostKernel,
) -> None:
    namespaces, wanted = await furnish(host_kernel, 30)
    host = frozenset(item for item in wanted if not inside(item))
    looked = 0
    with churning() as begun:
        await asyncio.to_thread(begun.wait, 5)
        for _ in range(60):
            try:
                seen = await everything(host_kernel, wanted)
            except Unavailable:
                continue  # never part of the truth instead
            looked += 1
            assert seen == host
    assert looked
    await clear(host_kernel, namespaces)
