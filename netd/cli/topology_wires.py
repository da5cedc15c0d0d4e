"""`netd topology netem`, `link`, `capture` and `trace`: what goes over the wires of one that is up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netd.cli.options import json_option, socket_option
from netd.cli.render import as_dict, visible
from netd.cli.topology_project import (
    container_of,
    daemon,
    file_options,
    loaded,
    of_file,
    project_of,
    there,
)
from netd.cli.trace import PORT, check_flow, is_host, ports_of
from netd.errors import NotFound

if TYPE_CHECKING:
    from netd.api import netd_pb2 as pb
    from netd.topology.daemon import Daemon

CUT = 100.0
"""Percent lost of a link that is down."""


@click.command(short_help="Make a link slow, or lose packets.")
@click.argument("topology")
@click.argument("service")
@click.argument("network")
@click.option("--loss", metavar="P%", help="The share that is lost, each way.")
@click.option("--rate", metavar="RATE", help='What passes at most, each way, like 10mbit; "0" for no limit.')
@click.option("--delay", default="", metavar="TIME", help="How long each packet waits, each way, like 20ms.")
@click.option("--jitter", default="", metavar="TIME", help="How much that varies, more or less.")
@click.option("--duplicate", default="", metavar="P%", help="The share that comes twice, each way.")
@click.option("--seed", default=0, metavar="N", help="Where the chance of these two begins.")
@socket_option
def netem(
    topology: str, service: str, network: str, loss: str | None, rate: str | None, **more: str | int
) -> None:
    """Change what the link of SERVICE to NETWORK does to packets, while it is up.

    NETWORK is its key in the file, or the interface. Without an option the file's word counts again.
    """
    from netd.topology import links
    from netd.topology.compose import Netem
    from netd.topology.namespaces import slow

    queue = links.queued(Netem(**more), "netem")  # type: ignore[arg-type]
    nothing = not (queue or loss or rate)
    percent = None if loss is None else links.share(loss, "--loss")
    bits = None if rate in (None, "0") else str(links.rate(str(rate), "--rate"))
    client, ends = _ends(topology, service, network)
    if rate is not None or nothing:
        for container, endpoint in ends:
            asked = endpoint.options.get(links.RATE, "") if rate is None else bits or ""
            _limit(client, container, endpoint, asked)
    if loss is not None or nothing:
        _lose(client, ends, percent)
    container, endpoint = ends[0]
    stated = endpoint.options.get(links.NETEM, "")
    if queue or stated or nothing:  # a new limit has taken the queue away that stood with the old
        slow(str(client.at(container.name).path), container, endpoint, queue or stated)


@click.group(short_help="Cut and mend links.")
@socket_option
def link() -> None:
    """Cut and mend links: every packet is lost, or only what the file says."""


@link.command("down", short_help="Cut a link.")
@click.argument("topology")
@click.argument("service")
@click.argument("network")
@socket_option
def link_down(topology: str, service: str, network: str) -> None:
    """Let no packet pass between SERVICE and NETWORK, in either direction."""
    client, ends = _ends(topology, service, network)
    _lose(client, ends, CUT)


@link.command("up", short_help="Mend a link.")
@click.argument("topology")
@click.argument("service")
@click.argument("network")
@socket_option
def link_up(topology: str, service: str, network: str) -> None:
    """Let packets pass again, as the file says."""
    client, ends = _ends(topology, service, network)
    _lose(client, ends, None)


End = tuple["pb.Container", "pb.Endpoint"]


def _ends(topology: str, service: str, network: str) -> tuple[Daemon, list[End]]:
    """The interface of SERVICE in NETWORK; of a link between two services both, the file's first first."""
    project = project_of(topology)
    client = daemon(project)
    found = there(client, project)
    container = container_of(found, project, service)
    for each in container.endpoints:
        if network in (each.network, each.network.removeprefix(f"{project}_"), each.ifname):
            break
    else:
        known = ", ".join(e.network.removeprefix(f"{project}_") for e in container.endpoints) or "none"
        raise NotFound(f"container {container.name!r} is not in network {network!r}; it is in: {known}")
    from netd.model import LINK
    from netd.topology.links import LOSS

    if client.network(each.network).driver != LINK:
        return client, [(container, each)]
    both = [(c, e) for c in found.containers.values() for e in c.endpoints if e.network == each.network]
    return client, sorted(both, key=lambda end: (LOSS not in end[1].options, end[0].name))


