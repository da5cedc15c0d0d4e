"""A picture drawn: one SVG, or a page around it that needs nothing else.

Networks are horizontal bars, containers boxes between them. A box stands beneath the first of its networks
and is wired up to it and down to its others; where a wire passes a bar that is none of its own, it is
drawn behind it. Two boxes share a column only if nothing of theirs would meet, and the bars
are put in the order in which the wires are shortest. Text is monospaced, because only then its width is
known without a font.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import permutations

from netd.topology.picture import Bar, Box, Picture, Wire

CHAR = 7.0
"""Width of a character of 11.5 px, in px."""
LINE = 15.0
PAD = 10.0
GAP = 26.0
"""Between columns."""
BAR = 30.0
"""Height of a bar."""
MARGIN = 24.0
TRACK = 16.0
"""From the left of a box to its first wire."""
LABEL = 6.0
"""From a wire to what is written beside it."""
COLOURS = ("#2f6fdf", "#1f9d6b", "#b3631a", "#8a4fd3", "#c2366b", "#2492a8", "#6b7a10", "#4b5b8f")
MOST_ORDERS = 7
"""With up to so many networks, all orders of the bars are tried."""

STYLE = """
svg { font: 11.5px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; background: var(--paper); }
:root { --paper: #ffffff; --ink: #1b1f24; --faint: #667080; --line: #c9d0d9; --box: #f6f8fa; --hot: #b42318; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181d; --ink: #e6eaef; --faint: #98a3b0; --line: #3a434e; --box: #1f252c; }
  :root { --hot: #ff8a7a; }
}
text { fill: var(--ink); }
.name { font-weight: 700; font-size: 13px; }
.faint { fill: var(--faint); }
.port { fill: var(--hot); }
.box { fill: var(--box); stroke: var(--line); stroke-width: 1.2; }
.on { fill: #ffffff; }
"""

PAGE_STYLE = """
body { margin: 0; background: var(--paper); color: var(--ink); font: 14px system-ui, sans-serif; }
main { padding: 20px 24px; }
h1 { font-size: 20px; margin: 0 0 12px; }
h2 { font-size: 15px; margin: 24px 0 8px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: 3px 18px 3px 0; border-bottom: 1px solid var(--line); font-size: 13px; }
td { font-family: ui-monospace, 'DejaVu Sans Mono', monospace; font-size: 12px; }
th { color: var(--faint); font-weight: 600; }
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a box stands: beneath which bar, down to which bar its wires go, and its column."""

    first: int
    last: int
    column: int


def _text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


def width_of(lines: Sequence[str]) -> float:
    """How wide the longest of `lines` is, in px."""
    return max((len(line) for line in lines), default=0) * CHAR


def ordered(picture: Picture) -> tuple[Bar, ...]:
    """The bars in the order that keeps wires short; as written where that makes no difference."""
    groups = [{wire.network for wire in box.wires} for box in picture.boxes]
    joined = [group for group in groups if len(group) > 1]
    if not joined or len(picture.bars) > MOST_ORDERS:
        return picture.bars

    def length(bars: Sequence[Bar]) -> int:
        at = {bar.key: n for n, bar in enumerate(bars)}
        return sum(max(at[key] for key in group) - min(at[key] for key in group) for group in joined)

    return min(permutations(picture.bars), key=length)


def placed(boxes: Sequence[Box], bars: Sequence[Bar]) -> list[Place]:
    """A column for every box, such that what is in one column does not meet."""
    at = {bar.key: n for n, bar in enumerate(bars)}
    spans = []
    for box in boxes:
        rows = [at[wire.network] for wire in box.wires] or [max(len(bars) - 1, 0)]
        spans.append((min(rows), max(rows)))
    columns: list[list[tuple[int, int]]] = []
    places: list[Place | None] = [None] * len(boxes)
    # Those with the longest wires first: they are the spine of the picture.
    for n in sorted(range(len(boxes)), key=lambda n: (spans[n][0] - spans[n][1], n)):
        first, last = spans[n]
        free = (
            column
            for column, taken in enumerate(columns)
            if all(last < other_first or other_last < first for other_first, other_last in taken)
        )
        column = next(free, len(columns))
        if column == len(columns):
            columns.append([])
        columns[column].append((first, last))
        places[n] = Place(first, last, column)
    return [place for place in places if place is not None]


class Drawing:
    """The measures of a picture, and its parts as SVG."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._bars = ordered(picture)
        self._places = placed(picture.boxes, self._bars)
        self._at = {bar.key: n for n, bar in enumerate(self._bars)}
        self._colour = {bar.key: COLOURS[n % len(COLOURS)] for n, bar in enumerate(picture.bars)}
        self._measure()

    def _measure(self) -> None:
        columns = max((place.column for place in self._places), default=-1) + 1
        widths = [120.0] * columns
        rows = max(len(self._bars), 1)
        heights, above, below = [0.0] * rows, [0.0] * rows, [0.0] * rows
        for box, place in zip(self._picture.boxes, self._places, strict=True):
            widths[place.column] = max(widths[place.column], self._width(box))
            heights[place.first] = max(heights[place.first], self._height(box))
            for wire in box.wires:
                row, room = self._at[wire.network], len(wire.lines) * LINE + 12
                if row == place.first:
                    below[row] = max(below[row], room)
                else:
                    above[row] = max(above[row], room)
        self._x = [MARGIN]
        for width in widths:
            self._x.append(self._x[-1] + width + GAP)
        self._widths = widths
        title = max((len(bar.key) + len(bar.about) + 12 for bar in self._bars), default=0) * CHAR + 2 * PAD
        self.width = max(self._x[-1] - GAP, MARGIN + title) + MARGIN
        self._bar_y, self._box_y = [], []
        y = MARGIN
        for row in range(rows):
            y += above[row]
            self._bar_y.append(y)
            y += BAR + max(below[row], 22) if self._bars else 0
            self._box_y.append(y)
            y += heights[row] + 14 if heights[row] else 0
        self.height = y + MARGIN - 14

    def _width(self, box: Box) -> float:
        text = [box.about, box.note, *box.ports]
        inside = max(width_of(text), len(box.name) * (CHAR + 1)) + 2 * PAD
        # What goes up and what goes down are beside different stretches of the same columns.
        up, *down = sorted(box.wires, key=lambda wire: self._at[wire.network]) or [Wire(network="")]
        beside = max((width_of(wire.lines) for wire in down), default=0) + 2 * LABEL
        return max(inside, TRACK + width_of(up.lines) + LABEL, TRACK + beside * len(down), 120.0)

    @staticmethod
    def _height(box: Box) -> float:
        lines = sum(1 for text in (box.about, box.note) if text) + len(box.ports)
        return 2 * PAD + 14 + lines * LINE

    def parts(self) -> Iterator[str]:
        """Wires first, bars over them, boxes on top."""
        pairs = list(zip(self._picture.boxes, self._places, strict=True))
        for box, place in pairs:
            yield from self._wires(box, place)
        for bar in self._bars:
            yield from self._bar(bar)
        for box, place in pairs:
            yield from self._box(box, place)
        for box, place in pairs:
            yield from self._labels(box, place)

    def _tracks(self, box: Box, place: Place) -> Iterator[tuple[Wire, float, bool]]:
        """Every wire with its x, and whether it goes up."""
        left, width = self._x[place.column], self._widths[place.column]
        wires = sorted(box.wires, key=lambda wire: self._at[wire.network])
        for n, wire in enumerate(wires):
            # Upwards from the left quarter; downwards side by side, each with room for its label.
            down = (n - 1) * (width - TRACK) / max(len(wires) - 1, 1)
            yield wire, left + TRACK + (down if n else 0), n == 0

    def _wires(self, box: Box, place: Place) -> Iterator[str]:
        top = self._box_y[place.first]
        for wire, x, up in self._tracks(box, place):
            row = self._at[wire.network]
            start, end = (self._bar_y[row] + BAR, top) if up else (top + self._height(box), self._bar_y[row])
            yield (
                f'<line x1="{x:.1f}" y1="{start:.1f}" x2="{x:.1f}" y2="{end:.1f}" '
                f'stroke="{self._colour[wire.network]}" stroke-width="2"/>'
            )

    def _labels(self, box: Box, place: Place) -> Iterator[str]:
        for wire, x, up in self._tracks(box, place):
            row = self._at[wire.network]
            bar = self._bar_y[row]
            y = bar + BAR + LINE if up else bar - 6 - (len(wire.lines) - 1) * LINE
            for n, line in enumerate(wire.lines):
                yield _text(x + LABEL, y + n * LINE, line, "" if n == 0 and wire.ifname else "faint")

    def _bar(self, bar: Bar) -> Iterator[str]:
        y, colour = self._bar_y[self._at[bar.key]], self._colour[bar.key]
        fill, on = ("var(--paper)", "") if bar.internal or bar.link else (colour, " on")
        dashes = ' stroke-dasharray="7 5"' if bar.link else ""
        yield (
            f'<rect x="{MARGIN:.1f}" y="{y:.1f}" width="{self.width - 2 * MARGIN:.1f}" height="{BAR:.1f}" '
            f'rx="6" fill="{fill}" stroke="{colour}" stroke-width="2"{dashes}/>'
        )
        yield _text(MARGIN + PAD, y + 20, bar.key, f"name{on}")
        yield _text(MARGIN + PAD + (len(bar.key) + 2) * (CHAR + 1), y + 20, bar.about, on.strip())
        if kind := "internal" if bar.internal else "link" if bar.link else "":
            yield _text(self.width - MARGIN - PAD, y + 20, kind, "faint", "end")

    def _box(self, box: Box, place: Place) -> Iterator[str]:
        x, y = self._x[place.column], self._box_y[place.first]
        yield (
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{self._widths[place.column]:.1f}" '
            f'height="{self._height(box):.1f}" rx="8" class="box"/>'
        )
        yield _text(x + PAD, y + PAD + 11, box.name, "name")
        y += PAD + 11
        for kind, lines in (("faint", (box.about, box.note)), ("port", box.ports)):
            for line in filter(None, lines):
                y += LINE
                yield _text(x + PAD, y, line, kind)


def svg(picture: Picture) -> str:
    """The picture as an SVG file."""
    return _svg(picture, STYLE) + "\n"


def _svg(picture: Picture, style: str) -> str:
    drawing = Drawing(picture)
    size = f'width="{drawing.width:.0f}" height="{drawing.height:.0f}"'
    box = f'viewBox="0 0 {drawing.width:.0f} {drawing.height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} role="img">'
    title = f"<title>{escape(picture.title)}</title>"
    return "\n".join([head, title, f"<style>{style}</style>", *drawing.parts(), "</svg>"])


def html(picture: Picture) -> str:
    """A page that a person can open: the picture, and beneath it what it shows as tables."""
    interfaces = [
        (box.name, wire.ifname, wire.network, " ".join(wire.addresses))
        for box in picture.boxes
        for wire in box.wires
    ]
    ports = [(box.name, port) for box in picture.boxes for port in box.ports]
    tables = [
        _table("Interfaces", ("container", "interface", "network", "addresses"), interfaces),
        _table("Published ports", ("container", "port"), ports),
        _table("Checks", ("from", "to", "expected"), picture.checks),
    ]
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(picture.title)}</title><style>{STYLE}{PAGE_STYLE}</style></head>\n"
        f'<body><main><h1>{escape(picture.title)}</h1>\n<div class="scroll">{_svg(picture, "")}</div>\n'
        f"{''.join(tables)}</main></body></html>\n"
    )


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(each)}</th>" for each in headings)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2>\n<table><tr>{head}</tr>\n{body}</table>\n"


FORMATS: Mapping[str, str] = {".svg": "svg", ".html": "html", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid"}
"""By the ending of a file's name: what is written into it."""
