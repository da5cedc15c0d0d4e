"""From a topology file to the networks and containers that must exist.

Everything here but `load` is pure. What a project makes carries its name: networks are called
`PROJECT_KEY` and containers `PROJECT-SERVICE-N`, as Compose calls them, so one file under two
project names gives two topologies that know nothing of each other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from netd.errors import Invalid, NetdError, Unsupported
from netd.model import LINK
from netd.topology import values, yaml12
from netd.topology.attachments import attachments_of, promised
from netd.topology.compose import (
    Check,
    Extra,
    File,
    NetworkFile,
    Service,
    VolumeDefinition,
    VolumeFile,
    parse,
)
from netd.topology.interpolate import interpolate
from netd.topology.networks import ProjectNetwork, network
from netd.topology.pairs import unfolded
from netd.topology.services import (
    LEVEL_LABEL,
    Container,
    ProjectService,
    host_of,
    service,
)
from netd.topology.surroundings import Surroundings

STATE_DIR = "/var/lib/netd"
"""Where named volumes are kept, below `volumes/`. The client makes them, not the daemon."""

COMPOSE_NAMES = ("compose", "docker-compose")
"""Names of files that say nothing: the project is called like their directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A topology under its name, ready to be compared with what exists.

    `networks` and `services` are by the file's keys, `services` in an order in which they can be
    started; `volumes` maps the keys of named volumes to directories; `warnings` is what the reader of the
    file should know.
    """

    name: str
    networks: Mapping[str, ProjectNetwork]
    services: Mapping[str, ProjectService]
    volumes: Mapping[str, str] = field(default_factory=dict)
    extra: Extra = field(default_factory=Extra)
    warnings: tuple[str, ...] = ()

    @property
    def containers(self) -> tuple[Container, ...]:
        """All containers, those first that others depend on."""
        return tuple(each for one in self.services.values() for each in one.containers)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that the project has of its own; none where it is on this one."""
        return tuple(self.extra.hosts)

    @property
    def checks(self) -> tuple[Check, ...]:
        """The reachability assertions of the file."""
        return tuple(self.extra.checks)

    def container(self, ref: str) -> Container:
        """A container by its service ("web": the first), by "web-2", or by its whole name."""
        for each in self.containers:
            if ref in (each.name, f"{each.service}-{each.number}") or (
                ref == each.service and each.number == 1
            ):
                return each
        known = ", ".join(self.services)
        raise Invalid(
            f"{ref!r} is neither a service nor a container of project {self.name!r}; there are: {known}"
        )


