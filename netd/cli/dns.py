"""`netd dns`: what a container would be told about a name, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from netd.cli.options import connected, container_names, json_option, socket_option
from netd.cli.render import as_dict, print_json, print_table, visible

if TYPE_CHECKING:
    from netd.api import netd_pb2 as pb


@click.group(short_help="See what containers are told about names.")
@socket_option
def dns() -> None:
    """See what containers are told about names."""


@dns.command(short_help="Ask for a name as a container would.")
@click.argument("name")
@click.option(
    "--from",
    "container",
    required=True,
    metavar="CONTAINER",
    shell_complete=container_names,
    help="Who asks.",
)
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="A, AAAA, PTR, SRV, ...; repeatable. [default: A and AAAA]",
)
@json_option
@socket_option
def lookup(name: str, container: str, types: tuple[str, ...], as_json: bool) -> None:
    """Print what CONTAINER would be told about NAME, and why.

    Names that are not netd's are asked for upstream, as they would be for the container.
    """
    reply = connected().dns_lookup(container, name, types)
    if as_json:
        print_json(as_dict(reply))
        return
    for answer in reply.answers:
        for line in _lines(answer):
            click.echo(visible(line))
    click.echo(visible(f"{reply.why}; sees {', '.join(reply.networks)}"))


def _lines(answer: pb.DnsAnswer) -> list[str]:
    if answer.records:
        return [f"{record.name} {record.ttl} {record.type} {record.data}" for record in answer.records]
    return [f"{answer.type}: {'no such record' if answer.rcode == 'NOERROR' else answer.rcode}"]


@dns.command(short_help="List every name that is answered.")
@json_option
@socket_option
def dump(as_json: bool) -> None:
    """List every name that containers can be told, network by network."""
    names = sorted(connected().dns_dump(), key=lambda row: (row.network, row.name, row.address))
    if as_json:
        print_json([as_dict(name) for name in names])
        return
    rows = [
        [name.network, name.name, name.address, name.container or name.container_id[:12]] for name in names
    ]
    print_table(["NETWORK", "NAME", "ADDRESS", "CONTAINER"], rows)


@dns.command(short_help="Print the DNS server's counters.")
@json_option
@socket_option
def metrics(as_json: bool) -> None:
    """Print the DNS server's counters in the text format of Prometheus."""
    found = connected().dns_metrics()
    if as_json:
        print_json([as_dict(metric) for metric in found])
        return
    said: set[str] = set()
    for metric in found:
        if metric.name not in said:
            said.add(metric.name)
            click.echo(f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.type}")
        labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sorted(metric.labels.items()))
        click.echo(
            f"{metric.name}{{{labels}}} {metric.value:g}" if labels else f"{metric.name} {metric.value:g}"
        )


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
