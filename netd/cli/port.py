"""`netd port`: see, publish and take back ports of a running container."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from netd.cli.options import connected, container_names, json_option, socket_option
from netd.cli.render import as_dict, print_json

if TYPE_CHECKING:
    from netd.api import netd_pb2 as pb


class PortGroup(click.Group):
    """`port NAME` means `port ls NAME`, as docker has it; a container called "add" needs the long form."""

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand; a word that is none is a container."""
        if arguments[0] not in self.commands:
            arguments = ["ls", *arguments]
        return super().resolve_command(context, arguments)

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Options of `ls` may stand before its container, where those of the group do."""
        if any(word == "--json" for word in arguments) and not set(arguments) & set(self.commands):
            arguments = ["ls", *arguments]
        return super().parse_args(context, arguments)


@click.group(
    cls=PortGroup, short_help="Show or change published ports.", subcommand_metavar="CONTAINER | COMMAND"
)
@socket_option
def port() -> None:
    """Show the published ports of a CONTAINER, or change them while it runs."""


@port.command("ls", short_help="List the published ports of a container.")
@click.argument("container", shell_complete=container_names)
@json_option
@socket_option
def ls(container: str, as_json: bool) -> None:
    """List the published ports of CONTAINER; `netd port CONTAINER` is the same."""
    _print(connected().container(container).ports, as_json)


@port.command(short_help="Publish a port.")
@click.argument("container", shell_complete=container_names)
@click.argument("spec", metavar="[IP:][HOST:]CTR[/PROTO]")
@json_option
@socket_option
def add(container: str, spec: str, as_json: bool) -> None:
    """Publish a port of a running CONTAINER, and print what it publishes now."""
    _print(connected().add_port(container, spec), as_json)


@port.command(short_help="Take a published port back.")
@click.argument("container", shell_complete=container_names)
@click.argument("spec", metavar="[IP:][HOST:]CTR[/PROTO]")
@json_option
@socket_option
def rm(container: str, spec: str, as_json: bool) -> None:
    """Take a published port of a running CONTAINER back, and print what is left."""
    _print(connected().remove_port(container, spec), as_json)


def _print(ports: Iterable[pb.PublishedPort], as_json: bool) -> None:
    if as_json:
        print_json([as_dict(each) for each in ports])
        return
    for each in ports:
        # Docker's own form, one a line, for scripts that cut it at the arrow.
        for address in [each.host_ip] if each.host_ip else ["0.0.0.0", "::"]:
            shown = f"[{address}]" if ":" in address else address
            click.echo(f"{each.container_port}/{each.proto} -> {shown}:{each.host_port}")
