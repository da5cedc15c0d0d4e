"""First process of a lab's namespaces: it mounts what is private to them, then waits and reaps.

It ends when its standard input does, which the program that owns the lab holds open. So however that
program dies, this process ends with it, and as process 1 of a PID namespace it takes everything
along: the daemon, its containers, the namespaces, the mounts.

Runs under `unshare --net --mount --pid --fork --propagation private`.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

MOUNTS = """
set -e
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir /run/sys
mount -t sysfs -o nosuid,nodev,noexec sysfs /run/sys
[ ! -d /sys/fs/cgroup ] || mount --rbind /sys/fs/cgroup /run/sys/fs/cgroup
mount --rbind /run/sys /sys
umount -l /run/sys
rmdir /run/sys
printf 'nameserver 203.0.113.1\\n' >/run/resolv.conf
mount --bind /run/resolv.conf "$(readlink -f /etc/resolv.conf)"
hostname host
"""
"""/sys is mounted anew because one that came from outside shows, and would change, the interfaces of
the machine itself. The default directories of netd, /run/netd and /var/lib/netd, become private."""


def main() -> None:
    outside = Path("/proc/self").readlink().name  # still the /proc of outside: how others know us
    subprocess.run(["/bin/sh", "-c", MOUNTS], check=True, stdin=subprocess.DEVNULL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    threading.Thread(target=_reap, daemon=True).start()
    print(outside, flush=True)
    sys.stdin.buffer.read()


def _reap() -> None:
    """Collect orphans; a process that only looked alive would puzzle whoever counts them."""
    while True:
        signal.sigwait({signal.SIGCHLD})
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            pass


if __name__ == "__main__":
    main()
