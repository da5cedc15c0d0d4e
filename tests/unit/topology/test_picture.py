from __future__ import annotations

from netd.api import netd_pb2 as pb
from netd.topology.picture import Box, Wire, picture
from tests.unit.topology.paper import project

TEXT = """\
name: p
services:
  web: {networks: {front: {ipv4_address: 10.1.0.9, interface_name: lan0}}, ports: ["8080:80", "90"]}
  db: {command: run --with very-long-arguments-that-nobody-reads, networks: [front, back], scale: 2}
  alone: {network_mode: none}
networks: {front: {ipam: {config: [{subnet: 10.1.0.0/24}]}}, back: {internal: true}}
x-netd: {checks: [{from: web, to: "db:1", expect: blocked}]}
"""


def test_from_the_file_alone() -> None:
    drawn = picture(project(TEXT))
    assert [(bar.key, bar.about, bar.internal) for bar in drawn.bars] == [
        ("front", "10.1.0.0/24", False),
        ("back", "", True),
    ]
    web, one, two, alone = drawn.boxes
    assert web == Box(
        name="web",
        about="",
        ports=("*:8080 → 80/tcp", "*:? → 90/tcp"),
        wires=(Wire(network="front", ifname="lan0", addresses=("10.1.0.9",)),),
    )
    assert (one.name, two.name) == ("db-1", "db-2")
    assert one.about == "run --with very-long-argume…"
    assert [wire.network for wire in one.wires] == ["front", "back"]
    assert (alone.wires, alone.note) == ((), "no network")
    assert drawn.checks == (("web", "db:1", "blocked"),)


def test_what_runs_shows_its_addresses_and_ports() -> None:
    endpoint = pb.Endpoint(network="p_front", ifname="lan0", addresses=["10.1.0.9/24", "fd00::9/64"])
    port = pb.PublishedPort(host_ip="::1", host_port=32768, container_port=90, proto="tcp")
    running = pb.Container(name="p-web-1", state="running", endpoints=[endpoint], ports=[port])
    back = pb.Network(name="p_back", subnets=[pb.Subnet(cidr="10.89.3.0/24")])
    drawn = picture(project(TEXT), [running, pb.Container(name="other", state="running")], [back])
    assert drawn.boxes[0].wires[0].lines == ("lan0", "10.1.0.9", "fd00::9")
    assert drawn.boxes[0].ports == ("[::1]:32768 → 90/tcp",)
    assert drawn.bars[1].about == "10.89.3.0/24"
