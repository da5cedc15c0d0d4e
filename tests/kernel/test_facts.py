"""What netd believes of the host: its uplink, its networks, its addresses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address

from netd.kernel.host import HostKernel
from netd.kernel.ports import Uplink
from netd.model import Proto

Shell = Callable[[str], str]
LAN = (
    "ip link add lan type veth peer other; ip link set lan up mtu 1450; ip link set other up;"
    "ip address add 192.0.2.7/24 dev lan; ip -6 address add 2001:db8::7/64 dev lan nodad;"
)


async def test_a_host_without_a_default_route_has_no_uplink(host_kernel: HostKernel, sh: Shell) -> None:
    sh(LAN)
    assert await host_kernel.uplink() is None
    sh("ip link del lan")


async def test_the_uplink_is_where_the_best_default_route_goes(host_kernel: HostKernel, sh: Shell) -> None:
    sh(LAN + "ip link add vpn mtu 1380 type veth peer far; ip link set vpn up; ip link set far up")
    sh("ip -6 route add default via 2001:db8::1")
    assert await host_kernel.uplink() == Uplink("lan", 1450)
    sh("ip route add default dev vpn metric 50; ip route add default via 192.0.2.1 metric 100")
    assert await host_kernel.uplink() == Uplink("vpn", 1380)
    sh("ip route del default dev vpn")
    assert await host_kernel.uplink() == Uplink("lan", 1450)
    sh("ip link del lan; ip link del vpn")


async def test_a_multipath_default_route_has_an_uplink_too(host_kernel: HostKernel, sh: Shell) -> None:
    sh(LAN + "ip link add two type veth peer far; ip link set two up; ip link set far up")
    sh("ip address add 198.51.100.7/24 dev two")
    sh("ip route add default nexthop via 192.0.2.1 dev lan nexthop via 198.51.100.1 dev two")
    assert await host_kernel.uplink() == Uplink("lan", 1450)
    sh("ip link del lan; ip link del two")


async def test_networks_are_routes_and_addresses_without_the_default(
    host_kernel: HostKernel, sh: Shell
) -> None:
    sh(LAN + "ip route add default via 192.0.2.1; ip route add 10.7.0.0/16 via 192.0.2.9")
    sh("ip route add 10.8.0.0/16 via 192.0.2.9 table 77; ip route add blackhole 10.9.0.0/16")
    networks = set(await host_kernel.host_networks())
    assert {
        ("lan", ip_address("192.0.2.0"), 24),
        ("lan", ip_address("192.0.2.7"), 24),
        ("lan", ip_address("10.7.0.0"), 16),
        ("lan", ip_address("10.8.0.0"), 16),
        ("lan", ip_address("2001:db8::"), 64),
        ("lan", ip_address("2001:db8::7"), 64),
        ("lo", ip_address("127.0.0.1"), 8),
    } <= networks
    assert not [network for network in networks if network[2] == 0]
    sh("ip link del lan; ip route del blackhole 10.9.0.0/16")


async def test_addresses_are_the_hosts_own_and_not_a_peers(host_kernel: HostKernel, sh: Shell) -> None:
    sh(LAN + "ip address add 10.5.0.1 peer 10.5.0.2 dev lan")
    addresses = set(await host_kernel.host_addresses())
    own = map(ip_address, ("127.0.0.1", "::1", "192.0.2.7", "2001:db8::7", "10.5.0.1"))
    assert set(own) <= addresses
    assert ip_address("10.5.0.2") not in addresses
    sh("ip link del lan")


async def test_many_may_ask_at_once(host_kernel: HostKernel, sh: Shell) -> None:
    """The kernel refuses a second dump on a socket that is still in one (EBUSY)."""
    sh(LAN + "ip route add default via 192.0.2.1")
    uplinks = await asyncio.gather(*(host_kernel.uplink() for _ in range(16)))
    assert set(uplinks) == {Uplink("lan", 1450)}
    addresses = await asyncio.gather(*(host_kernel.host_addresses() for _ in range(16)))
    assert all(ip_address("192.0.2.7") in found for found in addresses)
    sh("ip link del lan")


async def test_who_listens_is_found_on_this_host_only(host_kernel: HostKernel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert "(pid " in await host_kernel.holder(Proto.TCP, None, port)
        assert await host_kernel.holder(Proto.UDP, None, port) == "another program"
