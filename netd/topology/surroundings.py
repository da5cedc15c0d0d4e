"""What a service of a topology file is read in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from netd.topology.compose import Netem, Service
from netd.topology.networks import ProjectNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a service is read in: the project, its networks by key, and how to find what it names.

    `services` are those that were chosen, `impairments` what a network says for all its attachments, and
    `promised` the addresses that services have asked for, chosen or not, in each network.
    """

    project: str
    directory: PurePosixPath
    networks: Mapping[str, ProjectNetwork]
    volumes: Mapping[str, str]
    images: Mapping[str, str]
    variables: Mapping[str, str]
    read: Callable[[PurePosixPath], str]
    services: Mapping[str, Service]
    impairments: Mapping[str, Netem | None]
    promised: Mapping[str, frozenset[str]]

    def absolute(self, path: str) -> str:
        """`path` as seen from the file's directory, without `..`."""
        parts: list[str] = []
        for part in (self.directory / path).parts[1:]:
            if part == "..":
                parts = parts[:-1]
            elif part != ".":
                parts.append(part)
        return "/" + "/".join(parts)
