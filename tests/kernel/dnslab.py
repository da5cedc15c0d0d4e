"""Networks and clients for the DNS: bridges on this test's host, and namespaces with one leg in each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from netd.dns_feed import DnsFeed
from netd.model import Endpoint, Netns, Network, Owner, Sandbox, Subnet
from netd.names import digest, mac_of
from netd.settings import Settings


async def run(*argv: str) -> str:
    """What a program writes; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{' '.join(argv)}: {output.decode()}"
    return output.decode()


def network(name: str, number: int, *, third: int = 0, **more: Any) -> Network:
    """Network NUMBER: 10.99.NUMBER.0/24 and fd99:NUMBER::/64; more of them with THIRD."""
    four, six = f"10.{99 + third}.{number}", f"fd99:{number}:{f'{third}:' if third else ''}"
    subnets = (
        Subnet(cidr=ip_network(f"{four}.0/24"), gateway=ip_address(f"{four}.1")),
        Subnet(cidr=ip_network(f"{six}:/64"), gateway=ip_address(f"{six}:1")),
    )
    return Network(id=digest(name, 64), name=name, driver="bridge", subnets=subnets, mtu=1500, **more)


@asynccontextmanager
async def bridge(net: Network) -> AsyncIterator[None]:
    """The bridge of a network, as the engine would have made it."""
    await run("ip", "link", "add", net.name, "type", "bridge")
    for subnet in net.subnets:
        await run("ip", "addr", "add", f"{subnet.gateway}/{subnet.cidr.prefixlen}", "dev", net.name, "nodad")
    await run("ip", "link", "set", net.name, "up")
    try:
        yield
    finally:
        await run("ip", "link", "del", net.name)


def sandbox(name: str, *attached: tuple[Network, int], **more: Any) -> tuple[Sandbox, tuple[Endpoint, ...]]:
    """A container, as host number N of each network."""
    aliases = more.pop("aliases", ())
    made = Sandbox(
        id=digest(name, 64),
        name=name,
        owner=Owner.CONTAINER,
        netns=Netns(label=name, path="", device=0, inode=0),
        **more,
    )
    endpoints = tuple(
        Endpoint(
            id=f"{made.id}-{order}",
            network=net.id,
            sandbox=made.id,
            ifname=f"eth{order}",
            mac=mac_of(f"{name}{order}"),
            addresses=tuple(
                ip_interface(f"{subnet.cidr[host]}/{subnet.cidr.prefixlen}") for subnet in net.subnets
            ),
            order=order,
            aliases=aliases,
        )
        for order, (net, host) in enumerate(attached)
    )
    return made, endpoints


class Client:
    """A network namespace with a leg in each network of a sandbox."""

    def __init__(self, holder: asyncio.subprocess.Process) -> None:
        self._holder = holder

    async def start(self, *argv: str) -> asyncio.subprocess.Process:
        """Start a program inside."""
        inside = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]
        return await asyncio.create_subprocess_exec(*inside, *argv, stdout=asyncio.subprocess.PIPE)

    async def dig(self, *arguments: str) -> str:
        """What dig prints, from inside."""
        return await run(
            "nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "dig", "+tries=1", "+time=3", *arguments
        )

    async def short(self, *arguments: str) -> list[str]:
        """The data of the answers, sorted."""
        return sorted((await self.dig("+short", *arguments)).split())

    async def status(self, *arguments: str) -> str:
        """The response code."""
        return (await self.dig("+noall", "+comments", *arguments)).partition("status: ")[2].partition(",")[0]


@asynccontextmanager
async def client(endpoints: Sequence[Endpoint], networks: Sequence[Network]) -> AsyncIterator[Client]:
    """The namespace of a sandbox, which ends with the block."""
    pipe = asyncio.subprocess.PIPE
    holder = await asyncio.create_subprocess_exec("unshare", "--net", "cat", stdin=pipe, stdout=pipe)
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write(b"ready\n")
    await holder.stdout.readline()  # cat has started, so unshare(2) is done
    inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "ip"]
    by_id = {net.id: net for net in networks}
    try:
        await run(*inside, "link", "set", "lo", "up")
        for endpoint in endpoints:
            name = f"v{digest(endpoint.id, 10)}"
            peer = ["peer", "name", endpoint.ifname, "address", endpoint.mac, "netns", str(holder.pid)]
            await run("ip", "link", "add", name, "type", "veth", *peer)
            await run("ip", "link", "set", name, "master", by_id[endpoint.network].name, "up")
            for address in endpoint.addresses:
                await run(*inside, "addr", "add", str(address), "dev", endpoint.ifname, "nodad")
            await run(*inside, "link", "set", endpoint.ifname, "up")
        first = by_id[endpoints[0].network]
        for subnet in first.subnets:
            await run(*inside, "route", "add", "default", "via", str(subnet.gateway))
        yield Client(holder)
    finally:
        for endpoint in endpoints:  # the kernel would do it, some time after the namespace is gone
            await run("ip", "link", "del", f"v{digest(endpoint.id, 10)}")
        holder.stdin.close()
        await holder.wait()


@asynccontextmanager
async def feeding(run_dir: Path, *networks: Network, **settings: Any) -> AsyncIterator[DnsFeed]:
    """A feed that is not started yet, and bridges; the server and the bridges end with the block."""
    feed = DnsFeed(Settings(run_dir=str(run_dir), **settings))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(feed.stop_server)
        for net in networks:
            await stack.enter_async_context(bridge(net))
        yield feed


def server_pid(run_dir: Path) -> int:
    return int((run_dir / "dns.pid").read_text())
