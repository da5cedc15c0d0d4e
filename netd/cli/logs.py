"""`netd logs`: what a container has written."""

from __future__ import annotations

import click

from netd.cli import terminal
from netd.cli.options import connected, container_names, socket_option
from netd.cli.render import timestamp


class Tail(click.ParamType[int]):
    """A number of lines, or "all"."""

    name = "lines"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> int:
        if value == "all":
            return 0
        if not value.isascii() or not value.isdigit() or not 0 < int(value) < 2**32:
            self.fail(f"{value!r} is not a number of lines from 1 on, or 'all'", param, context)
        return int(value)


@click.command(short_help="Print what a container has written.")
@click.argument("container", shell_complete=container_names)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is yet to come.")
@click.option(
    "--tail", "-n", type=Tail(), default="all", show_default=True, metavar="N", help="Last lines only."
)
@click.option("--timestamps", "-t", is_flag=True, help="Show when each line was written.")
@socket_option
def logs(container: str, follow: bool, tail: int, timestamps: bool) -> None:
    """Print what CONTAINER has written, each line to the stream it was written to."""
    lines = connected().logs(container, follow=follow, tail=tail, timestamps=timestamps)
    for line in lines:
        prefix = f"{timestamp(line.time)} ".encode() if timestamps else b""
        terminal.write(2 if line.stream == "stderr" else 1, prefix + line.data)
