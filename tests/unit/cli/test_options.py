from __future__ import annotations

import threading
from pathlib import Path

import click
import pytest

from netd.cli import options
from netd.errors import InUse, NotFound
from netd.settings import Settings
from tests.fake_daemon import FakeDaemon, container, network
from tests.unit.cli.conftest import Cli


def test_default_socket_is_the_daemons() -> None:
    assert str(Settings().socket) == options.DEFAULT_SOCKET


def test_each_prints_in_order_and_takes_the_first_failures_code(capsys: pytest.CaptureFixture[str]) -> None:
    class Odd(NotFound):
        exit_code = 9

    second_is_done = threading.Event()

    def act(ref: str) -> str:
        match ref:
            case "a":
                assert second_is_done.wait(10), "b was not begun while a was under way"
            case "b":
                second_is_done.set()
                raise Odd("no\nb")
            case "c":
                raise InUse("no c")
        return ref.upper()

    assert options.each(["a", "b", "c", "d", "a"], act) == 9
    assert capsys.readouterr() == ("A\nD\n", "netd: no b\nnetd: no c\n")


def test_each_hands_on_what_is_no_refusal() -> None:
    def act(ref: str) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        options.each(["a"], act)


def test_inspect_prints_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    def find(ref: str) -> object:
        if ref == "a":
            raise NotFound("no a")
        return network(ref, 1)

    assert options.inspect_all(["a", "b"], find) == 1  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert '"name": "b"' in out
    assert err == "netd: no a\n"


def test_socket_is_found_by_option_then_environment(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = str(tmp_path / "netd.sock")
    monkeypatch.setenv("NETD_SOCKET", str(tmp_path / "absent.sock"))
    absent = cli("network", "ls", "-q")
    assert absent.code == 125
    assert f"{tmp_path}/absent.sock" in absent.err
    for line in (
        ["--socket", there, "network", "ls", "-q"],
        ["network", "--socket", there, "ls", "-q"],
        ["network", "ls", "-q", "--socket", there],
        ["--socket", "/nowhere", "network", "ls", "-q", "--socket", there],
    ):
        assert cli(*line).code == 0


def test_names_are_completed(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon.containers = {"web": container("web", 1), "wasp": container("wasp", 2), "db": container("db", 3)}
    daemon.networks = {"wide": network("wide", 4)}
    context = click.Context(click.Command("x"))
    parameter = click.Argument(["name"])
    with context:
        context.meta["netd.socket"] = str(daemon.path)
        assert options.container_names(context, parameter, "w") == ["web", "wasp"]
        assert options.network_names(context, parameter, "w") == ["wide"]
        context.meta["netd.socket"] = "/nowhere"
        assert options.container_names(context, parameter, "w") == []
    assert capfd.readouterr() == ("", "")
