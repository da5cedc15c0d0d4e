"""Give up every right that is not needed to answer questions on sockets that are open already.

It uses ctypes, for one system call that Python does not offer
(docs/adr/0013-one-loop-for-dns.md).
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
from struct import Struct

log = logging.getLogger(__name__)

NOBODY = 65534
"""The overflow uid and gid of the kernel: owns nothing anywhere."""
MEMORY_MOST = 512 * 1024 * 1024
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
_INSTRUCTION = 8
"""Bytes (struct sock_filter)."""
_PROGRAM = Struct("@HP")


def drop_privileges() -> None:
    """Become nobody, for good. Raises OSError where that is impossible: then there is no server.

    Leaving uid 0 clears all capabilities (capabilities(7)), and a process without them cannot take
    another uid. Sockets to upstreams need none.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_MOST, MEMORY_MOST))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        # No new process, whatever happens: nobody's limit is counted for nobody alone.
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    # From here on no program can give back what was given up, not even one that is setuid root.
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    os.umask(0o077)
    os.chdir("/")


def filter_calls(program: bytes) -> bool:
    """Let the kernel refuse every system call that `program`, BPF from `netd.dns_filter`, does not allow.

    False, with a warning, where there is no program or the kernel takes none: that is no reason to leave
    everybody without names. To be called after `drop_privileges`, without which the kernel takes none.
    """
    if not program:
        return False
    kept = ctypes.create_string_buffer(program, len(program))
    try:
        _prctl(
            PR_SET_SECCOMP,
            SECCOMP_MODE_FILTER,
            _PROGRAM.pack(len(program) // _INSTRUCTION, ctypes.addressof(kept)),
        )
    except OSError as error:
        log.warning("the kernel takes no filter of system calls (%s); running without", error)
        return False
    return True


def _prctl(option: int, *arguments: int | bytes) -> None:
    words = [ctypes.c_char_p(word) if isinstance(word, bytes) else ctypes.c_ulong(word) for word in arguments]
    words += [ctypes.c_ulong(0)] * (4 - len(words))
    if ctypes.CDLL(None, use_errno=True).prctl(option, *words):
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")
