"""What the runtime is asked for and what it answers; values only.

The runtime knows processes, not networks: it is given a network namespace by path and identity and
three files (`hosts`, `hostname`, `resolv.conf` in the container's directory) that somebody else
fills and may rewrite in place at any time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A bind mount: `source` on the host, `target` absolute inside."""

    source: str
    target: str
    read_only: bool = False


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """cgroup limits; 0 is unlimited. `memory` in bytes (swap included), `cpus` in CPUs, `pids` tasks."""

    memory: int = 0
    cpus: float = 0.0
    pids: int = 0


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process to run inside: the first one, or one started by exec.

    `user` is "UID[:GID]" or names from the container's own /etc/passwd and /etc/group; empty is root.
    `env` is the whole environment. `rows` and `columns` apply with `tty`.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = {}
    workdir: str = "/"
    user: str = ""
    tty: bool = False
    interactive: bool = False
    rows: int = 24
    columns: int = 80


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A container to make. `id` names its directory and cgroup: lower-case hex, made by netd.

    `netns` is a path of an nsfs file, checked against (`netns_device`, `netns_inode`); empty stands
    for the host's network. `rootfs` is a directory, or "host". `cap_add` and `cap_drop` are names
    without CAP_, or "ALL". `log_bytes` bounds the log kept on disk.
    """

    id: str
    process: Process
    hostname: str
    netns: str
    netns_device: int = 0
    netns_inode: int = 0
    rootfs: str = "host"
    read_only: bool = False
    volumes: tuple[Volume, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = {}
    limits: Limits = Limits()
    log_bytes: int = 10 * 1024 * 1024
    hide: tuple[str, ...] = ()
    """Host paths that a container with rootfs "host" must not see, beside the built-in list (state and
    run dirs of this daemon)."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What the runtime knows of one container. `state` is "created", "running" or "exited".

    `pid` is the first process in the host's PID namespace, 0 unless running; times are seconds since
    the epoch, 0 where it has not happened; `exit_code` is as shells report it (128+n for a signal).
    """

    state: str
    pid: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    started: float = 0.0
    finished: float = 0.0


class Frame(msgspec.Struct, frozen=True):
    """One piece of attached traffic. Kinds from the container: "stdout", "stderr", "exit" (`code`).
    Kinds to it: "stdin", "eof", "resize" (`code` = rows << 16 | columns), "signal" (`code`)."""

    kind: str
    data: bytes = b""
    code: int = 0


class LogEntry(msgspec.Struct, frozen=True):
    """One logged line: seconds since the epoch, "stdout" or "stderr", the bytes with their newline."""

    time: float
    stream: str
    data: bytes


class Attached(Protocol):
    """A two-way connection to the standard streams of a process."""

    def __aiter__(self) -> AsyncIterator[Frame]:
        """Frames from the process, the last of kind "exit"."""

    async def send(self, frame: Frame) -> None:
        """Hand a frame to the process; a process that has ended swallows it."""

    async def close(self) -> None:
        """Detach; the process goes on."""


class Runtime(Protocol):
    """`netd.runtime.local.LocalRuntime` on a host; a fake in unit tests.

    Errors: `NotFound` for an unknown id, `Invalid` for a spec that cannot work (the message names the
    value: a missing rootfs, an unknown capability, an unknown user), `InUse` for a wrong state.
    """

    async def start(self) -> None:
        """Ready the launcher (a process started by exec, warm, that forks containers for us)."""

    async def close(self) -> None:
        """End the launcher. Containers go on."""

    def directory(self, id: str) -> Path:
        """The container's directory below the run dir; holds hosts, hostname, resolv.conf, the log."""

    async def create(self, spec: ContainerSpec) -> None:
        """Make the cgroup, the mounts and the first process, which waits, all set, for `run`."""

    async def run(self, id: str) -> Status:
        """Let the first process execute its command. `Invalid` (exit 127 or 126 in the status of a
        shell) names a command that cannot be executed."""

    async def exec(self, id: str, process: Process) -> Attached:
        """Start a further process inside all the container's namespaces, cgroup and limits."""

    async def attach(self, id: str) -> Attached:
        """Connect to the first process; called before `run`, it sees all output from the first byte on."""

    async def status(self, id: str) -> Status:
        """What is known now; read from the container's directory, so it works after a daemon restart."""

    async def wait(self, id: str) -> Status:
        """Answer when the container has ended."""

    async def kill(self, id: str, signal: int) -> None:
        """Send a signal to the first process. SIGKILL freezes the cgroup and kills everything in it."""

    async def remove(self, id: str) -> None:
        """Kill what still runs, undo the mounts, remove cgroup and directory. Unknown id is success."""

    def logs(self, id: str, *, follow: bool, tail: int) -> AsyncGenerator[LogEntry, None]:
        """Logged lines, the last `tail` of them (0: all), then new ones until the container ends. To be
        closed by whoever stops earlier."""

    async def containers(self) -> list[str]:
        """Ids of all containers that have a directory or a cgroup of this run dir, running or not."""
