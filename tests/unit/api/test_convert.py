from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface

import pytest

from netd.api import convert
from netd.api import netd_pb2 as pb
from netd.errors import Invalid
from netd.events import Event
from netd.model import (
    Endpoint,
    GatewayMode,
    Netns,
    Network,
    NetworkRequest,
    Owner,
    PortMapping,
    Proto,
    Sandbox,
    Subnet,
)
from netd.store.base import Attached
from netd.view import View

FRONT = Network(
    id="a" * 32,
    name="front",
    driver="bridge",
    subnets=(
        Subnet(
            cidr=IPv4Network("10.89.0.0/24"),
            gateway=ip_address("10.89.0.1"),
            range=IPv4Network("10.89.0.128/25"),
            reserved={"printer": ip_address("10.89.0.200")},
        ),
        Subnet(cidr=IPv6Network("fd00::/64"), gateway=ip_address("fd00::1")),
    ),
    mtu=1500,
    icc=False,
    gateway_mode=GatewayMode.ROUTED,
    labels={"tier": "1"},
    created=12.5,
)
WEB = Sandbox(
    id="b" * 32,
    name="web",
    owner=Owner.CONTAINER,
    netns=Netns(label="web", path="/run/netd/netns/web", device=4, inode=5),
    labels={"app": "shop"},
)
ETH0 = Endpoint(
    id="e" * 32,
    network=FRONT.id,
    sandbox=WEB.id,
    ifname="eth0",
    mac="02:00:00:00:00:01",
    addresses=(ip_interface("10.89.0.129/24"), ip_interface("fd00::2/64")),
    aliases=("www",),
)
VIEW = View.of([FRONT], [Attached(WEB, (ETH0,))])


def test_a_network_says_how_much_of_it_is_used() -> None:
    message = convert.network(FRONT, VIEW)
    v4, v6 = message.subnets
    assert (v4.cidr, v4.gateway, v4.ip_range) == ("10.89.0.0/24", "10.89.0.1", "10.89.0.128/25")
    assert dict(v4.aux_addresses) == {"printer": "10.89.0.200"}
    # 128 of the range, less the reserved one and the broadcast address; the gateway lies outside.
    assert (v4.used, v4.capacity) == (1, "126")
    # 2^64 less the gateway and the subnet-router anycast address.
    assert (v6.used, v6.capacity) == (1, str(2**64 - 2))
    assert (message.icc, message.gateway_mode, message.status) == (False, "routed", "ready")
    assert message.bridge.startswith("nd-")
    assert [endpoint.container for endpoint in message.endpoints] == ["web"]


def test_a_degraded_network_says_why() -> None:
    view = VIEW.with_degraded({FRONT.id: "bridge is gone"})
    assert convert.network(FRONT, view).status == "degraded: bridge is gone"


def test_an_endpoint_carries_what_is_computed() -> None:
    message = convert.endpoint(ETH0, VIEW)
    assert (message.network, message.container, message.container_id) == ("front", "web", WEB.id)
    assert list(message.addresses) == ["10.89.0.129/24", "fd00::2/64"]
    assert list(message.gateways) == ["10.89.0.1", "fd00::1"]
    assert list(message.default_route) == [4, 6]
    assert message.host_ifname.startswith("ve-")
    assert dict(message.labels) == {"app": "shop"}


def test_a_network_request_keeps_every_field() -> None:
    message = pb.CreateNetworkRequest(
        name="front",
        driver="bridge",
        subnets=["10.1.0.0/24"],
        gateways=["10.1.0.9"],
        ip_ranges=["10.1.0.128/25"],
        aux_addresses={"x": "10.1.0.5"},
        ipv6=True,
        internal=True,
        no_icc=True,
        gateway_mode="routed",
        mtu=1400,
        labels={"a": "b"},
        options={"c": "d"},
        dns=["9.9.9.9"],
        no_ipv4=True,
    )
    assert len(message.ListFields()) == len(pb.CreateNetworkRequest.DESCRIPTOR.fields)
    assert convert.network_request(message) == NetworkRequest(
        name="front",
        subnets=("10.1.0.0/24",),
        gateways=("10.1.0.9",),
        ip_ranges=("10.1.0.128/25",),
        aux_addresses={"x": "10.1.0.5"},
        ipv6=True,
        ipv4=False,
        internal=True,
        icc=False,
        gateway_mode="routed",
        mtu=1400,
        dns=("9.9.9.9",),
        labels={"a": "b"},
        options={"c": "d"},
    )


def test_what_is_left_out_has_defaults() -> None:
    request = convert.network_request(pb.CreateNetworkRequest(name="n"))
    assert (request.driver, request.gateway_mode, request.icc) == ("bridge", "nat", True)


def test_a_port_without_host_address_is_empty_text() -> None:
    mapping = PortMapping(proto=Proto.UDP, host_ip=None, host_port=5353, container_port=53)
    assert convert.port(mapping) == pb.PublishedPort(host_port=5353, container_port=53, proto="udp")


def test_an_event_keeps_its_attributes() -> None:
    event = Event(
        time=1.5, type="network", action="create", id="1", name="front", attributes={"driver": "bridge"}
    )
    message = convert.event(event)
    assert (message.time, message.type, message.attributes["driver"]) == (1.5, "network", "bridge")


@pytest.mark.parametrize("text", ["", "a\nb", "x" * 257, "\x00"])
def test_a_reference_that_cannot_be_one_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="network"):
        convert.required("network", text)
