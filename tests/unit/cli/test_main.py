from __future__ import annotations

import importlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import netd
from netd.cli import main
from netd.errors import Exhausted
from tests.fake_daemon import FakeDaemon, network
from tests.unit.cli.conftest import NETD, Cli

Spawn = Callable[..., "subprocess.Popen[bytes]"]


def test_every_command_is_where_the_table_says() -> None:
    context = click.Context(main.cli)
    for name in main.COMMANDS:
        command = main.cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(), name
    assert main.cli.get_command(context, "nonsense") is None


def test_help_imports_nothing_that_takes_long() -> None:
    code = (
        "import sys; from netd.cli.main import run\n"
        "assert run(['--help']) == 0 and run(['run', '--help']) == 0 and run(['ps', '--nonsense']) == 2\n"
        "print(sorted({'asyncio', 'grpc', 'google.protobuf', 'msgspec', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_is_quick() -> None:
    """The promise is 150 ms; in processor time, because other tests want the processors too."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    best = 1.0
    for _ in range(10):
        begin = spent()
        subprocess.run([*NETD, "--help"], check=True, stdout=subprocess.DEVNULL)
        best = min(best, spent() - begin)
        if best < 0.15:
            break
    assert best < 0.15


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "--nonsense",
        "network",
        "network create",
        "network rm",
        "network connect front",
        "run",
        "run --memory 6x true",
        "exec web",
        "exec web --",
        "ps extra",
        "port",
    ],
)
def test_usage_errors_exit_2_and_send_nothing(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETD_SOCKET", "/nowhere")
    assert main.run(line.split()) == 2


def test_usage_error_says_where_help_is(cli: Cli) -> None:
    answer = cli("network", "create", "--mtu", "many", "x")
    assert answer.err.splitlines() == [
        "netd: Invalid value for '--mtu': 'many' is not a valid integer range.",
        "Try 'netd network create --help' for help.",
    ]


def test_refusal_is_one_line(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.networks["front"] = network("front", 1)
    answer = cli("network", "create", "front")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "netd: network 'front' exists already\n"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (Exhausted("no address left\nin front"), 1, "netd: no address left in front\n"),
        (click.ClickException("odd"), 1, "netd: odd\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
        (click.exceptions.Exit(7), 7, ""),
    ],
)
def test_every_way_to_fail_has_its_code(
    error: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("netd.cli.version").version, "callback", fail)
    assert main.run(["version"]) == code
    assert capsys.readouterr().err.strip() == text.strip()


def test_version_flag(cli: Cli) -> None:
    assert cli("--version").out == f"netd {netd.__version__}\n"


def test_exit_code_reaches_the_shell(spawn: Spawn) -> None:
    process = spawn("run", "exit", "42")
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 42


def test_closed_output_ends_a_listing_quietly(spawn: Spawn, daemon: FakeDaemon) -> None:
    daemon.networks = {f"n{number}": network(f"n{number}", number) for number in range(200)}
    reader, writer = os.pipe()
    os.close(reader)
    process = spawn("network", "ls", stdout=writer)
    os.close(writer)
    assert process.communicate(timeout=30)[1] == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    "arguments", [["network", "ls"], ["network", "ls", "--json"], ["--help"], ["version"]]
)
def test_output_that_cannot_be_written_is_one_line(spawn: Spawn, arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        process = spawn(*arguments, stdout=full)
        _, errors = process.communicate(timeout=30)
    assert errors == b"netd: cannot write: No space left on device; what has been printed is incomplete\n"
    assert process.returncode == 1


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize(
    "arguments", [["network", "ls"], ["ps", "--json"], ["run", "exit", "42"], ["--help"]]
)
def test_streams_that_the_caller_closed_lead_nowhere(spawn: Spawn, arguments: list[str], closed: str) -> None:
    """With descriptor 1 closed, the connection to the daemon would be it, and be written to."""
    process = spawn(*arguments, through=("sh", "-c", f'exec "$@" {closed}', "sh"))
    _, errors = process.communicate(timeout=30)
    assert errors == b""
    assert process.returncode == (42 if "exit" in arguments else 0)


def test_a_topology_is_brought_up_without_what_reaches_into_namespaces() -> None:
    """It takes as long to load as all the rest, and most files ask for none of it."""
    script = (
        "import sys, netd.cli.topology, netd.topology.up, netd.topology.hosts;"
        "print([name for name in sys.modules if name in ('asyncio', 'nftables', 'netd.kernel')])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
