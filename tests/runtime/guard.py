"""Ends what a test run has left when the run itself was killed: its containers, groups and files.

Started by the test run with the other end of its standard input in its hands; when that closes, for
whatever reason, everything below the control group and the run directory named as arguments goes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path


def main(group: str, run_dir: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    deadline = time.monotonic() + 10
    while (left := list(_groups(group))) and time.monotonic() < deadline:
        for path in left:
            for pid in (path / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                path.rmdir()
        time.sleep(0.01)
    shutil.rmtree(run_dir, ignore_errors=True)


def _groups(group: str) -> list[Path]:
    tops = [*Path("/sys/fs/cgroup").glob(f"*/{group}"), *Path("/sys/fs/cgroup").glob(group)]
    return [Path(path) for top in tops for path, _, _ in os.walk(top, topdown=False)]


if __name__ == "__main__":
    main(*sys.argv[1:])
