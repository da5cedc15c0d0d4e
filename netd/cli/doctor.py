"""`netd doctor`: whether this host can do what netd needs of it."""

from __future__ import annotations

import click

from netd.cli.options import connected, json_option, socket_option
from netd.cli.render import as_dict, print_json, visible

MARKS = {"ok": "ok  ", "warning": "warn", "failure": "FAIL"}
COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


@click.command(short_help="Check this host.")
@json_option
@socket_option
def doctor(as_json: bool) -> int:
    """Check kernel features, sysctls, libraries, permissions and other tables that drop traffic.

    Each failing line says how to mend it. The exit code is 1 if one fails; a warning is none.
    """
    checks = [as_dict(check) for check in connected().doctor()]
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            level = check["level"]
            mark = click.style(MARKS[level], fg=COLOURS[level])
            click.echo(f"{mark}  {visible(check['name'])}: {visible(check['detail'])}")
            if check["remedy"]:
                click.echo(f"      {visible(check['remedy'])}")
    return int(any(check["level"] == "failure" for check in checks))
