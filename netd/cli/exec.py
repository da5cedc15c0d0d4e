"""`netd exec`: one more process in a running container."""

from __future__ import annotations

from collections.abc import Sequence

import click

from netd.cli.options import connected, container_names, socket_option
from netd.cli.values import environment


@click.command(
    "exec",
    context_settings={"allow_interspersed_args": False},
    short_help="Run a command in a running container.",
)
@click.argument("container", shell_complete=container_names)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
@click.option("--detach", "-d", is_flag=True, help="Leave it running.")
@click.option("--interactive", "-i", is_flag=True, help="Keep standard input open.")
@click.option("--tty", "-t", is_flag=True, help="Give it a terminal.")
@click.option("--env", "-e", multiple=True, metavar="K[=V]", help="A variable; K alone takes yours.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Read variables from a file.")
@click.option("--workdir", "-w", default="", metavar="DIR", help="Directory to start in.")
@click.option("--user", "-u", default="", metavar="USER[:GROUP]", help="Names or numbers.")
@socket_option
def exec_(
    container: str,
    command: Sequence[str],
    detach: bool,
    interactive: bool,
    tty: bool,
    env: Sequence[str],
    env_file: Sequence[str],
    workdir: str,
    user: str,
) -> int:
    """Run COMMAND in a running CONTAINER, inside all its namespaces and limits.

    The exit code is the command's: 126 if it cannot be executed, 127 if it is not there.
    """
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise click.UsageError("Missing argument 'COMMAND...'.")
    variables = environment(env, env_file)
    from netd.api import netd_pb2 as pb
    from netd.cli import attach

    attach.check_terminal(interactive=interactive and not detach, tty=tty)
    client = connected()
    request = pb.StreamInput(
        exec=pb.ExecRequest(
            container=container,
            command=words,
            detach=detach,
            interactive=interactive,
            tty=tty,
            window=attach.window(),
            env=variables,
            workdir=workdir,
            user=user,
        )
    )
    if detach:
        for _ in client.exec([request]):
            pass
        return 0
    return attach.attach(client.exec, request, interactive=interactive, tty=tty)
