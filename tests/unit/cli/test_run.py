from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from netd.api import netd_pb2 as pb
from tests.fake_daemon import FakeDaemon
from tests.unit.cli.conftest import Cli

Spawn = Callable[..., "subprocess.Popen[bytes]"]


def test_every_option_is_sent(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINE", "yes")
    (tmp_path / "file.env").write_text("F=1\n")
    line = (
        "run --name web -d --rm -i -t --network front,ip=10.0.0.2 --network back -p 8080:80 -p 53:53/udp"
        " --expose 90/tcp -h box --dns 9.9.9.9 --add-host db:10.0.0.3 -e A=1 -e MINE --env-file file.env"
        " -v data:/data:ro -w /srv -u 1000:1000 --memory 64m --cpus 0.5 --pids-limit 10 --cap-add NET_RAW"
        " --cap-drop CHOWN --sysctl net.ipv4.ip_forward=1 --read-only --rootfs tree --label a=b"
        " -- sh -c true -- -x"
    )
    answer = cli(*line.split())
    assert (answer.code, answer.out, answer.err) == (0, "c0" * 32 + "\n", "")
    sent = daemon.last()
    assert sent.window.rows > 0
    sent.ClearField("window")
    assert sent == pb.RunRequest(
        name="web",
        command=["sh", "-c", "true", "--", "-x"],
        detach=True,
        remove=True,
        interactive=True,
        tty=True,
        networks=[pb.Attachment(network="front", ip="10.0.0.2"), pb.Attachment(network="back")],
        publish=["8080:80", "53:53/udp"],
        expose=["90/tcp"],
        hostname="box",
        dns=["9.9.9.9"],
        hosts={"db": "10.0.0.3"},
        env={"A": "1", "MINE": "yes", "F": "1"},
        volumes=[f"{tmp_path}/data:/data:ro"],
        workdir="/srv",
        user="1000:1000",
        memory=64 << 20,
        cpus=0.5,
        pids=10,
        cap_add=["NET_RAW"],
        cap_drop=["CHOWN"],
        sysctls={"net.ipv4.ip_forward": "1"},
        read_only=True,
        rootfs=f"{tmp_path}/tree",
        labels={"a": "b"},
    )


def test_defaults_leave_the_choice_to_the_daemon(cli: Cli, daemon: FakeDaemon) -> None:
    assert cli("run", "exit", "0").code == 0
    sent = daemon.last()
    sent.ClearField("window")
    assert sent == pb.RunRequest(command=["exit", "0"], rootfs="host")


def test_options_end_where_the_command_begins(cli: Cli, daemon: FakeDaemon) -> None:
    cli("run", "-d", "ls", "-l", "--name", "x")
    assert list(daemon.last().command) == ["ls", "-l", "--name", "x"]
    cli("run", "-d", "--", "-odd")
    assert list(daemon.last().command) == ["-odd"]


@pytest.mark.parametrize("code", [0, 1, 42, 126, 255])
def test_exit_code_is_the_commands(cli: Cli, code: int) -> None:
    assert cli("run", "exit", str(code)).code == code


def test_command_that_is_not_there(cli: Cli) -> None:
    answer = cli("run", "missing")
    assert (answer.code, answer.err) == (127, "netd: command 'missing' is not in the container's PATH\n")


def test_terminal_is_needed_for_it(spawn: Spawn, daemon: FakeDaemon) -> None:
    process = spawn("run", "-it", "exit", "0")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith(b"netd: -t with -i needs a terminal")
    assert not daemon.requests
