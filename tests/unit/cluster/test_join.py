"""From settings to a member: what is refused, and how the address is found."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from netd.cluster.join import Source, join
from netd.errors import Invalid, Unavailable
from netd.settings import Settings
from netd.store.sqlite import SqliteStore


def joined(tmp_path: Path, **settings: Any) -> Any:
    return join(Settings(**settings), SqliteStore(tmp_path, tmp_path, boot_id="boot"))


def test_a_host_by_itself(tmp_path: Path) -> None:
    assert joined(tmp_path) is None


def test_who_we_are_is_what_is_said(tmp_path: Path) -> None:
    member = joined(tmp_path, cluster="etcd://127.0.0.1", node_name="n1", advertise="2001:db8::7")
    assert (member.node.name, member.node.address) == ("n1", ip_address("2001:db8::7"))
    assert not member.node.draining


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cluster": "etcd://192.0.2.1:2379"}, "plain text"),
        ({"cluster": "etcd://127.0.0.1,etcd.example.org"}, "plain text"),
        ({"cluster": "http://127.0.0.1"}, "etcd://h1"),
        ({"cluster": "etcd://127.0.0.1/x"}, "HOST:PORT"),
        ({"cluster": "etcd://me@127.0.0.1"}, "HOST:PORT"),
        ({"cluster": "etcd://127.0.0.1:99999"}, "99999|range"),
        ({"cluster": "etcd://"}, "HOST:PORT"),
        ({"cluster": "etcd://127.0.0.1", "node_name": "a/b"}, "node name"),
        ({"cluster": "etcd://127.0.0.1", "advertise": "127.0.0.1"}, "--advertise"),
        ({"cluster": "etcd://127.0.0.1", "advertise": "h1"}, "--advertise"),
        ({"cluster": "etcd://h1", "cluster_ca": "/no/such.pem", "advertise": "192.0.2.1"}, "/no/such.pem"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        joined(tmp_path, **{"node_name": "n", "advertise": "192.0.2.1", **settings})


def test_plain_text_to_others_only_if_one_insists(tmp_path: Path) -> None:
    settings = {"cluster": "etcd://192.0.2.1", "cluster_insecure": True, "advertise": "192.0.2.9"}
    assert joined(tmp_path, node_name="n", **settings).node.name == "n"
    assert joined(tmp_path, node_name="n", cluster="etcd://[::1]:1", advertise="192.0.2.9").node.name == "n"


def test_loopback_says_nothing_about_how_others_reach_us() -> None:
    with pytest.raises(Unavailable, match="--advertise"):
        Source(("127.0.0.1:2379", "[::1]:2379")).first()
