"""From an entry under `services` to the containers that the daemon is asked for; pure.

A container is a `RunRequest` that is complete but for what only the running topology knows. Its
digest covers what can be changed only by making it anew; networks and published ports are left
out of it, because those can be changed while it runs (`netd.topology.plan`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import msgspec

from netd import names
from netd.api import netd_pb2 as pb
from netd.errors import Invalid
from netd.topology import links, values
from netd.topology.attachments import attachments, attachments_of, is_special
from netd.topology.compose import Dependency, Forward, Healthcheck, Service, ServiceExtra
from netd.topology.fleet import HOST_LABEL
from netd.topology.networks import DIGEST_LABEL, PROJECT_LABEL
from netd.topology.surroundings import Surroundings

SERVICE_LABEL = "netd.topology.service"
NUMBER_LABEL = "netd.topology.number"
GRACE_LABEL = "netd.topology.grace"
"""Seconds from SIGTERM to SIGKILL when the container is taken down."""

LEVEL_LABEL = "netd.topology.level"
"""How many services must be there first, one after another: the highest is taken down first."""

IDLE = ("sleep", "infinity")
"""What a service without image and command does: it is there to be looked at and sent packets from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a container is found healthy; times in seconds."""

    command: tuple[str, ...]
    interval: float
    timeout: float
    retries: int
    start_period: float
    start_interval: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of a service."""

    service: str
    number: int
    name: str
    request: pb.RunRequest
    ports: tuple[values.Port, ...]

    @property
    def digest(self) -> str:
        """Changes with everything that needs the container made anew."""
        return self.request.labels[DIGEST_LABEL]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectService:
    """A service with its containers, in order of their numbers."""

    key: str
    file: Service
    containers: tuple[Container, ...]
    depends_on: Mapping[str, Dependency]
    health: Health | None


def service(key: str, file: Service, around: Surroundings) -> ProjectService:
    """The service `key`. Raises `Invalid` naming the path in the file and the value."""
    path = f"services.{key}"
    names.check_name("service", key)
    count = _count(file, path)
    if file.x_netd and file.x_netd.forward:
        links.passes(file.x_netd.forward, attachments_of(file), f"{path}.x-netd.forward")
    request = _request(file, around, path)
    request.networks.extend(_mode(key, file, around, path) or attachments(key, file, around, path))
    ports = values.ports(file.ports, f"{path}.ports")
    if ports and file.network_mode:
        raise Invalid(
            f"{path}.ports: nothing can be published with network_mode {file.network_mode!r}; a service that "
            "shares another's network is published by that one"
        )
    if file.container_name and count > 1:
        raise Invalid(f"{path}.container_name: {file.container_name!r} cannot name {count} containers")
    forward = file.x_netd.forward if file.x_netd else None
    containers = []
    for number in range(1, count + 1):
        name = file.container_name or f"{around.project}-{key}-{number}"
        containers.append(_container(key, number, name, request, ports, around.project, forward))
    if count > 1:
        _check_replicable(file, ports, path)
    return ProjectService(
        key=key,
        file=file,
        containers=tuple(containers),
        depends_on=_dependencies(file),
        health=_health(file.healthcheck, f"{path}.healthcheck"),
    )


def _count(file: Service, path: str) -> int:
    count = file.deploy.replicas if file.scale is None else file.scale
    if not 0 <= count <= 1000:
        raise Invalid(f"{path}.scale: {count} must lie between 0 and 1000")
    return count


def _check_replicable(file: Service, ports: tuple[values.Port, ...], path: str) -> None:
    for port in ports:
        if port.host and not port.host_end:
            raise Invalid(
                f"{path}.ports: {port.spec!r} can be published by one container, and scale asks for more; "
                "give a range of host ports"
            )
    if isinstance(file.networks, dict):
        for key, entry in file.networks.items():
            if entry and (entry.ipv4_address or entry.ipv6_address or entry.mac_address):
                raise Invalid(f"{path}.networks.{key}: a fixed address cannot serve more than one container")


