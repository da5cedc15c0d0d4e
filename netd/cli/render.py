"""How values are shown: tables, JSON, times.

The JSON of a listing has the field names of `netd.proto` as its keys, every field present. Text that
somebody else chose (commands, labels) may hold control characters; in a table they are spelt
out, because a terminal would obey them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from netd.api import netd_pb2 as pb

UNITS = (
    ("year", 365 * 86400),
    ("week", 7 * 86400),
    ("day", 86400),
    ("hour", 3600),
    ("minute", 60),
    ("second", 1),
)
UNBOUNDED = 1 << 20


def as_dict(message: Message) -> dict[str, Any]:
    """A message as plain values: snake_case keys, all of them; numbers stay numbers.

    protobuf's own json_format writes 64-bit numbers as strings, and is slow to import.
    """
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(sorted(value.items()))
    if field.is_repeated:
        return [_value(field, each) for each in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(field, value)


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return as_dict(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name.lower()
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def print_json(value: Any) -> None:
    """One JSON document, indented for people."""
    import json

    click.echo(json.dumps(value, indent=4, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], empty: str = "") -> None:
    """A table as docker prints it: no lines, one row a line, nothing cut off.

    On a terminal that is too narrow, cells are folded; elsewhere a line is as long as it must be.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if terminal else UNBOUNDED, highlight=False)
    with console.capture() as capture:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))
    if empty and not table.row_count and terminal:
        click.echo(empty, err=True)


def visible(text: str) -> str:
    """`text` with what is not printable spelt out, so that a terminal shows it instead of obeying."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def short(id: str) -> str:
    """The first twelve digits of an id, as docker shows them; any unique prefix is accepted."""
    return id[:12]


def duration(seconds: float) -> str:
    """A length of time in its largest unit: "5 minutes"."""
    unit, size = next((step for step in UNITS if seconds >= step[1]), UNITS[-1])
    whole = max(0, int(seconds / size))
    return f"{whole} {unit}{'' if whole == 1 else 's'}"


def ago(moment: float, now: float | None = None) -> str:
    """A time in the past, as a person says it; empty where it has not happened."""
    return f"{duration((time.time() if now is None else now) - moment)} ago" if moment else ""


def timestamp(moment: float) -> str:
    """A time to the millisecond in the caller's zone, sortable: 2026-11-05T17:04:05.123+01:00."""
    from datetime import datetime

    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="milliseconds")


def published(ports: Iterable[pb.PublishedPort]) -> list[str]:
    """Published ports as docker shows them, runs of consecutive ports drawn together."""
    runs: list[list[int | str]] = []
    ordered = sorted(ports, key=lambda p: (p.host_ip, p.proto, p.host_port, p.container_port))
    for port in ordered:
        last = runs[-1] if runs else None
        if last and last[:2] == [port.host_ip, port.proto] and _follows(last, port):
            last[3], last[5] = port.host_port, port.container_port
        else:
            host, inner = port.host_port, port.container_port
            runs.append([port.host_ip, port.proto, host, host, inner, inner])
    return [_run(*run) for run in runs]


def _follows(run: Sequence[int | str], port: pb.PublishedPort) -> bool:
    return run[3] == port.host_port - 1 and run[5] == port.container_port - 1


def _run(*run: int | str) -> str:
    address, proto, first, last, inner_first, inner_last = run
    host = f"{first}" if first == last else f"{first}-{last}"
    inner = f"{inner_first}" if inner_first == inner_last else f"{inner_first}-{inner_last}"
    shown = f"[{address}]" if ":" in str(address) else address or "*"
    return f"{shown}:{host}->{inner}/{proto}"


def mapping(values: Mapping[str, str]) -> str:
    """Labels or attributes on one line."""
    return " ".join(f"{key}={value}" for key, value in sorted(values.items()))
