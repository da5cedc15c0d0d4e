"""A daemon for one test run, where none was named: on a host apart, and gone with the run.

`netd.runtime.apart` makes the namespaces and sees to the end. The API's socket is a file, so tests reach
the daemon from outside; whatever enters its containers does so by sockets that it hands out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Self

from netd.errors import Denied, Unavailable

ENDS_WITHIN = 30.0
"""Seconds for the kernel to end all processes and for control groups to be removed."""


def owner() -> int:
    """The process whose end is that of the run: this one, but of a worker of pytest-xdist its controller.

    Without that a worker hangs on for a while, in whatever it does (in execnet 2, up to 15 s).
    """
    return os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()


class PrivateDaemon:
    """A context manager; `socket` is where the daemon listens inside of it. `config` is TOML."""

    def __init__(self, config: str = "") -> None:
        self._config = config
        self.directory = Path()
        self._guardian: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Of the API."""
        return self.directory / "run" / "netd.sock"

    def __enter__(self) -> Self:
        """Start. Raises `Denied` without root, and `Unavailable` with the words of a daemon that cannot."""
        if os.geteuid() != 0:
            raise Denied("a daemon for these tests can only be started by root")
        self.directory = Path(tempfile.mkdtemp(prefix="netd-pytest-"))
        # Not /etc/netd/netd.toml: this one shares nothing with the machine's own daemon.
        (self.directory / "netd.toml").write_text(self._config)
        paths = ("--config", "netd.toml"), ("--run-dir", "run"), ("--state-dir", "state")
        flags = [word for flag, name in paths for word in (flag, str(self.directory / name))]
        self._log = tempfile.TemporaryFile()
        python = (sys.executable, "-P", "-m")
        self._guardian = subprocess.Popen(
            [*python, "netd.runtime.apart", self.directory, str(owner()), *python, "netd", "daemon", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._guardian.stdout is not None
        if self._guardian.stdout.readline() != b"ready\n":
            raise Unavailable(f"no daemon for these tests: {self._end()}")
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> str:
        """End everything; answers the daemon's last words."""
        assert self._guardian is not None
        assert self._log is not None
        self._guardian.communicate(timeout=ENDS_WITHIN)
        with self._log:
            self._log.seek(0)
            words = self._log.read().decode(errors="replace").strip()
        return words.rpartition("\n")[2] or "it ended without a word"
