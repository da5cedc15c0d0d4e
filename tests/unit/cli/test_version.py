from __future__ import annotations

import json

import pytest

import netd
from tests.fake_daemon import FakeDaemon
from tests.unit.cli.conftest import Cli


def test_both_versions(cli: Cli, daemon: FakeDaemon) -> None:
    lines = cli("version").out.splitlines()
    assert lines[0] == f"client     {netd.__version__}"
    assert lines[1] == "daemon     9.9 (api v1, pid 7)"
    found = json.loads(cli("version", "--json").out)
    assert (found["client"]["version"], found["daemon"]["run_dir"]) == (netd.__version__, "/r")


def test_without_a_daemon_its_own_is_still_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETD_SOCKET", "/nowhere")
    answer = cli("version", "--json")
    assert answer.code == 125
    assert json.loads(answer.out) == {"client": {"version": netd.__version__}, "daemon": None}
    assert answer.err.startswith("netd: cannot reach the daemon at /nowhere")
