"""One event for each endpoint and port that came or went, and none for what stayed."""

from __future__ import annotations

from dataclasses import replace

from netd.events import Events
from netd.model import Proto
from netd.news import tell
from netd.store.base import Attached
from netd.view import View
from tests.unit.host import port
from tests.unit.test_view import BACK, FRONT, ONE, TWO, WEB

VIEW = View.of([FRONT, BACK], [WEB])
FULL = replace(WEB, sandbox=replace(WEB.sandbox, ports=(port(8080), port(53, "::1", Proto.UDP, 5353))))
LESS = replace(WEB, endpoints=(ONE,), sandbox=replace(WEB.sandbox, ports=(port(8080),)))


def told(
    before: Attached | None, after: Attached | None, view: View = VIEW
) -> list[tuple[str, str, str, dict[str, str]]]:
    events = Events()
    with events.subscribe() as watcher:
        tell(events, view, before, after)
        return [(e.type, e.action, e.id, dict(e.attributes)) for e in watcher._unread]


CAME = [
    (
        "endpoint",
        "connect",
        "e2",
        {"container": "web", "network": "front", "addresses": "10.1.0.2/24 fd01::2/64"},
    ),
    ("port", "publish", "web", {"host": "[::1]:53/udp", "container": "5353/udp"}),
]


def test_what_came_is_told() -> None:
    assert told(LESS, FULL) == CAME


def test_what_went_is_told_as_going() -> None:
    went = {"connect": "disconnect", "publish": "unpublish"}
    assert told(FULL, LESS) == [(type, went[action], id, more) for type, action, id, more in CAME]


def test_all_of_it_comes_and_goes_with_the_attachment() -> None:
    assert [(type, action) for type, action, _, _ in told(None, FULL)] == [
        ("endpoint", "connect"), ("endpoint", "connect"), ("port", "publish"), ("port", "publish"),
    ]  # fmt: skip
    assert [action for _, action, _, _ in told(FULL, None)] == ["disconnect"] * 2 + ["unpublish"] * 2


def test_what_stays_is_no_news() -> None:
    assert told(FULL, FULL) == []


def test_a_network_that_went_meanwhile_is_told_by_its_id() -> None:
    [(_, _, _, more)] = told(replace(WEB, endpoints=(TWO,)), replace(WEB, endpoints=()), View())
    assert more["network"] == FRONT.id
