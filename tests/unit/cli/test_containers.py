from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable

import pytest

from netd.api import netd_pb2 as pb
from netd.cli import containers
from tests.fake_daemon import STARTED, FakeDaemon, container, network
from tests.unit.cli.conftest import Cli


@pytest.fixture
def two(daemon: FakeDaemon) -> FakeDaemon:
    web = container(
        "web",
        1,
        ports=[pb.PublishedPort(host_port=8080, container_port=80, proto="tcp")],
        endpoints=[pb.Endpoint(network="front", addresses=["10.89.1.2/24", "fd00::2/64"])],
        command=["sh", "-c", "echo one two"],
    )
    old = container("old", 2, state="exited", exit_code=3, finished=STARTED, created=STARTED + 1)
    daemon.containers = {"web": web, "old": old}
    return daemon


def test_ps(cli: Cli, two: FakeDaemon) -> None:
    (heading, web) = cli("ps").out.splitlines()
    assert heading.split()[:2] == ["CONTAINER", "ID"]
    assert web.startswith("010101010101   web    sh -c 'echo one two'   ")
    assert web.endswith("   front 10.89.1.2 fd00::2   *:8080->80/tcp")
    assert [line.split()[1] for line in cli("ps", "-a").out.splitlines()[1:]] == ["old", "web"]
    assert cli("ps", "-aq").out == "020202020202\n010101010101\n"
    assert [each["name"] for each in json.loads(cli("ps", "--json").out)] == ["web"]


def test_status_is_worded_like_dockers() -> None:
    now = STARTED + 300
    ended = {"state": "exited", "finished": STARTED, "exit_code": 137}
    assert containers.status(container("a", 1), now) == "Up 5 minutes"
    assert containers.status(container("a", 1, **ended), now) == "Exited (137) 5 minutes ago"
    killed = container("a", 1, oom_killed=True, **ended)
    assert containers.status(killed, now) == "Exited (137) out of memory, 5 minutes ago"
    assert containers.status(container("a", 1, state="created"), now) == "Created"


def test_inspect_finds_containers_then_networks(cli: Cli, two: FakeDaemon) -> None:
    two.networks = {"front": network("front", 5), "web": network("web", 6)}
    answer = cli("inspect", "web", "front", "nope")
    assert answer.code == 1
    assert [each["id"][:2] for each in json.loads(answer.out)] == ["01", "05"]
    assert answer.err.startswith("netd: container 'nope'")


def test_stop(cli: Cli, two: FakeDaemon) -> None:
    assert cli("stop", "0101").out == "web\n"
    assert two.last() == pb.StopRequest(container="0101")
    assert not two.last().HasField("timeout")
    assert cli("stop", "-t", "0", "web").code == 0
    assert two.last() == pb.StopRequest(container="web", timeout=0)


def test_kill(cli: Cli, two: FakeDaemon) -> None:
    assert cli("kill", "web").out == "web\n"
    assert two.last() == pb.KillRequest(container="web", signal="KILL")
    assert cli("kill", "-s", "SIGHUP", "nope", "web").code == 1
    assert {each.signal for each in two.requests[1:]} == {"SIGHUP"}


def test_rm_tries_all(cli: Cli, two: FakeDaemon) -> None:
    answer = cli("rm", "web", "nope", "old")
    assert (answer.code, answer.out) == (1, "old\n")
    assert [line.split("'")[1] for line in answer.err.splitlines()] == ["web", "nope"]
    assert cli("rm", "-f", "web").out == "web\n"


def test_rename(cli: Cli, two: FakeDaemon) -> None:
    assert cli("rename", "web", "shop").out == "shop\n"
    assert two.last() == pb.RenameRequest(container="web", name="shop")
    assert set(two.containers) == {"shop", "old"}
    answer = cli("rename", "shop", "old")
    assert (answer.code, answer.err) == (1, "netd: container name 'old' is taken\n")
    assert cli("rename", "shop").code == 2


def test_wait_prints_exit_codes(cli: Cli, two: FakeDaemon) -> None:
    assert cli("wait", "old", "old").out == "3\n"


def test_interrupted_wait_exits_130(
    spawn: Callable[..., subprocess.Popen[bytes]], two: FakeDaemon, cli: Cli
) -> None:
    process = spawn("wait", "old", "web")
    assert process.stdout is not None
    assert process.stdout.readline() == b"3\n"
    assert two.waiting.wait(10)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert two.cancelled.wait(10)
