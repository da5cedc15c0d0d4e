"""The wire between hosts: they reach each other over it, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Interface

from netd.kernel import underlay
from netd.kernel.host import HostKernel
from netd.model import Netns

WIRE = IPv4Interface("192.0.2.254/24")


async def test_hosts_on_a_wire_reach_each_other(host_kernel: HostKernel, sh: Callable[[str], str]) -> None:
    wire, *hosts = [await host_kernel.netns_create(name) for name in ("wire", "a", "b")]

    def within(place: Netns, command: str) -> str:
        return sh(f"nsenter --net={place.path} {command}")

    before = sh("ip -o link; ip -4 -o address")
    for _ in range(2):  # a second time changes nothing
        underlay.lay(wire, [WIRE])
        for number, host in enumerate(hosts, 1):
            underlay.plug(wire, host, [IPv4Interface(f"192.0.2.{number}/24")])
    assert within(hosts[0], "ip -br -4 addr").split()[-3:] == ["eth0@if3", "UP", "192.0.2.1/24"]
    assert within(wire, "ip -br link").count("\n") == 4, "lo, the bridge and a port for each host"
    for target in ("192.0.2.2", "192.0.2.254"):
        within(hosts[0], f"ping -c1 -W5 {target}")
    assert sh("ip -o link; ip -4 -o address") == before, "nothing of it is on the machine"
    for place in (wire, *hosts):
        await host_kernel.netns_delete(place)
