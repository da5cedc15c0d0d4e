"""`netd daemon` as a node of a cluster that is a directory: what etcd does in earnest, for a few hosts.

    fabric_daemon.py DIRECTORY NUMBER NAME ADDRESS [WIREGUARD_GO]

Each record is a file. Whoever makes one that must be the only one makes it with O_EXCL; everybody looks
at all of them fifty times a second and tells the daemon what differs from the last time. There are no
leases: a test that wants a node dead removes its records. The directory is how it was found at start,
so a daemon never begins without what it knew.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from netd import app, logs, settings, tasks
from netd.cluster.ports import Holdings, Member, NodeStatus, Status
from netd.errors import AlreadyExists, InUse, NetdError
from netd.model import Endpoint, IPAddress, IPNetwork, Network, Node, RemoteEndpoint, Sandbox, Scope
from netd.store import codec

T = TypeVar("T", Network, Node, RemoteEndpoint)
BLOCK = {4: 28, 6: 124}
MOST = 8
"""How many nodes there can be: number N has the blocks N, N + MOST, ..."""


class Board:
    """The directory, a folder for each kind of record."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for kind in ("network", "node", "endpoint", "single"):
            (directory / kind).mkdir(parents=True, exist_ok=True)

    def put(self, kind: str, key: str, text: str) -> None:
        partial = self._directory / f"{kind}.{key}.{os.getpid()}"
        partial.write_text(text)
        partial.rename(self._directory / kind / key)

    def claim(self, kind: str, key: str, text: str) -> str | None:
        """Make a record unless there is one; the one there is."""
        path = self._directory / kind / key
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return path.read_text()
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        return None

    def remove(self, kind: str, key: str) -> None:
        (self._directory / kind / key).unlink(missing_ok=True)

    def all(self, kind: str, type: type[T]) -> dict[str, T]:
        found: dict[str, T] = {}
        for path in sorted((self._directory / kind).iterdir()):
            try:
                found[path.name] = codec.decode(path.read_text(), type)
            except FileNotFoundError:
                continue
        return found


