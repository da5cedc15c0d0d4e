"""Many callers at once, some of whose namespaces vanish under them. Nothing may be left but typed errors."""

from __future__ import annotations

import asyncio
import random
from ipaddress import IPv4Interface, IPv6Interface, ip_network

from netd import compile, names
from netd.kernel.host import HostKernel
from netd.kernel.ports import ApplyError
from netd.model import Endpoint, Netns, Network, Owner, PortMapping, Proto, Sandbox, Subnet
from netd.objects import KernelObject
from netd.plan import plan, undo

NETWORK = Network(
    id="n" * 12,
    name="front",
    driver="bridge",
    subnets=tuple(
        Subnet(cidr=cidr, gateway=cidr[1]) for cidr in map(ip_network, ("10.89.0.0/16", "fd00:89::/64"))
    ),
    mtu=1500,
)
CALLERS, ROUNDS = 24, 4


def container(number: int, netns: Netns) -> frozenset[KernelObject]:
    box = Sandbox(
        id=f"s{number}",
        name=f"web{number}",
        owner=Owner.CONTAINER,
        netns=netns,
        ports=(PortMapping(proto=Proto.UDP, host_ip=None, host_port=8000 + number, container_port=80),),
    )
    endpoint = Endpoint(
        id=f"e{number}",
        network=NETWORK.id,
        sandbox=box.id,
        ifname="eth0",
        mac=names.mac_of(f"e{number}"),
        addresses=(
            IPv4Interface(f"10.89.1.{number + 2}/16"),
            IPv6Interface(f"fd00:89::{number + 2:x}/64"),
        ),
    )
    return compile.sandbox(box, [endpoint], {NETWORK.id: NETWORK})


async def live_and_die(kernel: HostKernel, number: int, chance: random.Random) -> str:
    """Attach and detach a container; whose namespace may go away at any moment. What came of it."""
    netns = await kernel.netns_create(f"web{number}")
    wanted = container(number, netns)

    async def vanish() -> None:
        await asyncio.sleep(chance.uniform(0, 0.02))
        await kernel.netns_delete(netns)

    async with asyncio.TaskGroup() as group:
        if chance.random() < 0.5:
            group.create_task(vanish())
        try:
            await kernel.apply(plan(wanted, []))
            outcome = "attached"
            await kernel.apply(plan([], wanted))
        except ApplyError as error:
            outcome = type(error.cause).__name__
            await kernel.apply(undo(error.done))
    await kernel.netns_delete(netns)
    return outcome


async def test_callers_whose_namespaces_vanish_leave_nothing(host_kernel: HostKernel) -> None:
    chance = random.Random(7)
    await host_kernel.apply(plan(compile.network(NETWORK), []))
    before = await host_kernel.observe()
    outcomes: list[str] = []
    for _ in range(ROUNDS):
        calls = (live_and_die(host_kernel, number, chance) for number in range(CALLERS))
        outcomes += await asyncio.gather(*calls)
        assert await host_kernel.observe() == before
    assert set(outcomes) <= {"attached", "NotFound", "KernelError"}
    assert {"attached", "NotFound"} <= set(outcomes), "no namespace vanished in time to matter"
    await host_kernel.apply(plan([], compile.network(NETWORK)))
