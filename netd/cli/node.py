"""`netd node ...`: the hosts of the cluster that this one belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from netd.cli.options import connected, each, inspect_all, json_option, socket_option
from netd.cli.render import as_dict, print_json, print_table, visible
from netd.errors import NotFound

if TYPE_CHECKING:
    from netd.api import netd_pb2 as pb

BLOCKS_SHOWN = 3


@click.group()
@socket_option
def node() -> None:
    """See and drain the nodes of the cluster."""


@node.command("ls", short_help="List the nodes.")
@json_option
@socket_option
def list_(as_json: bool) -> None:
    """List the nodes of the cluster as this host last heard of them."""
    found = connected().nodes()
    if as_json:
        print_json(as_dict(found))
        return
    rows = [
        [
            f"{each.name} *" if each.self else each.name,
            each.state,
            each.address or "-",
            str(each.endpoints),
            _blocks(each),
        ]
        for each in found.nodes
    ]
    print_table(["NAME", "STATE", "ADDRESS", "ENDPOINTS", "BLOCKS"], rows)
    if found.problem:
        click.echo(visible(f"netd: {found.problem}"), err=True)
    for key, problem in sorted(found.quarantined.items()):
        click.echo(visible(f"netd: {key} in etcd is ignored: {problem}"), err=True)


def _blocks(node: pb.Node) -> str:
    shown = [f"{each.network} {each.block}" for each in node.blocks[:BLOCKS_SHOWN]]
    more = len(node.blocks) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


@node.command(short_help="Print nodes in full.")
@click.argument("names", nargs=-1, required=True, metavar="NODE...")
@socket_option
def inspect(names: Sequence[str]) -> int:
    """Print nodes in full, as JSON."""
    nodes = {each.name: each for each in connected().nodes().nodes}

    def find(name: str) -> pb.Node:
        if name not in nodes:
            raise NotFound(f"node {name!r} does not exist; `netd node ls` lists those that do")
        return nodes[name]

    return inspect_all(names, find)


@node.command(short_help="Let nodes take no more containers.")
@click.argument("names", nargs=-1, required=True, metavar="NODE...")
@click.option("--undo", is_flag=True, help="Let them take containers again.")
@socket_option
def drain(names: Sequence[str], undo: bool) -> int:
    """Let nodes take no more containers, and print their names. Those that are there stay."""
    client = connected()
    return each(names, lambda name: client.drain_node(name, undo=undo).name)


@node.command("rotate-key", short_help="Replace this node's WireGuard key.")
@socket_option
def rotate_key() -> None:
    """Replace the WireGuard key of this node, and print the new public one.

    Connections go on: what is on the way waits until the other nodes have heard of it.
    """
    click.echo(connected().rotate_key().wireguard_key)
