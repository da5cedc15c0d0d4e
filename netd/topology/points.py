"""Where packets are seen: as the file calls a place, and as the daemon does; pure."""

from __future__ import annotations

from collections.abc import Iterable

from netd.topology import values
from netd.topology.project import Project

EVERY = "*"
"""After the colon: all interfaces of a container."""


def recorded(project: Project, pattern: str = "") -> list[tuple[str, str]]:
    """The points of `x-netd.capture` with their filters, of which `pattern` takes the place if it says
    anything; all interfaces of all containers where the file names none."""
    named = [(each.on, pattern or each.filter) for each in project.extra.capture]
    return named or [(f"{each.name}:{EVERY}", pattern) for each in project.containers]


def targets(project: Project, points: Iterable[str]) -> list[str]:
    """What the daemon calls "web:eth0", "web", "web-2:*" and "network:front". Raises `Invalid`."""
    found = []
    for point in points:
        owner, _, rest = point.partition(":")
        if owner == "host":
            found.append(point)
        elif owner == "network" and rest:
            if rest not in project.networks:
                raise values.unknown("network", rest, project.networks, point)
            found.append(f"network:{project.networks[rest].name}")
        else:
            found.append(f"{project.container(owner).name}:{rest or EVERY}")
    return found


def short(project: Project, name: str) -> str:
    """The way back: "web:eth0" for "shop-web-1:eth0", "network:lan@a" for "network:shop_lan@a", which is
    that of host a. What is not the project's stays as it is."""
    owner, colon, rest = name.partition(":")
    place, at, host = name.partition("@")
    for key, network in project.networks.items():
        if place == f"network:{network.name}":
            return f"network:{key}{at}{host}"
    for each in project.containers:
        if owner == each.name:
            return (each.service if each.number == 1 else f"{each.service}-{each.number}") + colon + rest
    return name
