"""`x-netd.hosts`: hosts that are namespaces of this machine, each with a daemon, on one wire with an etcd.

::

      a (netd daemon)      b (netd daemon)       eth0 192.0.2.1 and 2001:db8:2::1, .2 and ::2, ...
         └────────┬───────────────┘
                 lan               192.0.2.254: etcd, in a namespace of its own

Each is a process that stays (`netd.runtime.machine`) and takes all of its host along when it ends; what has
to be known of it, its number and start time, is in a file, so that any later command finds it. Nothing leaves
the wire: the hosts reach each other and nobody else, in both families. What they send for their containers
goes over the one that the file says (`underlay`).
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from ipaddress import IPv4Interface, ip_address, ip_interface, ip_network
from pathlib import Path

import msgspec

from netd.api.client import connect
from netd.errors import Invalid, NetdError, Unavailable, Unsupported
from netd.model import IPAddress, Netns
from netd.runtime import cgroup
from netd.runtime.record import Task
from netd.topology.fleet import Fleet
from netd.topology.project import Project
from netd.topology.services import host_of
from netd.topology.up import down as take_down
from netd.topology.up import remove_volumes

HOME = Path("/run/netd-topology")
"""Where hosts keep what they keep: PROJECT/HOST/run and /state. Short, since sockets lie in it."""

DISK = Path("/var/lib/netd-topology")
"""Where etcd keeps what it keeps: PROJECT. At once it takes 130 MB, which is much where /run is memory."""

WIRE = "_wire"
"""The namespace of the wire and of etcd; no service or host can be called so."""

SUBNETS = {4: ip_network("192.0.2.0/24"), 6: ip_network("2001:db8:2::/64")}
ETCD = IPv4Interface("192.0.2.254/24")
CLIENTS = 2379
TTL = 5
"""Seconds without a sign of life after which the others take a host for dead."""
PATIENCE = 60.0
"""Seconds until a host must be ready, on a machine that has much to do."""
GRACE = 15.0
"""Seconds that a host has to end by itself."""
PAUSE = 0.05


def projects() -> list[str]:
    """Those that have hosts of their own."""
    return sorted(path.name for path in HOME.iterdir()) if HOME.is_dir() else []


def fleet(project: str, placed: Mapping[str, frozenset[str]] | None = None) -> Fleet | None:
    """The daemons of a project's hosts; None where it has none that are up. Raises `Unreachable`."""
    home = HOME / project
    names = sorted(path.name for path in home.iterdir() if path.name != WIRE) if home.is_dir() else []
    alive = [name for name in names if _task(home / name).alive()]
    if not alive:
        return None
    return Fleet({name: connect(str(home / name / "run" / "netd.sock")) for name in alive}, placed)


def placement(project: Project) -> dict[str, frozenset[str]]:
    """Which hosts have a service in each network, by the daemon's name of it."""
    found: dict[str, set[str]] = {}
    for service in project.services.values():
        host = host_of(service.file)
        for container in service.containers:
            for each in container.request.networks:
                found.setdefault(each.network, set()).add(host)
    return {name: frozenset(hosts) for name, hosts in found.items()}


def start(project: Project, tell: Callable[[str], None] = lambda step: None) -> Fleet:
    """Start the hosts of a project that do not run, and wait until all are of one cluster.

    Hosts that the file does not name any more go on until `prune`, so that what is on them can be taken down.
    If one cannot be started, those that this call has started are ended again. Raises `Unsupported` without
    etcd, and `Unavailable` with the last words of what does not come up.
    """
    etcd = shutil.which("etcd")
    if etcd is None:
        raise Unsupported(
            "x-netd.hosts needs etcd, in which the hosts keep what they share, and there is none on this "
            "machine: install it (Debian: apt install etcd-server)"
        )
    from netd.kernel import underlay  # not for those who only ask whether there are hosts

    home = HOME / project.name
    begun: dict[Path, int] = {}
    try:
        wire = _machine(home / WIRE, begun)
        underlay.lay(wire, [ETCD])
        if home / WIRE in begun:
            _say(begun[home / WIRE], _etcd(etcd, home / WIRE))
        for name in project.hosts:
            number = _number(home / name, home, project.extra.underlay)
            host = _machine(home / name, begun)
            addresses = {
                family: ip_interface((net[number], net.prefixlen)) for family, net in SUBNETS.items()
            }
            underlay.plug(wire, host, list(addresses.values()))
            if home / name in begun:
                _say(begun[home / name], _daemon(home / name, str(addresses[project.extra.underlay].ip)))
        for name in project.hosts:
            _until(home / name, lambda name=name: _ready(home / name))  # type: ignore[misc]
            if home / name in begun:
                tell(f"started host {name}")
        found = fleet(project.name, placement(project))
        assert found is not None
        for name in project.hosts:
            _until(home / name, lambda name=name: _joined(found, name, project.hosts))  # type: ignore[misc]
    except BaseException:
        for directory in reversed(begun):
            _end(directory)
        _tidy(home)
        raise
    finally:
        for line in begun.values():
            os.close(line)
    return found


