"""What lies in etcd, key by key, and how little of it is believed.

::

    /netd/v1/networks/NETWORK                 a network; its subnets, name and VNI are its own
    /netd/v1/nodes/NAME                       a node that is alive (hangs on its lease)
    /netd/v1/draining/NAME                    a node that shall take no more containers
    /netd/v1/blocks/NETWORK/BLOCK             which node hands out the addresses of a block
    /netd/v1/singles/NETWORK/BLOCK/ADDRESS    which node has one address, whoever has the block; "" nobody
    /netd/v1/endpoints/NETWORK/ENDPOINT       an endpoint (hangs on its node's lease)

NETWORK and ENDPOINT are ids, BLOCK is a subnet with '-' for '/'. Values are JSON, written by any node
that has a certificate, so by nobody in particular: what is read is checked like a stranger's request.
Sizes are limited, unknown keys refused, names are those that netd would take itself, and what an entry
claims must follow from what others vouch for: an address lies in its network's subnets and in a block
of its node's. An entry that fails raises `Invalid` here and is set aside by whoever reads; it never
stops the others. A change of these forms gets another prefix than v1, and a node reads the ones it knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from contextlib import suppress
from ipaddress import ip_address, ip_interface, ip_network
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from netd import keys, names
from netd.drivers import driver
from netd.errors import Invalid, Unsupported
from netd.model import (
    WIREGUARD_PORT,
    Endpoint,
    GatewayMode,
    IPAddress,
    IPInterface,
    IPNetwork,
    Network,
    Node,
    Proto,
    RemoteEndpoint,
    Sandbox,
    Scope,
    Subnet,
)

T = TypeVar("T")
V = TypeVar("V")

ROOT = "/netd/v1/"
NETWORKS, NODES, DRAINING = f"{ROOT}networks/", f"{ROOT}nodes/", f"{ROOT}draining/"
BLOCKS, SINGLES, ENDPOINTS = f"{ROOT}blocks/", f"{ROOT}singles/", f"{ROOT}endpoints/"

LARGEST = 64 * 1024
"""Bytes of one value."""
LARGEST_VNI = (1 << 24) - 1
DRIVER = "overlay"

_ID = re.compile(r"[0-9a-f]{32}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,251}[a-zA-Z0-9])?")

Short = Annotated[str, Meta(max_length=255)]
Text = Annotated[str, Meta(max_length=4096)]
Labels = Annotated[dict[Short, Text], Meta(max_length=64)]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class SubnetRecord(_Strict, frozen=True, kw_only=True):
    """A `model.Subnet`."""

    cidr: Short
    gateway: Short
    range: Short = ""
    reserved: Labels = {}


class NetworkRecord(_Strict, frozen=True, kw_only=True):
    """A `model.Network`, less what is each host's own: its MTU there."""

    name: Short
    vni: Annotated[int, Meta(ge=1, le=LARGEST_VNI)]
    subnets: Annotated[list[SubnetRecord], Meta(min_length=1, max_length=16)]
    mtu_limit: Annotated[int, Meta(ge=0, le=65535)] = 0
    internal: bool = False
    icc: bool = True
    gateway_mode: Short = "nat"
    dns: Annotated[list[Short], Meta(max_length=16)] = []
    labels: Labels = {}
    options: Labels = {}
    created: float = 0.0


class NodeRecord(_Strict, frozen=True, kw_only=True):
    """A `model.Node`. `instance` tells a host that came back from another one with the same name.

    The usual `wireguard_port` is 0 here, and so is not written: nodes of before would refuse the word.
    """

    instance: Short
    address: Short
    labels: Labels = {}
    capabilities: Annotated[list[Short], Meta(max_length=32)] = []
    segment: Short = ""
    mac: Short = ""
    wireguard_key: Short = ""
    wireguard_port: Annotated[int, Meta(ge=0, le=65535)] = 0


class OwnerRecord(_Strict, frozen=True, kw_only=True):
    """Who has a block or a single address."""

    node: Short = ""


