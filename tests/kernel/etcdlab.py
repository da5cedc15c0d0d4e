"""A real etcd of one or three members on the test's own host, and members of paper that use it.

The members of etcd sit at 127.0.1.1, .2 and .3, so that one can be cut off or killed alone. Everything is
started from the test's thread and so in its network namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from netd.cluster.etcd import Etcd, Target
from netd.cluster.membership import EtcdCluster
from netd.errors import NetdError
from netd.model import Endpoint, Network, Node, RemoteEndpoint
from netd.store.base import Attached
from netd.store.sqlite import SqliteStore
from netd.view import View
from tests.descriptors import descriptors
from tests.unit.cluster.sample import SANDBOX

TTL = 2
"""Seconds: the least that an etcd with the timing below grants."""

needs_etcd = pytest.mark.skipif(not shutil.which("etcd"), reason="needs etcd-server")


class Server:
    """The members, by number from 1."""

    def __init__(self, directory: Path, members: int = 1, tls: Sequence[str] = ()) -> None:
        self._directory = directory
        self._tls = tls
        self._scheme = "https" if tls else "http"
        self._numbers = range(1, members + 1)
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(f"127.0.1.{number}:2379" for number in self._numbers)

    def start(self, number: int) -> None:
        client, peer = f"{self._scheme}://127.0.1.{number}:2379", f"http://127.0.1.{number}:2380"
        everybody = ",".join(f"m{n}=http://127.0.1.{n}:2380" for n in self._numbers)
        flags = {
            "name": f"m{number}",
            "data-dir": str(self._directory / f"etcd-{number}"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": everybody,
            "heartbeat-interval": "50",
            "election-timeout": "500",
            "logger": "zap",
            "log-level": "error",
        }
        # The parent of this process is the thread of the test, which lives as long as the test does.
        argv = ["setpriv", "--pdeathsig", "KILL", "etcd"]
        argv += [*(f"--{key}={value}" for key, value in flags.items()), *self._tls]
        with (self._directory / f"etcd-{number}.log").open("ab") as log:
            self._running[number] = subprocess.Popen(argv, stdout=log, stderr=log)

    def kill(self, number: int) -> None:
        process = self._running.pop(number)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for number in list(self._running):
            self.kill(number)

    def ctl(self, *arguments: str, number: int = 1) -> str:
        """etcdctl at one member."""
        return subprocess.run(
            ["etcdctl", f"--endpoints=127.0.1.{number}:2379", *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env={**os.environ, "ETCDCTL_API": "3"},
        ).stdout

    def leader(self) -> int:
        """The number of the member that leads."""
        for number in self._running:
            if self.ctl("endpoint", "status", number=number).split(", ")[4] == "true":
                return number
        raise AssertionError("no member leads")


@asynccontextmanager
async def etcd(directory: Path, members: int = 1) -> AsyncIterator[Server]:
    """A running etcd that has a leader."""
    server = Server(directory, members)
    before = _descriptors()
    try:
        for number in range(1, members + 1):
            server.start(number)
        client = Etcd(Target(endpoints=server.endpoints))
        try:
            await eventually("etcd answers", lambda: _answers(client))
        finally:
            await client.close()
        yield server
    finally:
        server.stop()
        gc.collect()  # channels in the frames of exceptions; gRPC closes its own when the last one is gone
        with contextlib.suppress(AssertionError):  # the census says it better
            await eventually("gRPC lets go", lambda: _descriptors() <= before, 3.0)


def _descriptors() -> int:
    return len(descriptors())


@contextlib.contextmanager
def cut_off(*addresses: str) -> Iterator[None]:
    """Nothing that is sent to these members arrives, and nothing says so."""
    rules = "add table ip cut; add chain ip cut in { type filter hook input priority 0; }; "
    rules += "; ".join(f"add rule ip cut in ip daddr {address} tcp dport 2379 drop" for address in addresses)
    subprocess.run(["nft", rules], check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "ip", "cut"], check=True)


async def _answers(client: Etcd) -> bool:
    try:
        await client.get(b"/")
    except NetdError:
        return False
    return True


async def eventually(what: str, condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The first true value of `condition`, which may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.01)


@dataclass
class Paper:
    """A `Member` that keeps what it is told. `refuses` are networks that it cannot adopt, by name."""

    view: View = field(default_factory=View)
    nodes: dict[str, Node] = field(default_factory=dict)
    remotes: dict[str, RemoteEndpoint] = field(default_factory=dict)
    refuses: dict[str, NetdError] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    async def adopt_network(self, network: Network) -> None:
        self.told.append(f"adopt {network.name}")
        if network.name in self.refuses:
            raise self.refuses[network.name]
        self.view = self.view.with_network(network)

    async def drop_network(self, network_id: str) -> None:
        self.told.append(f"drop {network_id[:4]}")
        if network_id in self.view.networks:
            self.view = self.view.without_network(network_id)

    async def set_node(self, node: Node) -> None:
        self.told.append(f"node {node.name} {node.address}")
        self.nodes[node.name] = node

    async def drop_node(self, name: str) -> None:
        self.told.append(f"no node {name}")
        self.nodes.pop(name, None)

    async def set_remote(self, remote: RemoteEndpoint) -> None:
        self.told.append(f"remote {remote.name} {remote.node}")
        assert remote.node in self.nodes
        self.remotes[remote.id] = remote

    async def drop_remote(self, network_id: str, id: str) -> None:
        self.told.append(f"no remote {id[:4]}")
        self.remotes.pop(id, None)

    async def sync_cluster(
        self, networks: Collection[Network], nodes: Collection[Node], remotes: Collection[RemoteEndpoint]
    ) -> None:
        self.told.append(f"sync {len(networks)} {len(nodes)} {len(remotes)}")
        there = {network.id for network in networks}
        for gone in [id for id in self.view.networks if id not in there]:
            self.view = self.view.without_network(gone)
        for network in networks:
            if network.name not in self.refuses:
                self.view = self.view.with_network(network)
        self.nodes = {node.name: node for node in nodes}
        self.remotes = {remote.id: remote for remote in remotes}

    def attach(self, endpoint: Endpoint, name: str = "web") -> None:
        """A sandbox of its own for the endpoint, in the view."""
        sandbox = replace(SANDBOX, id=endpoint.id * 2, name=name)
        one = replace(endpoint, sandbox=sandbox.id)
        self.view = self.view.with_sandbox(sandbox.id, Attached(sandbox, (one,)))

    def detach(self, endpoint: Endpoint) -> None:
        self.view = self.view.with_sandbox(endpoint.id * 2, None)


class Host:
    """One node: a store that outlives its daemons, and the daemon's part in the cluster."""

    def __init__(
        self, directory: Path, server: Server, name: str, number: int, grace: float = 3600.0
    ) -> None:
        self.name = name
        self.grace = grace
        self.address = ip_address(f"192.0.2.{number}")
        self.member = Paper()
        self.clock = time.monotonic
        self._server = server
        for part in ("state", "run"):
            (directory / name / part).mkdir(parents=True, exist_ok=True)
        self.store = SqliteStore(directory / name / "state", directory / name / "run", boot_id="boot")

    async def start(self) -> None:
        await self.store.open()
        self.cluster = EtcdCluster(
            Target(endpoints=self._server.endpoints),
            Node(name=self.name, address=self.address),
            self.store,
            ttl=TTL,
            grace=self.grace,
            clock=lambda: self.clock(),
        )
        await self.cluster.start(self.member)

    async def stop(self) -> None:
        await self.cluster.close()

    async def connected(self) -> None:
        await eventually(f"{self.name} is connected", lambda: self.cluster.status().connected)

    async def publish(self, endpoint: Endpoint, name: str = "web") -> None:
        self.member.attach(endpoint, name)
        sandbox = self.member.view.sandboxes[endpoint.id * 2]
        await self.cluster.publish(sandbox, [self.member.view.endpoints[endpoint.id]])

    async def withdraw(self, endpoint: Endpoint) -> None:
        self.member.detach(endpoint)
        await self.cluster.withdraw([endpoint])


@asynccontextmanager
async def hosts(
    directory: Path, server: Server, *names: str, grace: float = 3600.0
) -> AsyncIterator[list[Host]]:
    """Connected nodes."""
    made = [Host(directory, server, name, n, grace) for n, name in enumerate(names, 1)]
    try:
        for host in made:
            await host.start()
        for host in made:
            await host.connected()
        yield made
    finally:
        for host in made:
            await host.stop()
            await host.store.close()
