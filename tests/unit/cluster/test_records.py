"""What is believed of what lies in etcd, and what is not."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.cluster import records
from netd.errors import Invalid
from netd.model import GatewayMode, Proto, RemoteEndpoint, Subnet
from tests.unit.cluster.sample import NETWORK, SANDBOX, A, a_network, a_node, an_endpoint, endpoint

E = endpoint()


def bent(value: bytes, **changes: Any) -> bytes:
    """A record with other fields; None takes one out."""
    fields = msgspec.json.decode(value)
    fields.update(changes)
    return msgspec.json.encode({key: field for key, field in fields.items() if field is not None})


def test_a_network_comes_back_as_it_was() -> None:
    network = replace(
        NETWORK,
        subnets=(
            Subnet(
                cidr=ip_network("10.1.0.0/16"),
                gateway=ip_address("10.1.0.1"),
                range=ip_network("10.1.4.0/22"),
                reserved={"router": ip_address("10.1.0.9")},
            ),
        ),
        internal=True,
        icc=False,
        gateway_mode=GatewayMode.ROUTED,
        dns=(ip_address("192.0.2.53"),),
        labels={"team": "net"},
        options={"multicast": "on"},
        created=12.5,
        mtu=1400,
        mtu_limit=1400,
    )
    assert records.read_network(network.id, a_network(network)[1]) == network


def test_a_node_and_an_endpoint_come_back_as_they_were() -> None:
    assert records.read_node("a", a_node(A)[1]) == (A, "host-a")
    sandbox = replace(SANDBOX, hostname="www.example.org", exposed=((Proto.TCP, 80),))
    value = an_endpoint("a", replace(E, aliases=("api", "*.api")), since=7, sandbox=sandbox)[1]
    assert records.read_endpoint(NETWORK, E.id, value) == (
        RemoteEndpoint(
            id=E.id,
            network=NETWORK.id,
            node="a",
            sandbox=SANDBOX.id,
            name="web",
            mac=E.mac,
            addresses=E.addresses,
            hostname="www.example.org",
            aliases=("api", "*.api"),
            services=((Proto.TCP, 80),),
        ),
        7,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"vni": 0},
        {"vni": 1 << 24},
        {"vni": "4711"},
        {"name": "../etc"},
        {"name": "host"},
        {"name": "x" * 300},
        {"subnets": []},
        {"subnets": [{"cidr": "10.1.0.0/16", "gateway": "10.2.0.1"}]},
        {"subnets": [{"cidr": "10.1.0.9/16", "gateway": "10.1.0.1"}]},
        {"subnets": [{"cidr": "127.0.0.0/16", "gateway": "127.0.0.1"}]},
        {"subnets": [{"cidr": "0.0.0.0/0", "gateway": "10.1.0.1"}]},
        {"subnets": [{"cidr": "10.1.0.0/16", "gateway": "10.1.0.1"}] * 2},
        {"subnets": [{"cidr": "10.1.0.0/16", "gateway": "10.1.0.1", "range": "fd01::/80"}]},
        {"subnets": [{"cidr": "10.1.0.0/16", "gateway": "10.1.0.1", "range": "10.2.0.0/24"}]},
        {"gateway_mode": "magic"},
        {"dns": ["not an address"]},
        {"options": {"bridge.name": "eth0"}},
        {"options": {"encrypted": "rot13"}},
        {"surprise": 1},
        {"labels": {"k": "v" * 5000}},
        {"labels": {str(n): "" for n in range(65)}},
    ],
)
def test_a_network_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        records.read_network(NETWORK.id, bent(a_network()[1], **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "127.0.0.1"},
        {"address": "224.0.0.1"},
        {"address": "::"},
        {"address": "fe80::1"},
        {"address": "node-2"},
        {"address": None},
        {"wireguard_key": "short"},
        {"wireguard_key": "A" * 42 + "B="},
        {"wireguard_port": -1},
        {"wireguard_port": 65536},
        {"capabilities": ["x"] * 33},
    ],
)
def test_a_node_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        records.read_node("a", bent(a_node(A)[1], **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"node": "a/b"},
        {"name": "web\nserver"},
        {"name": ""},
        {"mac": "01:00:5e:00:00:01"},
        {"mac": "00:00:00:00:00:00"},
        {"mac": "02:00:00:00:00"},
        {"mac": "02:00:00:00:00:0G"},
        {"addresses": []},
        {"addresses": ["10.2.0.7/16"]},
        {"addresses": ["10.1.0.70/24"]},
        {"addresses": ["10.1.0.1/16"]},
        {"addresses": ["10.1.0.0/16"]},
        {"addresses": ["127.0.0.1/8"]},
        {"aliases": ["a b"]},
        {"aliases": ["a"] * 65},
        {"hostname": "-x"},
        {"services": [["tcp", 0]]},
        {"services": [["icmp", 1]]},
    ],
)
def test_an_endpoint_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        records.read_endpoint(NETWORK, E.id, bent(an_endpoint("a", E)[1], **changes))


def test_an_endpoint_cannot_have_the_gateways_mac() -> None:
    from netd import names

    value = bent(an_endpoint("a", E)[1], mac=names.mac_of(NETWORK.id))
    with pytest.raises(Invalid, match="gateway"):
        records.read_endpoint(NETWORK, E.id, value)


def test_sizes_are_limited_before_anything_is_understood() -> None:
    with pytest.raises(Invalid, match="bytes"):
        records.read_network(NETWORK.id, b"[" * (records.LARGEST + 1))
    with pytest.raises(Invalid):
        records.read_network(NETWORK.id, b"[" * records.LARGEST)


def test_a_network_that_this_host_cannot_make_exists() -> None:
    value = bent(a_network()[1], options={"encrypted": "wireguard"})
    assert records.read_network(NETWORK.id, value).options == {"encrypted": "wireguard"}


@given(st.binary(max_size=200))
def test_garbage_is_only_ever_invalid(value: bytes) -> None:
    for read in (
        lambda: records.read_network(NETWORK.id, value),
        lambda: records.read_node("a", value),
        lambda: records.read_endpoint(NETWORK, E.id, value),
        lambda: records.read_owner(value),
        lambda: records.parts(value),
        lambda: records.parts(b"/netd/v1/" + value),
    ):
        with pytest.raises(Invalid):
            read()


@pytest.mark.parametrize(
    "key",
    [
        "/netd/v1/networks/short",
        "/netd/v1/networks",
        "/netd/v1/nodes/a b",
        "/netd/v1/nodes/a/b",
        "/netd/v1/surprise/a",
        f"/netd/v1/endpoints/{'a' * 32}/../x",
        f"/netd/v1/endpoints/{'a' * 32}",
        "/netd/v2/nodes/a",
        "/netd/v1/nodes/" + "a" * 600,
    ],
)
def test_keys_are_checked(key: str) -> None:
    with pytest.raises(Invalid):
        records.parts(key.encode())


def test_keys_are_read_as_they_are_written() -> None:
    block, address = ip_network("fd01::/80"), ip_address("fd01::7")
    key = records.single_key(NETWORK.id, block, address)
    kind, network, text, last = records.parts(key)
    assert (kind, network) == ("singles", NETWORK.id)
    assert (records.read_block(text), records.read_address(last)) == (block, address)
    for bad in ("10.1.0.1-26", "10.1.0.0/26", "x"):
        with pytest.raises(Invalid):
            records.read_block(bad)
    with pytest.raises(Invalid):
        records.read_address("fd01::0007")


def test_a_node_tells_how_wireguard_reaches_it_and_a_record_of_before_says_nothing_of_it() -> None:
    key = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
    node = replace(A, wireguard_key=key, wireguard_port=4000)
    assert records.read_node("a", records.encode(records.of_node(node, "mark"))) == (node, "mark")
    usual = records.encode(records.of_node(replace(A, wireguard_key=key), "mark"))
    assert b"wireguard_port" not in usual, "which a node of before would refuse"
    before, _ = records.read_node("a", b'{"instance":"mark","address":"192.0.2.1"}')
    assert (before.wireguard_key, before.wireguard_port) == ("", 51820)