def _lose(client: Daemon, ends: Sequence[End], percent: float | None) -> None:
    """Let a link lose so many percent, at one end whichever way they go; None for what its file says."""
    from netd.topology.links import LOSS
    from netd.topology.namespaces import lose

    container, endpoint = ends[0]
    share = float(endpoint.options.get(LOSS, 0)) if percent is None else percent
    lose(str(client.at(container.name).path), container, endpoint.ifname, share)


def _limit(client: Daemon, container: pb.Container, endpoint: pb.Endpoint, bits: str) -> None:
    """Let so many bits a second pass, or with "" any number."""
    from netd.model import LINK
    from netd.topology import links

    options: Mapping[str, str] = links.limits(bits)
    if client.network(endpoint.network).driver == LINK:
        options = {links.TO: bits}  # what this end sends is limited at the other
    client.update_endpoint(container.id, endpoint.network, options)


@click.command(short_help="Record packets of a topology.")
@click.argument("file", type=click.Path())
@click.argument("points", nargs=-1, metavar="[POINT]...")
@file_options
@click.option("--write", "-w", "output", metavar="FILE", help="Write pcapng to FILE, or to stdout for '-'.")
@click.option("--count", "-c", type=click.IntRange(min=1), metavar="N", help="End after N packets.")
@click.option("--filter", "-f", "pattern", default="", metavar="TEXT", help="Of tcpdump's syntax.")
@socket_option
def capture(
    file: str, points: Sequence[str], output: str | None, count: int | None, pattern: str, **options: Any
) -> None:
    """Record packets of the topology of FILE until Ctrl-C.

    POINT is "web:eth0", "web" for all interfaces of a service, or "network:front"; without any those under
    x-netd.capture, each with its filter, or else all interfaces of all services.
    """
    project = loaded(file, **options)
    from netd.cli.capture import Wish, record
    from netd.topology.points import recorded, short, targets

    chosen = [(point, pattern) for point in points] or recorded(project, pattern)
    found = of_file(project)
    wishes = [
        Wish(Path(client.path), (target,), text, lambda name, at=at: short(project, name + at))  # type: ignore[misc]
        for point, text in chosen
        for target in targets(project, [point])
        for client, at in found.seeing(target)
    ]
    record(wishes, output, count)


@click.command(short_help="Send a packet of a topology and say which rules decided.")
@click.argument("file", type=click.Path())
@click.argument("service")
@click.argument("proto", metavar="PROTO", type=click.Choice(["tcp", "udp", "icmp"]))
@click.argument("target")
@click.argument("port", type=click.IntRange(1, 65535), required=False)
@file_options
@click.option("--ipv6", "-6", is_flag=True, help="To the IPv6 address of a name.")
@click.option("--from", "origin", metavar="ADDRESS", help="Source address, where SERVICE is none.")
@click.option(
    "--sport", type=PORT, metavar="N", help="Source port.  [default: 40000; of others' packets any]"
)
@json_option
@socket_option
def trace(
    file: str,
    service: str,
    proto: str,
    target: str,
    port: int | None,
    ipv6: bool,
    origin: str | None,
    sport: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Send one packet from SERVICE to TARGET, a service or an address, and print what the host did to it.

    As `netd trace`, with the names of FILE. SERVICE may be "host" as well, and "host:eth0" for a packet that
    comes in there from elsewhere; then say --from.
    """
    check_flow(service, proto, port, origin)
    project = loaded(file, **options)
    from ipaddress import ip_address

    from netd.capture import crafted, summary
    from netd.topology.check import Reachability
    from netd.topology.points import short

    client = of_file(project)
    seen = Reachability(client, project)
    family = 6 if ipv6 else 0
    if origin and is_host(service):
        address = seen.address(target, family or ip_address(origin).version)
    else:
        sender, address = seen.way(service, target, family)
        service, origin = sender.id, origin or crafted.source_towards(sender.endpoints, str(address))
    packet = crafted.packet(
        proto, origin, str(address), *ports_of(service, proto, address, port, origin, sport)
    )
    reply = client.trace(service, packet)
    for step in reply.steps:
        step.iif, step.oif = short(project, step.iif), short(project, step.oif)
    route = [short(project, name) for name in reply.route]
    if as_json:
        click.echo(json.dumps({**as_dict(reply), "route": route}, indent=2, ensure_ascii=False))
    else:
        for line in summary.trace_lines(reply.steps, reply.verdict, route):
            click.echo(visible(line))
