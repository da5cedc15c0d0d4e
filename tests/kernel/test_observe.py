"""Observation under pressure: much to see, and a host that changes while it is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface, ip_network

import pytest

from netd import compile, names
from netd.errors import Unavailable
from netd.kernel import fastnl
from netd.kernel.host import HostKernel
from netd.model import Endpoint, Netns, Network, Owner, PortMapping, Proto, Sandbox, Subnet
from netd.objects import Ifb, KernelObject, Sysctl, Veth
from netd.plan import plan

Shell = Callable[[str], str]
CIDRS = [ip_network("10.89.0.0/16"), ip_network("fd00:89::/64")]
NETWORK = Network(
    id="n" * 12,
    name="front",
    driver="bridge",
    subnets=tuple(Subnet(cidr=cidr, gateway=cidr[1]) for cidr in CIDRS),
    mtu=1450,
)


def sandbox(
    number: int, netns: Netns, net: Network = NETWORK, options: Mapping[str, str] | None = None
) -> frozenset[KernelObject]:
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
        network=net.id,
        sandbox=box.id,
        ifname="eth0",
        mac=names.mac_of(f"e{number}"),
        addresses=(
            IPv4Interface((CIDRS[0][number + 2], 16)),
            IPv6Interface((CIDRS[1][number + 2], 64)),
        ),
        options=options or {},
    )
    return compile.sandbox(box, [endpoint], {net.id: net})


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


LIMITED = {"bandwidth.ingress": "8000000", "bandwidth.egress": "8000000"}
DAMAGE = {
    "link": "ip link del {link}",
    "down": "ip link set {link} down",
    "mtu": "ip link set {link} mtu 1400",
    "group": "ip link set {link} group 9",
    "out of the bridge": "ip link set {link} nomaster",
    "hairpin": "ip link set {link} type bridge_slave hairpin off",
    "another's": "ip link set {link} alias mine",
    "altname": "ip link property del dev {link} altname {altname}",
    "address": "ip addr flush dev {link}",
    "route": "ip route flush dev {link}; ip -6 route flush dev {link}",
    "sysctl": "sysctl -qw net.ipv4.conf.{link}.rp_filter=0 net.ipv4.conf.{link}.arp_ignore=0",
    "bucket": "tc qdisc del dev {link} root",
    "burst": "tc qdisc replace dev {link} root handle 4e44: tbf rate 8mbit burst 9000 limit 99999",
    "redirection": "tc filter del dev {link} ingress",
    "queues": "tc qdisc del dev {link} ingress || tc qdisc del dev {link} clsact",
    "latch": "tc filter del dev {link} egress",
    "ifb": "ip link del {ifb}",
    "port": "nft flush map inet netd any4",
    "port of another": "nft flush map inet netd any4; "
    "nft add element inet netd any4 {{ tcp . 8001 : 10.1.1.1 . 80 }}",
    "guard": "nft flush set inet netd bind6; nft flush set bridge netd bind6",
    "rules": "nft flush chain inet netd forward",
    "tables": "nft flush ruleset",
}


@pytest.mark.parametrize("driver", ["bridge", "ptp"])
@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_is_asked_for_is_seen_as_if_all_had_been(
    host_kernel: HostKernel, sh: Shell, damage: str, driver: str
) -> None:
    net = replace(NETWORK, driver=driver)
    own = await host_kernel.netns_create("web")
    wanted = compile.network(net) | sandbox(1, own, net, LIMITED)
    await host_kernel.apply(plan(wanted, []))
    host = frozenset(item for item in sandbox(1, own, net, LIMITED) if not inside(item))
    assert host <= await host_kernel.observe_some(host)
    [veth] = [item for item in host if isinstance(item, Veth)]
    [ifb] = [item for item in host if isinstance(item, Ifb)]
    sh(f"({DAMAGE[damage].format(link=veth.name, altname=veth.altname, ifb=ifb.name)}) 2>/dev/null || true")
    everything_seen = await everything(host_kernel, wanted)
    assert host - await host_kernel.observe_some(host) == host - everything_seen
    assert (damage in ELSEWHERE[driver]) == (host <= everything_seen), "or the damage was none"
    await host_kernel.restore_rules()
    sh(f"ip link set {veth.name} alias {veth.alias} 2>/dev/null || true")
    await clear(host_kernel, [own])


ELSEWHERE = {"bridge": {"address", "route", "sysctl", "group"}, "ptp": {"out of the bridge", "hairpin"}}
"""Damage to what an endpoint of the driver does not have on the host."""


async def test_asking_for_one_container_costs_the_same_among_many(
    host_kernel: HostKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[int] = []
    answers = fastnl.Socket._answers

    def counted(self: fastnl.Socket, sequence: int) -> Iterator[tuple[int, int, bytes]]:
        for kind, flags, body in answers(self, sequence):
            messages.append(len(body))
            yield kind, flags, body

    async def cost(netns: Netns) -> tuple[int, int]:
        host = frozenset(item for item in sandbox(0, netns) if not inside(item))
        messages.clear()
        assert host <= await host_kernel.observe_some(host)
        return len(messages), sum(messages)

    namespaces, _ = await furnish(host_kernel, 1)
    monkeypatch.setattr(fastnl.Socket, "_answers", counted)
    alone = await cost(namespaces[0])
    for number in range(1, 30):
        namespaces.append(await host_kernel.netns_create(f"web{number}"))
        await host_kernel.apply(plan(sandbox(number, namespaces[-1]), []))
    assert await cost(namespaces[0]) == alone
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
