"""`netd topology ...`: a whole topology from one file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netd.cli import topology_wires
from netd.cli.options import connected, json_option, socket_option
from netd.cli.render import as_dict, print_json, print_table, published
from netd.cli.topology_project import (
    container_of,
    daemon,
    file_options,
    is_file,
    is_up,
    loaded,
    named,
    of_file,
    project_of,
    started,
    there,
)
from netd.errors import Invalid, Unreachable

if TYPE_CHECKING:
    from netd.api import netd_pb2 as pb
    from netd.topology.daemon import Daemon
    from netd.topology.project import Project


@click.group()
@socket_option
def topology() -> None:
    """Whole topologies from Compose files, with what Compose cannot say under x-netd.

    TOPOLOGY is a file, or the name of a project that is up.
    """


for command in (topology_wires.netem, topology_wires.link, topology_wires.capture, topology_wires.trace):
    topology.add_command(command)


def _tell(step: str) -> None:
    click.echo(step, err=True)


@topology.command(short_help="Make a topology what its file says.")
@click.argument("file", type=click.Path())
@file_options
@click.option("--dry-run", is_flag=True, help="Print the steps and do nothing.")
@click.option("--no-wait", is_flag=True, help="Do not wait for health checks that nothing depends on.")
@click.option("--quiet", "-q", is_flag=True, help="Do not show the steps.")
@socket_option
def up(file: str, dry_run: bool, no_wait: bool, quiet: bool, **options: Any) -> None:
    """Start the topology of FILE, or change a running one into what the file says now.

    What the file leaves as it was is not touched. If something cannot be started, what this command made
    is removed again.
    """
    project = loaded(file, **options, with_volumes=True)
    from netd.topology import hosts
    from netd.topology.plan import existing, plan
    from netd.topology.up import carry_out, look

    tell = (lambda step: None) if quiet else _tell
    if project.hosts and dry_run and not is_up(project):
        planned = plan(project, existing(project.name, (), ()))
    else:
        client = started(project, tell) if project.hosts and not dry_run else of_file(project)
        planned = plan(project, look(client, project.name))
    if dry_run:
        missing = () if is_up(project) else project.hosts
        for step in (
            *(f"start host {name}" for name in missing),
            *planned.steps(),
            *(f"end host {name}" for name in hosts.surplus(project)),
        ):
            click.echo(step)
        return
    began = time.monotonic()
    carry_out(client, project, planned, tell=tell, wait=not no_wait)
    hosts.prune(project, tell)
    if not quiet:
        done = f"{len(project.containers)} containers, {len(project.networks)} networks"
        state = f"is up in {time.monotonic() - began:.1f} s" if planned else "is up already"
        _tell(f"{project.name} {state}: {done}")


@topology.command(short_help="Take a topology down.")
@click.argument("topology")
@file_options
@click.option("--volumes", "-v", is_flag=True, help="Also the named volumes of the file.")
@click.option("--quiet", "-q", is_flag=True, help="Do not show the steps.")
@socket_option
def down(topology: str, volumes: bool, quiet: bool, **options: Any) -> None:
    """Remove the containers and networks of TOPOLOGY."""
    if volumes and not is_file(topology):
        raise click.UsageError(f"--volumes needs the file: {topology!r} does not say which volumes it has")
    project: str | Project = options["project"] or topology
    if is_file(topology):
        project = loaded(topology, **options, with_volumes=volumes)
    from netd.topology import Project, hosts
    from netd.topology.up import down as take_down

    name = project if isinstance(project, str) else project.name
    tell = (lambda step: None) if quiet else _tell
    if name in hosts.projects() or (isinstance(project, Project) and project.hosts):
        hosts.down(project, volumes=volumes, tell=tell)
    else:
        take_down(connected(), project, volumes=volumes, tell=tell)


@topology.command(short_help="List topologies, or the containers of one.")
@click.argument("topology", required=False)
@file_options
@json_option
@socket_option
def ps(topology: str | None, as_json: bool, **options: Any) -> None:
    """List the containers of TOPOLOGY, or without it all projects."""
    if topology is None:
        _list_projects(as_json)
        return
    project = named(topology, **options)
    found = there(daemon(project), project)
    from netd.cli.containers import status
    from netd.topology.fleet import HOST_LABEL
    from netd.topology.services import SERVICE_LABEL

    rows = sorted(found.containers.values(), key=lambda each: each.name)
    if as_json:
        print_json([as_dict(each) for each in rows])
        return
    now = time.time()
    placed = any(HOST_LABEL in each.labels for each in rows)
    print_table(
        ("NAME", *(["HOST"] if placed else []), "SERVICE", "STATUS", "NETWORKS", "PORTS"),
        [
            (
                each.name,
                *([each.labels[HOST_LABEL]] if placed else []),
                each.labels[SERVICE_LABEL],
                status(each, now),
                ", ".join(_interface(endpoint) for endpoint in each.endpoints),
                ", ".join(published(each.ports)),
            )
            for each in rows
        ],
    )


def _interface(endpoint: pb.Endpoint) -> str:
    addresses = " ".join(address.partition("/")[0] for address in endpoint.addresses)
    return f"{endpoint.ifname}@{endpoint.network} {addresses}"


def _list_projects(as_json: bool) -> None:
    from netd.topology import hosts
    from netd.topology.networks import PROJECT_LABEL

    counts: dict[str, list[int]] = {}
    asked: list[Daemon] = [each for name in hosts.projects() if (each := hosts.fleet(name))]
    try:
        asked.append(connected())
    except Unreachable:
        if not asked:  # those with hosts of their own can do without this machine's daemon
            raise
    listed = [(0, each.labels) for one in asked for each in one.containers(all=True)]
    for n, labels in (*listed, *((1, each.labels) for one in asked for each in one.networks())):
        if name := labels.get(PROJECT_LABEL):
            counts.setdefault(name, [0, 0])[n] += 1
    if as_json:
        print_json([{"project": k, "containers": c, "networks": n} for k, (c, n) in sorted(counts.items())])
    else:
        rows = [(name, str(c), str(n)) for name, (c, n) in sorted(counts.items())]
        print_table(("PROJECT", "CONTAINERS", "NETWORKS"), rows)


@topology.command(
    "exec",
    short_help="Run a command in a service.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("topology")
@click.argument("service")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@socket_option
def exec_(topology: str, service: str, command: Sequence[str]) -> int:
    """Run COMMAND in a container of SERVICE: "web" is its first, "web-2" its second."""
    import sys

    words = command[1:] if command[0] == "--" else command
    project = project_of(topology)
    client = daemon(project)
    container = container_of(there(client, project), project, service)
    from netd.api import netd_pb2 as pb
    from netd.cli import attach

    tty = sys.stdin.isatty() and sys.stdout.isatty()
    request = pb.ExecRequest(
        container=container.id, command=words, interactive=True, tty=tty, window=attach.window()
    )
    return attach.attach(client.exec, pb.StreamInput(exec=request), interactive=True, tty=tty)


@topology.command(short_help="Print what services have written.")
@click.argument("topology")
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@click.option("--tail", "-n", type=click.IntRange(min=1), metavar="N", help="Last lines of each only.")
@socket_option
def logs(topology: str, services: Sequence[str], tail: int | None) -> None:
    """Print what the containers of TOPOLOGY have written, in the order of time, each line with its writer."""
    from netd.cli import terminal

    project = project_of(topology)
    client = daemon(project)
    found = there(client, project)
    chosen = [container_of(found, project, each) for each in services] or list(found.containers.values())
    lines = [
        (line.time, each.name, line)
        for each in chosen
        for line in client.logs(each.id, follow=False, tail=tail or 0, timestamps=False)
    ]
    for _, name, line in sorted(lines, key=lambda each: each[0]):
        short = name.removeprefix(f"{project}-")
        end = b"" if line.data.endswith(b"\n") else b"\n"
        terminal.write(2 if line.stream == "stderr" else 1, f"{short} | ".encode() + line.data + end)


@topology.command(short_help="Try who reaches whom.")
@click.argument("file", type=click.Path())
@file_options
@click.option("--all", "everything", is_flag=True, help="Everybody and everything, as a table.")
@json_option
@socket_option
def check(file: str, everything: bool, as_json: bool, **options: Any) -> int:
    """Hold a topology that is up to the `checks` of FILE; the exit code is 1 if one fails.

    With --all, show instead what each service reaches of every other.
    """
    project = loaded(file, **options)
    from netd.topology.check import Reachability, questions

    asked = questions(project)
    seen = Reachability(of_file(project), project)
    if everything:
        _show_matrix(*seen.matrix(), as_json=as_json)
        return 0
    if not asked:
        raise Invalid(f"{file}: x-netd.checks is empty; write assertions, or say --all")
    outcomes = seen.check(asked)
    if as_json:
        print_json([{**asdict(each), "ok": each.ok} for each in outcomes])
    else:
        print_table(
            ("", "FROM", "TO", "EXPECTED", "FOUND", ""),
            [
                (
                    "ok" if each.ok else "FAILED",
                    each.source,
                    each.target,
                    each.expect,
                    each.found,
                    each.detail,
                )
                for each in outcomes
            ],
        )
    return 0 if all(each.ok for each in outcomes) else 1


def _show_matrix(
    sources: Sequence[str], targets: Sequence[str], answers: Mapping[tuple[str, str], str], *, as_json: bool
) -> None:
    if as_json:
        print_json([{"from": s, "to": t, "found": found} for (s, t), found in answers.items()])
        return
    rows = [(source, *(answers.get((source, target), "-") for target in targets)) for source in sources]
    print_table(("FROM", *targets), rows)


@topology.command(short_help="Draw a topology.")
@click.argument("file", type=click.Path())
@file_options
@click.option(
    "--format",
    "-f",
    "kind",
    type=click.Choice(["mermaid", "dot", "svg", "html"]),
    help="What to write.  [default: by the name of --output, else mermaid]",
)
@click.option("--output", "-o", metavar="FILE", help="Where to write it.  [default: standard output]")
@click.option("--offline", is_flag=True, help="Draw the file alone; do not look at what runs.")
@socket_option
def graph(file: str, kind: str | None, output: str | None, offline: bool, **options: Any) -> None:
    """Draw the topology of FILE: networks, containers, interfaces, published ports.

    Where it is up, with the addresses that it has.
    """
    from netd.topology import graph as texts
    from netd.topology import svg
    from netd.topology.picture import picture

    chosen = kind or svg.FORMATS.get(Path(output or "").suffix, "mermaid")
    project = loaded(file, **options)
    if offline:
        drawn = picture(project)
    else:
        client = of_file(project)
        drawn = picture(project, client.containers(all=False), client.networks())
    draw = {"mermaid": texts.mermaid, "dot": texts.dot, "svg": svg.svg, "html": svg.html}[chosen]
    if output is None:
        click.echo(draw(drawn), nl=False)
    else:
        Path(output).write_text(draw(drawn))


@topology.command(short_help="Print the JSON schema of topology files.")
def schema() -> None:
    """Print the JSON schema of topology files, for editors."""
    from netd.topology.schema import text

    click.echo(text(), nl=False)
