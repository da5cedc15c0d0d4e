"""`netd trace`: which rule of the host decides about a packet."""

from __future__ import annotations

import json
from ipaddress import ip_address

import click

from netd.cli.options import connected, container_names, json_option, socket_option
from netd.cli.render import as_dict, visible

PORT = click.IntRange(1, 65535)


@click.command(short_help="Send a packet and say which rules decided.")
@click.argument("source", shell_complete=container_names)
@click.argument("proto", metavar="PROTO", type=click.Choice(["tcp", "udp", "icmp"]))
@click.argument("address")
@click.argument("port", type=PORT, required=False)
@click.option("--from", "origin", metavar="ADDRESS", help="Source address.  [default: the container's]")
@click.option("--sport", type=PORT, default=40000, show_default=True, metavar="N", help="Source port.")
@json_option
@socket_option
def trace(
    source: str, proto: str, address: str, port: int | None, origin: str | None, sport: int, as_json: bool
) -> None:
    """Send one packet from SOURCE, a container or "host", to ADDRESS, and print what the host's nftables
    did to it: every rule that matched, in order, the verdict, and the interfaces that it passed.

    For tcp and udp a PORT is needed. The packet is real: a SYN, an empty datagram, an echo request.
    """
    try:
        ip_address(address)
        ip_address(origin or address)
    except ValueError as error:
        raise click.UsageError(
            f"{error}; give an address, which 'netd dns lookup' finds for a name"
        ) from error
    if (proto == "icmp") == (port is not None):
        raise click.UsageError(f"{proto} {'has no ports' if port else 'needs a PORT'}")
    if source == "host" and not origin:
        raise click.UsageError("from the host, say which of its addresses it sends --from")
    client = connected()
    from netd.capture import crafted, summary

    origin = origin or crafted.source_towards(client.container(source).endpoints, address)
    ports = (sport, port) if port else (0, 0)
    reply = client.trace(source, crafted.packet(proto, origin, address, *ports))
    if as_json:
        click.echo(json.dumps(as_dict(reply), indent=2, ensure_ascii=False))
    else:
        for line in summary.trace_lines(reply.steps, reply.verdict, reply.route):
            click.echo(visible(line))
