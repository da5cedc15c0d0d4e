"""The engine on the real kernel: a life of two networks and a container, with deaths and damage."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from netd.engine import Engine
from netd.events import Events
from netd.kernel import netns
from netd.kernel.host import HostKernel
from netd.model import Netns, NetworkRequest, Owner, PortMapping, Proto, Sandbox, Want
from netd.names import bridge_name, host_ifname
from netd.settings import Settings
from netd.store.sqlite import SqliteStore
from tests.unit.host import Feed

WEB = PortMapping(proto=Proto.TCP, host_ip=None, host_port=8080, container_port=80)
Shell = Callable[[str], str]


class Daemon:
    """An engine and what it was given."""

    def __init__(self, directory: Path) -> None:
        self.kernel = HostKernel(directory)
        self.events = Events()
        self.engine = Engine(
            kernel=self.kernel,
            store=SqliteStore(directory / "state", directory / "run"),
            feed=Feed(),
            settings=Settings(),
            events=self.events,
        )


@asynccontextmanager
async def daemon(directory: Path) -> AsyncIterator[Daemon]:
    """A daemon that starts, and ends in good order."""
    one = Daemon(directory)
    await one.engine.start()
    try:
        yield one
    finally:
        await one.engine.close()


async def container(one: Daemon, name: str, *ports: PortMapping) -> Sandbox:
    space = await one.kernel.netns_create(name)
    return Sandbox(id=f"id-{name}", name=name, owner=Owner.CONTAINER, netns=space, ports=ports)


@asynccontextmanager
async def web_server(space: Netns) -> AsyncIterator[None]:
    """Something in the container that says hello on port 80, in both families."""

    def listen() -> socket.socket:
        return socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)

    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"hello {writer.get_extra_info('peername')[0]}".encode())
        writer.close()

    listener = await netns.inside(space, listen)
    async with await asyncio.start_server(hello, sock=listener):
        yield


async def fetch(host: str, port: int = 8080) -> str:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(host, port)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer.decode()


async def until(condition: Callable[[], bool]) -> float:
    """Wait for a condition; returns how long that took, in seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 5, "the condition did not come to hold in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_a_whole_life_leaves_nothing(tmp_path: Path, sh: Shell) -> None:
    async with daemon(tmp_path) as one:
        front = await one.engine.create_network(NetworkRequest(name="front", ipv6=True))
        await one.engine.create_network(NetworkRequest(name="back", internal=True))
        assert sh("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding").split() == ["1", "1"]
        sandbox = await container(one, "web", WEB)
        _, (end,) = await one.engine.attach(sandbox, [Want(network="front")])
        async with web_server(sandbox.netns):
            gateway4, gateway6 = front.gateways(4)[0], front.gateways(6)[0]
            assert await fetch("127.0.0.1") == f"hello ::ffff:{gateway4}"
            assert await fetch("::1") == f"hello {gateway6}"
            assert await fetch(str(end.addresses[0].ip), 80) == f"hello ::ffff:{gateway4}"
            second = await one.engine.connect(sandbox.id, Want(network="back"))
            assert second.ifname == "eth1"
            await one.engine.disconnect(sandbox.id, "front")
            with pytest.raises(ConnectionResetError):
                await fetch("127.0.0.1")
            await one.engine.connect(sandbox.id, Want(network="front"))
            assert (await fetch("127.0.0.1")).startswith("hello")
        await one.engine.detach(sandbox.id)
        with pytest.raises(ConnectionRefusedError):
            await fetch("127.0.0.1")
        await one.kernel.netns_delete(sandbox.netns)
        await one.engine.remove_network("front")
        await one.engine.remove_network("back")
        assert sh("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding").split() == ["0", "0"]


async def test_a_restart_writes_nothing_and_repairs_what_was_damaged_meanwhile(
    tmp_path: Path, sh: Shell
) -> None:
    async with daemon(tmp_path) as one:
        front = await one.engine.create_network(NetworkRequest(name="front", ipv6=True))
        await one.engine.create_network(NetworkRequest(name="back", icc=False, gateway_mode="routed"))
        sandbox = await container(one, "web", WEB)
        _, ends = await one.engine.attach(sandbox, [Want(network="front"), Want(network="back")])
    async with daemon(tmp_path) as two:
        await until(lambda: not two.engine._reconciler.busy)
        assert two.kernel.writes == 0
        async with web_server(sandbox.netns):
            assert (await fetch("127.0.0.1")).startswith("hello")
    sh(f"ip link del {host_ifname(ends[0])}; ip addr flush dev {bridge_name(front)}; nft flush ruleset")
    async with daemon(tmp_path) as three:
        async with web_server(sandbox.netns):
            assert (await fetch("127.0.0.1")).startswith("hello")
            assert (await fetch("::1")).startswith("hello")
        await three.engine.detach(sandbox.id)
        await three.kernel.netns_delete(sandbox.netns)
        await three.engine.prune_networks()


