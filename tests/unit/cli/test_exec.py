from __future__ import annotations

import pytest

from netd.api import netd_pb2 as pb
from tests.fake_daemon import FakeDaemon, container
from tests.unit.cli.conftest import Cli


@pytest.fixture(autouse=True)
def web(daemon: FakeDaemon) -> None:
    daemon.containers = {"web": container("web", 1)}


def test_every_option_is_sent(cli: Cli, daemon: FakeDaemon) -> None:
    line = "exec -d -i -t -e A=1 -w /srv -u nobody web sh -c true"
    assert cli(*line.split()).code == 0
    sent = daemon.last()
    sent.ClearField("window")
    assert sent == pb.ExecRequest(
        container="web",
        command=["sh", "-c", "true"],
        detach=True,
        interactive=True,
        tty=True,
        env={"A": "1"},
        workdir="/srv",
        user="nobody",
    )


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (["web", "--", "exit", "4"], ["exit", "4"]),
        (["--", "web", "exit", "4"], ["exit", "4"]),
        (["web", "exit", "4", "--", "-i"], ["exit", "4", "--", "-i"]),
    ],
)
def test_command_after_two_dashes(cli: Cli, daemon: FakeDaemon, line: list[str], command: list[str]) -> None:
    cli("exec", "-d", *line)
    assert list(daemon.last().command) == command


def test_exit_code_is_the_commands(cli: Cli) -> None:
    assert cli("exec", "web", "exit", "4").code == 4


def test_output_comes_through(cli: Cli) -> None:
    answer = cli("exec", "web", "both")
    assert (answer.code, answer.err) == (3, "err\n")
    assert answer.out.startswith("\0out")


def test_unknown_container(cli: Cli) -> None:
    answer = cli("exec", "nope", "true")
    assert (answer.code, answer.out) == (1, "")
    assert "'nope'" in answer.err