def _container(
    key: str,
    number: int,
    name: str,
    base: pb.RunRequest,
    ports: tuple[values.Port, ...],
    project: str,
    forward: Forward | None,
) -> Container:
    request = pb.RunRequest()
    request.CopyFrom(base)
    digested = pb.RunRequest()
    digested.CopyFrom(base)
    digested.ClearField("networks")
    # With or without a network of its own cannot be changed later, and routes cannot; which networks can.
    for each in base.networks:
        if is_special(each.network) or each.routes:
            digested.networks.add(network=each.network, routes=each.routes)
    content = digested.SerializeToString(deterministic=True) + msgspec.json.encode(forward)
    digest = names.digest(content.hex(), 16)
    request.name = names.check_name("container", name)
    request.publish.extend(port.spec for port in ports)
    request.labels.update(
        {PROJECT_LABEL: project, SERVICE_LABEL: key, NUMBER_LABEL: str(number), DIGEST_LABEL: digest}
    )
    return Container(service=key, number=number, name=name, request=request, ports=ports)


def _request(file: Service, around: Surroundings, path: str) -> pb.RunRequest:
    rootfs = _rootfs(file, around, path)
    command = _command(file, path)
    files = [
        values.env_lines(around.read(PurePosixPath(around.absolute(each))))
        for each in values.names(file.env_file)
    ]
    limits = file.deploy.resources.limits
    cpus, memory = f"{path}.cpus", f"{path}.mem_limit"
    grace = 0.0 if command == IDLE else values.seconds(file.stop_grace_period, f"{path}.stop_grace_period")
    return pb.RunRequest(
        command=command,
        detach=True,
        interactive=values.boolean(file.stdin_open, f"{path}.stdin_open"),
        tty=values.boolean(file.tty, f"{path}.tty"),
        hostname=file.hostname,
        dns=values.names(file.dns),
        dns_search=values.names(file.dns_search),
        dns_options=file.dns_opt,
        hosts=values.extra_hosts(file.extra_hosts, f"{path}.extra_hosts"),
        env=values.environment(file.environment, files, around.variables, f"{path}.environment"),
        volumes=[_volume(each, around, f"{path}.volumes[{n}]") for n, each in enumerate(file.volumes)],
        workdir=file.working_dir,
        user=str(file.user),
        memory=values.size(file.mem_limit, memory) or values.size(limits.memory, memory),
        cpus=values.number(file.cpus, cpus) or values.number(limits.cpus, cpus),
        pids=max(0, file.pids_limit or limits.pids),
        cap_add=map(values.capability, file.cap_add),
        cap_drop=map(values.capability, file.cap_drop),
        sysctls=values.plain(file.sysctls, f"{path}.sysctls"),
        read_only=values.boolean(file.read_only, f"{path}.read_only"),
        rootfs=rootfs,
        labels={
            **values.plain(file.labels, f"{path}.labels"),
            GRACE_LABEL: f"{grace:g}",
            **({HOST_LABEL: host_of(file)} if host_of(file) else {}),
        },
        expose=values.exposed(file.expose, f"{path}.expose"),
    )


def _command(file: Service, path: str) -> tuple[str, ...]:
    try:
        command = (*values.words(file.entrypoint), *values.words(file.command))
    except ValueError as error:
        raise Invalid(f"{path}.command: {file.command!r} cannot be split into words: {error}") from None
    if command:
        return command
    if file.image or (file.x_netd and file.x_netd.rootfs):
        raise Invalid(f"{path}.command: a root file system says not what to run in it; give a command")
    return IDLE


