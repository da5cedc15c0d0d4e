"""Limits, and the certainty that nothing of a container is left: control groups, version 2 or 1.

A container has one group, `/netd/<run dir>/<id>`, in the v2 tree where that offers the memory, cpu and
pids controllers, else one in each of the v1 hierarchies. <run dir> is a token that the daemon's run dir
holds, so daemons do not meet, and a group without a directory there is an orphan that can be found and
removed.

A group is made and its limits are set before the first process is in it, and the command is in it before
it may fork, so no moment exists in which something runs outside. netd's own PID 1 stays out of it: it is
not the user's to count, and must not be the one that the memory limit kills.

How the command gets in depends on the version. Moving a process may take 5 to 25 ms, for an RCU grace
period in which the kernel stops all forks and exits. On v1 a task that moves only itself is spared that
(by `tasks`; cgroup_procs_write_start, Linux 5.5); on v2 it is born inside (CLONE_INTO_CGROUP, 5.7).

Killing is complete: on v2 the kernel does it (`cgroup.kill`), on v1 everything is frozen first, so that
nothing can fork away while it is killed.

All calls are plain file operations on cgroupfs, made by the launcher's children, or by a worker thread of
the daemon where they may have to wait.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable
from typing import Protocol

from netd.errors import Unsupported
from netd.runtime import syscalls
from netd.runtime.spec import Limits

PERIOD = 100_000
"""Microseconds of a cpu quota's period; the kernel's default."""

_V1_CONTROLLERS = ("memory", "cpu", "pids", "freezer")
_V2_CONTROLLERS = ("memory", "cpu", "pids")


class Door(Protocol):
    """The way into a group, opened while its path can be reached and used where it cannot, inside."""

    version: int

    def fork(self) -> int:
        """Fork, as os.fork; the child calls `enter` before anything else, and is in the group then."""

    def enter(self) -> None:
        """See `fork`."""

    def close(self) -> None:
        """Let go of it."""


class Group(Protocol):
    """One container's control group; its name is "netd/<run dir>/<id>"."""

    def create(self, limits: Limits) -> None:
        """Make it and set the limits. Raises `Unsupported` for a limit that this kernel cannot keep."""

    def door(self) -> Door:
        """Open the way in. Raises FileNotFoundError if the group is gone."""

    def oom_kills(self) -> int:
        """How many processes were killed at the memory limit."""

    def kill(self) -> None:
        """SIGKILL everything inside, so that nothing escapes by forking. Gone already is success."""

    def remove(self) -> None:
        """Remove it, waiting up to a second for its last process to be reaped (OSError EBUSY). Gone is
        success."""


class Hierarchy(Protocol):
    """Where groups are made."""

    def group(self, name: str) -> Group:
        """A handle; nothing is made by it."""

    def children(self, name: str) -> set[str]:
        """Names of the groups directly below `name`."""


def find(mountinfo: str = "/proc/self/mountinfo") -> Hierarchy:
    """The hierarchy to use on this host. Raises `Unsupported` where there is none."""
    v1: dict[str, str] = {}
    v2: list[str] = []
    with open(mountinfo) as file:  # noqa: PTH123
        for line in file:
            mount, _, source = line.partition(" - ")
            path = mount.split()[4]
            fstype, _, options = source.split(" ", 2)
            if fstype == "cgroup2":
                v2.append(path)
            elif fstype == "cgroup":
                v1.update(dict.fromkeys(options.strip().split(","), path))
    for path in v2:
        if set(_V2_CONTROLLERS) <= set(_read(f"{path}/cgroup.controllers").split()):
            return V2(path)
    if {"memory", "pids", "freezer"} <= v1.keys():
        return V1({name: v1[name] for name in _V1_CONTROLLERS if name in v1})
    raise Unsupported(
        "no usable control groups: neither a v2 tree with memory, cpu and pids, nor v1 hierarchies with "
        "memory, pids and freezer are mounted; mount -t cgroup2 none /sys/fs/cgroup"
    )


class V2:
    """The unified hierarchy, mounted at `root`."""

    def __init__(self, root: str) -> None:
        self._root = root

    def group(self, name: str) -> Group:
        return _V2Group(self._root, name)

    def children(self, name: str) -> set[str]:
        return _directories(f"{self._root}/{name}")


