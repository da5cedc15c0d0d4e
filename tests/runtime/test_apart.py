"""A host apart: what its program sees, and how everything ends with whoever began it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.host import ROOT, eventually

LOOK = """
cat /proc/sys/kernel/random/boot_id >/dev/null
echo "links $(ls /sys/class/net | tr '\\n' ' ')" >&2
echo "flags $(cat /sys/class/net/lo/flags)" >&2
echo "pids $(ls -d /proc/[0-9]* | wc -l)" >&2
echo "groups $(ls /sys/fs/cgroup | wc -l)" >&2
exit 7
"""
STAY = """
import os, socket, subprocess, sys, time
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
    notices.sendto(b"READY=1\\nSTATUS=here", os.environ["NOTIFY_SOCKET"])
time.sleep(1000)
"""
OWNER = """
import subprocess, sys
guardian = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
guardian.wait()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "apart"
    path.mkdir()
    return path


def command(directory: Path, *program: str, owner: int | None = None) -> list[str | Path]:
    return [sys.executable, "-m", "netd.runtime.apart", directory, str(owner or os.getpid()), *program]


def alive(mark: str) -> list[str]:
    """The processes whose command line or environment speaks of `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            told = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in told and path.name != str(os.getpid()):
            found.append(path.name)
    return found


def test_a_program_finds_nothing_but_itself(directory: Path) -> None:
    with subprocess.Popen(
        command(directory, "/bin/sh", "-c", LOOK), cwd=ROOT, stdin=-1, stdout=-1, stderr=-1, text=True
    ) as guardian:
        assert guardian.stderr
        assert guardian.stdout
        told = dict(line.split(" ", 1) for line in guardian.stderr.read().splitlines())
        assert guardian.stdout.read() == "", "it never said that it is ready"
        assert guardian.wait(30) == 7
    assert told["links"] == "lo "
    assert int(told["flags"], 16) & 1, "lo is up"
    assert int(told["pids"]) < 8
    assert int(told["groups"]) == len(list(Path("/sys/fs/cgroup").iterdir()))
    assert not directory.exists()


def test_everything_ends_with_standard_input(directory: Path) -> None:
    with subprocess.Popen(
        command(directory, sys.executable, "-c", STAY), cwd=ROOT, stdin=-1, stdout=-1, text=True
    ) as guardian:
        assert guardian.stdin
        assert guardian.stdout
        assert guardian.stdout.readline() == "ready\n"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            guardian.send_signal(number)
        assert len(alive(str(directory))) >= 3
        guardian.stdin.close()
        assert guardian.wait(30) == 0
    assert alive(str(directory)) == []
    assert not directory.exists()


def test_everything_ends_with_an_owner_that_is_killed(directory: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, *command(directory, sys.executable, "-c", STAY)],
        cwd=ROOT,
        stdin=-1,
        stdout=-1,
        text=True,
    ) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "ready\n"
        owner.kill()
    eventually("the guardian has put everything away", lambda: not directory.exists())
    eventually("all have ended", lambda: not alive(str(directory)))


def test_everything_ends_with_the_owner_though_standard_input_stays_open(directory: Path) -> None:
    with (
        subprocess.Popen(["sleep", "1000"]) as owner,
        subprocess.Popen(
            command(directory, sys.executable, "-c", STAY, owner=owner.pid),
            cwd=ROOT,
            stdin=-1,
            stdout=-1,
            text=True,
        ) as guardian,
    ):
        assert guardian.stdout
        assert guardian.stdout.readline() == "ready\n"
        owner.kill()
        assert guardian.wait(30) == 0
    assert alive(str(directory)) == []
    assert not directory.exists()


def test_without_a_guardian_nobody_stays(directory: Path) -> None:
    with subprocess.Popen(
        command(directory, sys.executable, "-c", STAY), cwd=ROOT, stdin=-1, stdout=-1, text=True
    ) as guardian:
        assert guardian.stdout
        assert guardian.stdout.readline() == "ready\n"
        guardian.kill()
    eventually("all have ended", lambda: not alive(str(directory)))
