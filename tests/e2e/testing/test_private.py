"""Without a daemon that somebody named, the run starts one, and takes it along when it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from netd.errors import Denied, Unavailable
from netd.testing.private import PrivateDaemon
from tests.e2e.host import eventually
from tests.e2e.testing.runs import HEAD

LOOK = """
def test_where(lab):
    print("daemon", lab.client.path)
    question = IP(dst=lab.ip("api", "front")) / ICMP()
    with lab.link_down("api", "front"):
        assert lab["web"].sr1(question, timeout=0.3) is None
    assert lab["web"].sr1(question) is not None
"""
HANG = """
def test_that_hangs(lab):
    print("daemon", lab.client.path, flush=True)
    lab["web"].exec("sleep", "1000", timeout=1000)
"""


def run(directory: Path, text: str, *arguments: str) -> subprocess.Popen[str]:
    (directory / "test_it.py").write_text(text)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("NETD_", "PYTEST_"))
    }
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def groups() -> set[str]:
    """The daemons, of whatever run dir, that have control groups."""
    return {path.name for root in Path("/sys/fs/cgroup").glob("**/netd") for path in root.iterdir()}


def links() -> str:
    return subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout


def test_each_worker_has_one_which_ends_with_it(tmp_path: Path) -> None:
    before = links()
    text = HEAD + LOOK + LOOK.replace("where", "again")
    with run(tmp_path, text, "-n", "2", "-rP", "--dist", "each") as running:
        wrote, _ = running.communicate(timeout=100)
    assert running.returncode == 0, wrote
    paths = re.findall(r"^daemon (\S+)$", wrote, re.MULTILINE)
    assert len(paths) == 4
    assert len(set(paths)) == 2
    assert not any(Path(path).parents[1].exists() for path in paths)
    assert links() == before


def test_it_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    known = groups()
    with run(tmp_path, HEAD + HANG, "-s") as running:
        assert running.stdout is not None
        path = next(Path(line.split()[1]) for line in running.stdout if line.startswith("daemon "))
        token = (path.parent / "containers" / ".group").read_text()
        eventually("its containers run", lambda: token in groups() - known)
        running.send_signal(signal.SIGKILL)
    eventually("it is gone", lambda: not path.parents[1].exists())
    assert token not in groups()


def test_a_daemon_that_cannot_start_says_why() -> None:
    daemon = PrivateDaemon("nonsense = 1")
    with pytest.raises(Unavailable, match=r"no daemon for these tests: .*nonsense"), daemon:
        pass
    assert not daemon.directory.exists()


def test_only_root_starts_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Denied, match="only be started by root"), PrivateDaemon():
        pass
