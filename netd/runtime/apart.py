"""Runs a program on a host apart: namespaces in which it is root of a network that holds nothing.

    python -m netd.runtime.apart DIRECTORY OWNER PROGRAM ...

What the program makes (links, rules, containers, mounts) exists there alone; files are the machine's.
It is for daemons that a test run starts for itself, so what counts most is the end: it comes with the end
of standard input, which whoever began this holds open, and so also when that is killed. Others may have
inherited that, or whoever began this may linger for nothing; so the end comes also with that of either our
parent or the process with the number OWNER, which may be the same.

    guardian            waits for that end, and then removes control groups and DIRECTORY
      └─ process 1      of the PID namespace: whatever runs in it ends with it; reaps orphans
           └─ PROGRAM

The guardian writes "ready" to standard output once the program has said so (sd_notify(3)), and else
just ends. It is deaf to the terminal's ^C, because the test run still has things to put away then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from netd.runtime import cgroup, syscalls

IFF_UP, SIOCSIFFLAGS = 0x1, 0x8914  # linux/if.h, linux/sockios.h
UNUSABLE = 125
"""Exit status where the namespaces could not be made."""


def main(directory: Path, owner: int, program: Sequence[str]) -> int:
    """Be the guardian; returns the program's exit status, or 0 if it was still running at the end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    owners = [os.pidfd_open(os.getppid()), os.pidfd_open(owner)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notices:
        notices.bind(str(directory / "notify"))
        try:
            # Only of children: the guardian stays outside, where the control groups are to be removed.
            syscalls.unshare(syscalls.CLONE_NEWPID)
        except OSError as error:
            print(f"namespaces cannot be made here: {error.strerror}", file=sys.stderr)
            return UNUSABLE
        first = os.fork()
        if first == 0:
            _first_process(directory, program)
        _guard(first, notices, owners)
        _, status = os.waitpid(first, 0)
    _clear(directory)
    code = os.waitstatus_to_exitcode(status)
    return 0 if code == -signal.SIGKILL else code


def _guard(first: int, notices: socket.socket, owners: Sequence[int]) -> None:
    """Return when process 1 has ended, which it does at the latest with our standard input or an owner."""
    pidfd = os.pidfd_open(first)
    try:
        while True:
            readable, _, _ = select.select([0, notices.fileno(), pidfd, *owners], (), ())
            if notices.fileno() in readable and b"READY=1" in notices.recv(4096).split(b"\n"):
                os.write(1, b"ready\n")
            if pidfd in readable:
                return
            if {*owners} & {*readable} or (0 in readable and not os.read(0, 4096)):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return
    finally:
        os.close(pidfd)


def _clear(directory: Path) -> None:
    """Remove what does not end with namespaces. The daemon's run dir holds the name of its groups."""
    with contextlib.suppress(OSError):
        groups = f"netd/{(directory / 'run' / 'containers' / '.group').read_text()}"
        hierarchy = cgroup.find()
        for id in hierarchy.children(groups):
            hierarchy.group(f"{groups}/{id}").remove()
    shutil.rmtree(directory, ignore_errors=True)


def _first_process(directory: Path, program: Sequence[str]) -> NoReturn:
    status = UNUSABLE
    try:
        syscalls.die_with_parent(signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        syscalls.unshare(
            syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
        )
        own_mounts()
        _loopback_up()
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(2, 1)  # "ready" is the guardian's to say
        os.environ["NOTIFY_SOCKET"] = str(directory / "notify")
        child = os.posix_spawn(program[0], list(program), os.environ)
        status = next(code for pid, code in _reaped() if pid == child)
    except OSError as error:
        print(f"the namespaces cannot be furnished: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def own_mounts() -> None:
    """/proc and /sys that show these namespaces. The control groups stay those of the machine."""
    syscalls.make_private()
    groups = syscalls.open_tree(syscalls.AT_FDCWD, "/sys/fs/cgroup", recursive=True)
    for fstype, path in (("proc", "/proc"), ("sysfs", "/sys")):
        mount = syscalls.new_filesystem(fstype, syscalls.NOSUID | syscalls.NODEV | syscalls.NOEXEC)
        _attach(mount, path)
    _attach(groups, "/sys/fs/cgroup")


def _attach(mount: int, path: str) -> None:
    target = os.open(path, os.O_PATH | os.O_DIRECTORY)
    syscalls.move_mount(mount, target)
    os.close(target)
    os.close(mount)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def _reaped() -> Iterator[tuple[int, int]]:
    """Every process that has ended, with its exit code."""
    while True:
        pid, status = os.waitpid(-1, 0)
        yield pid, os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
