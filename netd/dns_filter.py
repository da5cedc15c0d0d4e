"""Which system calls the DNS server may make: the fewest that let it answer, all others fail with EPERM.

The server reads what strangers send. Should one of them ever make it run code of theirs, this is what
that code has: the sockets that are open, new ones of UDP and TCP, files that everybody may read. No
program, no process, no other kind of socket (netlink, packet, unix), no file that is written, no memory
that is written and executed.

Refused with EPERM and not with death, since a call that was forgotten here must cost one answer and not
everybody's names. Compiled in the daemon, because the server runs without any library; it gets the
finished program (`netd_dns.confine`).
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterable, Iterator

log = logging.getLogger(__name__)

# Split from text: as a list they would be a hundred lines of one word each.
CALLS = (  # noqa: SIM905
    # The loop, the clock and the sockets.
    "epoll_wait epoll_pwait epoll_pwait2 epoll_ctl poll ppoll clock_gettime clock_getres gettimeofday time "
    "clock_nanosleep nanosleep getrandom connect bind accept accept4 getsockname getpeername getsockopt "
    "setsockopt sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown fcntl dup close close_range "
    # Reading files: resolv.conf, and a module of Python's library that is imported late.
    "read readv pread64 lseek stat lstat fstat newfstatat fstatat64 statx readlink readlinkat access "
    "faccessat faccessat2 getdents64 getcwd "
    # The log.
    "write writev "
    # Memory and the interpreter.
    "brk munmap mremap madvise futex membarrier rseq sched_yield getpid gettid getppid getuid geteuid "
    "getgid getegid uname sysinfo getrusage prlimit64 getrlimit rt_sigaction rt_sigprocmask rt_sigreturn "
    "sigaltstack restart_syscall exit exit_group "
    # The same where a word has 32 bits.
    "clock_gettime64 clock_getres_time64 clock_nanosleep_time64 futex_time64 ppoll_time64 recvmmsg_time64 "
    "fcntl64 stat64 lstat64 fstat64 _llseek ugetrlimit send recv"
).split()
"""Allowed whatever their arguments are. What an architecture does not have is passed over."""

TCGETS, FIONBIO, FIONCLEX, FIOCLEX, SIOCGIFINDEX = 0x5401, 0x5421, 0x5450, 0x5451, 0x8933
"""asm-generic/ioctls.h, linux/sockios.h: what Python asks of a file, and the index of `%INTERFACE`."""
PROT_EXEC = 0x4


def program() -> bytes:
    """The filter as BPF; empty, with a warning in the log, on a host without libseccomp. About 5 ms,
    and the first time as long as finding the library takes."""
    try:
        return compile()
    except (ImportError, OSError, RuntimeError) as error:
        log.warning(
            "the DNS server runs without a filter of its system calls: libseccomp cannot be used (%s); "
            "apt install libseccomp2",
            error,
        )
        return b""


def compile() -> bytes:
    """The filter as BPF. Raises ImportError, OSError or RuntimeError where libseccomp is not there."""
    import pyseccomp  # looks for the library with a program of its own, so only when it is needed

    made = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    made.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)  # a binary tree: half a dozen comparisons a call

    def low_word(argument: int, mask: int, value: int) -> pyseccomp.Arg:
        # The kernel ignores the upper half of these registers, and so must we.
        return pyseccomp.Arg(argument, pyseccomp.MASKED_EQ, mask & 0xFFFFFFFF, value)

    def allow(name: str, *alternatives: tuple[pyseccomp.Arg, ...]) -> None:
        try:
            number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        except ValueError:
            return
        for arguments in alternatives:
            made.add_rule(pyseccomp.ALLOW, number, *arguments)

    for name in CALLS:
        allow(name, ())
    allow("socket", *((low_word(0, ~0, family), low_word(1, 0xF, kind)) for family, kind in _sockets()))
    reading = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
    allow("open", (low_word(1, reading, os.O_RDONLY),))
    allow("openat", (low_word(2, reading, os.O_RDONLY),))
    for name in ("mmap", "mmap2", "mprotect"):
        allow(name, (low_word(2, PROT_EXEC, 0),))
    allow("ioctl", *((low_word(1, ~0, code),) for code in (TCGETS, FIONBIO, FIONCLEX, FIOCLEX, SIOCGIFINDEX)))
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def _sockets() -> Iterator[tuple[int, int]]:
    families: Iterable[int] = (socket.AF_INET, socket.AF_INET6)
    for family in families:
        yield family, socket.SOCK_DGRAM
        yield family, socket.SOCK_STREAM
