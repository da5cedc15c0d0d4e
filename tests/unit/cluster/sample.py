"""A network, nodes and endpoints that fit together, as records; what each test bends."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

from netd.cluster import records
from netd.cluster.directory import Raw
from netd.model import Endpoint, IPNetwork, Netns, Network, Node, Owner, Sandbox, Scope, Subnet

NETWORK = Network(
    id="a1" * 16,
    name="fabric",
    driver="overlay",
    subnets=(
        Subnet(cidr=ip_network("10.1.0.0/16"), gateway=ip_address("10.1.0.1")),
        Subnet(cidr=ip_network("fd01::/64"), gateway=ip_address("fd01::1")),
    ),
    mtu=0,
    scope=Scope.CLUSTER,
    vni=4711,
)
BLOCK, BLOCK6 = ip_network("10.1.0.64/26"), ip_network("fd01::/80")
A = Node(name="a", address=ip_address("192.0.2.1"), capabilities=("vxlan",))
B = Node(name="b", address=ip_address("192.0.2.2"), capabilities=("vxlan",))
SANDBOX = Sandbox(
    id="5a" * 32, name="web", owner=Owner.CONTAINER, netns=Netns(label="web", path="/x", device=1, inode=2)
)


def endpoint(id: str = "e1" * 16, *addresses: str, network: Network = NETWORK, mac: str = "") -> Endpoint:
    return Endpoint(
        id=id,
        network=network.id,
        sandbox=SANDBOX.id,
        ifname="eth0",
        mac=mac or f"02:00:00:00:00:{id[:2]}",
        addresses=tuple(ip_interface(text) for text in addresses or ("10.1.0.70/16", "fd01::70/64")),
    )


def a_network(network: Network = NETWORK) -> tuple[bytes, bytes]:
    return records.network_key(network.id), records.encode(records.of_network(network))


def a_node(node: Node) -> tuple[bytes, bytes]:
    return records.node_key(node.name), records.encode(records.of_node(node, f"host-{node.name}"))


def a_block(node: str, block: IPNetwork = BLOCK) -> tuple[bytes, bytes]:
    return records.block_key(NETWORK.id, block), records.encode(records.OwnerRecord(node=node))


def a_single(node: str, address: str, block: IPNetwork = BLOCK) -> tuple[bytes, bytes]:
    key = records.single_key(NETWORK.id, block, ip_address(address))
    return key, records.encode(records.OwnerRecord(node=node))


def an_endpoint(
    node: str, endpoint: Endpoint, name: str = "web", since: int = 0, sandbox: Sandbox = SANDBOX
) -> tuple[bytes, bytes]:
    record = records.of_endpoint(node, replace(sandbox, name=name), endpoint, since)
    return records.endpoint_key(endpoint.network, endpoint.id), records.encode(record)


def raw(value: bytes, revision: int = 1) -> Raw:
    return Raw(value, revision, revision)
