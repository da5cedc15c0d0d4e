"""What a request becomes, as text: the whole effect on a host that is made of paper.

Each case is rendered by the kernel in memory after the planner's operations were applied to it, and
compared with tests/golden/compile/CASE.txt. `GOLDEN_UPDATE=1 pytest tests/golden` writes the files anew;
read the difference before you commit it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from netd import compile, names
from netd.kernel.fake import FakeKernel
from netd.model import (
    Endpoint,
    GatewayMode,
    Netns,
    Network,
    Node,
    Owner,
    PortMapping,
    Proto,
    RemoteEndpoint,
    Sandbox,
    Scope,
    StaticRoute,
    Subnet,
)
from netd.objects import KernelObject
from netd.plan import plan
from netd.tunnels import Tunnels

FILES = Path(__file__).parent / "compile"


def network(name: str, *cidrs: str, **policy: object) -> Network:
    subnets = tuple(Subnet(cidr=cidr, gateway=cidr[1]) for cidr in map(ip_network, cidrs))
    return Network(
        id=names.digest(name, 32),
        name=name,
        **{"driver": "bridge", "subnets": subnets, "mtu": 1500, **policy},  # type: ignore[arg-type]
    )


def port(host: int, container: int, address: str | None = None, proto: Proto = Proto.TCP) -> PortMapping:
    host_ip = ip_address(address) if address else None
    return PortMapping(proto=proto, host_ip=host_ip, host_port=host, container_port=container)


def container(
    netns: Netns, joined: Iterable[tuple[Network, dict[str, object]]], ports: Iterable[PortMapping] = ()
) -> frozenset[KernelObject]:
    endpoints = tuple(
        Endpoint(
            id=f"web in {net.name}",
            network=net.id,
            sandbox="web",
            ifname=f"eth{order}",
            mac=f"02:42:0a:59:0{order}:02",
            addresses=tuple(ip_interface(f"{s.cidr[2]}/{s.cidr.prefixlen}") for s in net.subnets),
            order=order,
            **more,  # type: ignore[arg-type]
        )
        for order, (net, more) in enumerate(joined)
    )
    sandbox = Sandbox(id="web", name="web", owner=Owner.CONTAINER, netns=netns, ports=tuple(ports))
    return compile.sandbox(sandbox, endpoints, {net.id: net for net, _ in joined})


FRONT = network("front", "10.89.1.0/24")
SIX = network("six", "fd00:6::/64")
DUAL = network("dual", "10.89.2.0/24", "fd00:2::/64")
INNER = network("inner", "10.89.3.0/24", "fd00:3::/64", internal=True)
QUIET = network("quiet", "10.89.4.0/24", "fd00:4::/64", icc=False)
ROUTED = network("routed", "10.89.5.0/24", "fd00:5::/64", gateway_mode=GatewayMode.ROUTED)
FABRIC = network(
    "fabric",
    "10.89.7.0/24",
    "fd00:7::/64",
    driver="overlay",
    scope=Scope.CLUSTER,
    vni=4097,
    mtu=1450,
    options={"multicast": "on"},
)
NEIGHBOURS = replace(FABRIC, options={"encap": "auto"})
LINKS = network("links", "10.89.8.0/24", "fd00:8::/64", driver="ptp")
HUSHED = network("hushed", "10.89.9.0/24", driver="ptp", icc=False, internal=True)
SECRET = replace(FABRIC, options={"encrypted": "wireguard"}, mtu=1370)
KEYS = [f"{letter * 42}A=" for letter in "BCD"]
NAMED = network("named", "10.89.6.0/24", options={"bridge.name": "br-named"})


DB = RemoteEndpoint(
    id="db",
    network=FABRIC.id,
    node="h2",
    sandbox="db",
    name="db",
    mac="02:42:0a:59:07:09",
    addresses=(ip_interface("10.89.7.9/24"), ip_interface("fd00:7::9/64")),
)


def elsewhere(net: Network) -> frozenset[KernelObject]:
    """Two further nodes, one of them with an endpoint in `net`."""
    one, two, three = KEYS
    tunnels = Tunnels(Node(name="h1", address=ip_address("192.0.2.1"), wireguard_key=one), 4789)
    tunnels.set_network(net)
    tunnels.set_node(Node(name="h2", address=ip_address("192.0.2.2"), wireguard_key=two))
    tunnels.set_node(Node(name="h3", address=ip_address("2001:db8::3"), wireguard_key=three))
    tunnels.set_remote(DB)
    return tunnels.objects()


def next_door() -> frozenset[KernelObject]:
    """One further node on the same segment, with an endpoint in `fabric`."""
    segment = ip_network("2001:db8::/64")
    here, there = (
        Node(name=f"h{n}", address=segment[n], segment=segment, mac=f"02:00:00:00:00:0{n}") for n in (1, 2)
    )
    tunnels = Tunnels(here, 4789)
    tunnels.set_place(here, "eth0")
    tunnels.set_network(NEIGHBOURS)
    tunnels.set_node(there)
    tunnels.set_remote(DB)
    return tunnels.objects()


EVERYWHERE = [port(8080, 80), port(5353, 53, proto=Proto.UDP)]
AT_ADDRESSES = [
    port(8081, 81, "203.0.113.2"),
    port(8081, 81, "2001:db8::2"),
    port(8082, 82, "127.0.0.1"),
    port(8082, 82, "::1"),
]
ROUTES = (
    StaticRoute(destination=ip_network("10.7.0.0/16"), via=ip_address("10.89.1.7")),
    StaticRoute(destination=ip_network("192.0.2.0/24")),
)

CASES: dict[str, Callable[[Netns], frozenset[KernelObject]]] = {
    "ipv4": lambda ns: compile.network(FRONT) | container(ns, [(FRONT, {})]),
    "ipv6": lambda ns: compile.network(SIX) | container(ns, [(SIX, {})]),
    "dual": lambda ns: compile.network(DUAL) | container(ns, [(DUAL, {})]),
    "internal": lambda ns: compile.network(INNER) | container(ns, [(INNER, {})], EVERYWHERE),
    "no-icc": lambda ns: compile.network(QUIET) | container(ns, [(QUIET, {})], EVERYWHERE),
    "routed": lambda ns: compile.network(ROUTED) | container(ns, [(ROUTED, {})], EVERYWHERE + AT_ADDRESSES),
    "ports": lambda ns: compile.network(DUAL) | container(ns, [(DUAL, {})], EVERYWHERE + AT_ADDRESSES),
    "bridge-name": lambda ns: compile.network(NAMED) | container(ns, [(NAMED, {})]),
    "overlay": lambda ns: (
        elsewhere(FABRIC) | compile.network(FABRIC) | container(ns, [(FABRIC, {})], EVERYWHERE)
    ),
    "encrypted": lambda ns: elsewhere(SECRET) | compile.network(SECRET) | container(ns, [(SECRET, {})]),
    "overlay-routes": lambda ns: (
        next_door() | compile.network(NEIGHBOURS) | container(ns, [(NEIGHBOURS, {})], EVERYWHERE)
    ),
    "static-routes": lambda ns: compile.network(FRONT) | container(ns, [(FRONT, {"routes": ROUTES})]),
    "ptp": lambda ns: compile.network(LINKS) | container(ns, [(LINKS, {})], EVERYWHERE),
    "ptp-no-icc": lambda ns: compile.network(HUSHED) | container(ns, [(HUSHED, {})], EVERYWHERE),
    "ptp-beside-a-bridge": lambda ns: (
        compile.network(LINKS)
        | compile.network(FRONT)
        | container(ns, [(LINKS, {"gateway_priority": None}), (FRONT, {})], EVERYWHERE)
    ),
    # IPv4 by the higher priority, IPv6 by the only network that has it; ports follow.
    "two-networks": lambda ns: (
        compile.network(DUAL)
        | compile.network(FRONT)
        | container(ns, [(DUAL, {}), (FRONT, {"gateway_priority": 10})], EVERYWHERE)
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_host_after_a_request(case: str) -> None:
    async def build() -> str:
        kernel = FakeKernel()
        await kernel.start()
        netns = await kernel.netns_create("web")
        await kernel.apply(plan(CASES[case](netns), ()))
        text = kernel.render()
        await kernel.apply(plan((), kernel.objects))
        assert kernel.render() == ""
        return text + "\n"

    text, file = asyncio.run(build()), FILES / f"{case}.txt"
    if os.environ.get("GOLDEN_UPDATE"):
        file.write_text(text)
    assert text == file.read_text(), f"{file.name} says otherwise; GOLDEN_UPDATE=1 writes it anew"


def test_no_file_is_left_of_a_case_that_is_gone() -> None:
    assert {file.stem for file in FILES.iterdir()} == set(CASES)