def load(
    source: str | Path,
    *,
    variables: Mapping[str, str] | None = None,
    project: str = "",
    images: Mapping[str, str] | None = None,
    profiles: Collection[str] = (),
    lenient: bool = False,
    state_dir: str = STATE_DIR,
) -> Project:
    """The project that a file describes: a path, or the text itself (which has more than one line).

    `variables` (else the environment) are what `${VAR}` stands for, after those of a file `.env` beside
    the topology. `images` says which directory, or "host", stands for an image; "*" for all others.
    With `lenient`, keys that netd does not implement become warnings. Raises `Invalid` naming the file,
    the path in it and the value; `NotFound` never: a file that is not there is `Invalid` too.
    """
    known = dict(os.environ if variables is None else variables)
    if isinstance(source, str) and "\n" in source:
        name, text, directory = "topology", source, Path.cwd()
    else:
        name, text, directory = str(source), _read(Path(source)), Path(source).resolve().parent
    dotenv = directory / ".env"
    if dotenv.is_file():
        known = values.env_lines(_read(dotenv)) | known
    return read(
        text,
        name,
        directory=PurePosixPath(directory),
        variables=known,
        project=project,
        images=images or {},
        profiles=profiles,
        lenient=lenient,
        state_dir=state_dir,
        file=lambda path: _read(Path(path)),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Invalid(f"{path} cannot be read: {reason}") from None


def read(
    text: str,
    name: str,
    *,
    directory: PurePosixPath,
    variables: Mapping[str, str],
    project: str,
    images: Mapping[str, str],
    profiles: Collection[str],
    lenient: bool,
    state_dir: str,
    file: Callable[[PurePosixPath], str],
) -> Project:
    """As `load`, of a text called `name`; `file` reads the env files that it names."""
    warnings: list[str] = []
    unset: dict[str, None] = {}
    try:
        plain = interpolate(yaml12.load(text, name), variables, unset.setdefault)
    except Invalid as error:
        raise _named(name, error) from None
    parsed, unknown = parse(plain, name)
    unknown += _unimplemented(parsed)
    if unknown and not lenient:
        raise Invalid(f"{name}: netd does not implement {'; '.join(unknown)}: leave it out, or say --lenient")
    warnings += [f"{name}: {each} is not implemented and has no effect" for each in unknown]
    warnings += [f"{name}: variable {each} is not set; it stands for nothing" for each in unset]
    title = project or parsed.name or _title(name, directory)
    _check_title(title, name)
    try:
        return _project(
            unfolded(parsed),
            title,
            profiles,
            warnings,
            directory=directory,
            images={**parsed.x_netd.images, **images},
            variables=variables,
            read=file,
            state_dir=state_dir,
        )
    except (Invalid, Unsupported) as error:
        raise _named(name, error) from None


def _named(name: str, error: NetdError) -> NetdError:
    text = str(error)
    return error if text.startswith(f"{name}: ") else type(error)(f"{name}: {text}")


def _title(name: str, directory: PurePosixPath) -> str:
    stem = PurePosixPath(name).stem
    raw = directory.name if stem in COMPOSE_NAMES or name == "topology" else stem
    return re.sub(r"[^a-z0-9_-]", "", raw.lower()).lstrip("-_") or "topology"


def _check_title(title: str, name: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,30}", title):
        raise Invalid(
            f"{name}: project name {title!r} is not possible: at most 31 small letters, digits, '-' and '_', "
            "the first a letter or digit"
        )


def _unimplemented(file: File) -> Iterator[str]:
    """What the types let through, because wild files say it or other hosts have it, and netd does not do."""
    for key, each in file.services.items():
        path = f"services.{key}"
        if each.restart not in ("no", ""):
            yield f"{path}.restart: {each.restart!r} (nothing restarts a container)"
        if isinstance(each.depends_on, dict):
            for name, dependency in each.depends_on.items():
                if dependency.restart:
                    yield f"{path}.depends_on.{name}.restart"
        for n, volume in enumerate(each.volumes):
            if isinstance(volume, VolumeFile) and volume.bind and volume.bind.create_host_path:
                yield f"{path}.volumes[{n}].bind.create_host_path"


def _project(
    file: File,
    title: str,
    profiles: Collection[str],
    warnings: Iterable[str],
    *,
    directory: PurePosixPath,
    images: Mapping[str, str],
    variables: Mapping[str, str],
    read: Callable[[PurePosixPath], str],
    state_dir: str,
) -> Project:
    chosen = {
        key: each
        for key, each in file.services.items()
        if not each.profiles or set(each.profiles) & {*profiles}
    }
    if "*" in profiles:
        chosen = dict(file.services)
    networks = _networks(file, chosen, title)
    volumes = {
        key: f"{state_dir}/volumes/{(each or VolumeDefinition()).name or f'{title}_{key}'}"
        for key, each in file.volumes.items()
    }
    around = Surroundings(
        project=title,
        directory=directory,
        networks=networks,
        volumes=volumes,
        images=images,
        variables=variables,
        read=read,
        services=chosen,
        impairments={key: each.x_netd.netem for key, each in file.networks.items() if each and each.x_netd},
        promised=promised(file.services),
    )
    services = {key: service(key, each, around) for key, each in chosen.items()}
    ordered = {key: services[key] for key in _ordered(services, file)}
    _mark_levels(ordered)
    project = Project(
        name=title,
        networks=networks,
        services=ordered,
        volumes={key: path for key, path in volumes.items() if _used(path, services)},
        extra=file.x_netd,
        warnings=tuple(warnings),
    )
    _check_unique(project)
    _check_hosts(project)
    return project


def _networks(file: File, services: Mapping[str, Service], title: str) -> dict[str, ProjectNetwork]:
    """The networks that some service uses; `default` exists without having been written."""
    used = {name for each in services.values() for name in attachments_of(each)}
    defined = {key: entry or NetworkFile() for key, entry in file.networks.items()}
    if "default" in used:
        defined.setdefault("default", NetworkFile())
    return {
        key: network(key, entry, title) for key, entry in defined.items() if key in used or key != "default"
    }


def _used(path: str, services: Mapping[str, ProjectService]) -> bool:
    return any(
        volume.split(":")[0] == path
        for each in services.values()
        for container in each.containers
        for volume in container.request.volumes
    )


def _ordered(services: Mapping[str, ProjectService], file: File) -> Iterator[str]:
    """Keys with dependencies before their dependents, otherwise as written. A cycle is named."""
    done: set[str] = set()

    def visit(key: str, trail: tuple[str, ...]) -> Iterator[str]:
        if key in done:
            return
        if key in trail:
            cycle = " -> ".join((*trail[trail.index(key) :], key))
            raise Invalid(f"services.{trail[-1]}.depends_on: {cycle} is a circle; nothing could start first")
        for name, dependency in services[key].depends_on.items():
            if name in services:
                yield from visit(name, (*trail, key))
            elif dependency.required or name not in file.services:
                raise values.unknown("service", name, services, f"services.{key}.depends_on")
        done.add(key)
        yield key

    for key in services:
        yield from visit(key, ())


def _mark_levels(ordered: Mapping[str, ProjectService]) -> None:
    levels: dict[str, int] = {}
    for key, each in ordered.items():
        levels[key] = max((levels[name] + 1 for name in each.depends_on if name in levels), default=0)
        for container in each.containers:
            container.request.labels[LEVEL_LABEL] = str(levels[key])


def _check_hosts(project: Project) -> None:
    """Every service is on a host, if there are hosts; and with it whom it cannot be without."""
    for name in project.hosts:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,11}", name):
            raise Invalid(
                f"x-netd.hosts.{name}: a host's name has at most 12 small letters, digits and '-', not first"
            )
    placed = {key: host_of(each.file) for key, each in project.services.items()}
    for key, host in placed.items():
        path = f"services.{key}.x-netd.host"
        if host and host not in project.hosts:
            raise values.unknown("host", host, dict.fromkeys(project.hosts), path)
        if project.hosts and not host:
            raise Invalid(
                f"{path}: is missing; say on which of x-netd.hosts it is: {', '.join(project.hosts)}"
            )
        kind, _, owner = project.services[key].file.network_mode.partition(":")
        if kind == "service" and placed.get(owner, host) != host:
            raise Invalid(
                f"{path}: {host!r}, but {owner!r}, whose network it shares, is on {placed[owner]!r}"
            )
    for key, net in project.networks.items():
        if net.request is not None and net.request.driver == LINK:
            ends = {placed[each.service] for each in project.containers if _joins(each, net)}
            if len(ends) > 1:
                raise Invalid(
                    f"networks.{key}: a link is within one host, and its ends are on "
                    f"{' and '.join(sorted(ends))}; "
                    "use a network of driver overlay"
                )


def _joins(container: Container, net: ProjectNetwork) -> bool:
    return any(each.network == net.name for each in container.request.networks)


def _check_unique(project: Project) -> None:
    seen: dict[str, str] = {}
    for container in project.containers:
        if container.name in seen:
            raise Invalid(
                f"services.{container.service}: {seen[container.name]!r} has a container "
                f"{container.name!r} already; choose another container_name"
            )
        seen[container.name] = container.service
