"""`netd doctor`: whether this host can do what netd needs of it.

The daemon examines its host itself: it knows which networks there are, and what it may do. Where it
cannot be reached, perhaps because of just what is to be found out, the same examination is made here,
without what only the daemon knows.
"""

from __future__ import annotations

import click

from netd.cli.options import connected, json_option, socket_option
from netd.cli.render import as_dict, print_json, visible
from netd.errors import Unreachable

MARKS = {"ok": "ok  ", "warning": "warn", "failure": "FAIL"}
COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


@click.command(short_help="Check this host.")
@json_option
@socket_option
def doctor(as_json: bool) -> int:
    """Check kernel features, sysctls, libraries, permissions and other tables that drop traffic.

    Each failing line says how to mend it. The exit code is 1 if one fails; a warning is none. Without a
    daemon everything else is checked, and the exit code is 125 if only the daemon is missing.
    """
    unreachable = None
    try:
        checks = [as_dict(check) for check in connected().doctor()]
    except Unreachable as error:
        unreachable, checks = error, _without_daemon()
    code = int(any(check["level"] == "failure" for check in checks))
    if unreachable is not None:
        checks.append(_missing(unreachable))
        code = code or unreachable.exit_code
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            level = check["level"]
            mark = click.style(MARKS[level], fg=COLOURS[level])
            click.echo(f"{mark}  {visible(check['name'])}: {visible(check['detail'])}")
            if check["remedy"]:
                click.echo(f"      {visible(check['remedy'])}")
    return code


def _without_daemon() -> list[dict[str, str]]:
    """What can be found out here, with the settings that a daemon would have without flags."""
    import asyncio

    from netd.doctor import Circumstances, examine
    from netd.kernel.survey import survey
    from netd.settings import load

    here = Circumstances(settings=load(None, {}), daemon=False)
    return [
        _shown(check.name, check.level.name, check.detail, check.remedy)
        for check in examine(asyncio.run(survey()), here)
    ]


def _missing(error: Unreachable) -> dict[str, str]:
    remedy = "start it, for what only it knows: its records, and what of its networks it cannot repair"
    return _shown("daemon", "failure", str(error), remedy)


def _shown(name: str, level: str, detail: str, remedy: str) -> dict[str, str]:
    return {"name": name, "level": level.lower(), "detail": detail, "remedy": remedy}
