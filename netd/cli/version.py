"""`netd version`: of this command and of the daemon it speaks to."""

from __future__ import annotations

from typing import Any

import click

import netd
from netd.cli.options import complain, connected, json_option, socket_option
from netd.cli.render import as_dict, mapping, print_json, timestamp
from netd.errors import NetdError


@click.command(short_help="Show the versions of this command and of the daemon.")
@json_option
@socket_option
def version(as_json: bool) -> int:
    """Show the versions of this command and of the daemon, and where the daemon keeps things."""
    daemon: dict[str, Any] | None = None
    code = 0
    try:
        daemon = as_dict(connected().version())
    except NetdError as error:  # what this command knows by itself is still worth printing
        complain(error)
        code = error.exit_code
    if as_json:
        print_json({"client": {"version": netd.__version__}, "daemon": daemon})
        return code
    click.echo(f"client     {netd.__version__}")
    if daemon:
        click.echo(f"daemon     {daemon['version']} (api {daemon['api']}, pid {daemon['pid']})")
        click.echo(f"node       {daemon['node']}")
        click.echo(f"started    {timestamp(daemon['started'])}")
        click.echo(f"state      {daemon['state_dir']}")
        click.echo(f"run        {daemon['run_dir']}")
        click.echo(f"libraries  {mapping(daemon['libraries'])}")
    return code
