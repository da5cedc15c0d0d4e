from __future__ import annotations

import pytest

from netd.api import netd_pb2 as pb
from netd.errors import Invalid
from tests.unit.topology.paper import project

LAN = """\
name: shop
services:
  early: {scale: 2, networks: [lan, other]}
  late: {networks: {lan: {ipv4_address: 10.0.0.2, ipv6_address: "fd00:0::0002"}}}
  later: {profiles: [all], networks: {lan: {ipv4_address: 10.0.0.3}}}
networks: {lan: {ipam: {config: [{subnet: 10.0.0.0/24}, {subnet: "fd00::/64"}]}}, other: }
"""


def test_attachments_are_in_the_order_of_priority_then_as_written() -> None:
    found = project("""\
name: shop
services:
  web:
    mac_address: 02-00-00-00-00-0A
    networks:
      a: {aliases: [www, web], interface_name: lan0, gw_priority: 5}
      b: {priority: 9, ipv4_address: 10.0.0.7, ipv6_address: fd00::7}
networks: {a: , b: {name: bee}}
""")
    assert list(found.container("web").request.networks) == [
        pb.Attachment(network="bee", ip="10.0.0.7", ip6="fd00::7", aliases=["web"], mac="02:00:00:00:00:0a"),
        pb.Attachment(network="shop_a", aliases=["web", "www"], ifname="lan0", gw_priority=5),
    ]


def test_what_is_promised_to_one_is_kept_from_the_others_of_that_network() -> None:
    whole = project(LAN)
    kept = ["10.0.0.2", "10.0.0.3", "fd00::2"]
    for ref in ("early", "early-2"):
        lan, other = whole.container(ref).request.networks
        assert (list(lan.avoid), lan.ip, list(other.avoid)) == (kept, "", [])
    [late] = whole.container("late").request.networks
    assert (late.ip, late.ip6, list(late.avoid)) == ("10.0.0.2", "fd00::2", []), "it asks for both"


def test_a_promise_is_no_reason_to_make_a_container_anew() -> None:
    other = project(LAN.replace("10.0.0.2", "10.0.0.9"))
    assert other.container("early").digest == project(LAN).container("early").digest


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("ipv4_address", "10.0.0", "services.web.networks.lan.ipv4_address: '10.0.0' is not an IPv4 address"),
        ("ipv4_address", "fd00::1", "'fd00::1' is not an IPv4 address"),
        ("ipv6_address", "10.0.0.1", "'10.0.0.1' is not an IPv6 address"),
    ],
)
def test_what_is_no_address_is_named(key: str, value: str, complaint: str) -> None:
    with pytest.raises(Invalid) as raised:
        project(f"services: {{web: {{networks: {{lan: {{{key}: '{value}'}}}}}}}}\nnetworks: {{lan: }}")
    assert complaint in str(raised.value)
