"""`x-netd.hosts`: what a file may say, and what is decided before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from netd.errors import Invalid, Unsupported
from netd.topology import hosts
from tests.unit.topology.paper import project

TWO = """\
name: p
services:
  web: {networks: [wide], x-netd: {host: a}}
  db: {networks: [wide, near], x-netd: {host: b}}
networks: {wide: {driver: overlay}, near: }
x-netd: {hosts: {a: , b: {spawn: netns}}}
"""


def test_services_are_placed_and_with_them_the_networks() -> None:
    found = project(TWO)
    assert found.hosts == ("a", "b")
    assert hosts.placement(found) == {"p_wide": {"a", "b"}, "p_near": {"b"}}
    assert found.container("db").request.labels["netd.topology.host"] == "b"


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("host: a", "host: c", r"services\.web\.x-netd\.host"),
        (", x-netd: {host: a}", "", r"services\.web\.x-netd\.host: is missing; .*: a, b"),
        ("hosts: {a: ,", "hosts: {A: , a: ,", r"x-netd\.hosts\.A: a host's name"),
        ("hosts: {a: ,", "hosts: {_wire: , a: ,", r"x-netd\.hosts\._wire: a host's name"),
        (
            "networks: [wide, near]",
            "network_mode: 'service:web'",
            "'web', whose network it shares, is on 'a'",
        ),
        ("x-netd: {hosts", "x-netd: {links: [{endpoints: [web, db]}], hosts", "a link is within one host"),
    ],
)
def test_what_cannot_be_placed_is_refused(before: str, after: str, complaint: str) -> None:
    with pytest.raises(Invalid, match=complaint):
        project(TWO.replace(before, after))


def test_a_host_without_hosts_is_refused() -> None:
    with pytest.raises(Invalid, match=r"services\.a\.x-netd\.host"):
        project("services: {a: {x-netd: {host: a}}}")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hosts, "HOME", tmp_path / "run")
    monkeypatch.setattr(hosts, "DISK", tmp_path / "lib")
    return tmp_path / "run"


def test_the_wire_is_of_the_family_that_the_file_says() -> None:
    assert project(TWO).extra.underlay == 4
    assert project(TWO.replace("{hosts", "{underlay: 6, hosts")).extra.underlay == 6
    with pytest.raises(Invalid, match=r"x-netd\.underlay"):
        project(TWO.replace("{hosts", "{underlay: 5, hosts"))


def test_without_etcd_nothing_is_begun(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unsupported, match="apt install etcd-server"):
        hosts.start(project(TWO))
    assert not home.exists()


def test_what_a_killed_start_left_is_removed(home: Path, tmp_path: Path) -> None:
    for name in ("a", "_wire"):
        (home / "p" / name).mkdir(parents=True)
    (tmp_path / "lib" / "p").mkdir(parents=True)
    assert hosts.projects() == ["p"]
    assert hosts.fleet("p") is None
    hosts.down("p")
    assert list(tmp_path.iterdir()) == []
    hosts.down("p")


def test_a_host_that_the_file_does_not_name_any_more_is_ended(home: Path) -> None:
    for name in ("a", "b", "old", "_wire"):
        (home / "p" / name).mkdir(parents=True)
    assert hosts.surplus(project(TWO)) == ["old"]
    told: list[str] = []
    hosts.prune(project(TWO), told.append)
    assert told == ["ended host old"]
    assert hosts.surplus(project(TWO)) == []