class BoardCluster:
    """A `Cluster` (netd.cluster.ports)."""

    def __init__(self, board: Board, number: int, node: Node) -> None:
        self.node = node
        self._board = board
        self._number = number
        self._blocks: dict[str, list[IPNetwork]] = {}
        self._singles: set[IPAddress] = set()
        self._last: tuple[dict[str, Network], dict[str, Node], dict[str, RemoteEndpoint]] = ({}, {}, {})

    def _look(self) -> tuple[dict[str, Network], dict[str, Node], dict[str, RemoteEndpoint]]:
        nodes = self._board.all("node", Node)
        nodes.pop(self.node.name, None)
        remotes = self._board.all("endpoint", RemoteEndpoint)
        return (
            self._board.all("network", Network),
            nodes,
            {key: remote for key, remote in remotes.items() if remote.node in nodes},
        )

    async def start(self, member: Member) -> None:
        self._member = member
        for network_id, endpoint in ((e.network, e) for e in member.view.endpoints.values()):
            self._own(network_id, endpoint)
        self._last = self._look()
        networks, nodes, remotes = self._last
        await member.sync_cluster(networks.values(), nodes.values(), remotes.values())
        self._board.put("node", self.node.name, codec.encode(self.node))
        self._watching = tasks.spawn(self._watch(), name="board")

    def _own(self, network_id: str, endpoint: Endpoint) -> None:
        for interface in endpoint.addresses:
            block = block_of(interface.network, interface.ip)
            if block not in self._blocks.setdefault(network_id, []):
                self._blocks[network_id].append(block)

    async def close(self) -> None:
        self._watching.cancel()
        await asyncio.wait([self._watching])

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            try:
                await self._tell()
            except NetdError as error:
                print(f"board: {error}", file=sys.stderr, flush=True)

    async def _tell(self) -> None:
        now, last = self._look(), self._last
        self._last = now
        for key, remote in last[2].items():
            if key not in now[2]:
                await self._member.drop_remote(remote.network, remote.id)
        for name in last[1].keys() - now[1].keys():
            await self._member.drop_node(name)
        for id, network in now[0].items():
            if last[0].get(id) != network:
                await self._member.adopt_network(network)
        for name, node in now[1].items():
            if last[1].get(name) != node:
                await self._member.set_node(node)
        for key, remote in now[2].items():
            if last[2].get(key) != remote:
                await self._member.set_remote(remote)
        for id in last[0].keys() - now[0].keys():
            await self._member.drop_network(id)

    async def create_network(self, network: Network) -> Network:
        if any(other.name == network.name for other in self._board.all("network", Network).values()):
            raise AlreadyExists(f"network {network.name!r} exists in the cluster")
        agreed = replace(network, scope=Scope.CLUSTER, vni=4096 + int(network.id[:4], 16))
        self._board.put("network", network.id, codec.encode(agreed))
        return agreed

    async def remove_network(self, network: Network) -> None:
        for remote in self._board.all("endpoint", RemoteEndpoint).values():
            if remote.network == network.id:
                raise InUse(f"network {network.name!r} is in use by {remote.name!r} on node {remote.node!r}")
        self._board.remove("network", network.id)

    def holdings(self, network_id: str) -> Holdings:
        return Holdings(tuple(self._blocks.get(network_id, ())), frozenset(self._singles))

    async def grow(self, network: Network, family: int, wanted: IPAddress | None) -> None:
        if wanted is not None:
            holder = self._board.claim("single", str(wanted), self.node.name)
            if holder not in (None, self.node.name):
                raise AlreadyExists(f"address {wanted} belongs to node {holder!r}")
            self._singles.add(wanted)
            return
        cidr = next(subnet.cidr for subnet in network.subnets if subnet.family == family)
        held = self._blocks.setdefault(network.id, [])
        for turn in range(self._number, 1 << 8, MOST):
            block = block_of(cidr, cidr[turn * (1 << (cidr.max_prefixlen - BLOCK[family]))])
            if block not in held:
                held.append(block)
                return

    async def publish(self, sandbox: Sandbox, endpoints: Collection[Endpoint]) -> None:
        for endpoint in endpoints:
            remote = RemoteEndpoint(
                id=endpoint.id,
                network=endpoint.network,
                node=self.node.name,
                sandbox=sandbox.id,
                name=sandbox.name,
                hostname=sandbox.hostname,
                aliases=endpoint.aliases,
                mac=endpoint.mac,
                addresses=endpoint.addresses,
            )
            self._board.put("endpoint", endpoint.id, codec.encode(remote))

    async def withdraw(self, endpoints: Collection[Endpoint]) -> None:
        for endpoint in endpoints:
            self._board.remove("endpoint", endpoint.id)
            for interface in endpoint.addresses:
                if interface.ip in self._singles:
                    self._singles.discard(interface.ip)
                    self._board.remove("single", str(interface.ip))

    def identify(self, key: str) -> None:
        self.node = replace(self.node, wireguard_key=key)

    async def tell_identity(self) -> None:
        self._board.put("node", self.node.name, codec.encode(self.node))

    async def move(self, address: IPAddress) -> None:
        raise NotImplementedError

    async def place(self, segment: IPNetwork | None, mac: str) -> None:
        self.node = replace(self.node, segment=segment, mac=mac)
        self._board.put("node", self.node.name, codec.encode(self.node))

    async def drain(self, name: str, draining: bool) -> None:
        raise NotImplementedError

    def nodes(self) -> tuple[NodeStatus, ...]:
        return ()

    def status(self) -> Status:
        return Status(connected=True)


def block_of(cidr: IPNetwork, address: IPAddress) -> IPNetwork:
    """The block that `address` lies in."""
    return type(cidr)((int(address), BLOCK[cidr.version]), strict=False)


def main(directory: str, number: str, name: str, address: str, wireguard_go: str = "") -> None:
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    loaded = settings.load(None, {"wireguard_go": wireguard_go})
    logs.configure(loaded.log_format, loaded.log_level)
    cluster = BoardCluster(Board(Path(directory)), int(number), Node(name=name, address=ip_address(address)))
    asyncio.run(app.serve(loaded, lambda given: replace(app.of_this_host(given), cluster=cluster)))


if __name__ == "__main__":
    main(*sys.argv[1:])
