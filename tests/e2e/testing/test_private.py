"""Without a daemon that somebody named, the run starts one, and takes it along when it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from netd.errors import Denied, Unavailable
from netd.testing.private import ENDS_WITHIN, PrivateDaemon
from tests.e2e.host import eventually
from tests.e2e.testing.runs import HEAD

STARTS_WITHIN = 60.0
"""Seconds for two runs, two daemons, two hosts and what is on them."""

LOOK = """
def test_where(lab):
    print("daemon", lab.client.path)
    question = IP(dst=lab.ip("api", "front")) / ICMP()
    with lab.link_down("api", "front"):
        assert lab["web"].sr1(question, timeout=0.3) is None
    assert lab["web"].sr1(question) is not None
"""
HANG = '''
import json
import os
import time
from pathlib import Path

HOSTS = """
services:
  web: {networks: [wide], volumes: ["data:/data"], x-netd: {host: a}}
  db: {networks: [wide], x-netd: {host: b}}
networks: {wide: {driver: overlay}}
volumes: {data: }
x-netd: {hosts: {a: , b: }}
"""


def hang(lab, daemon):
    heir = os.fork()  # a child that has inherited whatever the run has open, and stays
    if not heir:
        time.sleep(1000)
    about = {"daemon": daemon.path, "heir": heir, "volumes": [*lab.project.volumes.values()]}
    path = Path(os.environ["TOLD"], "new")
    path.write_text(json.dumps(about))
    path.rename(path.with_name(lab.project.name))
    lab["web"].exec("sleep", "1000", timeout=1000)


@pytest.mark.topology(HOSTS)
def test_on_hosts(lab, netd_client):
    hang(lab, netd_client)


@pytest.mark.topology("services: {web: {volumes: ['data:/data']}}\\nvolumes: {data: }")
def test_plain(lab, netd_client):
    hang(lab, netd_client)
'''


def run(directory: Path, text: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    (directory / "test_it.py").write_text(text)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("NETD_", "PYTEST_"))
    }
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments],
        cwd=directory,
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def groups() -> set[str]:
    """The daemons, of whatever run dir, that have control groups."""
    # os.walk passes over what is removed meanwhile, by others.
    return {name for path, names, _ in os.walk("/sys/fs/cgroup") if path.endswith("/netd") for name in names}


@dataclass(frozen=True, slots=True)
class Lab:
    """Where to look for what a lab and its daemon would leave, known while they are up."""

    heir: int
    paths: list[Path]
    tokens: set[str]
    spaces: set[str]

    @classmethod
    def of(cls, told: Path) -> Lab:
        about = json.loads(told.read_text())
        daemon = Path(about["daemon"]).parents[1]
        homes = [Path(home, told.name) for home in ("/run/netd-topology", "/var/lib/netd-topology")]
        paths = [daemon, *(home for home in homes if home.exists()), *map(Path, about["volumes"])]
        files = [file for path in paths for file in path.glob("**/containers/.group")]
        marks = [str(path).encode() for path in paths]
        own = str(Path("/proc/self/ns/pid").readlink())
        spaces = {space for space, words in processes() if any(mark in words for mark in marks)} - {own}
        assert spaces
        return cls(about["heir"], paths, {file.read_text() for file in files}, spaces)

    def standing(self) -> list[str]:
        here = groups()
        return [
            *(str(path) for path in self.paths if path.exists()),
            *(token for token in self.tokens if token in here),
            *(space for space, _ in processes() if space in self.spaces),
        ]


def processes() -> Iterator[tuple[str, bytes]]:
    """The PID namespace and the command line of each."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield str((path / "ns/pid").readlink()), (path / "cmdline").read_bytes()


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


@pytest.mark.parametrize(
    ("arguments", "labs"), [(["-k", "plain"], 1), (["-k", "hosts"], 1), (["-n", "2", "--dist", "load"], 2)]
)
def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path, arguments: list[str], labs: int) -> None:
    before, told = links(), tmp_path / "told"
    told.mkdir()
    found: list[Lab] = []
    with run(tmp_path, HEAD + HANG, *arguments, TOLD=str(told)) as running:
        try:
            eventually(
                "labs are up",
                lambda: len([*told.glob("*-*")]) == labs or running.poll() is not None,
                STARTS_WITHIN,
            )
            found = [Lab.of(path) for path in told.glob("*-*")]
            assert len(found) == labs
            for each in found:
                assert len(each.standing()) >= 4, "directories, control groups, a volume, processes"
        finally:
            running.send_signal(signal.SIGKILL)
    try:
        eventually("all is gone", lambda: not any(each.standing() for each in found), ENDS_WITHIN)
    finally:
        for each in found:
            os.kill(each.heir, signal.SIGKILL)
    assert links() == before


def test_a_daemon_that_cannot_start_says_why() -> None:
    daemon = PrivateDaemon("nonsense = 1")
    with pytest.raises(Unavailable, match=r"no daemon for these tests: .*nonsense"), daemon:
        pass
    assert not daemon.directory.exists()


def test_only_root_starts_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Denied, match="only be started by root"), PrivateDaemon():
        pass
