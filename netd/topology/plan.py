"""What must be done so that what exists becomes what a topology file says; pure.

Networks and containers are compared by the digest that their labels carry: it covers what cannot
be changed in them. Attachments and published ports are compared by what is there, because they can be
changed while a container runs; so an edited file touches what the edit is about, and no packet of
the rest is lost. Nothing is compared with an earlier file: there is none, and what a person changed by
hand is put right like any other difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from netd.api import netd_pb2 as pb
from netd.errors import NotFound
from netd.names import SHARED
from netd.topology.attachments import is_special
from netd.topology.networks import DIGEST_LABEL, PROJECT_LABEL, ProjectNetwork
from netd.topology.project import Project
from netd.topology.services import LEVEL_LABEL, Container
from netd.topology.values import Port

Item = TypeVar("Item", pb.Network, pb.Container)


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """What the daemon has: of the project itself, and the names of all networks."""

    networks: Mapping[str, pb.Network]
    containers: Mapping[str, pb.Container]
    all_networks: frozenset[str]


def existing(project: str, networks: Iterable[pb.Network], containers: Iterable[pb.Container]) -> Existing:
    """Those of `networks` and `containers` that belong to `project`, by name."""
    listed = list(networks)
    return Existing(
        networks=_of(project, listed),
        containers=_of(project, containers),
        all_networks=frozenset(each.name for each in listed),
    )


def _of(project: str, items: Iterable[Item]) -> dict[str, Item]:
    return {each.name: each for each in items if each.labels.get(PROJECT_LABEL) == project}


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Make a container; `replaces` one of the same name that is removed just before."""

    container: Container
    replaces: bool = False

    def __str__(self) -> str:
        return f"{'replace' if self.replaces else 'start'} container {self.container.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps, in the order of the fields; those of one field do not depend on each other.

    Containers are removed one group after another. `start` is by service: its containers that are new
    can all start at once, those that replace one take turns, so that somebody always answers.
    """

    remove: tuple[tuple[pb.Container, ...], ...] = ()
    disconnect: tuple[tuple[str, str], ...] = ()
    unpublish: tuple[tuple[str, str], ...] = ()
    remove_networks: tuple[str, ...] = ()
    create_networks: tuple[ProjectNetwork, ...] = ()
    connect: tuple[tuple[str, pb.Attachment], ...] = ()
    adjust: tuple[tuple[str, str, Mapping[str, str]], ...] = ()
    publish: tuple[tuple[str, str], ...] = ()
    start: Mapping[str, tuple[Start, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return next(self.steps(), None) is not None

    def steps(self) -> Iterator[str]:
        """Every step in words, in order."""
        yield from (f"remove container {each.name}" for group in self.remove for each in group)
        yield from (f"disconnect container {name} from {network}" for name, network in self.disconnect)
        yield from (f"withdraw port {spec} of container {name}" for name, spec in self.unpublish)
        yield from (f"remove network {name}" for name in self.remove_networks)
        yield from (f"create network {each.name}" for each in self.create_networks)
        yield from (f"connect container {name} to {wanted.network}" for name, wanted in self.connect)
        yield from (f"adjust container {name} in {network}" for name, network, _ in self.adjust)
        yield from (f"publish port {spec} of container {name}" for name, spec in self.publish)
        yield from (str(each) for starts in self.start.values() for each in starts)


def plan(project: Project, found: Existing) -> Plan:
    """The steps from `found` to `project`. Raises `NotFound` for an external network that is not there."""
    for net in project.networks.values():
        if net.request is None and net.name not in found.all_networks:
            raise NotFound(
                f"external network {net.name!r} of project {project.name!r} does not exist; "
                f"make it with `netd network create {net.name}`"
            )
    wanted = {net.name: net for net in project.networks.values() if net.request is not None}
    remade = {
        name
        for name, net in wanted.items()
        if name in found.networks and found.networks[name].labels.get(DIGEST_LABEL) != net.digest
    }
    unwanted = found.networks.keys() - wanted.keys()
    containers = {each.name: each for each in project.containers}
    start: dict[str, list[Start]] = {}
    fresh: set[str] = set()
    """Networks of containers that are made anew: whoever shares one has to be, too."""
    changes = _Changes(gone=remade | unwanted)
    for container in project.containers:
        present = found.containers.get(container.name)
        guest = any(each.network in fresh for each in container.request.networks)
        if present is None or guest or not _usable(present, container, project):
            fresh.add(f"{SHARED}{container.name}")
            step = Start(container=container, replaces=present is not None)
            start.setdefault(container.service, []).append(step)
            if present is not None and present.state == "running":
                changes.leave(present, container)
        else:
            changes.compare(present, container)
    surplus = [each for name, each in found.containers.items() if name not in containers]
    return Plan(
        remove=_groups(surplus),
        disconnect=tuple(changes.disconnect),
        unpublish=tuple(changes.unpublish),
        remove_networks=(*sorted(unwanted), *sorted(remade)),
        create_networks=tuple(
            net for name, net in wanted.items() if name not in found.networks or name in remade
        ),
        connect=tuple(changes.connect),
        adjust=tuple(changes.adjust),
        publish=tuple(changes.publish),
        start={key: tuple(steps) for key, steps in start.items()},
    )


def _usable(present: pb.Container, container: Container, project: Project) -> bool:
    """Whether a container can stay: it is what is wanted and runs, or ended well where that was the point."""
    if present.labels.get(DIGEST_LABEL) != container.digest:
        return False
    if present.state == "running":
        return True
    awaited = any(
        each.depends_on[container.service].condition == "service_completed_successfully"
        for each in project.services.values()
        if container.service in each.depends_on
    )
    return awaited and present.state == "exited" and present.exit_code == 0


@dataclass(slots=True)
class _Changes:
    """What differs in containers that stay; `gone` are networks that are removed, perhaps to be remade."""

    gone: set[str]
    disconnect: list[tuple[str, str]] = field(default_factory=list)
    unpublish: list[tuple[str, str]] = field(default_factory=list)
    connect: list[tuple[str, pb.Attachment]] = field(default_factory=list)
    adjust: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    publish: list[tuple[str, str]] = field(default_factory=list)

    def leave(self, present: pb.Container, container: Container) -> None:
        """Take a container that will be replaced out of the networks that are removed before that, and of
        those in which it has what is another's by now."""
        wanted = {each.network: each for each in container.request.networks}
        for each in present.endpoints:
            if each.network in self.gone or (
                each.network in wanted and _trespasses(each, wanted[each.network])
            ):
                self.disconnect.append((present.name, each.network))

    def compare(self, present: pb.Container, container: Container) -> None:
        """Note what must be changed in a container that runs."""
        if present.state != "running":
            return
        name = present.name
        there = {endpoint.network: endpoint for endpoint in present.endpoints}
        wanted = {each.network: each for each in container.request.networks}
        if not any(map(is_special, wanted)):
            for network, endpoint in there.items():
                if network not in wanted or network in self.gone or not _fits(endpoint, wanted[network]):
                    self.disconnect.append((name, network))
                    there = {key: each for key, each in there.items() if key != network}
                elif options := _changed(endpoint.options, wanted[network].options):
                    self.adjust.append((name, network, options))
            self.connect += [(name, each) for key, each in wanted.items() if key not in there]
        missing, surplus = _ports(container.ports, present.ports)
        self.publish += [(name, port.spec) for port in missing]
        self.unpublish += [(name, spec) for spec in surplus]


