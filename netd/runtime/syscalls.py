"""The system calls that Python has no name for.

Only this file of the runtime uses ctypes. Every function raises `OSError` with the errno and the name of
the call. Mounts are made with the file-descriptor API (fsopen, open_tree, move_mount; Linux 5.2 and
mount_setattr, 5.12) and never by path: a descriptor cannot be swapped for a symbolic link between the
check and the use, which is the root of CVE-2021-30465 and its relatives.

Numbers above 423 are the same on every architecture; the others are looked up per machine.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from functools import cache
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_holding = ctypes.PyDLL(None, use_errno=True)
_holding.syscall.restype = ctypes.c_long

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_CLONE_INTO_CGROUP = 0x200000000

AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_AT_SYMLINK_NOFOLLOW = 0x100

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

RDONLY = 0x01
NOSUID = 0x02
NODEV = 0x04
NOEXEC = 0x08
"""Attributes of a mount: MOUNT_ATTR_* of linux/mount.h."""

_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_CLONE3 = 435
_CLOSE_RANGE = 436
_OPENAT2 = 437
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}

_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522


def _checked(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def _call(name: str, number: int, *arguments: object) -> int:
    return _checked(_libc.syscall(ctypes.c_long(number), *arguments), name)


def unshare(flags: int) -> None:
    """Move this process into new namespaces (for CLONE_NEWPID: its next children)."""
    _checked(_libc.unshare(flags), "unshare")


def fork_into(cgroup: int) -> int:
    """Fork as os.fork does, the child being born into the v2 control group of a descriptor.

    For a process of one thread that will execute something or end: Python is not told of the fork, and
    has nothing to mend then. By PyDLL, so that the interpreter's lock is held on both sides of it.
    """
    arguments = struct.pack("11Q", _CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup)
    number, size = ctypes.c_long(_CLONE3), ctypes.c_size_t(len(arguments))
    return _checked(_holding.syscall(number, arguments, size), "clone3")


def setns(fd: int, flags: int) -> None:
    """Enter the namespace of an nsfs descriptor, or several (`flags`) of the process of a pidfd."""
    _checked(_libc.setns(fd, flags), "setns")


def pivot_root_here() -> None:
    """Make the current directory the root, and let go of the old root with everything mounted there.

    `pivot_root(".", ".")` stacks the old root on the new one (pivot_root(2), NOTES), so no directory
    for it is needed in a tree that may be read-only.
    """
    try:
        number = _PIVOT_ROOT[platform.machine()]
    except KeyError:
        raise OSError(38, f"pivot_root: no call number known for {platform.machine()}") from None
    _call("pivot_root", number, b".", b".")
    _checked(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")


def make_private() -> None:
    """Cut the propagation of mounts between this mount namespace and the one it was copied from."""
    _checked(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None), "mount")


def openat2(dirfd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open `path` below `dirfd`, resolving it only as `resolve` (RESOLVE_*) allows."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    return _call("openat2", _OPENAT2, dirfd, os.fsencode(path), how, ctypes.c_size_t(len(how)))


def open_tree(dirfd: int, path: str, *, recursive: bool = False, follow: bool = True) -> int:
    """A detached copy of the mount at `path` (a file or a directory, with the mounts below if asked)."""
    flags = 1 | os.O_CLOEXEC
    flags |= _AT_RECURSIVE if recursive else 0
    flags |= 0 if follow else _AT_SYMLINK_NOFOLLOW
    flags |= 0 if path else _AT_EMPTY_PATH
    return _call("open_tree", _OPEN_TREE, dirfd, os.fsencode(path), ctypes.c_uint(flags))


def move_mount(mount: int, target: int) -> None:
    """Attach a detached mount onto what the descriptor `target` stands for."""
    _call("move_mount", _MOVE_MOUNT, mount, b"", target, b"", ctypes.c_uint(0x04 | 0x40))


def new_filesystem(fstype: str, attributes: int, options: dict[str, str] | None = None) -> int:
    """A new, detached mount of a fresh file system; its descriptor serves as a directory at once."""
    context = _call("fsopen", _FSOPEN, fstype.encode(), ctypes.c_uint(1))
    try:
        for key, value in (options or {}).items():
            _call("fsconfig", _FSCONFIG, context, 1, key.encode(), os.fsencode(value), 0)
        _call("fsconfig", _FSCONFIG, context, 6, None, None, 0)
        return _call("fsmount", _FSMOUNT, context, ctypes.c_uint(1), ctypes.c_uint(attributes))
    except OSError as error:
        error.add_note(_kernel_words(context))
        error.strerror = f"{error.strerror} ({fstype}{_kernel_words(context)})"
        raise
    finally:
        os.close(context)


def _kernel_words(context: int) -> str:
    try:
        return ": " + os.read(context, 512).decode(errors="replace").strip()
    except OSError:
        return ""


def mount_setattr(mount: int, attributes: int, *, recursive: bool = False) -> None:
    """Add attributes (RDONLY, …) to a mount, and to all below it if asked; none can be lost by it."""
    argument = struct.pack("QQQQ", attributes, 0, 0, 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    size = ctypes.c_size_t(len(argument))
    _call("mount_setattr", _MOUNT_SETATTR, mount, b"", ctypes.c_uint(flags), argument, size)


def filesystem_type(fd: int) -> int:
    """The magic number of the file system behind a descriptor (linux/magic.h)."""
    buffer = ctypes.create_string_buffer(256)
    _checked(_libc.fstatfs(fd, buffer), "fstatfs")
    return int(struct.unpack_from("l", buffer)[0])


def close_all_but(keep: tuple[int, ...]) -> None:
    """Close every descriptor that is not in `keep`."""
    low = 0
    for fd in (*sorted(set(keep)), 1 << 31):
        if fd > low:
            _call("close_range", _CLOSE_RANGE, ctypes.c_uint(low), ctypes.c_uint(fd - 1), 0)
        low = fd + 1


def set_title(title: str) -> None:
    """What `ps` shows, and as far as 15 bytes go also `top` and /proc/PID/comm.

    Written over the arguments where the kernel placed them (fields 48 and 49 of /proc/PID/stat; proc(5));
    PR_SET_MM_ARG_START would want CAP_SYS_RESOURCE. Without it a container would be shown the host's
    command line, paths and all, as its process 1.
    """
    start, length = _arguments()
    text = title.encode()[: length - 1]
    ctypes.memset(start, 0, length)
    ctypes.memmove(start, text, len(text))
    _libc.prctl(_PR_SET_NAME, title.encode()[:15], 0, 0, 0)


@cache
def _arguments() -> tuple[int, int]:
    """(address, length); found once by the launcher, since inside a container /proc may not tell."""
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    return start, end - start


def die_with_parent(number: int) -> None:
    """Ask for the signal `number` when the parent dies."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0), "prctl(PDEATHSIG)")


