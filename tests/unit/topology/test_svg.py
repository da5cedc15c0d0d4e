from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from netd.topology.picture import Bar, Box, Picture, Wire
from netd.topology.svg import html, ordered, placed, svg

NS = {"s": "http://www.w3.org/2000/svg"}


def drawn(networks: str, *boxes: str) -> Picture:
    """Networks and boxes by the letters of their networks: drawn("ab", "a", "ab")."""
    return Picture(
        title="t",
        bars=tuple(Bar(key=key, about=f"{key}.0/24") for key in networks),
        boxes=tuple(
            Box(
                name=f"box{n}",
                about="does",
                wires=tuple(Wire(network=key, ifname=f"eth{key}", addresses=("10.0.0.1",)) for key in keys),
            )
            for n, keys in enumerate(boxes)
        ),
    )


def rectangles(text: str) -> list[tuple[float, float, float, float]]:
    found = ElementTree.fromstring(text).findall("s:rect", NS)
    return [tuple(float(each.attrib[k]) for k in ("x", "y", "width", "height")) for each in found]  # type: ignore[misc]


def test_bars_are_put_in_the_order_that_keeps_wires_short() -> None:
    assert [bar.key for bar in ordered(drawn("abc", "ac", "cb"))] in (["a", "c", "b"], ["b", "c", "a"])
    assert [bar.key for bar in ordered(drawn("cba", "a", "b"))] == ["c", "b", "a"]


def test_boxes_share_a_column_where_nothing_meets() -> None:
    picture = drawn("abc", "a", "b", "ab", "c")
    places = placed(picture.boxes, picture.bars)
    assert [(place.first, place.last) for place in places] == [(0, 0), (1, 1), (0, 1), (2, 2)]
    assert places[0].column == places[1].column != places[2].column


BOXES = st.lists(st.sets(st.sampled_from("abcd")).map("".join), max_size=12)


@given(BOXES)
def test_nothing_lies_on_anything_else(boxes: list[str]) -> None:
    found = rectangles(svg(drawn("abcd", *boxes)))
    assert len(found) == 4 + len(boxes)
    for (x, y, width, height), (x2, y2, width2, height2) in combinations(found, 2):
        assert x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y


@given(BOXES)
def test_everything_lies_inside(boxes: list[str]) -> None:
    text = svg(drawn("abcd", *boxes))
    root = ElementTree.fromstring(text)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for x, y, w, h in rectangles(text):
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height + 1


@given(st.lists(st.sets(st.sampled_from("abcd"), min_size=1).map("".join), max_size=8))
def test_no_wire_runs_through_a_strange_box(boxes: list[str]) -> None:
    text = svg(drawn("abcd", *boxes))
    solid = rectangles(text)[4:]
    for line in ElementTree.fromstring(text).findall("s:line", NS):
        x = float(line.attrib["x1"])
        low, high = sorted((float(line.attrib["y1"]), float(line.attrib["y2"])))
        for left, top, width, height in solid:
            assert not (left < x < left + width and low < top + height - 1 and top + 1 < high)


def texts(text: str) -> list[tuple[float, float, float, float]]:
    """Where text is, as rectangles; a character is 7 px wide, and stands on its y."""
    found = ElementTree.fromstring(text).findall("s:text", NS)
    return [
        (float(each.attrib["x"]), float(each.attrib["y"]) - 10, 7 * len(each.text or ""), 10)
        for each in found
        if each.attrib["text-anchor"] == "start"
    ]


@given(st.lists(st.sets(st.sampled_from("abcd"), min_size=1).map("".join), max_size=8), st.integers(1, 39))
def test_no_text_lies_on_another_and_no_wire_runs_through_it(boxes: list[str], length: int) -> None:
    picture = drawn("abcd", *boxes)
    for box in picture.boxes:
        wires = tuple(replace(wire, addresses=("10.0.0.1", "f" * length)) for wire in box.wires)
        picture = replace(
            picture, boxes=tuple(replace(b, wires=wires) if b is box else b for b in picture.boxes)
        )
    drawing = svg(picture)
    written = texts(drawing)
    for (x, y, width, height), (x2, y2, width2, height2) in combinations(written, 2):
        assert x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y
    for line in ElementTree.fromstring(drawing).findall("s:line", NS):
        at = float(line.attrib["x1"])
        low, high = sorted((float(line.attrib["y1"]), float(line.attrib["y2"])))
        bars = [(top, top + tall) for _, top, _, tall in rectangles(drawing)[:4]]
        for x, y, width, height in written:
            behind = any(top <= y and y + height <= bottom for top, bottom in bars)
            assert behind or not (x < at < x + width and low < y + height and y < high)


def test_a_box_is_no_wider_than_what_is_beside_its_wires() -> None:
    """What goes up and what goes down are not side by side."""
    assert rectangles(svg(drawn("ab", "ab")))[-1][2] == 120


def test_what_the_user_wrote_is_text_and_not_markup() -> None:
    evil = "<script>alert(1)</script>&"
    picture = Picture(
        title=evil,
        bars=(Bar(key=evil, about=evil),),
        boxes=(Box(name=evil, about=evil, ports=(evil,), wires=(Wire(network=evil, ifname=evil),)),),
        checks=((evil, evil, evil),),
    )
    assert ElementTree.fromstring(svg(picture)).findtext("s:title", namespaces=NS) == evil
    tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)

    Tags().feed(html(picture))
    assert "script" not in tags
    assert "svg" in tags


def test_a_page_needs_nothing_else() -> None:
    page = html(drawn("a", "a"))
    assert not re.search(r"(src|href)=|url\(|@import", page)
    assert "<h2>Interfaces</h2>" in page
    assert "<h2>Published ports</h2>" not in page
    assert "prefers-color-scheme" in page
