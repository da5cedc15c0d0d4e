"""What a container with `--rootfs host` sees of the host's files, and what not.

Its root is an overlay over the host's, so programs need not be installed twice. The rule is closed by
default: of the top level only the system's own directories are there; of those, what holds state, logs,
home directories or data is empty; and in /etc, /opt and /usr/local/etc whatever the host does not show to
an ordinary user is missing, because root inside would be shown it: shadow, private keys, credentials.

Hiding is done in the upper layer before it is used, by the two marks of overlayfs (whiteouts and opaque
directories, Documentation/filesystems/overlayfs.rst), not by mounting something over each: there is
nothing that could be unmounted, and it costs microseconds.

Two limits. The view is made when the container is: a file that becomes a secret later is not hidden from
a container that runs already. And an overlay shows one file system: what is mounted below / on the host
(a separate /usr or /var, disks, network shares) does not appear; name it with --volume.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from netd.runtime import syscalls

_TOP = frozenset(["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt", "var"])
_TOP_EMPTY = frozenset(["boot", "dev", "home", "media", "mnt", "proc", "root", "run", "srv", "sys", "tmp"])
_VAR = frozenset(["lib", "run", "lock"])
_PROGRAM_STATE = """
    apt aspell ca-certificates-java dictionaries-common dpkg gems ghostscript ispell pam python sgml-base
    texmf ucf xkb xml-core
"""
_VAR_LIB = frozenset(_PROGRAM_STATE.split())
"""What programs, not services, keep there, and need."""

_SCANNED = (("/etc", 16), ("/opt", 2), ("/usr/local/etc", 16))
"""(directory, depth) in which what others may not read is hidden."""

_FRESH = 5.0
"""Seconds for which a scan is believed; it takes 3 ms, and containers come in bursts."""


class Hidden(NamedTuple):
    """One path below the root, without its leading slash. A directory is emptied unless `gone`."""

    path: str
    gone: bool


def root_file_system() -> str:
    """A path at which the host's root file system is seen as the overlay will see it: by itself.

    What is mounted on it hides directories that the overlay shows, and those must be looked at. The
    descriptor behind the path stays open.
    """
    return f"/proc/self/fd/{syscalls.open_tree(syscalls.AT_FDCWD, '/')}"


class View:
    """Decides what to hide in the root file system that is seen at `root`."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._scanned = -_FRESH
        self._private: list[Hidden] = []

    def hidden(self, extra: Iterable[str]) -> list[Hidden]:
        """Everything to hide now, with the host paths `extra` beside."""
        if time.monotonic() - self._scanned > _FRESH:
            self._private = [found for top, depth in _SCANNED for found in self._unreadable(top, depth)]
            self._scanned = time.monotonic()
        asked = (self._one(os.path.realpath(path)) for path in extra)
        every = [*self._fixed(), *self._private, *(found for found in asked if found)]
        return _outermost(every)

    def _fixed(self) -> Iterator[Hidden]:
        yield from self._but("", _TOP, empty=_TOP_EMPTY)
        yield from self._but("var", _VAR)
        yield from self._but("var/lib", _VAR_LIB)

    def _but(self, path: str, keep: frozenset[str], empty: frozenset[str] | None = None) -> Iterator[Hidden]:
        """All entries of a directory that are not in `keep`; directories not in `empty` vanish, if given."""
        try:
            entries = os.scandir(os.path.join(self._root, path))  # noqa: PTH118
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                directory = entry.is_dir(follow_symlinks=False)
                gone = not directory or (empty is not None and entry.name not in empty)
                if entry.name not in keep and not (entry.is_symlink() and path):
                    yield Hidden(f"{path}/{entry.name}".lstrip("/"), gone)

    def _unreadable(self, top: str, depth: int) -> Iterator[Hidden]:
        try:
            entries = os.scandir(self._root + top)
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                if entry.is_symlink():
                    continue
                path = f"{top}/{entry.name}"
                directory = entry.is_dir(follow_symlinks=False)
                if not entry.stat(follow_symlinks=False).st_mode & stat.S_IROTH:
                    yield Hidden(path.lstrip("/"), not directory)
                elif directory and depth > 1:
                    yield from self._unreadable(path, depth - 1)

    def _one(self, path: str) -> Hidden | None:
        path = path.strip("/")
        try:
            mode = os.lstat(os.path.join(self._root, path)).st_mode  # noqa: PTH118
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Hidden(path, not stat.S_ISDIR(mode)) if path else None


def _outermost(paths: Iterable[Hidden]) -> list[Hidden]:
    """Without those that lie inside another: an emptied directory has nothing left to hide."""
    kept: dict[str, Hidden] = {}
    for found in sorted(paths):
        parents = found.path.split("/")[:-1]
        if not any("/".join(parents[: n + 1]) in kept for n in range(len(parents))):
            kept.setdefault(found.path, found)
    return list(kept.values())


def conceal(upper: int, paths: Iterable[Hidden], root: str) -> None:
    """Mark `paths` hidden in the empty upper directory `upper` of an overlay over what is at `root`."""
    made: set[str] = set()
    for hidden in paths:
        # What has vanished since it was listed needs no hiding.
        with contextlib.suppress(FileNotFoundError):
            _conceal(upper, hidden, root, made)


def _conceal(upper: int, hidden: Hidden, root: str, made: set[str]) -> None:
    path, gone = hidden
    parent = ""
    for part in path.split("/")[:-1]:
        parent = f"{parent}/{part}".lstrip("/")
        if parent not in made:
            _like(upper, parent, root)
            made.add(parent)
    if gone:
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0), dir_fd=upper)
        return
    _like(upper, path, root)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=upper)
    try:
        os.setxattr(fd, "trusted.overlay.opaque", b"y")
    finally:
        os.close(fd)


def _like(upper: int, path: str, root: str) -> None:
    """A directory with the owner and mode of the one that it covers: the upper's count in an overlay."""
    below = os.lstat(os.path.join(root, path))  # noqa: PTH118
    os.mkdir(path, 0o700, dir_fd=upper)
    os.chown(path, below.st_uid, below.st_gid, dir_fd=upper)
    os.chmod(path, stat.S_IMODE(below.st_mode), dir_fd=upper)
