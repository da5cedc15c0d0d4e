"""Process 1 of a host, without the namespaces: what it does when its program ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

STAY = """\
import signal, sys
from netd.runtime import machine
signal.pthread_sigmask(signal.SIG_SETMASK, machine.WATCHED)
machine.stay(sys.argv[1:])
"""
COUNT = 'echo run >> "$0"; test $(wc -l < "$0") -lt 3 && {}; exit 7'
"""What a program does the first two times; the third time it gives up."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def stay(*program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", STAY, *program], stdout=subprocess.PIPE)


@pytest.mark.parametrize("end", ["kill -9 $$", "exit 0"])
def test_what_was_killed_or_stopped_is_started_again_until_it_gives_up(runs: Path, end: str) -> None:
    process = stay("/bin/sh", "-c", COUNT.format(end), str(runs))
    process.communicate(timeout=15)
    assert runs.read_text() == "run\n" * 3


TOLD = """\
import pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("up", flush=True)
signal.sigwait({signal.SIGTERM})
pathlib.Path(sys.argv[1]).write_text("told\\n")
"""


@pytest.fixture
def patient(runs: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = stay(sys.executable, "-c", TOLD, str(runs))
    yield process
    process.kill()
    process.communicate()


def test_the_program_is_told_of_the_end(patient: subprocess.Popen[bytes], runs: Path) -> None:
    assert patient.stdout is not None
    assert patient.stdout.readline() == b"up\n"
    patient.send_signal(signal.SIGTERM)
    patient.wait(15)
    assert runs.read_text() == "told\n"
