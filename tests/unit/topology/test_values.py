from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from netd.errors import Invalid
from netd.topology import values
from netd.topology.compose import PortFile, VolumeFile


@pytest.mark.parametrize(
    ("given", "specs"),
    [
        ("80", ["80/tcp"]),
        (80, ["80/tcp"]),
        ("8080:80", ["8080:80/tcp"]),
        ("53:53/udp", ["53:53/udp"]),
        ("127.0.0.1:8080:80", ["127.0.0.1:8080:80/tcp"]),
        ("127.0.0.1::80", ["127.0.0.1::80/tcp"]),
        ("[::1]:6001:6001", ["[::1]:6001:6001/tcp"]),
        ("8000-8001:80-81", ["8000:80/tcp", "8001:81/tcp"]),
        ("8000-9000:80", ["8000-9000:80/tcp"]),
        ("3000-3001", ["3000/tcp", "3001/tcp"]),
        (PortFile(target=80, published="8080", host_ip="10.0.0.1"), ["10.0.0.1:8080:80/tcp"]),
        (PortFile(target=80), ["80/tcp"]),
    ],
)
def test_ports(given: Any, specs: list[str]) -> None:
    assert [port.spec for port in values.ports([given], "p")] == specs


@pytest.mark.parametrize("given", ["", "x", "0:80", "80:70000", "1-3:80-81", "a.b:1:2", "80/sctp", "9-8"])
def test_a_port_that_is_none_is_named_with_its_path(given: str) -> None:
    with pytest.raises(Invalid, match=r"^services\.web\.ports\[0\]: "):
        values.ports([given], "services.web.ports")


@pytest.mark.parametrize(
    ("text", "seconds"), [("50ms", 0.05), ("1m30s", 90), ("0s", 0), ("1.5h", 5400), ("10us", 1e-5)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert values.seconds(text, "p") == pytest.approx(seconds)


@pytest.mark.parametrize(("given", "size"), [("64m", 64 << 20), ("1.5g", 3 << 29), ("10kb", 10240), (7, 7)])
def test_sizes(given: str | int, size: int) -> None:
    assert values.size(given, "p") == size


@pytest.mark.parametrize(
    ("read", "given"),
    [
        (values.seconds, "soon"),
        (values.seconds, "10"),
        (values.seconds, ""),
        (values.size, "big"),
        (values.boolean, "maybe"),
        (values.number, "half"),
        (values.extra_hosts, ["db"]),
        (values.assignments, ["=x"]),
        (values.volume, "/data"),
        (values.volume, "a:b"),
        (values.volume, "a:/b:rx"),
        (values.volume, VolumeFile(type="volume", source="/x", target="/y")),
    ],
)
def test_what_has_no_meaning_is_refused_with_its_path(read: Callable[..., Any], given: Any) -> None:
    with pytest.raises(Invalid, match=r"^some\.path"):
        read(given, "some.path")


def test_commands_are_split_but_run_by_no_shell() -> None:
    assert values.words('echo "a b" $HOME | x') == ["echo", "a b", "$HOME", "|", "x"]
    assert values.words(["echo", "a b"]) == ["echo", "a b"]
    assert values.words(None) == values.words("") == []


def test_a_bare_variable_is_the_callers_and_own_ones_beat_files() -> None:
    found = values.environment(
        ["A", "GONE", "B=2"], [{"A": "file", "B": "file", "C": "3"}], {"A": "caller"}, "p"
    )
    assert found == {"A": "caller", "B": "2", "C": "3"}
    assert values.environment({"N": 1, "T": True, "E": None}, [], {}, "p") == {"N": "1", "T": "true"}


def test_env_files() -> None:
    text = "# comment\n\nA=1\nexport B='x y'\nC=a b # note\nD=\"#1\"\nno line\n"
    assert values.env_lines(text) == {"A": "1", "B": "x y", "C": "a b", "D": "#1"}


@pytest.mark.parametrize(
    "given",
    [["a=1.2.3.4", "b=[fd00::1]"], ["a:1.2.3.4", "b:fd00::1"], {"a": "1.2.3.4", "b": ["fd00::1"]}],
)
def test_extra_hosts(given: Any) -> None:
    assert values.extra_hosts(given, "p") == {"a": "1.2.3.4", "b": "fd00::1"}


def test_volumes() -> None:
    assert values.volume("data:/var/lib", "p") == ("data", "/var/lib", False)
    assert values.volume("./a:/b:ro", "p") == ("./a", "/b", True)
    assert values.volume(VolumeFile(type="bind", source="a", target="/b"), "p") == ("./a", "/b", False)
    assert values.volume(VolumeFile(type="volume", source="a", target="/b", read_only=True), "p")[2]
