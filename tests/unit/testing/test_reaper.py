"""What becomes of a run's labs is tests/e2e/testing/test_private.py; here is who is told what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from netd.testing.reaper import Reaper

RUN = """
import os, sys
from netd.testing.reaper import Reaper
with Reaper() as reaper:
    for name in ("kept", "left"):
        reaper.watch(f"of-no-lab-{name}", sys.argv[2], [f"{sys.argv[1]}/{name}"])
    reaper.forget("of-no-lab-kept")
    reaper.forget("of-no-lab-ever")
    if sys.argv[3] == "killed":
        os.kill(os.getpid(), 9)
    reaper.forget("of-no-lab-left")
"""


@pytest.mark.parametrize(("end", "stays"), [("killed", {"kept"}), ("well", {"kept", "left"})])
def test_what_was_not_taken_down_is(tmp_path: Path, end: str, stays: set[str]) -> None:
    for name in ("kept", "left"):
        (tmp_path / name).mkdir()
    words = [sys.executable, "-c", RUN, str(tmp_path), str(tmp_path / "no.sock"), end]
    # Ends when the reaper has, too, which has the other end of this pipe.
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert {path.name for path in tmp_path.iterdir()} == stays
    assert ("of-no-lab-left" in done.stderr) == (end == "killed"), "nobody answers at that socket"
    assert "kept" not in done.stderr


def test_without_a_lab_there_is_no_process() -> None:
    with Reaper() as reaper:
        reaper.forget("p")
        assert not Path(f"/proc/self/task/{os.getpid()}/children").read_text()
