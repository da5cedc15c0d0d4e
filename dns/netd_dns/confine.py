"""Give up every right that is not needed to answer questions on sockets that are open already.

The only module of the server that uses ctypes, for one call that Python does not offer
(docs/adr/0013-one-loop-for-dns.md).
"""

from __future__ import annotations

import ctypes
import os
import resource

NOBODY = 65534
"""The overflow uid and gid of the kernel: owns nothing anywhere."""
MEMORY_MOST = 512 * 1024 * 1024
PR_SET_NO_NEW_PRIVS = 38


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
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    os.umask(0o077)
    os.chdir("/")
