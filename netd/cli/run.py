"""`netd run`: make and start a container, and stay with it unless asked not to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from netd.cli.options import connected, network_names, socket_option
from netd.cli.values import Size, attachment, environment, extra_hosts, pairs, rootfs, volume


@click.command(
    context_settings={"allow_interspersed_args": False}, short_help="Run a command in a new container."
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
@click.option("--name", default="", metavar="N", help="The container's name.  [default: a generated one]")
@click.option("--detach", "-d", is_flag=True, help="Print the id and leave it running.")
@click.option("--rm", "remove", is_flag=True, help="Remove the container when it ends.")
@click.option("--interactive", "-i", is_flag=True, help="Keep standard input open.")
@click.option("--tty", "-t", is_flag=True, help="Give it a terminal.")
@click.option(
    "--network",
    multiple=True,
    metavar="NAME[,K=V...]",
    shell_complete=network_names,
    help="A network, with ip=, ip6=, mac=, alias=, ifname=, gw-priority=, connlimit=; none, host, or "
    "container:NAME.",
)
@click.option(
    "--publish",
    "-p",
    multiple=True,
    metavar="[IP:][HOST:]CTR[/PROTO]",
    help="Publish a port; HOST and CTR may be ranges, PROTO is tcp or udp.",
)
@click.option("--expose", multiple=True, metavar="PORT[/PROTO]", help="Name a port in SRV records.")
@click.option(
    "--hostname", "-h", default="", metavar="NAME", help="Its own host name.  [default: its short id]"
)
@click.option("--dns", multiple=True, metavar="IP", help="DNS server to forward to.")
@click.option("--dns-search", multiple=True, metavar="DOMAIN", help="Where to look for short names.")
@click.option("--dns-option", "dns_options", multiple=True, metavar="OPTION", help="Of resolv.conf(5).")
@click.option("--add-host", multiple=True, metavar="NAME:IP", help="A line for its /etc/hosts.")
@click.option("--env", "-e", multiple=True, metavar="K[=V]", help="A variable; K alone takes yours.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Read variables from a file.")
@click.option(
    "--volume", "-v", multiple=True, metavar="SRC:DST[:ro]", help="Show a file or directory at DST."
)
@click.option("--workdir", "-w", default="", metavar="DIR", help="Directory to start in.")
@click.option("--user", "-u", default="", metavar="USER[:GROUP]", help="Names or numbers.")
@click.option("--memory", "-m", type=Size(), default=0, metavar="SIZE", help="Limit, like 64m.")
@click.option("--cpus", type=click.FloatRange(min=0), default=0.0, metavar="N", help="Limit, like 0.5.")
@click.option(
    "--pids-limit", "pids", type=click.IntRange(0, 2**32 - 1), default=0, metavar="N", help="Tasks at most."
)
@click.option("--cap-add", multiple=True, metavar="CAP", help="Give a capability, or ALL.")
@click.option("--cap-drop", multiple=True, metavar="CAP", help="Take a capability, or ALL.")
@click.option("--sysctl", multiple=True, metavar="K=V", help="A sysctl of its namespaces.")
@click.option("--read-only", is_flag=True, help="Mount the root file system read-only.")
@click.option("--rootfs", default="host", show_default=True, metavar="DIR|host", help="Root file system.")
@click.option("--label", "-l", multiple=True, metavar="K=V", help="A label.")
@socket_option
def run(interactive: bool, tty: bool, detach: bool, **options: Any) -> int:
    """Run COMMAND in a new container.

    Options come before the command; -- may stand between them. The exit code is the command's: 126 if it
    cannot be executed, 127 if it is not there.
    """
    prepared = _prepared(options)
    from netd.api import netd_pb2 as pb
    from netd.cli import attach

    attach.check_terminal(interactive=interactive and not detach, tty=tty)
    client = connected()
    request = pb.StreamInput(
        run=pb.RunRequest(detach=detach, interactive=interactive, tty=tty, window=attach.window(), **prepared)
    )
    if not detach:
        return attach.attach(client.run, request, interactive=interactive, tty=tty)
    for output in client.run([request]):
        if output.HasField("started"):
            click.echo(output.started.id)
    return 0


def _prepared(options: dict[str, Any]) -> dict[str, Any]:
    """The command line's options as fields of `RunRequest`; usage errors name the value."""

    def take(name: str) -> Sequence[str]:
        texts: Sequence[str] = options.pop(name)
        return texts

    return {
        "env": environment(take("env"), take("env_file")),
        "hosts": extra_hosts(take("add_host")),
        "sysctls": pairs("--sysctl", take("sysctl")),
        "labels": pairs("--label", take("label")),
        "volumes": [volume(text) for text in take("volume")],
        "networks": [attachment(text) for text in take("network")],
        "rootfs": rootfs(options.pop("rootfs")),
        **options,
    }