def surplus(project: Project) -> list[str]:
    """The hosts of a project that the file does not name any more."""
    home = HOME / project.name
    there = (path.name for path in home.iterdir()) if project.hosts and home.is_dir() else ()
    return sorted(set(there) - {WIRE, *project.hosts})


def prune(project: Project, tell: Callable[[str], None] = lambda step: None) -> None:
    """End those. Nothing that the file has is on them once `up` is done."""
    for name in surplus(project):
        _end(HOME / project.name / name)
        tell(f"ended host {name}")


def down(
    project: str | Project, *, volumes: bool = False, tell: Callable[[str], None] = lambda step: None
) -> None:
    """End all hosts of a project, with all that is on them. None is success.

    Containers get the grace of their file first. A host that does not answer is no obstacle.
    """
    name = project if isinstance(project, str) else project.name
    try:
        if found := fleet(name):
            with closing(found):
                take_down(found, name, tell=tell)
    except NetdError as error:
        tell(str(error))
    _stop(name, tell)
    if volumes and isinstance(project, Project):
        remove_volumes(project, tell)


def _stop(project: str, tell: Callable[[str], None]) -> None:
    home = HOME / project
    if not home.is_dir():
        return
    names = sorted(path.name for path in home.iterdir())
    for name in sorted(names, key=lambda name: name == WIRE):  # etcd last: the daemons take leave of it
        _end(home / name)
        if name != WIRE:
            tell(f"ended host {name}")
    _tidy(home)


# --- one machine ----------------------------------------------------------------------------------


def _machine(directory: Path, begun: dict[Path, int]) -> Netns:
    """The namespace of a machine that runs, or is started and waits for `_say` over the line in `begun`."""
    from netd.kernel import netns

    task = _task(directory)
    if not task.alive():
        _clear(directory)
        HOME.mkdir(mode=0o700, parents=True, exist_ok=True)
        DISK.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(parents=True)
        told, begun[directory] = os.pipe()
        try:
            task = _spawn(directory, told)
        finally:
            os.close(told)
    return netns.identify(f"/proc/{task.pid}/ns/net", directory.name)