class DrainingRecord(_Strict, frozen=True, kw_only=True):
    """Nothing but its being there matters."""


class EndpointRecord(_Strict, frozen=True, kw_only=True):
    """A `model.RemoteEndpoint`. `since` is the cluster's revision when it was first made known: of two
    that claim one name or address the later one is right."""

    node: Short
    sandbox: Short
    name: Short
    mac: Short
    addresses: Annotated[list[Short], Meta(min_length=1, max_length=8)]
    since: Annotated[int, Meta(ge=0)] = 0
    hostname: Short = ""
    aliases: Annotated[list[Short], Meta(max_length=64)] = []
    services: Annotated[list[tuple[Proto, Annotated[int, Meta(ge=1, le=65535)]]], Meta(max_length=256)] = []


# --- keys ---------------------------------------------------------------------------------------------


def network_key(id: str) -> bytes:
    """Where a network is."""
    return f"{NETWORKS}{id}".encode()


def node_key(name: str) -> bytes:
    """Where a node is."""
    return f"{NODES}{name}".encode()


def draining_key(name: str) -> bytes:
    """What is there while a node is being drained."""
    return f"{DRAINING}{name}".encode()


def block_key(network_id: str, block: IPNetwork) -> bytes:
    """Where it says whose a block is."""
    return f"{BLOCKS}{network_id}/{_block(block)}".encode()


def singles_prefix(network_id: str, block: IPNetwork) -> bytes:
    """What the keys of all single addresses of a block begin with."""
    return f"{SINGLES}{network_id}/{_block(block)}/".encode()


def single_key(network_id: str, block: IPNetwork, address: IPAddress) -> bytes:
    """Where it says who claimed one address of a block."""
    return singles_prefix(network_id, block) + str(address).encode()


def endpoint_key(network_id: str, id: str) -> bytes:
    """Where an endpoint is."""
    return f"{ENDPOINTS}{network_id}/{id}".encode()


def _block(block: IPNetwork) -> str:
    return str(block).replace("/", "-")


def parts(key: bytes) -> tuple[str, ...]:
    """What kind of key it is, and its variable parts: ("endpoints", NETWORK, ENDPOINT). Raises `Invalid`."""
    if len(key) > 512:
        raise Invalid(f"its key has {len(key)} bytes")
    try:
        text = key.decode("ascii")
    except UnicodeDecodeError:
        raise Invalid("its key is not ASCII") from None
    found = tuple(text.removeprefix(ROOT).split("/"))
    if not text.startswith(ROOT) or len(found) != _PARTS.get(found[0], 0):
        raise Invalid("there is no such kind of key")
    if found[0] in ("nodes", "draining"):
        names.check_name("node", found[1])
    elif not all(_ID.fullmatch(id) for id in (found[1:] if found[0] == "endpoints" else found[1:2])):
        raise Invalid("its key holds something else than an id")
    return found


_PARTS = {"networks": 2, "nodes": 2, "draining": 2, "blocks": 3, "singles": 4, "endpoints": 3}


# --- writing ------------------------------------------------------------------------------------------


def encode(record: _Strict) -> bytes:
    """A record as it lies in etcd; the same bytes for the same content."""
    return msgspec.json.encode(record, order="deterministic")


def of_network(network: Network) -> NetworkRecord:
    """What the cluster remembers of a network."""
    return NetworkRecord(
        name=network.name,
        vni=network.vni,
        subnets=[
            SubnetRecord(
                cidr=str(subnet.cidr),
                gateway=str(subnet.gateway),
                range=str(subnet.range or ""),
                reserved={label: str(address) for label, address in subnet.reserved.items()},
            )
            for subnet in network.subnets
        ],
        mtu_limit=network.mtu_limit,
        internal=network.internal,
        icc=network.icc,
        gateway_mode=network.gateway_mode.value,
        dns=[str(address) for address in network.dns],
        labels=dict(network.labels),
        options=dict(network.options),
        created=network.created,
    )


