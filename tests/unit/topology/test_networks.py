from __future__ import annotations

import pytest

from netd.api import netd_pb2 as pb
from netd.errors import Invalid
from netd.topology.compose import Ipam, IpamConfig, NetworkExtra, NetworkFile, parse
from netd.topology.networks import DIGEST_LABEL, ProjectNetwork, network


def made(**given: object) -> pb.CreateNetworkRequest:
    """What the daemon is asked for, for the entry `front` with these keys."""
    return request_of(network("front", NetworkFile(**given), "shop"))  # type: ignore[arg-type]


def request_of(net: ProjectNetwork) -> pb.CreateNetworkRequest:
    assert net.request is not None
    return net.request


def test_an_empty_entry_is_a_bridge_of_the_project() -> None:
    request = made()
    digest = request.labels.pop(DIGEST_LABEL)
    assert len(digest) == 16
    assert request == pb.CreateNetworkRequest(
        name="shop_front",
        driver="bridge",
        labels={"netd.topology.project": "shop", "netd.topology.network": "front"},
    )


def test_every_key_has_its_place() -> None:
    file, unknown = parse(
        {
            "services": {},
            "networks": {
                "front": {
                    "name": "verbatim",
                    "internal": "true",
                    "enable_ipv6": True,
                    "labels": ["tier=1"],
                    "ipam": {
                        "config": [
                            {
                                "subnet": "10.1.0.0/24",
                                "gateway": "10.1.0.9",
                                "ip_range": "10.1.0.128/25",
                                "aux_addresses": {"r": "10.1.0.5"},
                            },
                            {"subnet": "fd00:1::/64"},
                        ]
                    },
                    "driver_opts": {
                        "com.docker.network.driver.mtu": 1400,
                        "com.docker.network.bridge.name": "br-front",
                        "com.docker.network.bridge.enable_icc": "false",
                        "com.docker.network.bridge.gateway_mode_ipv4": "routed",
                    },
                    "x-netd": {"dns": ["9.9.9.9"]},
                }
            },
        },
        "t.yaml",
    )
    assert unknown == []
    entry = file.networks["front"]
    assert entry is not None
    request = request_of(network("front", entry, "shop"))
    assert (request.name, request.internal, request.ipv6, request.no_icc) == ("verbatim", True, True, True)
    assert list(request.subnets) == ["10.1.0.0/24", "fd00:1::/64"]
    assert (list(request.gateways), list(request.ip_ranges)) == (["10.1.0.9"], ["10.1.0.128/25"])
    assert dict(request.aux_addresses) == {"r": "10.1.0.5"}
    assert (request.mtu, dict(request.options)) == (1400, {"bridge.name": "br-front"})
    assert (request.gateway_mode, list(request.dns)) == ("routed", ["9.9.9.9"])
    assert request.labels["tier"] == "1"


def test_the_digest_changes_with_what_cannot_be_changed() -> None:
    digests = [made(), made(internal=True), made(x_netd=NetworkExtra(dns=["9.9.9.9"])), made(labels=["a=b"])]
    assert len({request.labels[DIGEST_LABEL] for request in digests}) == 4
    assert made(internal="yes") == made(internal=True)


def test_an_external_network_is_named_and_not_made() -> None:
    found = network("front", NetworkFile(external=True), "shop")
    assert (found.name, found.request) == ("front", None)
    assert network("front", NetworkFile(external=True, name="lan"), "shop").name == "lan"


def test_ipv6_only() -> None:
    request = made(enable_ipv4=False, enable_ipv6=True)
    assert (request.no_ipv4, request.ipv6) == (True, True)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"external": True, "internal": True}, "networks.front: external"),
        ({"enable_ipv4": False}, "networks.front: without IPv4"),
        ({"internal": "perhaps"}, "networks.front.internal: 'perhaps'"),
        ({"driver_opts": {"com.docker.network.bridge.inhibit_ipv4": "true"}}, "bridge.inhibit_ipv4"),
        ({"driver_opts": {"mtu": "big"}}, "networks.front.driver_opts.mtu: 'big'"),
        (
            {
                "driver_opts": {
                    "com.docker.network.bridge.gateway_mode_ipv4": "nat",
                    "com.docker.network.bridge.gateway_mode_ipv6": "routed",
                }
            },
            "one gateway mode",
        ),
    ],
)
def test_what_cannot_be_is_named(given: dict[str, object], complaint: str) -> None:
    with pytest.raises(Invalid) as raised:
        made(**given)
    assert complaint in str(raised.value)


@pytest.mark.parametrize(
    "config", [IpamConfig(gateway="10.0.0.1"), IpamConfig(subnet="10.0.0.1/24"), IpamConfig(subnet="x")]
)
def test_addresses_are_refused_with_their_path(config: IpamConfig) -> None:
    with pytest.raises(Invalid, match=r"networks\.front\.ipam\.config\[0\]"):
        network("front", NetworkFile(ipam=Ipam(config=[config])), "shop")