def _rootfs(file: Service, around: Surroundings, path: str) -> str:
    own = file.x_netd.rootfs if file.x_netd else ""
    if not own and not file.image:
        return "host"
    chosen = own or around.images.get(file.image) or around.images.get("*", "")
    if not chosen:
        raise Invalid(
            f"{path}.image: {file.image!r} has no root file system here, and netd pulls none: map it to a "
            f"directory or to the host's own with --image {file.image}=DIR|host, or set x-netd.rootfs"
        )
    return chosen if chosen == "host" else around.absolute(chosen)


def _volume(given: object, around: Surroundings, path: str) -> str:
    source, target, read_only = values.volume(given, path)  # type: ignore[arg-type]
    if source.startswith(("/", ".")):
        source = around.absolute(source)
    elif source.startswith("~"):
        source = around.variables.get("HOME", "/root") + source[1:]
    elif source in around.volumes:
        source = around.volumes[source]
    else:
        raise values.unknown("volume", source, around.volumes, path)
    return f"{source}:{target}{':ro' if read_only else ''}"


def _mode(key: str, file: Service, around: Surroundings, path: str) -> list[pb.Attachment]:
    """What `network_mode` stands for; nothing where the service has networks of its own."""
    mode, path = file.network_mode, f"{path}.network_mode"
    if not mode:
        return []
    extra = file.x_netd or ServiceExtra()
    for what, given in (
        ("networks", file.networks),
        ("mac_address", file.mac_address),
        ("x-netd.routes", extra.routes),
        ("x-netd.forward", extra.forward),
    ):
        if given:
            raise Invalid(f"{path}: {mode!r} and {what} exclude each other")
    kind, _, name = mode.partition(":")
    if mode not in names.NO_NETWORKS and not (kind in ("service", "container") and name):
        raise Invalid(
            f"{path}: {mode!r} is not possible; use none, host, service:NAME, container:NAME, or networks"
        )
    if kind in ("service", "container"):
        for what, asked in (
            ("hostname", file.hostname),
            ("dns", file.dns),
            ("dns_search", file.dns_search),
            ("dns_opt", file.dns_opt),
            ("extra_hosts", file.extra_hosts),
            ("expose", file.expose),
        ):
            if asked:
                raise Invalid(f"{path}: {mode!r} and {what} exclude each other: it is the other's to say")
    if kind == "service":
        if name not in around.services:
            raise values.unknown("service", name, around.services, path)
        if name == key:
            raise Invalid(f"{path}: {mode!r} is the service itself")
        other = around.services[name]
        mode = f"{names.SHARED}{other.container_name or f'{around.project}-{name}-1'}"
    return [pb.Attachment(network=mode)]


def host_of(file: Service) -> str:
    """The host that a service is placed on; empty for this one."""
    return file.x_netd.host if file.x_netd else ""


def _dependencies(file: Service) -> dict[str, Dependency]:
    named = file.depends_on
    found = dict.fromkeys(named, Dependency()) if isinstance(named, list) else dict(named)
    kind, _, owner = file.network_mode.partition(":")
    if kind == "service":  # whose network is shared must be there
        found.setdefault(owner, Dependency())
    return found


def _health(file: Healthcheck | None, path: str) -> Health | None:
    if file is None or file.disable:
        return None
    match file.test:
        case str(line) if line:
            command = ["/bin/sh", "-c", line]
        case ["NONE"]:
            return None
        case ["CMD", *rest] if rest:
            command = rest
        case ["CMD-SHELL", line]:
            command = ["/bin/sh", "-c", line]
        case _:
            raise Invalid(
                f"{path}.test: {file.test!r} must be a text or a list that begins with CMD or CMD-SHELL"
            )
    return Health(
        command=tuple(command),
        interval=values.seconds(file.interval, f"{path}.interval"),
        timeout=values.seconds(file.timeout, f"{path}.timeout"),
        retries=max(1, int(file.retries)),
        start_period=values.seconds(file.start_period, f"{path}.start_period"),
        start_interval=values.seconds(file.start_interval, f"{path}.start_interval"),
    )
