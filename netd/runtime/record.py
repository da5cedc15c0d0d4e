"""What is written down about a container in its directory, so that a daemon that starts later can know.

`spec.json` is what was asked for, `status.json` what has become of it. A monitor writes the status by
renaming a finished file over the old one: a reader sees the old or the new, never a half. Nothing is
synced to a disk; the run dir dies with the boot, and so do the containers.

Both may have been written by another version of netd than the one that reads them: a new field needs a
default, and none may change its meaning.

A pid alone says nothing after a while, because numbers are used again: every process is remembered with
its start time (field 22 of /proc/PID/stat, clock ticks since boot), and believed only where both agree.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal

import msgspec

from netd.errors import NotFound
from netd.runtime.spec import ContainerSpec, Status

SPEC = "spec.json"
STATUS = "status.json"

LOST = 128 + signal.SIGKILL
"""The exit code of a container whose monitor was killed: its PID 1 dies with it, by SIGKILL."""


UNMADE = 125
"""The exit code of a container whose making was cut short by the death of whoever made it."""


class Task(msgspec.Struct, frozen=True):
    """A process by number and start time."""

    pid: int = 0
    started: int = 0

    @staticmethod
    def of(pid: int) -> Task:
        """The process that has this number now; `started` 0 if there is none."""
        return Task(pid, _start_time(pid))

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return bool(self.pid) and bool(self.started) and _start_time(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send a signal to exactly this process. Gone already is success."""
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(self.pid)
            try:
                # The descriptor holds the process; only now can its start time be compared safely.
                if self.alive():
                    signal.pidfd_send_signal(fd, number)
            finally:
                os.close(fd)


def _start_time(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            # The second field is a name in parentheses that may contain anything, these included.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


class Record(msgspec.Struct, kw_only=True):
    """The content of status.json; see `spec.Status` for the units."""

    state: str = "created"
    monitor: Task = Task()
    init: Task = Task()
    command: Task = Task()
    exit_code: int = 0
    oom_killed: bool = False
    started: float = 0.0
    finished: float = 0.0

    def status(self) -> Status:
        """The public part, with the truth about a monitor that did not live to write its last word."""
        if self.state != "exited" and not self.monitor.alive() and not self.init.alive():
            return Status(state="exited", exit_code=LOST, started=self.started)
        return Status(
            state=self.state,
            pid=self.init.pid if self.state == "running" else 0,
            exit_code=self.exit_code,
            oom_killed=self.oom_killed,
            started=self.started,
            finished=self.finished,
        )


def write(directory: int, name: str, content: msgspec.Struct) -> None:
    """Write `content` as JSON to `name` in the directory, whole or not at all.

    Where the disk is full and there is a file already, it is overwritten in place: how a container ended
    must not get lost for want of a page.
    """
    data = msgspec.json.encode(content)
    temporary = f".{name}.{os.getpid()}"
    try:
        _store(directory, temporary, os.O_CREAT | os.O_TRUNC, data)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        # Padded, because the file must not be cut before it is written.
        size = os.stat(name, dir_fd=directory).st_size
        _store(directory, name, 0, data.ljust(size))


def _store(directory: int, name: str, flags: int, data: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600, dir_fd=directory)
    try:
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def read(path: str | os.PathLike[str]) -> Record:
    """The status in a container's directory. Raises `NotFound` where there is none."""
    return msgspec.json.decode(_content(path, STATUS), type=Record)


def read_spec(path: str | os.PathLike[str]) -> ContainerSpec:
    """What the container was made from. Raises `NotFound` where there is none."""
    return msgspec.json.decode(_content(path, SPEC), type=ContainerSpec)


def _content(path: str | os.PathLike[str], name: str) -> bytes:
    try:
        with open(os.path.join(path, name), "rb") as file:  # noqa: PTH118, PTH123
            return file.read()
    except FileNotFoundError:
        raise NotFound(f"no container {os.path.basename(path)} here") from None  # noqa: PTH119