def _trespasses(endpoint: pb.Endpoint, wanted: pb.Attachment) -> bool:
    """Whether it got an address by chance that the file gives to somebody else by now."""
    return not _addresses(endpoint).isdisjoint(wanted.avoid)


def _addresses(endpoint: pb.Endpoint) -> set[str]:
    return {address.partition("/")[0] for address in endpoint.addresses}


def _fits(endpoint: pb.Endpoint, wanted: pb.Attachment) -> bool:
    addresses = _addresses(endpoint)
    return (
        not _trespasses(endpoint, wanted)
        and wanted.ip in ("", *addresses)
        and wanted.ip6 in ("", *addresses)
        and wanted.mac in ("", endpoint.mac)
        and wanted.ifname in ("", endpoint.ifname)
        and wanted.gw_priority == endpoint.gw_priority
        and {*wanted.aliases} == {*endpoint.aliases}
    )


def _changed(there: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """The options to be set, and those to be taken away as empty texts."""
    gone = {key: "" for key in there if key not in wanted}
    return gone | {key: text for key, text in wanted.items() if there.get(key) != text}


def _ports(wanted: Iterable[Port], there: Iterable[pb.PublishedPort]) -> tuple[list[Port], list[str]]:
    """The ports to publish, and the specs of those to withdraw."""
    left, missing = list(there), []
    for port in wanted:
        fitting = next((each for each in left if _serves(each, port)), None)
        if fitting is None:
            missing.append(port)
        else:
            left.remove(fitting)
    return missing, [_spec(each) for each in left]


def _serves(there: pb.PublishedPort, port: Port) -> bool:
    return (there.proto, there.container_port, there.host_ip) == (
        port.proto,
        port.container,
        port.address,
    ) and (not port.host or port.host <= there.host_port <= (port.host_end or port.host))


def _spec(port: pb.PublishedPort) -> str:
    return Port(
        address=port.host_ip, host=port.host_port, container=port.container_port, proto=port.proto
    ).spec


def _groups(containers: Iterable[pb.Container]) -> tuple[tuple[pb.Container, ...], ...]:
    """`containers` in the order in which they are taken down: dependents before what they depend on."""
    levels: dict[int, list[pb.Container]] = {}
    for each in containers:
        label = each.labels.get(LEVEL_LABEL, "0")
        levels.setdefault(int(label) if label.isdecimal() else 0, []).append(each)
    return tuple(tuple(levels[level]) for level in sorted(levels, reverse=True))


def removal(found: Existing) -> Plan:
    """The steps that take down all there is."""
    return Plan(remove=_groups(found.containers.values()), remove_networks=tuple(sorted(found.networks)))