def of_node(node: Node, instance: str) -> NodeRecord:
    """What the cluster remembers of a node, which is the host with the mark `instance`."""
    return NodeRecord(
        instance=instance,
        address=str(node.address),
        labels=dict(node.labels),
        capabilities=list(node.capabilities),
        segment=str(node.segment or ""),
        mac=node.mac,
        wireguard_key=node.wireguard_key,
        wireguard_port=node.wireguard_port if node.wireguard_port != WIREGUARD_PORT else 0,
    )


def of_endpoint(node: str, sandbox: Sandbox, endpoint: Endpoint, since: int) -> EndpointRecord:
    """What the cluster remembers of an endpoint on `node`; see `EndpointRecord` for `since`."""
    published = [(port.proto, port.container_port) for port in sandbox.ports]
    return EndpointRecord(
        node=node,
        sandbox=sandbox.id,
        name=sandbox.name,
        mac=endpoint.mac,
        addresses=[str(interface) for interface in endpoint.addresses],
        since=since,
        hostname=sandbox.hostname,
        aliases=list(endpoint.aliases),
        services=sorted({*published, *sandbox.exposed})[:256],
    )


# --- reading ------------------------------------------------------------------------------------------


def decode(value: bytes, kind: type[T]) -> T:
    """A record from what lies in etcd. Raises `Invalid`."""
    if len(value) > LARGEST:
        raise Invalid(f"it has {len(value)} bytes, more than {LARGEST}")
    try:
        return msgspec.json.decode(value, type=kind, strict=True)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Invalid(f"it is not a valid record: {error}") from None


def read_network(id: str, value: bytes) -> Network:
    """The network that a record describes; `mtu` is left to the host. Raises `Invalid`."""
    record = decode(value, NetworkRecord)
    names.check_name("network", record.name)
    if record.name in names.NO_NETWORKS:
        raise Invalid(f"no network can be called {record.name!r}")
    if record.gateway_mode not in {mode.value for mode in GatewayMode}:
        raise Invalid(f"there is no gateway mode {record.gateway_mode!r}")
    network = Network(
        id=id,
        name=record.name,
        driver=DRIVER,
        subnets=tuple(_subnet(subnet) for subnet in record.subnets),
        mtu=record.mtu_limit,
        internal=record.internal,
        icc=record.icc,
        gateway_mode=GatewayMode(record.gateway_mode),
        dns=tuple(_parsed(ip_address, text) for text in record.dns),
        labels=record.labels,
        options=record.options,
        created=record.created,
        scope=Scope.CLUSTER,
        vni=record.vni,
        mtu_limit=record.mtu_limit,
    )
    for index, subnet in enumerate(network.subnets):
        for other in network.subnets[:index]:
            if subnet.cidr.overlaps(other.cidr):
                raise Invalid(f"its subnets {other.cidr} and {subnet.cidr} overlap")
    with suppress(Unsupported):  # one that this host cannot make exists nevertheless: adopting it fails
        driver(DRIVER).check(network)
    return network


def _subnet(record: SubnetRecord) -> Subnet:
    cidr = _parsed(ip_network, record.cidr)
    subnet = Subnet(
        cidr=cidr,
        gateway=_parsed(ip_address, record.gateway),
        range=_parsed(ip_network, record.range) if record.range else None,
        reserved={label: _parsed(ip_address, text) for label, text in record.reserved.items()},
    )
    if cidr.is_loopback or cidr.is_multicast or cidr.is_link_local or cidr.prefixlen < 8:
        raise Invalid(f"{cidr} cannot be a subnet")
    if subnet.gateway not in cidr:
        raise Invalid(f"its gateway {subnet.gateway} is outside of {cidr}")
    if subnet.range is not None and (
        subnet.range.version != cidr.version or not subnet.range.subnet_of(cidr)  # type: ignore[arg-type]
    ):
        raise Invalid(f"its range {subnet.range} is outside of {cidr}")
    return subnet


