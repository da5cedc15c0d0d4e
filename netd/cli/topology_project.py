"""What all of `netd topology ...` shares: how a file is read, and what is up under a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from netd.cli.options import complain, connected
from netd.cli.values import pairs
from netd.errors import NotFound

if TYPE_CHECKING:
    from netd.api import netd_pb2 as pb
    from netd.topology.daemon import Daemon
    from netd.topology.plan import Existing
    from netd.topology.project import Project

Command = TypeVar("Command", bound=Callable[..., Any])


def file_options(command: Command) -> Command:
    """What decides how a file is read."""
    for option in (
        click.option(
            "--project", "-p", default="", metavar="NAME", help="Name of the project.  [else the file's]"
        ),
        click.option(
            "--image",
            multiple=True,
            metavar="IMAGE=DIR|host",
            help="The root file system in place of an image; '*' for all others.",
        ),
        click.option("--profile", multiple=True, metavar="NAME", help="Also services of this profile."),
        click.option("--lenient", is_flag=True, help="Warn of keys that netd does not implement."),
    ):
        command = option(command)
    return command


def loaded(
    file: str,
    project: str,
    image: Sequence[str],
    profile: Sequence[str],
    lenient: bool,
    *,
    with_volumes: bool = False,
) -> Project:
    """The project that `file` describes; warnings go to standard error.

    Only who makes or removes volumes has to ask the daemon where they are: `with_volumes`.
    """
    from netd.topology.project import STATE_DIR, load

    images = {
        name: where if where == "host" else str(Path(where).absolute()) for name, where in _images(image)
    }

    def read(state_dir: str) -> Project:
        return load(
            Path(file),
            project=project,
            images=images,
            profiles=profile,
            lenient=lenient,
            state_dir=state_dir,
        )

    found = read(STATE_DIR)
    if found.volumes and with_volumes and not found.hosts:
        found = read(connected().version().state_dir)
    for warning in found.warnings:
        complain(f"warning: {warning}")
    return found


def _images(texts: Sequence[str]) -> list[tuple[str, str]]:
    return list(pairs("--image", texts).items())


def named(topology: str, project: str, **options: Any) -> str:
    """The project that TOPOLOGY stands for: the file's, or one of that name."""
    if project:
        return project
    return loaded(topology, "", **options).name if is_file(topology) else topology


def is_file(topology: str) -> bool:
    """Whether TOPOLOGY is a file, not the name of a project."""
    return "/" in topology or topology.endswith((".yaml", ".yml")) or Path(topology).is_file()


def there(client: Daemon, project: str) -> Existing:
    """What is up of a project. Raises `NotFound` where nothing is."""
    from netd.topology.up import look

    found = look(client, project)
    if not found.containers and not found.networks:
        raise NotFound(f"no topology {project!r} is up; `netd topology ps` lists those that are")
    return found


def daemon(project: str, placed: Mapping[str, frozenset[str]] | None = None) -> Daemon:
    """Who has a project: the daemons of its own hosts, or the one that the caller named.

    Raises `NotFound` where its hosts have ended.
    """
    from netd.topology import hosts

    if project not in hosts.projects():
        return connected()
    found = hosts.fleet(project, placed)
    if found is None:
        raise _not_up(project)
    click.get_current_context().call_on_close(found.close)
    return found


def of_file(project: Project) -> Daemon:
    """Likewise for one whose file is known. Raises `NotFound` where its hosts are not up."""
    from netd.topology import hosts

    if project.hosts and not is_up(project):
        raise _not_up(project.name)
    return daemon(project.name, hosts.placement(project) if project.hosts else None)


def _not_up(project: str) -> NotFound:
    return NotFound(f"the hosts of topology {project!r} are not up; `netd topology up` starts them")


def is_up(project: Project) -> bool:
    """Whether the hosts of a project have been started."""
    from netd.topology import hosts

    return project.name in hosts.projects()


def started(project: Project, tell: Callable[[str], None]) -> Daemon:
    """The daemons of a project's hosts, started where they are not."""
    from netd.topology import hosts

    found = hosts.start(project, tell)
    click.get_current_context().call_on_close(found.close)
    return found


def container_of(found: Existing, project: str, service: str) -> pb.Container:
    """The container that SERVICE stands for: "web" (its first), "web-2", or the whole name."""
    from netd.topology.services import NUMBER_LABEL, SERVICE_LABEL

    def fits(each: pb.Container) -> bool:
        name, number = each.labels.get(SERVICE_LABEL, ""), each.labels.get(NUMBER_LABEL, "")
        return service in (each.name, f"{name}-{number}") or (service == name and number == "1")

    for each in found.containers.values():
        if fits(each):
            return each
    known: Mapping[str, None] = dict.fromkeys(
        sorted(e.labels[SERVICE_LABEL] for e in found.containers.values())
    )
    raise NotFound(
        f"topology {project!r} has no service {service!r}; there are: {', '.join(known) or 'none'}"
    )


def project_of(topology: str) -> str:
    """The name of a project whose file need not be understood in full."""
    return named(topology, "", image=("*=host",), profile=("*",), lenient=True)
