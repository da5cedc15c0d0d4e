"""The commands about containers that already exist: ps, inspect, stop, kill, wait, rename, rm."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from netd.cli.options import connected, container_names, each, inspect_all, json_option, socket_option
from netd.cli.render import ago, as_dict, duration, print_json, print_table, published, short
from netd.errors import NotFound

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from netd.api import netd_pb2 as pb

COMMAND_WIDTH = 30

names_argument = click.argument(
    "names", nargs=-1, required=True, metavar="CONTAINER...", shell_complete=container_names
)


@click.command(short_help="List containers.")
@click.option("--all", "-a", "everything", is_flag=True, help="Also those that have ended.")
@click.option("--quiet", "-q", is_flag=True, help="Print ids only.")
@json_option
@socket_option
def ps(everything: bool, quiet: bool, as_json: bool) -> None:
    """List running containers, the newest first."""
    found = sorted(connected().containers(all=everything), key=lambda each: -each.created)
    if as_json:
        print_json([as_dict(each) for each in found])
    elif quiet:
        click.echo("".join(f"{short(each.id)}\n" for each in found), nl=False)
    else:
        now = time.time()
        print_table(
            ("CONTAINER ID", "NAME", "COMMAND", "CREATED", "STATUS", "NETWORKS", "PORTS"),
            [
                (
                    short(each.id),
                    each.name,
                    _shortened(shlex.join(each.command)),
                    ago(each.created, now),
                    status(each, now),
                    ", ".join(_endpoint(endpoint) for endpoint in each.endpoints),
                    ", ".join(published(each.ports)),
                )
                for each in found
            ],
        )


def status(container: pb.Container, now: float) -> str:
    """A container's state as docker words it."""
    match container.state:
        case "running":
            return f"Up {duration(now - container.started)}"
        case "exited":
            killed = " out of memory," if container.oom_killed else ""
            return f"Exited ({container.exit_code}){killed} {ago(container.finished, now)}"
        case other:
            return other.capitalize()


def _endpoint(endpoint: pb.Endpoint) -> str:
    addresses = " ".join(address.partition("/")[0] for address in endpoint.addresses)
    return f"{endpoint.network} {addresses}"


def _shortened(text: str) -> str:
    return text if len(text) <= COMMAND_WIDTH else text[: COMMAND_WIDTH - 1] + "…"


@click.command(short_help="Show containers or networks in full, as JSON.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=container_names)
@socket_option
def inspect(names: Sequence[str]) -> int:
    """Print a JSON array of the containers called NAME, or else of the networks."""
    client = connected()

    def find(ref: str) -> Message:
        try:
            return client.container(ref)
        except NotFound as error:
            try:
                return client.network(ref)
            except NotFound:
                raise error from None

    return inspect_all(names, find)


@click.command(short_help="Stop containers.")
@names_argument
@click.option(
    "--time",
    "-t",
    "grace",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="From SIGTERM to SIGKILL.  [default: 10]",
)
@socket_option
def stop(names: Sequence[str], grace: float | None) -> int:
    """Send SIGTERM, then SIGKILL to what still runs; answer when all have ended."""
    client = connected()
    return each(names, lambda ref: _named(ref, client.stop_container(ref, grace)))


@click.command(short_help="Send a signal to containers.")
@names_argument
@click.option("--signal", "-s", default="KILL", show_default=True, metavar="SIGNAL", help="Name or number.")
@socket_option
def kill(names: Sequence[str], signal: str) -> int:
    """Send a signal to the first process of containers."""
    client = connected()
    return each(names, lambda ref: _named(ref, client.kill_container(ref, signal)))


@click.command(short_help="Wait until containers end, and print their exit codes.")
@names_argument
@socket_option
def wait(names: Sequence[str]) -> int:
    """Wait until all have ended; print each one's exit code on a line of its own."""
    client = connected()
    return each(names, lambda ref: str(client.wait_container(ref).code))


@click.command(short_help="Give a container another name.")
@click.argument("container", shell_complete=container_names)
@click.argument("name")
@socket_option
def rename(container: str, name: str) -> None:
    """Call CONTAINER by NAME from now on, running or not; print the name.

    Other containers find it by NAME at once and by the old name no longer. Its host name stays.
    """
    click.echo(connected().rename_container(container, name).name)


@click.command(short_help="Remove containers.")
@names_argument
@click.option("--force", "-f", is_flag=True, help="Also running ones: they are killed.")
@socket_option
def rm(names: Sequence[str], force: bool) -> int:
    """Remove containers with their writable layer and their log; print the names."""
    client = connected()
    return each(names, lambda ref: client.remove_container(ref, force=force) or ref)


def _named(ref: str, container: pb.Container) -> str:
    return container.name or ref
