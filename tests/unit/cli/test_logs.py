from __future__ import annotations

import pytest

from netd.api import netd_pb2 as pb
from netd.cli.render import timestamp
from tests.fake_daemon import STARTED, FakeDaemon, container
from tests.unit.cli.conftest import Cli


@pytest.fixture
def logged(daemon: FakeDaemon) -> FakeDaemon:
    daemon.containers = {"web": container("web", 1)}
    daemon.log = [
        pb.LogLine(time=STARTED, stream="stdout", data=b"one\n"),
        pb.LogLine(time=STARTED, stream="stderr", data=b"two\n"),
        pb.LogLine(time=STARTED + 1, stream="stdout", data=b"three, unfinished"),
    ]
    return daemon


def test_streams_stay_apart(cli: Cli, logged: FakeDaemon) -> None:
    answer = cli("logs", "web")
    assert (answer.code, answer.out, answer.err) == (0, "one\nthree, unfinished", "two\n")
    assert logged.last() == pb.LogsRequest(container="web")


def test_options_are_sent(cli: Cli, logged: FakeDaemon) -> None:
    assert cli("logs", "-f", "-n", "1", "web").out == "three, unfinished"
    assert logged.last() == pb.LogsRequest(container="web", follow=True, tail=1)
    assert cli("logs", "--tail", "all", "web").err == "two\n"


def test_timestamps(cli: Cli, logged: FakeDaemon) -> None:
    assert cli("logs", "-t", "web").err == f"{timestamp(STARTED)} two\n"


@pytest.mark.parametrize("tail", ["0", "-1", "x", "4294967296"])
def test_wrong_tail_is_named(cli: Cli, logged: FakeDaemon, tail: str) -> None:
    answer = cli("logs", "-n", tail, "web")
    assert answer.code == 2
    assert repr(tail) in answer.err


def test_unknown_container(cli: Cli) -> None:
    assert cli("logs", "nope").code == 1
