"""The container's root: an overlay whose upper layer dies with the container, and what is mounted on it.

One rule makes this safe, and its order must be kept:

    First everything of the host that the container is to see (its root, volumes, the three files) is
    taken hold of by descriptor. Then the root is changed and the host's tree is let go. Only then is a
    path of the container resolved, for the first time.

So whatever a hostile root file system or a volume has in the way, a symbolic link /etc -> /proc/1/root,
a `..` or a directory swapped in between, the worst it can reach is another place of its own root
(CVE-2021-30465, CVE-2024-21626 and CVE-2025-31133 all needed the host to be reachable at that moment).
Nothing of the container runs yet, and /proc, /sys and /dev come last, on top, by descriptor.

Device nodes found in a root file system or a volume do not work (`nodev`): no device cgroup stands behind
them. Set-user-ID bits and file capabilities have no effect anyway under no_new_privs; with `nosuid` the
latter are not even looked at, without which the kernel refuses to execute a `ping` that carries NET_RAW to
a container that lacks it.

Writes go to a tmpfs. They count against the container's memory limit, and are at most half of the memory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from netd.errors import Invalid
from netd.runtime import devices, host, syscalls
from netd.runtime.spec import ContainerSpec

FILES = {"hosts": "etc/hosts", "hostname": "etc/hostname", "resolv.conf": "etc/resolv.conf"}
"""File of the container's directory -> where it is mounted. Their owner outside may rewrite them in place."""

MOUNT_POINT = "root"
"""The empty directory in the container's directory on which its tmpfs is mounted, in its namespace only."""

_INERT = syscalls.NODEV | syscalls.NOSUID
_IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


class Root(NamedTuple):
    """What `enter` leaves behind: the overlay's own root, and a detached mount of each device node."""

    overlay: int
    nodes: dict[str, int]


def enter(spec: ContainerSpec, directory: str, hidden: Sequence[host.Hidden]) -> Root:
    """Change into the container's root. Needs a mount namespace of its own, cut off from the host's.

    `directory` is the container's. Raises `Invalid` for a rootfs or a volume that cannot be used.
    """
    volumes = [(_source(volume.source, volume.read_only), volume.target) for volume in spec.volumes]
    files = [(_file(f"{directory}/{name}"), target) for name, target in FILES.items()]
    scratch = syscalls.new_filesystem("tmpfs", syscalls.NOSUID, {"mode": "0700"})
    target = os.open(f"{directory}/{MOUNT_POINT}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    syscalls.move_mount(scratch, target)
    os.close(target)
    nodes = devices.make_nodes(scratch)
    overlay = _overlay(spec.rootfs, scratch, hidden)
    os.close(scratch)

    os.fchdir(overlay)
    syscalls.pivot_root_here()
    # From here on the container's paths are resolved, and the host is out of reach.
    for mount, path in volumes:
        syscalls.move_mount(mount, _mount_point(overlay, path, mount))
        os.close(mount)
    for mount, path in files:
        _replace_link(overlay, path)
        syscalls.move_mount(mount, _mount_point(overlay, path, mount))
        os.close(mount)
    return Root(overlay, nodes)


def _source(path: str, read_only: bool) -> int:
    """A detached copy of what is at `path` of the host, with what is mounted below."""
    try:
        mount = syscalls.open_tree(syscalls.AT_FDCWD, path, recursive=True)
        attributes = _INERT | (syscalls.RDONLY if read_only else 0)
        syscalls.mount_setattr(mount, attributes, recursive=True)
    except OSError as error:
        raise Invalid(f"volume source {path!r} cannot be mounted: {error.strerror}") from error
    return mount


def _file(path: str) -> int:
    """A detached mount of one of the container's three files, read-only inside.

    They lie on the host's /run: a container that could write to them could fill it.
    """
    mount = syscalls.open_tree(syscalls.AT_FDCWD, path)
    syscalls.mount_setattr(mount, _INERT | syscalls.NOEXEC | syscalls.RDONLY)
    return mount


def _overlay(rootfs: str, scratch: int, hidden: Sequence[host.Hidden]) -> int:
    """Attach the overlay below the scratch file system and return its root."""
    for name in ("upper", "work", "merged"):
        os.mkdir(name, 0o755, dir_fd=scratch)
    lower = "/"
    if rootfs == "host":
        upper = os.open("upper", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=scratch)
        host.conceal(upper, hidden, host.root_file_system())
        os.close(upper)
    else:
        # By descriptor: an option string has no way to say a path with a comma or a colon.
        try:
            fd = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Invalid(f"rootfs {rootfs!r} cannot be used: {error.strerror}") from error
        lower = f"/proc/self/fd/{fd}"
    os.fchdir(scratch)
    options = {"lowerdir": lower, "upperdir": "upper", "workdir": "work"}
    try:
        overlay = syscalls.new_filesystem("overlay", _INERT, options)
    except OSError as error:
        raise Invalid(f"rootfs {rootfs!r} cannot be used: {error.strerror}") from error
    merged = os.open("merged", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=scratch)
    syscalls.move_mount(overlay, merged)
    os.close(merged)
    return overlay


def _mount_point(root: int, path: str, mount: int) -> int:
    """Open `path` below `root` for mounting on it, made as a directory or a file, as `mount` is."""
    directory = stat.S_ISDIR(os.fstat(mount).st_mode)
    try:
        if directory:
            return make_directories(root, path)
        parent, name = os.path.split(path.strip("/"))
        fd = make_directories(root, parent)
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=fd))
        except FileExistsError:
            pass
        finally:
            os.close(fd)
        found = syscalls.openat2(root, path, os.O_PATH, _IN_ROOT)
        if stat.S_ISDIR(os.fstat(found).st_mode):
            raise Invalid(f"{path!r} is a directory inside the container; a file cannot be mounted on it")
        return found
    except OSError as error:
        raise Invalid(f"mount target {path!r} cannot be used: {error.strerror}") from error


def make_directories(root: int, path: str) -> int:
    """Open the directory `path` below `root`, with missing ones made; links are followed inside `root`."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    so_far = "."
    flags = os.O_PATH | os.O_DIRECTORY
    fd = syscalls.openat2(root, so_far, flags, _IN_ROOT)
    for part in parts:
        so_far = f"{so_far}/{part}"
        try:
            following = syscalls.openat2(root, so_far, flags, _IN_ROOT)
        except FileNotFoundError:
            try:
                os.mkdir(part, 0o755, dir_fd=fd)
            except FileExistsError:
                reason = f"/{so_far[2:]} is a link that leads nowhere inside the container"
                raise Invalid(f"{path!r} cannot be used: {reason}") from None
            following = syscalls.openat2(root, so_far, flags, _IN_ROOT)
        os.close(fd)
        fd = following
    return fd


def _replace_link(root: int, path: str) -> None:
    """Remove a symbolic link where a file is to be mounted, as /etc/resolv.conf is on systemd hosts.

    Its target may be missing or be shared. Only in the private layer: a volume's link is left alone.
    """
    parent = make_directories(root, os.path.dirname(path))  # noqa: PTH120
    try:
        found = os.stat(os.path.basename(path), dir_fd=parent, follow_symlinks=False)  # noqa: PTH119
        if stat.S_ISLNK(found.st_mode) and os.fstat(parent).st_dev == os.fstat(root).st_dev:
            os.unlink(os.path.basename(path), dir_fd=parent)  # noqa: PTH119
    except FileNotFoundError:
        pass
    finally:
        os.close(parent)
