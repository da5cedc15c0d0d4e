from __future__ import annotations

import json

from netd.api import netd_pb2 as pb
from tests.fake_daemon import FakeDaemon
from tests.unit.cli.conftest import Cli

BLOCKS = [pb.NodeBlock(network="fabric", block=f"10.1.{n}.0/26") for n in range(5)]
NODES = pb.NodeList(
    nodes=[
        pb.Node(name="h1", state="ready", address="192.0.2.1", endpoints=7, blocks=BLOCKS, self=True),
        pb.Node(name="h2", state="down"),
    ],
    connected=True,
)


def test_ls(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.nodes = NODES
    answer = cli("node", "ls")
    assert (answer.code, answer.err) == (0, "")
    head, one, two = answer.out.splitlines()
    assert head.split() == ["NAME", "STATE", "ADDRESS", "ENDPOINTS", "BLOCKS"]
    assert one.split()[:5] == ["h1", "*", "ready", "192.0.2.1", "7"]
    assert one.endswith("fabric 10.1.2.0/26 and 2 more")
    assert two.split() == ["h2", "down", "-", "0"]
    assert json.loads(cli("node", "ls", "--json").out)["nodes"][0]["name"] == "h1"


def test_ls_says_what_is_wrong_on_standard_error(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.nodes = pb.NodeList(problem="etcd does not answer", quarantined={"/netd/v1/x": "\x1b[2Jodd"})
    answer = cli("node", "ls")
    assert answer.code == 0
    assert "etcd does not answer" in answer.err
    assert "/netd/v1/x in etcd is ignored" in answer.err
    assert "\x1b" not in answer.err


def test_inspect(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.nodes = NODES
    assert json.loads(cli("node", "inspect", "h1").out)[0]["blocks"][0]["network"] == "fabric"
    answer = cli("node", "inspect", "h3")
    assert answer.code == 1
    assert "'h3' does not exist" in answer.err


def test_rotate_key(cli: Cli, daemon: FakeDaemon) -> None:
    assert cli("node", "rotate-key").out == "a2V5\n"
    assert daemon.last() == pb.RotateKeyRequest()


def test_drain(cli: Cli, daemon: FakeDaemon) -> None:
    assert cli("node", "drain", "h2").out == "h2\n"
    assert daemon.last() == pb.DrainNodeRequest(node="h2")
    assert cli("node", "drain", "--undo", "h2").out == "h2\n"
    assert daemon.last() == pb.DrainNodeRequest(node="h2", undo=True)
