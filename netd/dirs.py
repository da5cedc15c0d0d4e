"""The daemon's own directories, and the locks that keep a second daemon out of them and of the host.

What lies in them decides what root does next, so a directory that somebody else could have filled is
refused, not mended: a symbolic link, another owner, or writable by group or others. Too readable is
mended, since nothing can have been planted (CVE-2021-41091: a traversable state directory gave every
user the containers' setuid files).
"""

from __future__ import annotations

import fcntl
import grp
import logging
import os
import stat
from pathlib import Path

from netd.errors import Denied, InUse

log = logging.getLogger(__name__)

OWN = "a network namespace, a --run-dir and a --state-dir of its own"
STATE_MODE = 0o700
RUN_MODE = 0o750


def fault(path: Path) -> str | None:
    """Why `path` cannot be trusted as a directory of ours; None where it can, or does not exist."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        return f"{path} is a symbolic link; give the real directory instead"
    if not stat.S_ISDIR(found.st_mode):
        return f"{path} is not a directory; move it away"
    if found.st_uid != os.geteuid():
        return f"{path} belongs to user {found.st_uid}; look at what is in it, then chown it to root"
    if found.st_mode & 0o022:
        return (
            f"{path} is writable by others (mode {stat.S_IMODE(found.st_mode):04o}); look at what is "
            f"in it, then chmod go-w {path}"
        )
    return None


def make(path: Path, mode: int, group: int | None = None) -> None:
    """Make `path` with exactly `mode`, or tighten what is there. Raises `Denied` with the reason."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if reason := fault(path):
            raise Denied(reason) from None
    # By descriptor, so that what is changed is what was checked.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if group is not None:
            os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def group_id(name: str) -> int | None:
    """The number of a group; None where the host has no such group (then root alone may use netd)."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


class Lock:
    """An exclusive lock on a directory, held while the process lives; the kernel drops it when it dies.

    `flock` on an open file and not a pid file: a pid file outlives its writer, and its pid comes to
    mean another process. The pid inside is only for the message.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "netd.lock"
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock, or raise `InUse` naming the process that has it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise InUse(
                f"another netd daemon (pid {holder}) uses {self.path.parent}; stop it, or give this one {OWN}"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let the next daemon in. The file stays: removing it would race with whoever opens it now."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


class HostLock:
    """An exclusive lock on the network namespace, held while the process lives.

    What netd finds on the host and does not remember is a leftover, and it removes it. So a second daemon
    with directories of its own would take down what the first one has, and the first would put it back,
    for ever. The lock is on the namespace itself, not on a file beside it: it leaves nothing behind, and
    hosts that share a file system, such as those of a lab, do not meet.

    Anybody in the namespace may open it, so only a lock of root's counts: nobody else may keep netd out.
    """

    def __init__(self, namespace: Path = Path("/proc/self/ns/net")) -> None:
        self.namespace = namespace
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock, or raise `InUse` naming the process that has it."""
        descriptor = os.open(self.namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _flock_holder(os.fstat(descriptor))
            if _is_roots(pid):
                os.close(descriptor)
                raise InUse(
                    f"another netd daemon (pid {pid or 'unknown'}) serves this network namespace; stop it, "
                    f"or give this one {OWN}"
                ) from None
            log.warning("pid %d, which is not root's, has locked the network namespace; going on", pid)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let the next daemon in."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _flock_holder(file: os.stat_result) -> int:
    """The pid that holds a `flock` on a file (proc_locks(5)); 0 where it cannot be seen from here."""
    identity = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        match line.split():  # 1: FLOCK ADVISORY WRITE 708 00:13:764 0 EOF
            case [_, "FLOCK", _, _, pid, found, *_] if found == identity:
                return int(pid)
    return 0


def _is_roots(pid: int) -> bool:
    """Whether root started a process; also where it cannot be seen, which is the careful answer.

    By its real user: the owner of /proc/PID can be made to be root, the effective one by a setuid program.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    users = next(line.split() for line in status.splitlines() if line.startswith("Uid:"))
    return int(users[1]) == 0
