from __future__ import annotations

import json

from netd.api import netd_pb2 as pb
from tests.fake_daemon import FakeDaemon, network
from tests.unit.cli.conftest import Cli


def test_create_sends_what_was_typed(cli: Cli, daemon: FakeDaemon) -> None:
    line = (
        "network create front --driver bridge --subnet 10.1.0.0/16 --subnet fd00:1::/64 --gateway 10.1.0.1"
        " --ip-range 10.1.2.0/24 --aux-address router=10.1.0.9 --ipv6 --internal --no-icc"
        " --gateway-mode routed --mtu 1400 --dns 9.9.9.9 --label a=1 -l b= --opt bridge.name=br7"
    )
    answer = cli(*line.split())
    assert (answer.code, answer.out, answer.err) == (0, "01" * 32 + "\n", "")
    assert daemon.last() == pb.CreateNetworkRequest(
        name="front",
        driver="bridge",
        subnets=["10.1.0.0/16", "fd00:1::/64"],
        gateways=["10.1.0.1"],
        ip_ranges=["10.1.2.0/24"],
        aux_addresses={"router": "10.1.0.9"},
        ipv6=True,
        internal=True,
        no_icc=True,
        gateway_mode="routed",
        mtu=1400,
        dns=["9.9.9.9"],
        labels={"a": "1", "b": ""},
        options={"bridge.name": "br7"},
    )


def test_create_with_defaults_leaves_the_choice_to_the_daemon(cli: Cli, daemon: FakeDaemon) -> None:
    assert cli("network", "create", "front").code == 0
    assert daemon.last() == pb.CreateNetworkRequest(name="front", driver="bridge", gateway_mode="nat")


def test_create_as_json(cli: Cli) -> None:
    made = json.loads(cli("network", "create", "front", "--json").out)
    assert (made["name"], made["subnets"][0]["cidr"]) == ("front", "10.89.1.0/24")


def test_ls(cli: Cli, daemon: FakeDaemon) -> None:
    ends = [pb.Endpoint(container_id="c1", ifname="eth0"), pb.Endpoint(container_id="c1", ifname="eth1")]
    daemon.networks = {"front": network("front", 1, endpoints=ends), "b": network("b", 2)}
    assert cli("network", "ls").out.splitlines() == [
        "NETWORK ID     NAME    DRIVER   SUBNETS        CONTAINERS   STATUS",
        "010101010101   front   bridge   10.89.1.0/24   1            ready",
        "020202020202   b       bridge   10.89.2.0/24   0            ready",
    ]
    assert cli("network", "ls", "-q").out == "010101010101\n020202020202\n"
    assert [each["name"] for each in json.loads(cli("network", "ls", "--json").out)] == ["front", "b"]


def test_ls_of_nothing(cli: Cli) -> None:
    assert cli("network", "ls", "-q").out == ""
    assert json.loads(cli("network", "ls", "--json").out) == []


def test_inspect(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.networks = {"front": network("front", 1)}
    answer = cli("network", "inspect", "front", "nope")
    assert answer.code == 1
    assert [each["id"] for each in json.loads(answer.out)] == ["01" * 32]
    assert "'nope'" in answer.err


def test_rm_tries_all(cli: Cli, daemon: FakeDaemon) -> None:
    used = network("used", 2, endpoints=[pb.Endpoint()])
    daemon.networks = {"front": network("front", 1), "used": used, "back": network("back", 3)}
    answer = cli("network", "rm", "used", "front", "nope", "0303")
    assert (answer.code, answer.out) == (1, "front\nback\n")
    assert answer.err.count("\n") == 2
    assert list(daemon.networks) == ["used"]


def test_prune(cli: Cli, daemon: FakeDaemon) -> None:
    used = network("used", 2, endpoints=[pb.Endpoint()])
    daemon.networks = {"front": network("front", 1), "used": used}
    assert cli("network", "prune").out == "front\n"
    assert json.loads(cli("network", "prune", "--json").out) == []


def test_connect_by_options_and_by_text(cli: Cli, daemon: FakeDaemon) -> None:
    line = "network connect front web --ip 10.0.0.2 --ip6 fd00::2 --mac 02:00:00:00:00:01 --alias a --alias b"
    assert cli(*line.split(), "--ifname", "lan0", "--gw-priority", "5").code == 0
    wanted = pb.Attachment(
        network="front",
        ip="10.0.0.2",
        ip6="fd00::2",
        mac="02:00:00:00:00:01",
        aliases=["a", "b"],
        ifname="lan0",
        gw_priority=5,
    )
    assert daemon.last() == pb.ConnectRequest(container="web", attachment=wanted)
    assert cli("network", "connect", "front,ip=10.0.0.9,gw-priority=3", "web").code == 0
    wanted = pb.Attachment(network="front", ip="10.0.0.9", gw_priority=3)
    assert daemon.last() == pb.ConnectRequest(container="web", attachment=wanted)


def test_disconnect(cli: Cli, daemon: FakeDaemon) -> None:
    assert cli("network", "disconnect", "-f", "front", "web").code == 0
    assert daemon.last() == pb.DisconnectRequest(container="web", network="front", force=True)