async def test_damage_is_repaired_while_it_runs(tmp_path: Path, sh: Shell) -> None:
    async with daemon(tmp_path) as one:
        front = await one.engine.create_network(NetworkRequest(name="front", ipv6=True))
        sandbox = await container(one, "web", WEB)
        _, (end,) = await one.engine.attach(sandbox, [Want(network="front")])
        await until(lambda: not one.engine._reconciler.busy)
        bridge, veth = bridge_name(front), host_ifname(end)
        with one.events.subscribe() as watcher:
            for damage, mended in (
                ("nft flush ruleset", lambda: "8080" in sh("nft list table inet netd || true")),
                (f"ip link set {veth} nomaster", lambda: f"master {bridge}" in sh(f"ip link show {veth}")),
                (f"ip link set {bridge} mtu 1400", lambda: "mtu 1500" in sh(f"ip link show {bridge}")),
                (f"ip link set {bridge} down", lambda: "state UP" in sh(f"ip link show {bridge}")),
                (
                    f"ip addr flush dev {bridge}",
                    lambda: str(front.gateways(6)[0]) in sh(f"ip addr show {bridge}"),
                ),
                (f"ip link del {veth}", lambda: f"master {bridge}" in sh(f"ip link show {veth} || true")),
                (f"ip link del {bridge}", lambda: f"master {bridge}" in sh(f"ip link show {veth} || true")),
            ):
                sh(damage)
                await until(mended)
                await until(lambda: not one.engine._reconciler.busy)
                async with web_server(sandbox.netns):
                    assert (await fetch(str(end.addresses[0].ip), 80)).startswith("hello"), damage
                    assert (await fetch("::1")).startswith("hello"), damage
            told = [event.name for event in watcher._unread if event.type == "repair"]
        assert any(bridge in each for each in told)
        await one.engine.detach(sandbox.id)
        await one.kernel.netns_delete(sandbox.netns)
        await one.engine.remove_network("front")


async def test_the_hosts_own_switches_come_back_as_they_were(tmp_path: Path, sh: Shell) -> None:
    """Forwarding drops learned default routes and softens `accept_redirects`: not with netd."""
    sh("ip link add lan0 type veth peer lan1; ip link set lan0 up; ip link set lan1 up")
    sh("ip addr add 2001:db8::2/64 dev lan0; sysctl -qw net.ipv6.conf.lan0.accept_ra=1")
    sh("sysctl -qw net.ipv4.conf.all.accept_redirects=0")
    names = "net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv4.conf.all.accept_redirects"
    names += " net.ipv6.conf.lan0.accept_ra net.ipv6.conf.lan1.accept_ra"

    def values() -> list[str]:
        return sh(f"sysctl -n {names}").split()

    sh("sysctl -qw net.ipv6.conf.lan1.accept_ra=0")
    before = values()
    async with daemon(tmp_path) as one:
        await one.engine.create_network(NetworkRequest(name="four"))
        await one.engine.create_network(NetworkRequest(name="six", ipv6=True))
        assert values() == ["1", "1", "0", "2", "0"]
        assert sh("nft list set inet netd closed").count("ipv") >= 2
        await one.engine.remove_network("six")
        assert values() == ["1", "0", "0", "1", "0"]
    async with daemon(tmp_path) as two:
        await two.engine.remove_network("four")
        assert values() == before == ["0", "0", "0", "1", "0"]
    sh("ip link del lan0; sysctl -qw net.ipv4.conf.all.accept_redirects=1")


async def test_turning_forwarding_on_is_no_damage_to_internal_networks(tmp_path: Path, sh: Shell) -> None:
    """The kernel turns it on for each interface, those of internal networks included."""
    async with daemon(tmp_path) as one:
        inner = await one.engine.create_network(NetworkRequest(name="inner", ipv6=True, internal=True))
        with one.events.subscribe() as watcher:
            others = [NetworkRequest(name=f"n{n}", ipv6=True, internal=n % 2 == 1) for n in range(6)]
            networks = await asyncio.gather(*map(one.engine.create_network, others))
            for network in (inner, *networks):
                for family in ("ipv4", "ipv6"):
                    value = sh(f"sysctl -n net.{family}.conf.{bridge_name(network)}.forwarding").strip()
                    assert value == ("0" if network.internal else "1"), (network.name, family)
            one.engine.damaged()
            await until(lambda: not one.engine._reconciler.busy)
            assert [event.name for event in watcher._unread if event.type == "repair"] == []
        await one.engine.prune_networks()
