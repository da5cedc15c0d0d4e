"""What a picture of a topology shows, before anybody draws it; pure.

Made from the file alone, or with what runs: then every interface has its name and its addresses.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from netd.api import netd_pb2 as pb
from netd.model import LINK
from netd.names import SHARED
from netd.topology.fleet import HOST_LABEL
from netd.topology.links import LOSS, TO
from netd.topology.project import Project
from netd.topology.services import IDLE, Container

COMMAND_WIDTH = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """An interface: the end of a container in a network, or in a link to another container."""

    network: str
    ifname: str = ""
    addresses: tuple[str, ...] = ()
    impairment: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """What is written beside it."""
        return tuple(text for text in (self.ifname, *self.addresses, self.impairment) if text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A container."""

    name: str
    about: str
    ports: tuple[str, ...] = ()
    wires: tuple[Wire, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A network."""

    key: str
    about: str
    internal: bool = False
    link: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Everything that is drawn, in the order of the file."""

    title: str
    bars: tuple[Bar, ...]
    boxes: tuple[Box, ...]
    checks: tuple[tuple[str, str, str], ...] = field(default=())


def picture(
    project: Project, containers: Iterable[pb.Container] = (), networks: Iterable[pb.Network] = ()
) -> Picture:
    """The picture of `project`; `containers` and `networks` are what runs of it, if anything does."""
    running = {each.name: each for each in containers if each.state == "running"}
    there = {each.name: each for each in networks}
    keys = {net.name: key for key, net in project.networks.items()}
    return Picture(
        title=project.name,
        bars=tuple(
            Bar(
                key=key,
                about=_about(net.name, net.subnets, there),
                internal=net.internal,
                link=net.request is not None and net.request.driver == LINK,
            )
            for key, net in project.networks.items()
        ),
        boxes=tuple(_box(each, running.get(each.name), keys, project) for each in project.containers),
        checks=tuple((each.source, each.to, each.expect) for each in project.checks),
    )


def _about(name: str, subnets: tuple[str, ...], there: Mapping[str, pb.Network]) -> str:
    if name in there:
        subnets = tuple(subnet.cidr for subnet in there[name].subnets)
    return "  ".join(subnets)


def _box(
    container: Container, running: pb.Container | None, keys: Mapping[str, str], project: Project
) -> Box:
    request = container.request
    alone = len(project.services[container.service].containers) == 1
    command = tuple(request.command)
    about = "" if command == IDLE else shlex.join(command)
    special = next((each.network for each in request.networks if each.network not in keys), "")
    return Box(
        name=container.service if alone else f"{container.service}-{container.number}",
        about=about if len(about) <= COMMAND_WIDTH else about[: COMMAND_WIDTH - 1] + "…",
        ports=tuple(_ports(container, running)),
        wires=tuple(_wires(container, running, keys)),
        note=", ".join(filter(None, (_note(special, project), _place(container)))),
    )


def _place(container: Container) -> str:
    host = container.request.labels.get(HOST_LABEL, "")
    return f"on host {host}" if host else ""


def _note(special: str, project: Project) -> str:
    if not special.startswith(SHARED):
        return {"": "", "none": "no network", "host": "the host's network"}.get(special, "")
    name = special.removeprefix(SHARED)
    owner = next((each.service for each in project.containers if each.name == name), name)
    return f"in the network of {owner}"


def _ports(container: Container, running: pb.Container | None) -> Iterable[str]:
    if running is None:
        for port in container.ports:
            end = f"-{port.host_end}" if port.host_end else ""
            yield f"{_host(port.address)}:{port.host or '?'}{end} → {port.container}/{port.proto}"
    else:
        for each in running.ports:
            yield f"{_host(each.host_ip)}:{each.host_port} → {each.container_port}/{each.proto}"


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address or "*"


def _wires(container: Container, running: pb.Container | None, keys: Mapping[str, str]) -> Iterable[Wire]:
    endpoints = {each.network: each for each in running.endpoints} if running else {}
    for wanted in container.request.networks:
        if wanted.network not in keys:
            continue
        found = endpoints.get(wanted.network)
        addresses = (
            [address.partition("/")[0] for address in found.addresses] if found else [wanted.ip, wanted.ip6]
        )
        yield Wire(
            network=keys[wanted.network],
            ifname=found.ifname if found else wanted.ifname,
            addresses=tuple(filter(None, addresses)),
            impairment=_impairment(found.options if found else wanted.options),
        )


def _impairment(options: Mapping[str, str]) -> str:
    rate, loss = options.get(TO, ""), options.get(LOSS, "")
    parts = [f"{int(rate) / 1e6:g} Mbit/s" if rate.isdecimal() else "", f"{loss} % lost" if loss else ""]
    return ", ".join(filter(None, parts))
