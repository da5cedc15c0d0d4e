"""Every value of the model comes back from the store as it went in, or is refused."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from netd.errors import Invalid
from netd.model import (
    Endpoint,
    GatewayMode,
    Netns,
    Network,
    Node,
    Owner,
    PortMapping,
    Proto,
    RemoteEndpoint,
    Sandbox,
    Scope,
    StaticRoute,
    Subnet,
)
from netd.store import codec
from netd.store.base import Attached, Freed, Intent

NETWORK = Network(
    id="ab" * 16,
    name="front",
    driver="bridge",
    subnets=(
        Subnet(
            cidr=ip_network("10.89.0.0/24"),
            gateway=ip_address("10.89.0.1"),
            range=ip_network("10.89.0.128/25"),
            reserved={"router": ip_address("10.89.0.200")},
        ),
        Subnet(cidr=ip_network("fd00::/64"), gateway=ip_address("fd00::1")),
    ),
    mtu=1450,
    internal=True,
    icc=False,
    gateway_mode=GatewayMode.ROUTED,
    dns=(ip_address("9.9.9.9"), ip_address("2620:fe::fe")),
    labels={"tier": "web"},
    options={"bridge.name": "br0"},
    created=1.5,
    scope=Scope.CLUSTER,
    vni=4097,
    mtu_limit=1400,
)
SANDBOX = Sandbox(
    id="cd" * 16,
    name="web",
    owner=Owner.CNI,
    netns=Netns(label="web", path="/run/netns/web", device=4, inode=4026532000, cookie=7),
    hostname="web.example",
    ports=(PortMapping(proto=Proto.UDP, host_ip=ip_address("::1"), host_port=53, container_port=5353),),
    exposed=((Proto.TCP, 80), (Proto.UDP, 81)),
    hosts=(("db", ip_address("10.0.0.9")),),
    dns=(ip_address("1.1.1.1"),),
    labels={"a": "b"},
    sysctls={"net/ipv6/conf/eth1/accept_ra": "2"},
)
ENDPOINT = Endpoint(
    id="ef" * 16,
    network=NETWORK.id,
    sandbox=SANDBOX.id,
    ifname="eth1",
    mac="02:00:00:00:00:01",
    addresses=(ip_interface("10.89.0.2/24"), ip_interface("fd00::2/64")),
    order=1,
    gateway_priority=None,
    aliases=("www",),
    routes=(StaticRoute(destination=ip_network("10.1.0.0/16"), via=ip_address("10.89.0.9")),),
    options={"x": "y"},
    announced=False,
)
NODE = Node(
    name="h1",
    address=ip_address("192.0.2.1"),
    labels={"rack": "3"},
    capabilities=("wireguard",),
    segment=ip_network("192.0.2.0/24"),
    mac="02:00:00:00:00:02",
    wireguard_key="a2V5",
    wireguard_port=4000,
    draining=True,
)
REMOTE = RemoteEndpoint(
    id="12" * 16,
    network=NETWORK.id,
    node=NODE.name,
    sandbox=SANDBOX.id,
    name="web",
    mac="02:00:00:00:00:01",
    addresses=(ip_interface("10.89.0.2/24"),),
    hostname="web.example",
    aliases=("www",),
    services=((Proto.TCP, 80),),
)
INTENT = Intent(before=Attached(SANDBOX), after=Attached(SANDBOX, (ENDPOINT,)))
FREED = Freed(NETWORK.id, ip_address("fd00::7"), 12)


@pytest.mark.parametrize(
    "value", [NETWORK, SANDBOX, ENDPOINT, NODE, REMOTE, INTENT, FREED], ids=lambda v: type(v).__name__
)
def test_comes_back_as_it_went_in(value: Any) -> None:
    assert codec.decode(codec.encode(value), type(value)) == value


@pytest.mark.parametrize("value", [NETWORK, SANDBOX, ENDPOINT, NODE, REMOTE], ids=lambda v: type(v).__name__)
def test_the_round_trip_above_covers_every_field(value: Any) -> None:
    """A field that was left at its default would come back right even if it were never written."""
    plain = {"id": "", "name": "", "driver": "", "subnets": (), "mtu": 0, "owner": "", "netns": None}
    plain |= {
        "network": "",
        "sandbox": "",
        "ifname": "",
        "mac": "",
        "addresses": (),
        "address": None,
        "node": "",
    }
    for field in fields(value):
        default = field.default_factory() if callable(field.default_factory) else field.default
        assert getattr(value, field.name) != plain.get(field.name, default), field.name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "truncated"),
        ("[]", "is not of type dict"),
        ("{}", "missing"),
        ('{"network":"n","address":"10.0.0.1","sequence":1,"vni":7}', "unknown key 'vni'"),
        ('{"network":"n","address":"10.0.0.256","sequence":1}', "10.0.0.256"),
        ('{"network":"n","address":167772161,"sequence":1}', "167772161 is not of type str"),
        ('{"network":"n","address":"10.0.0.1","sequence":"1"}', "'1' is not of type int"),
    ],
)
def test_refuses_what_it_does_not_understand(text: str, complaint: str) -> None:
    with pytest.raises(Invalid, match=f"not a valid Freed: .*{complaint}"):
        codec.decode(text, Freed)
