"""Makes a container's world again and again while another process swaps what it is mounted on.

    racer.py swap DIRECTORY...          exchange each DIRECTORY with DIRECTORY-link, without end
    racer.py make ROOTFS SHARED MINE DIRECTORY ROUNDS SEED
                                        make worlds; print "MADE REFUSED", end with 1 at an escape

The world is made by the product's own code, as the first process of a container makes it, in a mount
namespace of its own. In it is `MINE`, mounted in several places below `SHARED` and below the root.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
from pathlib import Path

from netd.errors import NetdError
from netd.runtime import init, syscalls
from netd.runtime.spec import ContainerSpec, Process, Volume

AT_FDCWD, RENAME_EXCHANGE = -100, 2
TARGETS = ("/s/a/b/c", "/s/a/new/er", "/v/w/x", "/etc/mine")
"""Where `MINE` is mounted: each but the last has a component that is being swapped."""

MADE, REFUSED = 0, 3


def swap(*directories: str) -> None:
    """Exchange directories with links and back, one at a time: what is being made gets far, and is hit."""
    rename = ctypes.CDLL(None, use_errno=True).renameat2
    print("swapping", flush=True)
    pairs = [(path.encode(), f"{path}-link".encode()) for path in directories]
    chance = random.Random(7)
    while True:
        path, link = chance.choice(pairs)
        rename(AT_FDCWD, path, AT_FDCWD, link, RENAME_EXCHANGE)
        rename(AT_FDCWD, path, AT_FDCWD, link, RENAME_EXCHANGE)


def make(rootfs: str, shared: str, mine: str, directory: str, rounds: int, seed: int) -> int:
    """Make so many worlds; returns the exit code."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.make_private()
    chance = random.Random(seed)
    counted = {MADE: 0, REFUSED: 0}
    for _ in range(rounds):
        targets = chance.sample(TARGETS, 3)
        volumes = (
            Volume(source=shared, target="/s"),
            *(Volume(source=mine, target=target) for target in targets),
        )
        spec = ContainerSpec(
            id="race",
            process=Process(argv=("true",), workdir=chance.choice(("/", "/s/a/b", "/v/w/x"))),
            hostname="race",
            netns="",
            rootfs=rootfs,
            read_only=chance.random() < 0.5,
            volumes=volumes,
        )
        child = os.fork()
        if child == 0:
            os._exit(_world(spec, directory))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in counted:
            print(f"a world with {targets} ended with {code}", file=sys.stderr)
            return 1
        counted[code] += 1
    print(counted[MADE], counted[REFUSED])
    return 0


def _world(spec: ContainerSpec, directory: str) -> int:
    """In a process of its own: make it, and look whether all that was mounted is in it."""
    try:
        _, root = init._make_world(spec, directory, [])
        init._change_directory(spec.process.workdir, None if spec.read_only else root.overlay)
    except (NetdError, OSError):
        return REFUSED
    # The kernel lists only mounts that can be reached from our root.
    inside = [line.split()[3] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    mine = spec.volumes[-1].source
    for source, wanted in ((mine, 3), (spec.volumes[0].source, 1)):
        if sum(source.endswith(each) and each != "/" for each in inside) != wanted:
            print(f"{source} is mounted elsewhere: {inside}", file=sys.stderr)
            return 4
    if sum(each.endswith(("/hosts", "/hostname", "/resolv.conf")) for each in inside) != 3:
        print(f"the three files are mounted elsewhere: {inside}", file=sys.stderr)
        return 5
    return MADE


if __name__ == "__main__":
    if sys.argv[1] == "swap":
        swap(*sys.argv[2:])
    root, volume, source, files, rounds, seed = sys.argv[2:]
    sys.exit(make(root, volume, source, files, int(rounds), int(seed)))
