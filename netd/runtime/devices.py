"""/dev of a container: a fresh tmpfs with the few devices that every program expects, and terminals.

The tmpfs is `nodev`; each device is a mount of its own of a node in the container's private tmpfs. So no
node that is made later, even with --cap-add MKNOD, opens a device, and a `chmod` inside does not reach
the host's /dev/null. The devpts is the container's own: its terminals have no name on the host.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios

from netd.errors import Invalid
from netd.runtime import syscalls

_NODES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_TTY_GROUP = 5
"""The group `tty` of every distribution (Debian's base-passwd, Fedora's setup)."""

_PTMX = os.makedev(5, 2)
_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431
_SHM_SIZE = "64m"


def make_nodes(scratch: int) -> dict[str, int]:
    """Make the device nodes in the private tmpfs, while that is mounted; returns a detached mount of each."""
    os.mkdir("dev", 0o755, dir_fd=scratch)
    nodes = os.open("dev", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=scratch)
    for name, (major, minor) in _NODES.items():
        os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=nodes)
        os.chmod(name, 0o666, dir_fd=nodes)
    mounts = {name: syscalls.open_tree(nodes, name, follow=False) for name in _NODES}
    os.close(nodes)
    return mounts


def populate(root: int, nodes: dict[str, int]) -> tuple[int, int]:
    """Mount and fill /dev below `root`; returns its root and that of its devpts."""
    quiet = syscalls.NOSUID | syscalls.NOEXEC
    dev = syscalls.new_filesystem("tmpfs", quiet | syscalls.NODEV, {"mode": "0755", "size": "64k"})
    attach(dev, root, "dev")
    for name, mount in nodes.items():
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=dev))
        attach(mount, dev, name, close=True)
    for name, target in _LINKS.items():
        os.symlink(target, name, dir_fd=dev)
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(name, 0o755, dir_fd=dev)
    shm = {"mode": "1777", "size": _SHM_SIZE}
    attach(syscalls.new_filesystem("tmpfs", quiet | syscalls.NODEV, shm), dev, "shm", close=True)
    attach(syscalls.new_filesystem("mqueue", quiet | syscalls.NODEV), dev, "mqueue", close=True)
    options = {"ptmxmode": "0666", "mode": "0620", "gid": str(_TTY_GROUP)}
    pts = syscalls.new_filesystem("devpts", quiet, options)
    attach(pts, dev, "pts")
    return dev, pts


def attach(mount: int, directory: int, name: str, *, close: bool = False) -> None:
    """Attach a detached mount on `name`, which must lie in `directory` itself and be no link."""
    strict = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_BENEATH
    target = syscalls.openat2(directory, name, os.O_PATH, strict)
    try:
        syscalls.move_mount(mount, target)
    finally:
        os.close(target)
        if close:
            os.close(mount)


def console(dev: int, pts: int, slave: int) -> None:
    """Make /dev/console the terminal of the first process."""
    number = os.path.basename(os.readlink(f"/proc/self/fd/{slave}"))  # noqa: PTH115, PTH119
    os.close(os.open("console", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dev))
    attach(syscalls.open_tree(pts, number, follow=False), dev, "console", close=True)


def container_pts() -> int:
    """The devpts of the container whose root this process has entered, checked to be one.

    /dev belongs to the container: with CAP_SYS_ADMIN it may have put anything there (CVE-2025-52565).
    """
    flags = os.O_PATH | os.O_DIRECTORY
    pts = syscalls.openat2(syscalls.AT_FDCWD, "/dev/pts", flags, syscalls.RESOLVE_NO_SYMLINKS)
    if syscalls.filesystem_type(pts) != 0x1CD1:  # DEVPTS_SUPER_MAGIC
        raise Invalid("/dev/pts of the container is no devpts any more: no terminal can be opened")
    return pts


def open_terminal(pts: int, rows: int, columns: int) -> tuple[int, int]:
    """A new terminal out of the devpts `pts`: (master, slave)."""
    flags = os.O_RDWR | os.O_NOCTTY
    strict = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_BENEATH
    master = syscalls.openat2(pts, "ptmx", flags, strict)
    if os.fstat(master).st_rdev != _PTMX:
        raise Invalid("/dev/pts/ptmx of the container is not the terminal multiplexer")
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    # By ioctl, not by the name /dev/pts/N, which may mean something else by now (CVE-2025-52565).
    slave = fcntl.ioctl(master, _TIOCGPTPEER, flags | os.O_CLOEXEC)
    resize(master, rows, columns)
    return master, slave


def resize(terminal: int, rows: int, columns: int) -> None:
    """Set the window size; the foreground processes get SIGWINCH."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", rows & 0xFFFF, columns & 0xFFFF, 0, 0))
