"""Who a process runs as: "UID[:GID]" or names, by the container's own /etc/passwd and /etc/group.

Those two files belong to the container, which is to say to anybody: they are opened without blocking
(they may be FIFOs), read to a bound, and their lines are believed only as far as they parse.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from netd.errors import Invalid
from netd.runtime import syscalls

HIGHEST_ID = 2**31 - 1
"""Larger numbers wrap to root in programs that keep them in an int (CVE-2024-40635)."""

_LARGEST_FILE = 1 << 20


class User(NamedTuple):
    """What setresuid, setresgid and setgroups are given, and the home directory for $HOME."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def lookup(text: str, root: int) -> User:
    """`resolve` with the files below the directory `root`."""
    return resolve(text, _read(root, "etc/passwd"), _read(root, "etc/group"))


def resolve(text: str, passwd: str, group: str) -> User:
    """The user that `text` names; empty is root. Raises `Invalid` for an unknown name or a wild number.

    A number need not be in passwd: it then has group 0, no further groups and the home "/", as in Docker.
    With an explicit group the user's further groups are left out.
    """
    wanted, colon, wanted_group = (text or "0").partition(":")
    entry = next((e for e in _entries(passwd, 7) if wanted in (e[0], e[2])), None)
    if entry is not None and (numbers := _numbers(entry[2:4])):
        name, uid, gid, home = entry[0], *numbers, entry[5]
    elif wanted.isdecimal():
        name, uid, gid, home = "", _id(text, wanted), 0, "/"
    else:
        raise Invalid(
            f"user {text!r}: no user {wanted!r} in the container's /etc/passwd; give a number instead"
        )
    groups = list(_entries(group, 4))
    if colon:
        return User(uid, _group(text, wanted_group, groups), (), home)
    further = (int(e[2]) for e in groups if name and name in e[3].split(",") and _numbers(e[2:3]))
    return User(uid, gid, tuple(sorted({gid, *further})), home)


def _group(text: str, wanted: str, groups: list[list[str]]) -> int:
    for entry in groups:
        if entry[0] == wanted and (numbers := _numbers(entry[2:3])):
            return numbers[0]
    if wanted.isdecimal():
        return _id(text, wanted)
    raise Invalid(f"user {text!r}: no group {wanted!r} in the container's /etc/group; give a number instead")


def _id(text: str, digits: str) -> int:
    number = int(digits[:20])
    if number > HIGHEST_ID:
        raise Invalid(f"user {text!r}: {digits} is too large, the highest id is {HIGHEST_ID}")
    return number


def _entries(text: str, fields: int) -> list[list[str]]:
    lines = (line.split(":") for line in text.splitlines())
    return [entry for entry in lines if len(entry) >= fields and entry[0]]


def _numbers(fields: list[str]) -> list[int]:
    """The ids of a passwd or group line; empty unless every one is an id."""
    if all(field.isascii() and field.isdecimal() and len(field) < 11 for field in fields):
        numbers = [int(field) for field in fields]
        if max(numbers) <= HIGHEST_ID:
            return numbers
    return []


def _read(root: int, path: str) -> str:
    """The text of a file below `root`; empty if there is none, or if it is anything but a file."""
    resolve_in_root = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    try:
        fd = syscalls.openat2(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, resolve_in_root)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return os.read(fd, _LARGEST_FILE).decode(errors="replace")
    finally:
        os.close(fd)
