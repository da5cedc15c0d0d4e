"""Links of a file: what they become, and what they cannot be."""

from __future__ import annotations

import pytest

from netd.api import netd_pb2 as pb
from netd.errors import Invalid
from netd.topology.graph import mermaid
from netd.topology.picture import picture
from netd.topology.project import Project
from tests.unit.topology.paper import project

FILE = """\
name: lab
services:
  r1: {}
  r2: {networks: [lan], x-netd: {routes: ["10.7.0.0/16 via r1"], forward: {allow: ["r1-r2->lan"]}}}
  r3: {scale: 2}
networks: {lan: }
x-netd:
  links:
    - %s
"""


def lab(link: str, file: str = FILE) -> Project:
    return project(file % link)


def attachments(found: Project, service: str) -> dict[str, pb.Attachment]:
    return {each.network: each for each in found.container(service).request.networks}


def test_a_link_is_a_network_with_two_services_in_it() -> None:
    found = lab(
        "{endpoints: ['r1:wan0', {service: r2, aliases: [peer], mac_address: '02:00:00:00:00:07'}], "
        "subnet: 10.9.0.0/30, subnet6: 'fd00:9::/127', mtu: 1400, netem: {rate: 1mbit, loss: 2%}}"
    )
    request = found.networks["r1-r2"].request
    assert request is not None
    assert (request.name, request.driver, request.mtu) == ("lab_r1-r2", "link", 1400)
    assert list(request.subnets) == ["10.9.0.0/30", "fd00:9::/127"]
    rate = {"bandwidth.ingress": "1000000", "topology.rate": "1000000"}
    assert attachments(found, "r1") == {
        "lab_r1-r2": pb.Attachment(
            network="lab_r1-r2",
            ip="10.9.0.1",
            ip6="fd00:9::",
            ifname="wan0",
            aliases=["r1"],
            options={**rate, "topology.loss": "2"},
        )
    }, "a service with a link alone is in no other network"
    second = attachments(found, "r2")
    assert list(second) == ["lab_lan", "lab_r1-r2"]
    assert second["lab_r1-r2"] == pb.Attachment(
        network="lab_r1-r2",
        ip="10.9.0.2",
        ip6="fd00:9::1",
        mac="02:00:00:00:00:07",
        aliases=["r2", "peer"],
        routes=["10.7.0.0/16 via 10.9.0.1"],
        options={**rate, "router": "yes"},
    )
    assert [bar.key for bar in picture(found).bars if bar.link] == ["r1-r2"]
    assert "c0 ---" in mermaid(picture(found)), "drawn from container to container"


def test_families_and_addresses_are_as_asked() -> None:
    plain = FILE.replace('routes: ["10.7.0.0/16 via r1"], ', "")
    one = lab("{endpoints: [r1, r2], subnet6: 'fd00:9::/64'}", plain).networks["r1-r2"].request
    assert one is not None
    assert one.no_ipv4
    chosen = lab("{endpoints: [r1, {service: r2, ipv4_address: 10.9.0.1}], subnet: 10.9.0.0/31}")
    assert attachments(chosen, "r1")["lab_r1-r2"].ip == "10.9.0.0"
    free = lab("{endpoints: [r1, r2]}", plain).networks["r1-r2"].request
    assert free is not None
    assert (list(free.subnets), free.no_ipv4) == ([], False)


@pytest.mark.parametrize(
    ("link", "complaint"),
    [
        ("{endpoints: [r1]}", r"x-netd\.links\[0\]\.endpoints: a link has two ends, not 1"),
        ("{endpoints: [r1, r9]}", r"x-netd\.links\[0\]\.endpoints\[1\]: service 'r9' is not defined"),
        ("{endpoints: [r1, 'r1:b']}", "both are of 'r1'"),
        ("{endpoints: [r1, r3]}", "'r3' has not one container"),
        ("{endpoints: [r1, r2], name: lan}", "there is a network 'lan' already"),
        ("{endpoints: [r1, r2], subnet: 10.9.0.1/30}", r"links\[0\]\.subnet: 10\.9\.0\.1/30 has host bits"),
        ("{endpoints: [r1, r2], subnet: 'fd00::/64'}", r"links\[0\]\.subnet: fd00::/64 is not of IPv4"),
        ("{endpoints: [r1, r2], subnet: 10.9.0.0/32}", "has no two addresses"),
        (
            "{endpoints: [r1, r2], netem: {delay: 5}}",
            r"links\[0\]\.netem\.delay",
        ),
    ],
)
def test_what_cannot_be_is_named(link: str, complaint: str) -> None:
    with pytest.raises(Exception, match=complaint) as raised:
        lab(link)
    assert str(raised.value).startswith("t.yaml: ")


def test_a_guest_has_no_end() -> None:
    text = FILE.replace("r1: {}", "r1: {network_mode: none}") % "{endpoints: [r1, r2]}"
    with pytest.raises(Invalid, match=r"services\.r1\.network_mode: 'none' and networks exclude each other"):
        project(text)
