"""Writes what `netd.etcfiles` says into a container's directory, from where it is mounted over its /etc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from netd import etcfiles
from netd.engine import Engine
from netd.model import IPAddress
from netd.registry import Record, Registry
from netd.runtime.spec import Runtime
from netd.view import View


class Files:
    """Those of all containers. One that shares another's network has the other's: who it is in the network,
    and whom it asks for names, is not its own to say."""

    def __init__(self, runtime: Runtime, engine: Engine, registry: Registry) -> None:
        self._runtime = runtime
        self._engine = engine
        self._registry = registry

    def write(self, record: Record, extra: Sequence[tuple[str, IPAddress]]) -> None:
        """Write all three; `extra` are the --add-host entries. Raises `NotFound` where whose network it
        shares is gone."""
        directory, view = self._runtime.directory(record.id), self._engine.view
        if record.shares:
            record = self._registry.life(record.shares).record
            extra = view.sandboxes[record.id].hosts if record.id in view.sandboxes else ()
        write(record, directory, view, extra)

    def rewrite(self, record: Record) -> None:
        """Again after a change, and those of its guests."""
        self.write(record, self._engine.view.sandboxes[record.id].hosts)
        for life in self._registry:
            if life.record.shares == record.id and life.record.state == "running":
                self.write(life.record, ())

    def mend(self, record: Record) -> None:
        """Again if they are not what they should be; see `are_current`."""
        attached = record.id in self._engine.view.sandboxes
        if attached and not are_current(record, self._runtime.directory(record.id), self._engine.view):
            self.rewrite(record)


def write(record: Record, directory: Path, view: View, extra: Iterable[tuple[str, IPAddress]]) -> None:
    """Make the three files say what is true in `view`; `extra` are the --add-host entries."""
    endpoints = view.endpoints_of(record.id)
    servers, searches, options = record.request.dns, record.request.dns_search, record.request.dns_options
    resolv, base = etcfiles.resolv_conf(endpoints, view.networks, searches, options), etcfiles.LOOPBACK
    if record.netns is None:
        base = _host_file("/etc/hosts")
        own = _host_file("/etc/resolv.conf")
        resolv = "".join(f"nameserver {s}\n" for s in servers) or own
        if searches or options:  # what a later line says counts (resolv.conf(5))
            resolv = f"{resolv.rstrip()}\n{etcfiles.asked_of_resolver(searches, options)}".lstrip()
    hosts = etcfiles.hosts(
        hostname=record.hostname, name=record.name, endpoints=endpoints, extra=extra, base=base
    )
    for name, text in (("hosts", hosts), ("hostname", f"{record.hostname}\n"), ("resolv.conf", resolv)):
        _rewrite(directory / name, text.encode())


def are_current(record: Record, directory: Path, view: View) -> bool:
    """Whether the hosts file knows the container by its name and addresses.

    It does not where a daemon died after it had committed a change and before it had written the file.
    """
    own = etcfiles.own_lines(record.hostname, record.name, view.endpoints_of(record.id))
    try:
        present = (directory / "hosts").read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        return False
    return set(own).issubset(present)


def _host_file(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _rewrite(path: Path, data: bytes) -> None:
    """In place, since the file is bind-mounted: a new one under the same name would never be seen.

    Written first and cut afterwards, so that a reader at no moment finds it empty.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(descriptor, 0o644)
        os.write(descriptor, data)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)
