"""`netd trace`: which rule of the host decides about a packet."""

from __future__ import annotations

import json
from ipaddress import ip_address

import click

from netd.cli.options import connected, container_names, json_option, socket_option
from netd.cli.render import as_dict, visible

PORT = click.IntRange(1, 65535)
SPORT = 40000


def is_host(source: str) -> bool:
    """Whether a source is the host or, like "host:eth0", an interface of it."""
    return source.partition("@")[0].partition(":")[0] == "host"


def check_flow(source: str, proto: str, port: int | None, origin: str | None) -> None:
    """Refuse what does not say which packets are meant."""
    if (proto == "icmp") == (port is not None):
        raise click.UsageError(f"{proto} {'has no ports' if port else 'needs a PORT'}")
    if is_host(source) and not origin:
        what = (
            "the address that the packet comes" if ":" in source else "which of its addresses the host sends"
        )
        raise click.UsageError(f"say {what} --from")


def ports_of(
    source: str, proto: str, address: object, port: int | None, origin: str, sport: int | None
) -> tuple[int, int]:
    """Source and destination port; of what somebody else is to send, which is told, the former may be any."""
    awaited = is_host(source) and ":" in source
    if awaited:
        what = f"{proto} from {origin} to {address}{f' port {port}' if port else ''}"
        click.echo(f"waiting for {what}: let it be sent now", err=True)
    return (sport or (0 if awaited else SPORT), port) if port else (0, 0)


@click.command(short_help="Send a packet and say which rules decided.")
@click.argument("source", shell_complete=container_names)
@click.argument("proto", metavar="PROTO", type=click.Choice(["tcp", "udp", "icmp"]))
@click.argument("address")
@click.argument("port", type=PORT, required=False)
@click.option("--from", "origin", metavar="ADDRESS", help="Source address.  [default: the container's]")
@click.option(
    "--sport", type=PORT, metavar="N", help="Source port.  [default: 40000; of others' packets any]"
)
@json_option
@socket_option
def trace(
    source: str,
    proto: str,
    address: str,
    port: int | None,
    origin: str | None,
    sport: int | None,
    as_json: bool,
) -> None:
    """Send one packet from SOURCE, a container or "host", to ADDRESS, and print what the host's nftables
    did to it: every rule that matched, in order, the verdict, and the interfaces that it passed.

    For tcp and udp a PORT is needed. The packet is real: a SYN, an empty datagram, an echo request. With
    "host:eth0" nothing is sent: the first such packet is waited for that another machine sends.
    """
    try:
        ip_address(address)
        ip_address(origin or address)
    except ValueError as error:
        raise click.UsageError(
            f"{error}; give an address, which 'netd dns lookup' finds for a name"
        ) from error
    check_flow(source, proto, port, origin)
    client = connected()
    from netd.capture import crafted, summary

    origin = origin or crafted.source_towards(client.container(source).endpoints, address)
    ports = ports_of(source, proto, address, port, origin, sport)
    reply = client.trace(source, crafted.packet(proto, origin, address, *ports))
    if as_json:
        click.echo(json.dumps(as_dict(reply), indent=2, ensure_ascii=False))
    else:
        for line in summary.trace_lines(reply.steps, reply.verdict, reply.route):
            click.echo(visible(line))
