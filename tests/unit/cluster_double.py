"""A cluster of paper: it agrees to everything, and tells a member what a test wants it to hear."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, ip_address, ip_interface, ip_network

from netd.cluster.ports import Holdings, Member, NodeStatus, Status
from netd.errors import AlreadyExists, NetdError
from netd.model import Endpoint, IPAddress, IPNetwork, Network, Node, RemoteEndpoint, Sandbox, Scope, Subnet

OURS = Node(name="h1", address=ip_address("192.0.2.1"))
OTHER = Node(name="h2", address=ip_address("192.0.2.2"))
THIRD = Node(name="h3", address=ip_address("192.0.2.3"))


@dataclass
class PaperCluster:
    """A `Cluster`. `told_first` is what it says at start, of the time before; `refusal` what it answers
    the next time it has to agree to something."""

    node: Node = OURS
    told_first: tuple[Collection[Network], Collection[Node], Collection[RemoteEndpoint]] = ((), (), ())
    networks: dict[str, Network] = field(default_factory=dict)
    blocks: dict[str, list[IPNetwork]] = field(default_factory=dict)
    singles: set[IPAddress] = field(default_factory=set)
    published: dict[str, tuple[Sandbox, Endpoint]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    refusal: NetdError | None = None

    async def start(self, member: Member) -> None:
        self.member = member
        await member.sync_cluster(*self.told_first)

    async def close(self) -> None:
        self.said.append("close")

    def _agree(self) -> None:
        refusal, self.refusal = self.refusal, None
        if refusal:
            raise refusal

    async def create_network(self, network: Network) -> Network:
        self._agree()
        agreed = replace(network, scope=Scope.CLUSTER, vni=4096 + len(self.networks))
        self.networks[network.id] = agreed
        return agreed

    async def remove_network(self, network: Network) -> None:
        self._agree()
        self.networks.pop(network.id, None)

    def holdings(self, network_id: str) -> Holdings:
        return Holdings(tuple(self.blocks.get(network_id, ())), frozenset(self.singles))

    async def grow(self, network: Network, family: int, wanted: IPAddress | None) -> None:
        self.said.append(f"grow {network.name} {family} {wanted}")
        self._agree()
        if wanted is not None:
            if int(wanted) % 256 >= 128:
                raise AlreadyExists(f"address {wanted} belongs to node 'h2'")
            self.singles.add(wanted)
            return
        cidr = next(subnet.cidr for subnet in network.subnets if subnet.family == family)
        held = self.blocks.setdefault(network.id, [])
        size = 30 if isinstance(cidr, IPv4Network) else 126
        held.append(next(block for block in cidr.subnets(new_prefix=size) if block not in held))

    async def publish(self, sandbox: Sandbox, endpoints: Collection[Endpoint]) -> None:
        self.said.append(f"publish {sandbox.name}")
        self.published.update({endpoint.id: (sandbox, endpoint) for endpoint in endpoints})

    async def withdraw(self, endpoints: Collection[Endpoint]) -> None:
        self.said.append("withdraw")
        for endpoint in endpoints:
            self.published.pop(endpoint.id, None)

    def identify(self, key: str) -> None:
        self.node = replace(self.node, wireguard_key=key)

    async def tell_identity(self) -> None:
        self.said.append("identity")

    async def move(self, address: IPAddress) -> None:
        self.node = replace(self.node, address=address)

    async def place(self, segment: IPNetwork | None, mac: str) -> None:
        self.node = replace(self.node, segment=segment, mac=mac)

    async def drain(self, name: str, draining: bool) -> None:
        self.node = replace(self.node, draining=draining)

    def nodes(self) -> tuple[NodeStatus, ...]:
        return ()

    def status(self) -> Status:
        return Status(connected=True)


def fabric(**more: object) -> Network:
    """A network of the cluster as its record says."""
    cidrs = map(ip_network, ("10.5.0.0/24", "fd05::/64"))
    fields: dict[str, object] = {
        "id": "fabric-id",
        "name": "fabric",
        "driver": "overlay",
        "subnets": tuple(Subnet(cidr=cidr, gateway=cidr[1]) for cidr in cidrs),
        "mtu": 0,
        "scope": Scope.CLUSTER,
        "vni": 4099,
    }
    return Network(**{**fields, **more})  # type: ignore[arg-type]


def remote(name: str = "db", number: int = 9, node: str = "h2", **more: object) -> RemoteEndpoint:
    """An endpoint of `fabric` on another node."""
    fields: dict[str, object] = {
        "id": f"ep-{name}",
        "network": "fabric-id",
        "node": node,
        "sandbox": f"c-{name}",
        "name": name,
        "mac": f"02:42:0a:05:00:{number:02x}",
        "addresses": (ip_interface(f"10.5.0.{number}/24"), ip_interface(f"fd05::{number}/64")),
    }
    return RemoteEndpoint(**{**fields, **more})  # type: ignore[arg-type]
