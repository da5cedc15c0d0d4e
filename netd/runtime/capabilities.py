"""Which of root's powers a container's root keeps.

The default set is Docker's (moby, daemon/pkg/oci/caps) less three. NET_RAW goes because it allows forging
packets and sniffing the bridge; ping works without it (`net.ipv4.ping_group_range`). MKNOD goes because
there is no device cgroup behind it on cgroup v1 and v2 alike, so a device node would be the device.
AUDIT_WRITE goes because the audit log is the host's. Each comes back with --cap-add.

The inheritable and ambient sets are always empty (CVE-2022-29162: a container's inheritable capabilities
were handed to programs that carry file capabilities), and the bounding set is cut to what is allowed, so
nothing that is executed inside can ever have more.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from netd.errors import Invalid, Unsupported
from netd.runtime import syscalls

_KERNEL_ORDER = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
    SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
    PERFMON BPF CHECKPOINT_RESTORE
"""
_DEFAULT = """
    CHOWN DAC_OVERRIDE FSETID FOWNER SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL
"""

NUMBERS = {name: number for number, name in enumerate(_KERNEL_ORDER.split())}
"""Names without CAP_, in the order of linux/capability.h."""

DEFAULT = frozenset(_DEFAULT.split())


def resolve(add: Iterable[str], drop: Iterable[str]) -> frozenset[str]:
    """The set that `--cap-add` and `--cap-drop` leave of the default.

    As in Docker, ALL in one list is the base that the single names of the other list then change, and a
    name that is both added and dropped is dropped. Raises `Invalid` on an unknown name.
    """
    added, dropped = _names("--cap-add", add), _names("--cap-drop", drop)
    base = frozenset(NUMBERS) if "ALL" in added else DEFAULT
    if "ALL" in dropped:
        base = frozenset()
    return (base | added - {"ALL"}) - dropped


def _names(flag: str, names: Iterable[str]) -> frozenset[str]:
    found = set()
    for given in names:
        name = given.upper().removeprefix("CAP_")
        if name != "ALL" and name not in NUMBERS:
            raise Invalid(
                f"{flag} {given!r} is no capability: see capabilities(7) for their names, or use ALL"
            )
        found.add(name)
    return frozenset(found)


def mask(names: Iterable[str]) -> int:
    """The set as the kernel's bit mask."""
    return sum(1 << NUMBERS[name] for name in names)


def last() -> int:
    """The highest capability that this kernel knows."""
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def check_possible(add: Iterable[str]) -> None:
    """Raises `Unsupported` for a name that this process has not got itself. ALL means all that it has."""
    missing = _names("--cap-add", add) - {"ALL"} - {n for n in NUMBERS if possible() >> NUMBERS[n] & 1}
    for name in sorted(missing):
        raise Unsupported(f"--cap-add {name}: netd itself runs without this capability on this host")


@cache
def possible() -> int:
    """The mask of what this process may give away: a daemon in a container of its own lacks some."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapPrm:"))


def cut_bounding(keep: int, highest: int) -> None:
    """Drop from the bounding set all that is not in the mask `keep`. Needs SETPCAP, so it comes first."""
    for number in range(highest + 1):
        if not keep >> number & 1:
            syscalls.bounding_drop(number)


def limit_to(keep: int) -> None:
    """Make the mask `keep` all that this process has, now and after any execve."""
    syscalls.ambient_clear()
    syscalls.capset(keep)
