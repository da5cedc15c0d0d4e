from __future__ import annotations

import time

import pytest

from netd.api import netd_pb2 as pb
from netd.cli import render


def test_dict_has_every_field_and_plain_numbers() -> None:
    found = render.as_dict(
        pb.Container(
            id="ab",
            pid=7,
            labels={"b": "2", "a": "1"},
            request=pb.RunRequest(memory=1 << 40),
            endpoints=[pb.Endpoint(ifname="eth0")],
        )
    )
    assert set(found) == {field.name for field in pb.Container.DESCRIPTOR.fields}
    assert (found["pid"], found["command"], found["labels"]) == (7, [], {"a": "1", "b": "2"})
    assert found["request"]["memory"] == 1 << 40
    assert found["request"]["window"] is None
    assert found["endpoints"][0]["ifname"] == "eth0"


def test_dict_spells_enums_and_bytes() -> None:
    assert render.as_dict(pb.Check(level=pb.Check.WARNING))["level"] == "warning"
    assert render.as_dict(pb.LogLine(data=b"a\xffb"))["data"] == "a\ufffdb"


def test_table_cuts_nothing_off_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 500
    render.print_table(("NAME", "WHAT"), [("a", long), ("bb", "[red]y[/red]")])
    assert capsys.readouterr().out == f"NAME   WHAT\na      {long}\nbb     [red]y[/red]\n"


def test_table_without_rows_is_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_table(("NAME", "WHAT"), [])
    assert capsys.readouterr().out == "NAME   WHAT\n"


def test_table_disarms_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_table(("A",), [("\x1b[31mred\n\u202e",)])
    assert capsys.readouterr().out == "A\n\\x1b[31mred\\n\\u202e\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 seconds"),
        (0, "0 seconds"),
        (1.9, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (7199, "1 hour"),
        (7200, "2 hours"),
        (86400 * 6, "6 days"),
        (86400 * 7, "1 week"),
        (86400 * 364, "52 weeks"),
        (86400 * 365, "1 year"),
        (86400 * 800, "2 years"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


def test_ago_is_empty_for_what_has_not_happened() -> None:
    assert render.ago(0.0) == ""
    assert render.ago(1000.0, 1060.0) == "1 minute ago"


def test_timestamp_has_milliseconds_and_the_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-1")
    time.tzset()
    try:
        assert render.timestamp(1_700_000_000.1239) == "2023-11-14T23:13:20.123+01:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_published_ports_are_drawn_together() -> None:
    def port(host: int, inner: int, proto: str = "tcp", ip: str = "") -> pb.PublishedPort:
        return pb.PublishedPort(host_ip=ip, host_port=host, container_port=inner, proto=proto)

    ports = [port(8001, 81), port(8000, 80), port(8003, 83), port(8004, 99), port(53, 53, "udp", "::1")]
    assert render.published(ports) == [
        "*:8000-8001->80-81/tcp",
        "*:8003->83/tcp",
        "*:8004->99/tcp",
        "[::1]:53->53/udp",
    ]


def test_mapping_is_sorted() -> None:
    assert render.mapping({"b": "2", "a": "1"}) == "a=1 b=2"