def not_dumpable() -> None:
    """Keep other processes of the same user away from /proc/self/{exe,mem,fd,…} of this one."""
    _checked(_libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0), "prctl(DUMPABLE)")


def no_new_privileges() -> None:
    """From now on no execve gives more rights, be the file set-user-ID or not."""
    one, zero = ctypes.c_ulong(1), ctypes.c_ulong(0)
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, one, zero, zero, zero), "prctl(NO_NEW_PRIVS)")


def bounding_drop(capability: int) -> None:
    """Take one capability out of the bounding set."""
    _checked(_libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0), "prctl(CAPBSET_DROP)")


def ambient_clear() -> None:
    """Empty the ambient set."""
    what, zero = ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), ctypes.c_ulong(0)
    _checked(_libc.prctl(_PR_CAP_AMBIENT, what, zero, zero, zero), "prctl(CAP_AMBIENT)")


def capset(mask: int) -> None:
    """Make `mask` the permitted and effective set, and the inheritable set empty."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = struct.pack("6I", low, low, 0, high, high, 0)
    _checked(_libc.capset(header, data), "capset")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def seccomp_filter(program: bytes) -> None:
    """Install a compiled BPF program (8 bytes an instruction) as this process's filter."""
    argument = _Program(len(program) // 8, program)
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    _checked(_libc.prctl(_PR_SET_SECCOMP, mode, ctypes.byref(argument), 0, 0), "prctl(SECCOMP)")
