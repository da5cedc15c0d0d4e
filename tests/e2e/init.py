"""First process of a lab's namespaces: it makes private what is not so by itself, then waits and reaps.

It ends when its standard input does, which the program that owns the lab holds open. So however that
program dies, this process ends with it, and as process 1 of a PID namespace it takes everything
along: the daemon, its containers, the namespaces, the mounts.

Runs under `unshare --net --mount --pid --fork --propagation private`, with the name of a control
group that is to be the lab's as its argument.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

CLONE_NEWCGROUP = 0x02000000

MOUNTS = """
set -e
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/lib
umount -R -l /sys
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
printf 'nameserver 203.0.113.1\\n' >/run/resolv.conf
mount --bind /run/resolv.conf "$(readlink -f /etc/resolv.conf)"
hostname host
"""
"""/sys is mounted anew because one that came from outside shows, and would change, the interfaces of
the machine itself. The default directories of netd, /run/netd and /var/lib/netd, become private."""


class Hierarchy(NamedTuple):
    """One hierarchy of control groups: where it is mounted, of which type, with which options."""

    path: Path
    kind: str
    options: str


def hierarchies() -> list[Hierarchy]:
    """Those that this machine has mounted, version 1, version 2 or both."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            words = [word for word in options.split(",") if word not in ("rw", "ro", "xattr", "nsdelegate")]
            found.append(
                Hierarchy(Path(mount.split(" ")[4]), kind, ",".join(words) if kind == "cgroup" else "")
            )
    return found


def group_of(hierarchy: Hierarchy) -> Path:
    """The directory of the group that the calling process is in."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == hierarchy.options:
            return hierarchy.path / path.lstrip("/")
    return hierarchy.path


def own_groups(name: str, found: list[Hierarchy]) -> None:
    """Enter a group of the lab's own in each hierarchy, and a namespace of which that is the root.

    Labs that run at once have daemons with the same run dir, and so with the same groups.
    """
    for hierarchy in found:
        group = group_of(hierarchy) / name
        group.mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):  # a version 1 cpuset admits nobody until it has both
            if hierarchy.options == "cpuset":
                (group / file).write_text((group.parent / file).read_text())
        (group / "cgroup.procs").write_text("0")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWCGROUP):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWCGROUP)")


def mount_groups(found: list[Hierarchy]) -> None:
    """Mount the hierarchies anew, as seen from the lab's groups; version 2 with its controllers on."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/sys/fs/cgroup"], check=True)
    for hierarchy in found:
        hierarchy.path.mkdir(parents=True, exist_ok=True)
        options = ["-o", hierarchy.options] if hierarchy.options else []
        subprocess.run(["mount", "-t", hierarchy.kind, *options, "none", hierarchy.path], check=True)
        if hierarchy.kind == "cgroup2":
            # A group whose children have controllers must not have processes itself.
            leaf = hierarchy.path / "init"
            leaf.mkdir()
            (leaf / "cgroup.procs").write_text("0")
            for controller in (hierarchy.path / "cgroup.controllers").read_text().split():
                (hierarchy.path / "cgroup.subtree_control").write_text(f"+{controller}")


def main(name: str) -> None:
    outside = Path("/proc/self").readlink().name  # still the /proc of outside: how others know us
    found = hierarchies()
    own_groups(name, found)
    subprocess.run(["/bin/sh", "-c", MOUNTS], check=True, stdin=subprocess.DEVNULL)
    mount_groups(found)
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
    main(sys.argv[1])
