"""Refuses a container that cannot work before anything is made. Pure but for looking at paths.

Every message names the option, the value and the way out; what only the container's own files can tell (a
user's name, a command) is refused inside, at `create` or at `run`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from netd.errors import Invalid
from netd.runtime import capabilities, logs, procfs
from netd.runtime.spec import ContainerSpec, Limits, Process, Volume

_ID = re.compile(r"[0-9a-f]{1,64}")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?")
_RESERVED = ("/proc", "/sys", "/dev")

SMALLEST_MEMORY = 6 * 1024 * 1024
"""As in Docker."""

SMALLEST_CPUS = 0.01
"""The kernel takes no quota below a millisecond in its period of 100."""


def container(spec: ContainerSpec) -> None:
    """Raises `Invalid`, or `Unsupported` for what this host cannot give."""
    identity(spec.id)
    process(spec.process)
    if not _HOSTNAME.fullmatch(spec.hostname):
        raise Invalid(f"hostname {spec.hostname!r} is not valid: 1 to 64 letters, digits, '-' and '.'")
    _rootfs(spec.rootfs)
    for volume in spec.volumes:
        _volume(volume)
    targets = [_normal(volume.target) for volume in spec.volumes]
    for target in targets:
        if targets.count(target) > 1:
            raise Invalid(f"two volumes have the target {target!r}; one would hide the other")
    for path in spec.hide:
        _absolute("hidden path", path)
    capabilities.resolve(spec.cap_add, spec.cap_drop)
    capabilities.check_possible(spec.cap_add)
    procfs.check_sysctls(spec.sysctls, host_network=not spec.netns)
    _limits(spec.limits)
    if spec.log_bytes < logs.SMALLEST:
        raise Invalid(f"a log of {spec.log_bytes} bytes is too small: {logs.SMALLEST} is the least")


def identity(id: str) -> str:
    """Return `id` if it may be the name of a directory and a control group. Raises `Invalid`."""
    if not _ID.fullmatch(id):
        raise Invalid(f"container id {id!r} is not valid: 1 to 64 lower-case hexadecimal digits")
    return id


def process(process: Process) -> None:
    """Raises `Invalid`."""
    if not process.argv or not process.argv[0]:
        raise Invalid("no command was given: name one after --")
    for text in (*process.argv, *process.env, *process.env.values(), process.workdir):
        if "\0" in text:
            raise Invalid(f"{text!r}: a NUL byte cannot be passed to a process")
    for name in process.env:
        if not name or "=" in name:
            raise Invalid(f"environment variable {name!r} is not a name: use NAME=VALUE")
    _absolute("working directory", process.workdir)


def _rootfs(path: str) -> None:
    if path == "host":
        return
    _absolute("rootfs", path)
    if not Path(path).is_dir():
        raise Invalid(f"rootfs {path!r} is not a directory; unpack a root file system there, or use host")
    if Path(path).samefile("/"):
        raise Invalid(f"rootfs {path!r} would show all the host's secrets; use host, which hides them")


def _volume(volume: Volume) -> None:
    text = f"volume {volume.source}:{volume.target}"
    _absolute(f"{text}: source", volume.source)
    _absolute(f"{text}: target", volume.target)
    if not os.path.lexists(volume.source):
        raise Invalid(f"{text}: the source does not exist on the host; make it first")
    target = _normal(volume.target)
    if target == "/" or ".." in Path(volume.target).parts:
        raise Invalid(f"{text}: the target must be a path inside the container, below /; for / use --rootfs")
    if any(target == place or target.startswith(f"{place}/") for place in _RESERVED):
        raise Invalid(f"{text}: nothing can be mounted on or below /proc, /sys and /dev")


def _normal(path: str) -> str:
    # POSIX gives two leading slashes a meaning of their own, and so normpath keeps them; Linux does not.
    return os.path.normpath("/" + path.lstrip("/"))


def _limits(limits: Limits) -> None:
    if limits.memory and limits.memory < SMALLEST_MEMORY:
        raise Invalid(f"--memory {limits.memory}: at least {SMALLEST_MEMORY} bytes (6m) are needed")
    if limits.cpus < 0 or (limits.cpus and limits.cpus < SMALLEST_CPUS):
        raise Invalid(f"--cpus {limits.cpus}: at least {SMALLEST_CPUS} are needed")
    if limits.pids < 0 or limits.memory < 0:
        raise Invalid(f"a limit of {min(limits.pids, limits.memory)} makes no sense; 0 is unlimited")


def _absolute(what: str, path: str) -> None:
    if not path.startswith("/") or "\0" in path:
        raise Invalid(f"{what} {path!r} must be an absolute path")