class _V2Group:
    def __init__(self, root: str, name: str) -> None:
        self._root = root
        self._name = name
        self._path = f"{root}/{name}"

    def create(self, limits: Limits) -> None:
        _make(self._root, self._name, pass_on=_V2_CONTROLLERS)
        if limits.memory:
            _write(f"{self._path}/memory.max", str(limits.memory))
            # The limit includes swap, so none may be used beyond it; without swap the file is missing.
            with contextlib.suppress(FileNotFoundError):
                _write(f"{self._path}/memory.swap.max", "0")
        if limits.cpus:
            _write(f"{self._path}/cpu.max", f"{int(limits.cpus * PERIOD)} {PERIOD}")
        if limits.pids:
            _write(f"{self._path}/pids.max", str(limits.pids))

    def door(self) -> Door:
        return _V2Door(os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def oom_kills(self) -> int:
        return _counter(f"{self._path}/memory.events", "oom_kill")

    def kill(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            _write(f"{self._path}/cgroup.kill", "1")

    def remove(self) -> None:
        _remove(self._path)
        _remove_empty_parents(self._root, self._name)


class _V2Door:
    version = 2

    def __init__(self, group: int) -> None:
        self._group = group

    def fork(self) -> int:
        return syscalls.fork_into(self._group)

    def enter(self) -> None:
        """Born inside."""

    def close(self) -> None:
        os.close(self._group)


class V1:
    """The old hierarchies: controller -> where it is mounted (two may share one)."""

    def __init__(self, mounts: dict[str, str]) -> None:
        self._mounts = mounts

    def group(self, name: str) -> Group:
        return _V1Group(self._mounts, name)

    def children(self, name: str) -> set[str]:
        return set().union(*(_directories(f"{path}/{name}") for path in self._mounts.values()))


class _V1Group:
    def __init__(self, mounts: dict[str, str], name: str) -> None:
        self._mounts = mounts
        self._name = name
        self._paths = {controller: f"{path}/{name}" for controller, path in mounts.items()}

    def create(self, limits: Limits) -> None:
        for mount in dict.fromkeys(self._mounts.values()):
            _make(mount, self._name)
        if limits.memory:
            _write(f"{self._paths['memory']}/memory.limit_in_bytes", str(limits.memory))
            # Missing where the kernel does not account swap: then the limit is one of memory alone.
            with contextlib.suppress(FileNotFoundError):
                _write(f"{self._paths['memory']}/memory.memsw.limit_in_bytes", str(limits.memory))
        if limits.cpus:
            if "cpu" not in self._paths:
                raise Unsupported("--cpus: the cpu controller of cgroup v1 is not mounted on this host")
            _write(f"{self._paths['cpu']}/cpu.cfs_period_us", str(PERIOD))
            _write(f"{self._paths['cpu']}/cpu.cfs_quota_us", str(int(limits.cpus * PERIOD)))
        if limits.pids:
            _write(f"{self._paths['pids']}/pids.max", str(limits.pids))

    def door(self) -> Door:
        paths = dict.fromkeys(self._paths.values())
        return _V1Door([os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC) for path in paths])

    def oom_kills(self) -> int:
        return _counter(f"{self._paths['memory']}/memory.oom_control", "oom_kill")

    def kill(self) -> None:
        freezer = self._paths["freezer"]
        with contextlib.suppress(FileNotFoundError):
            _write(f"{freezer}/freezer.state", "FROZEN")
            # A task deep in the kernel freezes late; a second of patience, then it is killed as it is.
            _until(lambda: _read(f"{freezer}/freezer.state").strip() == "FROZEN", seconds=1)
            for pid in _read(f"{freezer}/cgroup.procs").split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _write(f"{freezer}/freezer.state", "THAWED")

    def remove(self) -> None:
        for mount in dict.fromkeys(self._mounts.values()):
            _remove(f"{mount}/{self._name}")
            _remove_empty_parents(mount, self._name)


class _V1Door:
    version = 1

    def __init__(self, tasks: list[int]) -> None:
        self._tasks = tasks

    def fork(self) -> int:
        return os.fork()

    def enter(self) -> None:
        for fd in self._tasks:
            os.write(fd, b"0")  # the writer itself

    def close(self) -> None:
        for fd in self._tasks:
            os.close(fd)


def _read(path: str) -> str:
    with open(path) as file:  # noqa: PTH123
        return file.read()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _counter(path: str, key: str) -> int:
    """A value of a file of lines "key value"; 0 where the file or the key is missing."""
    with contextlib.suppress(FileNotFoundError):
        for line in _read(path).splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    return 0


def _directories(path: str) -> set[str]:
    try:
        with os.scandir(path) as entries:
            return {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
    except FileNotFoundError:
        return set()


def _make(mount: str, name: str, pass_on: tuple[str, ...] = ()) -> None:
    """Make the group `name` with those above it; on v2 each passes the controllers `pass_on` to the next.

    The last container of a run dir, or of all, takes the groups above it along when it goes; one that
    comes at that moment begins again.
    """
    for attempt in range(10):
        path = mount
        try:
            for part in name.split("/"):
                if pass_on:
                    _write(f"{path}/cgroup.subtree_control", " ".join(f"+{each}" for each in pass_on))
                path = f"{path}/{part}"
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path, 0o755)  # noqa: PTH102
            return
        except FileNotFoundError:
            if attempt == 9:
                raise


def _remove_empty_parents(mount: str, name: str) -> None:
    """rmdir refuses while there is another container, and that is all there is to ask."""
    for _ in range(name.count("/")):
        name = name.rpartition("/")[0]
        try:
            os.rmdir(f"{mount}/{name}")  # noqa: PTH106
        except OSError:
            return


def _remove(path: str) -> None:
    """rmdir, with groups that a container's own root may have made below it."""

    def gone() -> bool:
        for child in _directories(path):
            _remove(f"{path}/{child}")
        try:
            os.rmdir(path)  # noqa: PTH106
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    if not _until(gone, seconds=1):
        raise OSError(
            errno.EBUSY, f"control group {path} still holds processes: {_read(path + '/cgroup.procs')}"
        )


def _until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Ask again every few milliseconds: cgroupfs has no event for either of the two things awaited here."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True
