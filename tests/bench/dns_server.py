"""netd's DNS with many names or networks, fed as the daemon feeds it, until standard input ends.

    dns_server.py RUN_DIR NAMES NETWORKS [UPSTREAM]

The first network is 10.100.0.0/16 on an interface that exists; the others get addresses there too.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from netd.dns_feed import DnsFeed
from netd.model import Endpoint, Netns, Network, Owner, Sandbox, Subnet
from netd.names import mac_of
from netd.settings import Settings


def network(number: int) -> Network:
    """Network 0 has room for all names; the others are small."""
    cidr = IPv4Network("10.100.0.0/16") if number == 0 else IPv4Network((0x0AC80000 + number * 256, 24))
    subnet = Subnet(cidr=cidr, gateway=cidr[1])
    return Network(id=f"n{number}", name=f"net{number}", driver="bridge", subnets=(subnet,), mtu=1500)


def container(number: int) -> tuple[Sandbox, tuple[Endpoint, ...]]:
    """Container `name<number>` on network 0."""
    netns = Netns(label="", path="", device=0, inode=0)
    sandbox = Sandbox(id=f"{number:064x}", name=f"name{number}", owner=Owner.CONTAINER, netns=netns)
    address = IPv4Interface(f"10.100.{number // 250 + 1}.{number % 250 + 1}/16")
    endpoint = Endpoint(
        id=f"e{number}",
        network="n0",
        sandbox=sandbox.id,
        ifname="eth0",
        mac=mac_of(str(number)),
        addresses=(address,),
    )
    return sandbox, (endpoint,)


def prepare(run_dir: str, networks: int) -> list[Network]:
    """Make the directory and the gateways' addresses."""
    nets = [network(number) for number in range(networks)]
    extra = "".join(f"addr add {net.subnets[0].gateway}/32 dev lo\n" for net in nets[1:])
    subprocess.run(["ip", "-batch", "-"], input=extra, text=True, check=True)
    Path(run_dir).mkdir()
    return nets


async def serve(run_dir: str, nets: list[Network], names: int, upstreams: tuple[str, ...]) -> None:
    """Serve until standard input ends."""
    feed = DnsFeed(Settings(run_dir=run_dir, upstreams=upstreams))
    await feed.start(nets, [container(number) for number in range(names)])
    print((Path(run_dir) / "dns.pid").read_text().strip(), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await feed.stop_server()


if __name__ == "__main__":
    made = prepare(sys.argv[1], int(sys.argv[3]))
    asyncio.run(serve(sys.argv[1], made, int(sys.argv[2]), tuple(sys.argv[4:])))
