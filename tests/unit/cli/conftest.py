"""The real command line, in process and as a subprocess, against a fake daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from netd.cli import main
from tests.fake_daemon import FakeDaemon

NETD = [sys.executable, "-c", "from netd.cli.main import main; main()"]


@dataclass(frozen=True)
class Answer:
    """What one command line came to."""

    code: int
    out: str
    err: str


Cli = Callable[..., Answer]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    """A fake daemon that `netd` finds by NETD_SOCKET."""
    fake = FakeDaemon(tmp_path / "netd.sock")
    yield fake
    fake.close()


@pytest.fixture
def cli(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run one command line in this process."""
    monkeypatch.setenv("NETD_SOCKET", str(daemon.path))

    def run(*arguments: str) -> Answer:
        code = main.run(arguments)
        captured = capfd.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def spawn(daemon: FakeDaemon) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start one command line as a process of its own, its standard streams being pipes.

    `through` is a program, with its arguments, that becomes netd when it has done its part. A function run
    between fork and exec would be shorter, but in a process with gRPC's threads that hangs or aborts
    now and then.
    """
    started = []

    def run(*arguments: str, through: Sequence[str] = (), **options: object) -> subprocess.Popen[bytes]:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(  # type: ignore[call-overload]
            [*through, *NETD, *arguments],
            env={**os.environ, "NETD_SOCKET": str(daemon.path)},
            **{**streams, **options},
        )
        started.append(process)
        return process  # type: ignore[no-any-return]

    yield run
    for process in started:
        process.kill()
        process.communicate()
