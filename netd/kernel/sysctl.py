"""Sysctls below /proc/sys/net of the calling thread's network namespace.

/proc/sys/net shows each thread the values of its own network namespace, so one function serves the
host and, called inside `netns.inside`, a container. Nothing outside net/ is ever written: there is
only one copy of it, the machine's.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from pathlib import Path

from netd.errors import Invalid, KernelError
from netd.objects import Sysctl

ROOT = "/proc/sys"
ROOT_OF_PROCFS = "/proc/"
# include/uapi/asm-generic/unistd.h (the same on every architecture), linux/mount.h
SYS_FSOPEN, SYS_FSCONFIG, SYS_FSMOUNT = 430, 431, 432
FSOPEN_CLOEXEC, FSCONFIG_CMD_CREATE, FSMOUNT_CLOEXEC = 1, 6, 1
MOUNT_ATTRIBUTES = 0x2 | 0x4 | 0x8  # nosuid, nodev, noexec: MOUNT_ATTR_*
COMPONENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.:@+=~-]{1,64}")
"""One path component: a sysctl's or an interface's name. No '/', which sysctl(8) would let stand for '.'
(the separator confusion of CVE-2022-0811)."""
VALUE = re.compile(r"[A-Za-z0-9_.:+\- \t]{1,256}")


_libc = ctypes.CDLL(None, use_errno=True)
_with_ipv6: set[str] = set()


def path_of(path: tuple[str, ...]) -> str:
    """Where a sysctl is. Raises `Invalid` for a path that is not below net/ or has an odd component."""
    if len(path) < 2 or path[0] != "net" or not all(COMPONENT.fullmatch(part) for part in path):
        raise Invalid(f"sysctl {'/'.join(path)!r} is not valid: it must name an entry below net/")
    return "/".join((ROOT, *path))


def has_ipv6() -> bool:
    """Whether this kernel has IPv6 at all; booted with ipv6.disable=1 it does not.

    A yes is remembered: it stays one, and the question costs as much as any path below net/ (see `Writer`).
    """
    if ROOT not in _with_ipv6 and Path(ROOT, "net", "ipv6").is_dir():
        _with_ipv6.add(ROOT)
    return ROOT in _with_ipv6


def _true_without_ipv6(path: tuple[str, ...]) -> bool:
    """Whether `path` says that IPv6 is disabled on a kernel that has none: nothing need be written."""
    return path[:2] == ("net", "ipv6") and path[-1] == "disable_ipv6" and not has_ipv6()


def read(path: tuple[str, ...]) -> str | None:
    """The value with blanks normalised, None where there is no such entry."""
    try:
        return " ".join(Path(path_of(path)).read_text().split())
    except OSError:
        return "1" if _true_without_ipv6(path) else None


class _Fresh:
    """Opens directories in a procfs of its own, mounted nowhere, and replaced when it has seen `MANY`.

    Without the right to have one (fsopen, Linux 5.2), in /proc.
    """

    MANY = 64

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._procfs = -1
        self._seen = self.MANY
        self._closing: threading.Thread | None = None

    def open(self, path: str) -> int:
        """A descriptor (O_PATH) of the directory `path` below /proc/sys, as the calling thread sees it."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        if not path.startswith(ROOT_OF_PROCFS):
            return os.open(path, flags)
        with self._lock:  # while opening, or the procfs might be closed meanwhile; it takes some 20 us
            if self._seen >= self.MANY:
                self._replace()
            self._seen += 1
            if self._procfs >= 0:
                return os.open(path.removeprefix(ROOT_OF_PROCFS), flags, dir_fd=self._procfs)
        return os.open(path, flags)

    def _replace(self) -> None:
        old, self._procfs, self._seen = self._procfs, _procfs(), 0
        if old < 0:
            return
        try:  # elsewhere, since it waits for RCU
            self._closing = threading.Thread(target=os.close, args=(old,), name="close procfs", daemon=True)
            self._closing.start()
        except RuntimeError:  # no thread to be had
            self._closing = None
            os.close(old)

    def close(self) -> None:
        """Let go of it; the next `open` gets another."""
        with self._lock:
            if self._closing:
                self._closing.join()
            if self._procfs >= 0:
                os.close(self._procfs)
            self._procfs, self._seen, self._closing = -1, self.MANY, None


def _procfs() -> int:
    """A descriptor of a new procfs; -1 where there is none to be had."""
    context = _libc.syscall(SYS_FSOPEN, b"proc", FSOPEN_CLOEXEC)
    if context < 0:
        return -1
    try:
        if _libc.syscall(SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0) < 0:
            return -1
        return int(_libc.syscall(SYS_FSMOUNT, context, FSMOUNT_CLOEXEC, MOUNT_ATTRIBUTES))
    finally:
        os.close(context)


_fresh = _Fresh()


def close() -> None:
    """Close what is kept open to find sysctls; it is opened again when they are needed."""
    _fresh.close()


class Writer:
    """Sets several values, remembering the directories that they are in until it is closed.

    Every namespace has a `net/ipv4` and a `net/ipv6` of its own, and the kernel finds all of them under
    one name in one hash chain, which it walks for each path that leads through (proc_sys_compare). With a
    thousand namespaces that took a fifth of what an endpoint costs, so a directory is looked up once, and
    in a procfs that has not seen many (`_Fresh`).
    """

    def __init__(self) -> None:
        self._directories: dict[str, int] = {}

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._directories.values():
            os.close(descriptor)
        self._directories.clear()

    def _directory(self, path: str) -> int:
        if path not in self._directories:
            self._directories[path] = _fresh.open(path)
        return self._directories[path]

    def write(self, sysctl: Sysctl) -> None:
        """Set a value. Raises `Invalid`, or `KernelError` where the entry is missing or refuses the value."""
        directory, _, entry = path_of(sysctl.path).rpartition("/")
        if not VALUE.fullmatch(sysctl.value):
            raise Invalid(f"sysctl {'/'.join(sysctl.path)}: value {sysctl.value!r} is not valid")
        try:
            # One write() on a file that must exist. Not Path.open, which costs as much again as the
            # kernel does, and an endpoint has nine of these.
            within = self._directory(directory)
            descriptor = os.open(entry, os.O_WRONLY | os.O_CLOEXEC, dir_fd=within)
            try:
                os.write(descriptor, sysctl.value.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            if sysctl.value == "1" and _true_without_ipv6(sysctl.path):
                return
            raise KernelError(error.errno or 0, str(sysctl)) from error


def write(sysctl: Sysctl) -> None:
    """Set one value. Raises as `Writer.write`."""
    with Writer() as writer:
        writer.write(sysctl)
