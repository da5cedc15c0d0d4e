"""Which system calls a container may make.

Everything that this libseccomp knows is allowed, less the groups below; the rest fails with EPERM, and a
call that is newer than the library with ENOSYS, so that programs fall back to the older one instead of
giving up. That is Docker's profile told the other way round: a short list of refusals that one can read
with its reasons, and still nothing unknown gets through.

Each group names the capability that lifts it. Where a capability is checked by the kernel anyway, the
filter is the second wall: most holes of the last decade that let containers out were in calls that no
ordinary program makes (user namespaces, keyrings, io_uring, userfaultfd, bpf).

Only the native calls of the machine are known: a 32-bit program in a 64-bit container gets ENOSYS.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterable, Iterator

import pyseccomp

from netd.runtime import syscalls

_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWCGROUP
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
    | 0x10000000  # CLONE_NEWUSER
    | 0x00000080  # CLONE_NEWTIME
)

DENIED: tuple[tuple[str, str], ...] = (
    # New namespaces and mounts: the way to a user namespace, and with it to half of the kernel's code.
    (
        "SYS_ADMIN",
        "unshare setns mount umount umount2 pivot_root mount_setattr open_tree move_mount fsopen fsconfig "
        "fsmount fspick sethostname setdomainname quotactl quotactl_fd fanotify_init lookup_dcookie",
    ),
    # Keyrings are not namespaced: a container would see and fill the host's.
    ("", "keyctl add_key request_key"),
    # Asynchronous calls that this very filter does not see.
    ("", "io_uring_setup io_uring_enter io_uring_register"),
    # Lets a process stop the kernel in the middle of a copy from user space: the tool of choice to win races.
    ("", "userfaultfd"),
    # Programs inside the kernel, and its counters.
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
    # File handles open files of the same file system beside the container's root (the "shocker" hole).
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    # The machine itself.
    ("SYS_MODULE", "init_module finit_module delete_module create_module query_module get_kernel_syms"),
    ("SYS_BOOT", "reboot kexec_load kexec_file_load"),
    ("SYS_ADMIN", "swapon swapoff nfsservctl"),
    ("SYS_TIME", "settimeofday clock_settime clock_settime64 stime adjtimex clock_adjtime clock_adjtime64"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_PACCT", "acct"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYSLOG", "syslog"),
    # Old doors that nobody needs.
    ("", "uselib ustat sysfs _sysctl vm86 vm86old modify_ldt"),
    # Memory of other nodes and processes.
    ("SYS_NICE", "move_pages migrate_pages"),
)

_FAMILIES = (1, 2, 10, 16, 17)
"""AF_UNIX, INET, INET6, NETLINK, PACKET. Not among them: AF_ALG and AF_VSOCK, which reach the kernel's
crypto and the hypervisor around every namespace, and a dozen protocols that load modules on demand."""

_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, both with UNAME26, and the query. Others switch off address randomisation."""

_HIGHEST = 600
"""Numbers beyond the last one that libseccomp knows and up to this one are answered ENOSYS."""


def compile(capabilities: Iterable[str]) -> bytes:
    """The filter for a container with these capabilities, as BPF. About 4 ms."""
    program = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    # A binary tree instead of a list of 350 comparisons; libseccomp 2.5.
    program.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    program.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.ERRNO(errno.ENOSYS))
    held = set(capabilities)
    denied = {name for lifted_by, names in DENIED if lifted_by not in held for name in names.encode().split()}
    special = dict(_special(namespaces="SYS_ADMIN" in held))
    last = 0
    for number, name in _known():
        last = number
        if name in special:
            for action, arguments in special[name]:
                program.add_rule(action, number, *arguments)
        elif name not in denied:
            program.add_rule(pyseccomp.ALLOW, number)
    for number in range(last + 1, _HIGHEST):
        program.add_rule(pyseccomp.ERRNO(errno.ENOSYS), number)
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()


_Rules = list[tuple[int, tuple[pyseccomp.Arg, ...]]]


def _special(*, namespaces: bool) -> Iterator[tuple[bytes, _Rules]]:
    """Calls whose arguments decide; what no rule allows falls through to EPERM."""

    def low_word(argument: int, value: int) -> pyseccomp.Arg:
        # These arguments are ints: the kernel ignores the upper half of the register, and so must we.
        return pyseccomp.Arg(argument, pyseccomp.MASKED_EQ, 0xFFFFFFFF, value)

    allow = pyseccomp.ALLOW
    yield b"socket", [(allow, (low_word(0, family),)) for family in _FAMILIES]
    yield b"personality", [(allow, (low_word(0, value),)) for value in _PERSONALITIES]
    if not namespaces:
        flags = 1 if platform.machine() == "s390x" else 0
        yield b"clone", [(allow, (pyseccomp.Arg(flags, pyseccomp.MASKED_EQ, _NAMESPACES, 0),))]
        # Its flags lie in memory, out of a filter's reach; C libraries fall back to clone on ENOSYS.
        yield b"clone3", [(pyseccomp.ERRNO(errno.ENOSYS), ())]


def _known() -> Iterator[tuple[int, bytes]]:
    """(number, name) of every native call that the library knows, ascending."""
    for number in range(_HIGHEST):
        try:
            yield number, pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, number)
        except ValueError:
            continue
