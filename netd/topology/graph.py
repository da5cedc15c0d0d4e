"""A picture as text that other programs draw: Mermaid and Graphviz.

Names come from the user, and both languages have characters of their own, so every label is quoted,
and nodes are called by number.
"""

from __future__ import annotations

from collections.abc import Iterator

from netd.model import LINK_ENDS
from netd.topology.picture import Box, Picture


def mermaid(picture: Picture) -> str:
    """A Mermaid flowchart, as GitHub shows it in a Markdown file."""
    return "".join(f"{line}\n" for line in _mermaid(picture))


def _mermaid(picture: Picture) -> Iterator[str]:
    yield "flowchart TB"
    if any(box.ports for box in picture.boxes):
        yield '    host(["host"])'
    numbers = {bar.key: n for n, bar in enumerate(picture.bars) if not bar.link}
    for bar in picture.bars:
        if bar.key in numbers:
            about = [bar.key, bar.about, "internal" if bar.internal else ""]
            yield f"    n{numbers[bar.key]}[[{_mermaid_text(about)}]]"
    for n, box in enumerate(picture.boxes):
        yield f"    c{n}[{_mermaid_text([box.name, box.about, box.note])}]"
        for wire in (wire for wire in box.wires if wire.network in numbers):
            label = f"|{_mermaid_text(wire.lines)}|" if wire.lines else ""
            yield f"    n{numbers[wire.network]} ---{label} c{n}"
        if box.ports:
            yield f"    host ==>|{_mermaid_text(box.ports)}| c{n}"
    for one, other, lines in _links(picture):
        yield f"    c{one} ---|{_mermaid_text(lines)}| c{other}"


def _links(picture: Picture) -> Iterator[tuple[int, int, list[str]]]:
    """Of every link between two containers: these, by number, and what is written at it."""
    for bar in picture.bars:
        ends = [(n, box, w) for n, box in enumerate(picture.boxes) for w in box.wires if w.network == bar.key]
        if bar.link and len(ends) == LINK_ENDS:
            about = [f"{box.name}: {' '.join(wire.lines)}" for _, box, wire in ends]
            yield ends[0][0], ends[1][0], [bar.key, bar.about, *about]


def _mermaid_text(lines: list[str] | tuple[str, ...]) -> str:
    # Entities by number are the one escape that Mermaid has inside quotes.
    texts = ("".join(c if c.isalnum() or c in " ._-/*→…" else f"#{ord(c)};" for c in line) for line in lines)
    return '"' + "<br/>".join(filter(None, texts)) + '"'


def dot(picture: Picture) -> str:
    """A Graphviz graph, for `dot -Tsvg` or `neato`."""
    return "".join(f"{line}\n" for line in _dot(picture))


def _dot(picture: Picture) -> Iterator[str]:
    yield f"graph {_dot_text([picture.title])} {{"
    yield "    graph [rankdir=TB, nodesep=0.5, ranksep=0.8, fontname=Helvetica];"
    yield "    node [fontname=Helvetica, fontsize=11, shape=box, style=rounded];"
    yield "    edge [fontname=Helvetica, fontsize=9];"
    if any(box.ports for box in picture.boxes):
        yield '    host [label="host", shape=oval];'
    numbers = {bar.key: n for n, bar in enumerate(picture.bars) if not bar.link}
    for bar in picture.bars:
        if bar.key in numbers:
            label = _dot_text([bar.key, bar.about, "internal" if bar.internal else ""])
            colour = "mistyrose" if bar.internal else "lightblue"
            yield f"    n{numbers[bar.key]} [label={label}, style=filled, fillcolor={colour}, shape=box];"
    for n, box in enumerate(picture.boxes):
        yield from _dot_box(n, box, numbers)
    for one, other, lines in _links(picture):
        yield f"    c{one} -- c{other} [label={_dot_text(lines)}];"
    yield "}"


def _dot_box(n: int, box: Box, numbers: dict[str, int]) -> Iterator[str]:
    yield f"    c{n} [label={_dot_text([box.name, box.about, box.note])}];"
    for wire in (wire for wire in box.wires if wire.network in numbers):
        yield f"    n{numbers[wire.network]} -- c{n} [label={_dot_text(wire.lines)}];"
    if box.ports:
        yield f"    host -- c{n} [label={_dot_text(box.ports)}, style=bold, dir=forward];"


def _dot_text(lines: list[str] | tuple[str, ...]) -> str:
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines if line)
    return '"' + "\\n".join(escaped) + '"'
