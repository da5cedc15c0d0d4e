"""Takes down the labs of a test run that is killed, where they do not end with it by themselves.

A private daemon takes all of its labs along (`private`). Hosts of a lab's own and labs on a daemon that
somebody named would stay; so the run has a process beside it, which is told what is up:

    python -m netd.testing.reaper OWNER     a line of JSON on standard input for each lab that begins and ends

It waits for the end of standard input, or of the run itself, whose children may have inherited the other
end: of its parent or of the process with the number OWNER. After a run that ends well nothing is to be done.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Self

from netd.testing.private import owner

ENDS_WITHIN = 60.0
"""Seconds for whatever was not taken down."""


class Reaper:
    """The run's side of it: a context manager. The process is there from the first lab on."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._up: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.communicate(timeout=ENDS_WITHIN)

    def watch(self, project: str, socket: str, volumes: Sequence[str]) -> None:
        """A lab is going to be made: on the daemon at `socket`, or where that is empty on its own hosts."""
        self._up.add(project)
        self._tell({"project": project, "socket": socket, "volumes": list(volumes)})

    def forget(self, project: str) -> None:
        """A lab has been taken down."""
        if project in self._up:
            self._up.remove(project)
            self._tell({"project": project, "gone": True})

    def _tell(self, what: object) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "netd.testing.reaper", str(owner())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # neither ^C nor who kills the whole group is to hit it
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        self._process.stdin.flush()


def main() -> None:
    """Wait for the end of the run, and put away what it did not."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    up: dict[str, dict[str, object]] = {}
    for line in _told().splitlines():
        about = json.loads(line)
        up.pop(about["project"], None)
        if "gone" not in about:
            up[about["project"]] = about
    for about in up.values():
        _take_down(**about)  # type: ignore[arg-type]


def _told() -> bytes:
    """All that the run has said by the time it ends."""
    told = b""
    owners = [os.pidfd_open(os.getppid()), os.pidfd_open(int(sys.argv[1]))]
    while 0 in select.select([0, *owners], (), ())[0]:
        if not (chunk := os.read(0, 65536)):
            break
        told += chunk
    return told


def _take_down(project: str, socket: str, volumes: Sequence[str]) -> None:
    from netd.api.client import connect
    from netd.errors import NetdError
    from netd.topology import down, hosts

    try:
        if socket:
            down(connect(socket), project)
        else:
            hosts.down(project)
    except NetdError as error:
        print(f"lab {project} of a test run that was killed is still up: {error}", file=sys.stderr)
    for path in volumes:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
