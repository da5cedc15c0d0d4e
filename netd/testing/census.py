"""A census: everything in the kernel and on disk that a network daemon could leave behind.

A test takes one before and one after and compares them: nothing may be left and nothing may be
missing. Whatever changes by itself is left out, such as counters, handles, timers, interface
indexes and the entries that the kernel learns (a neighbour that answered, a MAC that a bridge saw).
The observer is independent of what it watches: it asks iproute2 and nft, not netd's own code.

As a command, `python -m netd.testing.census [DIRECTORY...]` prints one thing a line, sorted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netd import names


@dataclass(frozen=True, slots=True)
class Census:
    """What there was, one thing a line, sorted. Two equal censuses have equal text."""

    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def difference(self, other: Census) -> str:
        """What `other`, taken later, has more ("+") or less ("-") than this one; empty if equal."""
        before, after = Counter(self.lines), Counter(other.lines)
        more = [f"+ {line}" for line in (after - before).elements()]
        less = [f"- {line}" for line in (before - after).elements()]
        return "\n".join(sorted(more + less))


def take(
    *directories: str | Path, processes_below: int | None = None, descriptors_of: int | None = None
) -> Census:
    """Count what exists for the calling thread: its network and mount namespace, its PID namespace.

    `directories` are listed file by file. `processes_below` narrows the processes to the descendants
    of that one, for a test that shares a PID namespace with others. `descriptors_of` adds the open
    descriptors of a process. Needs root, iproute2 and nft.
    """
    found = [
        *_network(),
        *_nft(),
        *_mounts(),
        *_cgroups(directories),
        *_processes(processes_below),
        *_files(directories),
        *(_descriptors(descriptors_of) if descriptors_of is not None else ()),
    ]
    return Census(tuple(sorted(found)))


def _ask(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def _ip(*arguments: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(_ask("ip", "-j", *arguments) or "[]")
    return [item for item in listed if item]


def _network() -> Iterator[str]:
    for link in _ip("-d", "link", "show"):
        kind = link.get("linkinfo", {}).get("info_kind", "physical")
        state = "up" if "UP" in link["flags"] else "down"
        words = [link["ifname"], kind, state, f"mtu {link['mtu']}", link.get("address", "")]
        words += [f"{key} {link[key]}" for key in ("master", "ifalias", "group") if key in link]
        yield " ".join(["link", *words, *link.get("altnames", ())])
    for link in _ip("address", "show"):
        for address in link.get("addr_info", ()):
            yield f"address {address['local']}/{address['prefixlen']} dev {link['ifname']}"
    for family in ("-4", "-6"):
        for route in _ip(family, "route", "show", "table", "all"):
            yield f"route {family} {_words(route, without=('flags', 'pref', 'metrics'))}"
        for rule in _ip(family, "rule", "show"):
            yield f"rule {family} {_words(rule)}"
        for neighbour in _ip(family, "neighbour", "show", "nud", "permanent"):
            yield f"neighbour {_words(neighbour)}"
    for entry in json.loads(_ask("bridge", "-j", "fdb", "show") or "[]"):
        # Multicast entries come and go with group memberships.
        if entry.get("state") in ("permanent", "static") and not int(entry["mac"][:2], 16) & 1:
            yield f"fdb {_words(entry)}"


def _words(item: dict[str, Any], without: Iterable[str] = ()) -> str:
    """The fields of one JSON object in a stable order."""
    return " ".join(f"{key}={json.dumps(item[key])}" for key in sorted(item) if key not in without)


def _nft() -> Iterator[str]:
    for item in json.loads(_ask("nft", "-s", "-j", "list", "ruleset"))["nftables"]:
        for kind, content in item.items():
            if kind == "metainfo":
                continue
            content.pop("handle", None)
            for element in content.pop("elem", ()):
                yield f"nft {content['family']} {content['table']} {content['name']} {json.dumps(element)}"
            yield f"nft {kind} {_words(content)}"


def _mounts() -> Iterator[str]:
    """Mounts of the calling thread, those that hold namespaces among them (nsfs)."""
    for line in Path("/proc/thread-self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, source, *_ = after.split()
        yield f"mount {point} {kind} {source} {root}"


def _cgroups(directories: Iterable[str | Path]) -> Iterator[str]:
    """The control groups of daemons whose run dir is one of `directories` (netd/runtime/local.py).

    /sys/fs/cgroup is one for all: the processes of somebody else's test show as pid 0 here.
    """
    groups = {f"netd/{names.digest(str(Path(directory).resolve()), 12)}" for directory in directories}
    for path in _walk(directory for group in groups for directory in _hierarchies(group)):
        try:
            members = (path / "cgroup.procs").read_text().split()
        except OSError:
            continue  # gone meanwhile
        if "0" not in members:
            yield f"cgroup {path}"


def _hierarchies(group: str) -> Iterator[Path]:
    """`group` in the unified tree and in each hierarchy of version 1."""
    root = Path("/sys/fs/cgroup")
    yield from (root.glob(group))
    yield from (root.glob(f"*/{group}"))


def _walk(directories: Iterable[Path]) -> Iterator[Path]:
    for directory in directories:
        yield from (Path(path) for path, _, _ in os.walk(directory))


def _processes(below: int | None) -> Iterator[str]:
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        pid = int(stat.split()[0])
        commands[pid] = stat[stat.index("(") + 1 : stat.rindex(")")]
        parents[pid] = int(stat[stat.rindex(")") + 1 :].split()[1])
    kernel = {pid for pid in commands if 2 in (pid, parents[pid]) and commands.get(2) == "kthreadd"}
    for pid in commands.keys() - kernel - {os.getpid()}:
        if below is None or below in _ancestors(pid, parents):
            yield f"process {commands[pid]}"


def _ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid := parents.get(pid, 0):
        yield pid


def _files(directories: Iterable[str | Path]) -> Iterator[str]:
    for directory in directories:
        for path, folders, files in os.walk(directory):
            yield from (f"file {path}/{name}" for name in folders + files)


def _descriptors(pid: int) -> Iterator[str]:
    """What each descriptor is, without the number of the pipe or socket; those of listing are closed."""
    for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - names only, the list closes before reading
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")  # noqa: PTH115
        except FileNotFoundError:
            continue
        yield f"descriptor {target.split(':[')[0]}"


if __name__ == "__main__":
    print(take(*sys.argv[1:]))