def _spawn(directory: Path, line: int) -> Task:
    """Start the process that stays, with `line` as its standard input."""
    told, tells = os.pipe()
    log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        argv = [sys.executable, "-m", "netd.runtime.machine", directory.name]
        actions = [
            (os.POSIX_SPAWN_DUP2, line, 0),
            (os.POSIX_SPAWN_DUP2, tells, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ]
        first = os.posix_spawn(sys.executable, argv, os.environ, file_actions=actions, setsid=True)
    finally:
        os.close(tells)
        os.close(log)
    with os.fdopen(told) as answer:
        text = answer.readline()
    os.waitpid(first, 0)
    if not text.strip().isdecimal():
        raise Unavailable(f"host {directory.name!r} cannot be made: {_last_words(directory)}")
    task = Task.of(int(text))
    (directory / "task.json").write_bytes(msgspec.json.encode(task))
    return task


def _say(line: int, program: Sequence[str]) -> None:
    os.write(line, msgspec.json.encode(program) + b"\n")


def _task(directory: Path) -> Task:
    try:
        return msgspec.json.decode((directory / "task.json").read_bytes(), type=Task)
    except (OSError, msgspec.DecodeError):
        return Task()


def _end(directory: Path) -> None:
    task = _task(directory)
    deadline = time.monotonic() + GRACE
    asked = False
    while task.alive():
        if time.monotonic() > deadline:
            task.signal(signal.SIGKILL)
        elif not asked:
            task.signal(signal.SIGTERM)
            asked = True
        time.sleep(PAUSE)
    _clear(directory)


def _clear(directory: Path) -> None:
    """Remove what a machine that has ended leaves behind: its files, and its containers' control groups."""
    with suppress(OSError):
        token = (directory / "run" / "containers" / ".group").read_text()
        hierarchy = cgroup.find()
        for name in hierarchy.children(f"netd/{token}"):
            hierarchy.group(f"netd/{token}/{name}").remove()
    if directory.name == WIRE:
        shutil.rmtree(_data(directory), ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)


def _data(directory: Path) -> Path:
    return DISK / directory.parent.name


def _tidy(home: Path) -> None:
    for path in (home, HOME, DISK):
        with suppress(OSError):
            path.rmdir()


def _number(directory: Path, home: Path, family: int) -> int:
    """Which in its subnets a host is: what it is, or the first that no other is. Raises `Invalid` for one
    that is up over the other family."""
    kept = directory / "address"
    if kept.exists() and _task(directory).alive():
        address = ip_address(kept.read_text())
        if address.version != family:
            raise Invalid(
                f"x-netd.underlay: {family}, but the hosts of {home.name!r} use IPv{address.version}, "
                f"and it cannot be changed: take them down first, with `netd topology down {home.name}`"
            )
        return _last(address)
    taken = {_last(ip_address(path.read_text())) for path in home.glob("*/address") if path != kept}
    return next(number for number in range(1, 254) if number not in taken)


def _last(address: IPAddress) -> int:
    return int(address) - int(SUBNETS[address.version].network_address)


def _etcd(program: str, directory: Path) -> list[str]:
    here = f"http://{ETCD.ip}:{CLIENTS}"
    flags = {
        "name": "etcd",
        "data-dir": _data(directory),
        "listen-client-urls": here,
        "advertise-client-urls": here,
        "listen-peer-urls": "http://127.0.0.1:2380",
        "initial-advertise-peer-urls": "http://127.0.0.1:2380",
        "initial-cluster": "etcd=http://127.0.0.1:2380",
        "heartbeat-interval": 50,
        "election-timeout": 500,
        "logger": "zap",
        "log-level": "error",
    }
    return [program, *(f"--{key}={value}" for key, value in flags.items())]


def _daemon(directory: Path, address: str) -> list[str]:
    (directory / "address").write_text(address)
    config = directory / "netd.toml"
    config.write_text(f"cluster_ttl = {TTL}\n")
    flags = {
        "config": config,
        "run-dir": directory / "run",
        "state-dir": directory / "state",
        "cluster": f"etcd://{ETCD.ip}:{CLIENTS}",
        "node-name": directory.name,
        "advertise": address,
    }
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    command = "import sys; from netd.cli.main import main; sys.exit(main())"
    return [sys.executable, "-c", command, "daemon", "--cluster-insecure", *words]


def _ready(directory: Path) -> bool:
    try:
        connect(str(directory / "run" / "netd.sock")).close()
    except NetdError:
        return False
    return True


def _joined(found: Fleet, name: str, hosts: Collection[str]) -> bool:
    try:
        nodes = found.clients[name].nodes()
    except NetdError:
        return False
    return nodes.connected and set(hosts) <= {each.name for each in nodes.nodes}


def _until(directory: Path, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline or not _task(directory).alive():
            raise Unavailable(f"host {directory.name!r} does not come up: {_last_words(directory)}")
        time.sleep(PAUSE)


def _last_words(directory: Path) -> str:
    with suppress(OSError):
        lines = (directory / "log").read_text(errors="replace").splitlines()
        if lines:
            return lines[-1]
    return "it has said nothing"
