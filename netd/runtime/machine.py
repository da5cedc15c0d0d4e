"""A host as namespaces of this machine: process 1 of it, which starts one program there and reaps.

    python -m netd.runtime.machine NAME       prints the number of the process that stays

The process that stays is in new network, mount, PID, UTS and IPC namespaces, and waits for one line on its
standard input: the program, as JSON. Where that line does not come its maker is gone, and it ends. As
process 1 it takes everything of its host along, however it ends: the daemon, the containers, the mounts.
A program that is killed, or stopped in good order, is started again, and containers go on meanwhile. One that
gives up, which its exit status says, ends the host.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator

from netd.runtime import syscalls
from netd.runtime.apart import own_mounts

NAMESPACES = (
    syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
)
WATCHED = {signal.SIGTERM, signal.SIGCHLD}


def main() -> None:
    """Make the namespaces, and be process 1 of them."""
    name = sys.argv[1]
    signal.pthread_sigmask(signal.SIG_SETMASK, WATCHED)  # before anybody can send one
    syscalls.unshare(NAMESPACES)
    if child := os.fork():
        print(child, flush=True)
        os._exit(0)
    os.setsid()
    syscalls.set_title(f"netd-host {name}")
    own_mounts()
    socket.sethostname(name)
    line = sys.stdin.readline()
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    if line:
        stay(json.loads(line))


def stay(program: list[str]) -> None:
    """Run `program` until SIGTERM, which it is told; then end when it has."""
    child = _begin(program)
    ending = False
    while True:
        if signal.sigwait(WATCHED) == signal.SIGTERM:
            ending = True
            os.kill(child, signal.SIGTERM)  # not reaped yet, so the number is its own
        for pid, status in _reaped():
            if pid != child:
                continue
            if ending or os.waitstatus_to_exitcode(status) > 0:
                return
            child = _begin(program)


def _begin(program: list[str]) -> int:
    return os.posix_spawn(program[0], program, os.environ, setsigmask=())


def _reaped() -> Iterator[tuple[int, int]]:
    """Every process that has ended by now, and how."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


if __name__ == "__main__":
    main()
