from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from netd.cli.daemon import daemon
from tests.unit.cli.conftest import NETD


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NETD, "daemon", *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run-dir", "relative"], "--run-dir 'relative' must be an absolute path"),
        (["--config", "/nonexistent.toml"], "configuration file /nonexistent.toml"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(arguments: list[str], message: str) -> None:
    done = start(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_wrong_usage() -> None:
    assert start("--log-format", "xml").returncode == 2


def test_the_file_gives_what_the_flags_leave_out(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o777)
    (tmp_path / "run").chmod(0o777)
    config = tmp_path / "netd.toml"
    config.write_text(f'run_dir = "{tmp_path}/run"\nlog_format = "json"\n')
    done = start("--config", str(config), "--state-dir", str(tmp_path / "state"))
    assert done.returncode == 1
    reason = "writable by others" if os.geteuid() == 0 else "must run as root"
    assert reason in done.stderr.splitlines()[-1]


def test_every_flag_is_documented() -> None:
    assert all(getattr(option, "help", "") for option in daemon.params)


def test_a_daemon_collects_garbage_as_often_as_any_program() -> None:
    """Unlike a command, which lives too short for it."""
    code = """
import gc, sys
from netd import app
from netd.cli.main import main

async def serve(settings):
    print(gc.get_threshold() == before)

before, app.serve = gc.get_threshold(), serve
sys.argv[1:] = ["daemon"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "True", done.stderr
