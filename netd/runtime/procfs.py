"""/proc and /sys of a container: fresh, and less of them than the host has.

All work below goes through the descriptor of the new procfs itself, with links refused, never through
the path /proc: a container's root may hold anything under that name (CVE-2019-19921, CVE-2025-52881).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Mapping

from netd.errors import Invalid
from netd.runtime import syscalls
from netd.runtime.devices import attach

_PROC_MASKED = (
    *("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats"),
    *("sched_debug", "scsi", "sysrq-trigger", "timer_list", "timer_stats"),
)
_PROC_READ_ONLY = ("bus", "fs", "irq", "sys")
_SYS_MASKED = ("firmware", "devices/virtual/powercap")

_STRICT = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV
_QUIET = syscalls.NOSUID | syscalls.NODEV | syscalls.NOEXEC

_NAMESPACED = re.compile(r"kernel\.(shm(all|max|mni|_rmid_forced)|msg(max|mnb|mni)|sem)|fs\.mqueue\.[a-z_]+")
_NET = re.compile(r"net(\.[A-Za-z0-9_@-]+(/[A-Za-z0-9_@-]+)*)+")
_SEPARATORS = str.maketrans("./", "/.")


def check_sysctls(sysctls: Mapping[str, str], *, host_network: bool) -> None:
    """Refuse what is not the container's own to set. Raises `Invalid`, naming the key.

    The kernel keeps one value a namespace for all of net.* and for a few of kernel.* and fs.mqueue.*;
    everything else would change the host.
    """
    for key in sysctls:
        if not (_NET.fullmatch(key) or _NAMESPACED.fullmatch(key)):
            raise Invalid(
                f"--sysctl {key}: only net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* "
                "belong to a container"
            )
        if host_network and key.startswith("net."):
            raise Invalid(f"--sysctl {key}: with the host's network this would change the host")


def mount_proc(root: int) -> int:
    """Mount a procfs of this PID namespace on /proc; returns its root."""
    proc = syscalls.new_filesystem("proc", _QUIET)
    attach(proc, root, "proc")
    return proc


def set_sysctls(proc: int, sysctls: Mapping[str, str]) -> None:
    """Write them, from inside the namespaces. Raises `Invalid` for an unknown one or a refused value."""
    for key, value in sysctls.items():
        # As in sysctl(8), a slash stands for a dot inside a name: net.ipv4.conf.eth0/100.forwarding.
        path = "sys/" + key.translate(_SEPARATORS)
        try:
            fd = syscalls.openat2(proc, path, os.O_WRONLY, _STRICT)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except FileNotFoundError as error:
            raise Invalid(
                f"--sysctl {key}: a container has no such setting on this kernel; "
                "`sysctl -a` in a container lists those that there are"
            ) from error
        except OSError as error:
            raise Invalid(
                f"--sysctl {key}={value}: the kernel refuses this value: {os.strerror(error.errno or 0)}"
            ) from error


def restrict(proc: int, dev: int) -> None:
    """Mask what tells or reaches too much of the machine, and make the rest of it read-only."""
    for path in _PROC_MASKED:
        _mask(proc, path, dev)
    for path in _PROC_READ_ONLY:
        with contextlib.suppress(FileNotFoundError):
            again = syscalls.open_tree(proc, path, follow=False)
            syscalls.mount_setattr(again, _QUIET | syscalls.RDONLY)
            attach(again, proc, path, close=True)


def mount_sys(root: int, dev: int) -> None:
    """Mount a read-only sysfs of this network namespace on /sys."""
    sysfs = syscalls.new_filesystem("sysfs", _QUIET | syscalls.RDONLY)
    attach(sysfs, root, "sys")
    for path in _SYS_MASKED:
        _mask(sysfs, path, dev)
    os.close(sysfs)


def mount_cgroup(root: int) -> None:
    """Mount the container's own part of the v2 tree, read-only, where programs look for their limits.

    Called in the cgroup namespace. Version 1 is not mounted at all: its release_agent runs a program on the
    host (CVE-2022-0492), and it has no namespace that would hide other hierarchies.
    """
    attach(syscalls.new_filesystem("cgroup2", _QUIET | syscalls.RDONLY), root, "sys/fs/cgroup", close=True)


def _mask(base: int, path: str, dev: int) -> None:
    """Cover a file with the container's null device, a directory with an empty one; missing is fine."""
    try:
        target = syscalls.openat2(base, path, os.O_PATH, _STRICT)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(os.fstat(target).st_mode):
        cover = syscalls.new_filesystem("tmpfs", _QUIET | syscalls.RDONLY, {"mode": "0555", "size": "4k"})
    else:
        cover = syscalls.open_tree(dev, "null", follow=False)
        syscalls.mount_setattr(cover, syscalls.RDONLY)
    syscalls.move_mount(cover, target)
    os.close(cover)
    os.close(target)
