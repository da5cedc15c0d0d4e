"""`netd events`: what happens, as it happens."""

from __future__ import annotations

import json

import click

from netd.cli.options import connected, socket_option
from netd.cli.render import as_dict, mapping, short, timestamp, visible
from netd.errors import Unreachable


@click.command(short_help="Print what happens, as it happens.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@socket_option
def events(as_json: bool) -> None:
    """Print what happens from now on, one event a line, until Ctrl-C."""
    client = connected()
    for event in client.watch():
        if as_json:
            line = json.dumps(as_dict(event), ensure_ascii=False)
        else:
            words = [timestamp(event.time), event.type, event.action, event.name, f"({short(event.id)})"]
            line = visible(" ".join([*words, mapping(event.attributes)])).rstrip()
        click.echo(line)  # click flushes, so a pipe sees each event at once
    raise Unreachable(f"the daemon at {client.path} has stopped")
