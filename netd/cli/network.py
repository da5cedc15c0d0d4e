"""`netd network ...`: make, list and remove networks; connect containers to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from netd.cli.options import (
    connected,
    container_names,
    each,
    inspect_all,
    json_option,
    network_names,
    socket_option,
)
from netd.cli.render import as_dict, print_json, print_table, short
from netd.cli.values import attachment, pairs


@click.group()
@socket_option
def network() -> None:
    """Manage networks."""


@network.command(short_help="Make a network.")
@click.argument("name")
@click.option("--driver", "-d", default="bridge", show_default=True, metavar="NAME", help="Network driver.")
@click.option("--subnet", multiple=True, metavar="CIDR", help="A subnet; several per family are welcome.")
@click.option("--gateway", multiple=True, metavar="IP", help="Gateway, of the subnet that contains it.")
@click.option(
    "--ip-range", multiple=True, metavar="CIDR|FIRST-LAST", help="Hand out addresses of this part only."
)
@click.option("--aux-address", multiple=True, metavar="NAME=IP", help="An address never handed out.")
@click.option("--ipv6", is_flag=True, help="Give a ULA /64 where no IPv6 subnet is named.")
@click.option("--no-ipv4", is_flag=True, help="IPv6 only.")
@click.option("--internal", is_flag=True, help="No way out: no default route, no published ports.")
@click.option("--no-icc", is_flag=True, help="Containers of this network cannot reach each other.")
@click.option(
    "--gateway-mode",
    type=click.Choice(["nat", "routed"]),
    default="nat",
    show_default=True,
    help="Leave the host with its address, or with one's own.",
)
@click.option(
    "--mtu", type=click.IntRange(min=0), default=0, metavar="N", help="Bytes.  [default: the uplink's]"
)
@click.option("--dns", multiple=True, metavar="IP", help="DNS server to forward to for this network.")
@click.option("--label", "-l", multiple=True, metavar="K=V", help="A label.")
@click.option("--opt", "-o", multiple=True, metavar="K=V", help="An option of the driver.")
@json_option
@socket_option
def create(
    name: str,
    driver: str,
    subnet: Sequence[str],
    gateway: Sequence[str],
    ip_range: Sequence[str],
    aux_address: Sequence[str],
    label: Sequence[str],
    opt: Sequence[str],
    as_json: bool,
    **rest: Any,
) -> None:
    """Make a network called NAME and print its id.

    Without --subnet it gets a /24 that no network and no route of the host uses.
    """
    aux_addresses, labels = pairs("--aux-address", aux_address), pairs("--label", label)
    options = pairs("--opt", opt)
    client = connected()
    from netd.api import netd_pb2 as pb

    made = client.create_network(
        pb.CreateNetworkRequest(
            name=name,
            driver=driver,
            subnets=subnet,
            gateways=gateway,
            ip_ranges=ip_range,
            aux_addresses=aux_addresses,
            labels=labels,
            options=options,
            **rest,
        )
    )
    if as_json:
        print_json(as_dict(made))
    else:
        click.echo(made.id)


@network.command("ls", short_help="List networks.")
@click.option("--quiet", "-q", is_flag=True, help="Print ids only.")
@json_option
@socket_option
def ls(quiet: bool, as_json: bool) -> None:
    """List networks."""
    networks = connected().networks()
    if as_json:
        print_json([as_dict(each) for each in networks])
    elif quiet:
        click.echo("".join(f"{short(each.id)}\n" for each in networks), nl=False)
    else:
        print_table(
            ("NETWORK ID", "NAME", "DRIVER", "SUBNETS", "CONTAINERS", "STATUS"),
            [
                (
                    short(each.id),
                    each.name,
                    each.driver,
                    ", ".join(subnet.cidr for subnet in each.subnets),
                    str(len({endpoint.container_id for endpoint in each.endpoints})),
                    each.status,
                )
                for each in networks
            ],
        )


@network.command("inspect", short_help="Show networks in full, as JSON.")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...", shell_complete=network_names)
@socket_option
def inspect(names: Sequence[str]) -> int:
    """Print a JSON array of networks with their subnets and endpoints."""
    return inspect_all(names, connected().network)


@network.command("rm", short_help="Remove networks.")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...", shell_complete=network_names)
@socket_option
def rm(names: Sequence[str]) -> int:
    """Remove networks and print their names. One that a container still uses is refused."""
    return each(names, connected().remove_network)


@network.command(short_help="Remove all networks that no container uses.")
@json_option
@socket_option
def prune(as_json: bool) -> None:
    """Remove all networks that no container uses, and print their names."""
    removed = connected().prune_networks()
    if as_json:
        print_json(removed)
    else:
        click.echo("".join(f"{name}\n" for name in removed), nl=False)


@network.command(short_help="Connect a container to a network.")
@click.argument("name", metavar="NETWORK", shell_complete=network_names)
@click.argument("container", shell_complete=container_names)
@click.option("--ip", metavar="IP", help="IPv4 address.")
@click.option("--ip6", metavar="IP", help="IPv6 address.")
@click.option("--mac", metavar="MAC", help="MAC address.")
@click.option("--alias", multiple=True, metavar="NAME", help="A further name in this network.")
@click.option("--ifname", metavar="NAME", help="Interface name inside.  [default: the next ethN]")
@click.option(
    "--gw-priority", type=int, default=0, metavar="N", help="The highest carries the default route."
)
@socket_option
def connect(name: str, container: str, alias: Sequence[str], gw_priority: int, **rest: str | None) -> None:
    """Connect a running CONTAINER to one more NETWORK.

    NETWORK may carry its settings as with `netd run`: front,ip=10.89.0.7.
    """
    wanted = attachment(name)
    for key, value in rest.items():
        if value is not None:
            setattr(wanted, key, value)
    wanted.aliases.extend(alias)
    wanted.gw_priority = gw_priority or wanted.gw_priority
    connected().attach_network(container, wanted)


@network.command(short_help="Disconnect a container from a network.")
@click.argument("name", metavar="NETWORK", shell_complete=network_names)
@click.argument("container", shell_complete=container_names)
@click.option("--force", "-f", is_flag=True, help="Also where the container is gone.")
@socket_option
def disconnect(name: str, container: str, force: bool) -> None:
    """Disconnect CONTAINER from NETWORK."""
    connected().detach_network(container, name, force=force)