def read_node(name: str, value: bytes) -> tuple[Node, str]:
    """The node that a record describes, and the host's own mark. Raises `Invalid`."""
    record = decode(value, NodeRecord)
    address = _parsed(ip_address, record.address)
    check_underlay(address)
    if record.wireguard_key and not keys.KEY.fullmatch(record.wireguard_key):
        raise Invalid("its WireGuard key is not one")
    if record.mac:
        _check_mac(record.mac)
    node = Node(
        name=name,
        address=address,
        labels=record.labels,
        capabilities=tuple(record.capabilities),
        segment=_parsed(ip_network, record.segment) if record.segment else None,
        mac=record.mac,
        wireguard_key=record.wireguard_key,
        wireguard_port=record.wireguard_port or WIREGUARD_PORT,
    )
    return node, record.instance


def check_underlay(address: IPAddress) -> None:
    """Raise `Invalid` for an address at which no other host can be."""
    if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
        raise Invalid(f"its address {address} is not one that other hosts can reach")


def read_block(text: str) -> IPNetwork:
    """The BLOCK of a key. Raises `Invalid`."""
    block = _parsed(ip_network, text.replace("-", "/", 1))
    if _block(block) != text:
        raise Invalid(f"{text!r} is not how a block is written")
    return block


def read_address(text: str) -> IPAddress:
    """The ADDRESS of a key. Raises `Invalid`."""
    address = _parsed(ip_address, text)
    if str(address) != text:
        raise Invalid(f"{text!r} is not how an address is written")
    return address


def read_owner(value: bytes) -> str:
    """The node named by the record of a block or a single address, "" for nobody. Raises `Invalid`."""
    owner = decode(value, OwnerRecord).node
    return names.check_name("node", owner) if owner else ""


def read_endpoint(network: Network, id: str, value: bytes) -> tuple[RemoteEndpoint, int]:
    """The endpoint that a record describes, and since when it is there. Raises `Invalid`.

    Whether its addresses are its node's to give is for those to say who know the blocks.
    """
    record = decode(value, EndpointRecord)
    names.check_name("node", record.node)
    names.check_name("container", record.name)
    for alias in record.aliases:
        names.check_name("alias", alias.removeprefix("*."))
    if record.hostname and not _HOSTNAME.fullmatch(record.hostname):
        raise Invalid(f"host name {record.hostname!r} is not valid")
    _check_mac(record.mac)
    if record.mac == names.mac_of(network.id):
        raise Invalid(f"MAC address {record.mac} is the gateway's")
    addresses = tuple(_parsed(ip_interface, text) for text in record.addresses)
    for interface in addresses:
        _check_inside(network, interface)
    remote = RemoteEndpoint(
        id=id,
        network=network.id,
        node=record.node,
        sandbox=record.sandbox,
        name=record.name,
        mac=record.mac,
        addresses=addresses,
        hostname=record.hostname,
        aliases=tuple(record.aliases),
        services=tuple(record.services),
    )
    return remote, record.since


def _check_mac(mac: str) -> None:
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise Invalid(f"MAC address {mac!r} is not one of a single host")


def _check_inside(network: Network, interface: IPInterface) -> None:
    for subnet in network.subnets:
        if interface.network == subnet.cidr:
            if interface.ip in (subnet.gateway, *subnet.reserved.values()):
                raise Invalid(f"its address {interface.ip} is the gateway's, or reserved")
            if interface.ip == subnet.cidr.network_address:
                raise Invalid(f"its address {interface.ip} is that of the subnet")
            return
    raise Invalid(f"its address {interface} is in no subnet of network {network.name!r}")


def _parsed(parse: Callable[[str], V], text: str) -> V:
    try:
        return parse(text)
    except ValueError as error:
        raise Invalid(str(error)) from None


def check_overlap(network: Network, others: Collection[Network]) -> Network | None:
    """The first of `others` that has addresses of `network`, if any."""
    for other in others:
        if any(a.cidr.overlaps(b.cidr) for a in network.subnets for b in other.subnets):
            return other
    return None
