"""Which servers are asked, and in which order."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from netd_dns.upstream import LOOK_EVERY, SHUN, Upstreams, nameservers, parse


def test_reads_resolv_conf() -> None:
    text = """# a comment
search example.com
nameserver 192.0.2.1
nameserver\t2001:db8::1
nameserver fe80::1%lo
nameserver 192.0.2.1
nameserver bogus
nameserver
options timeout:1
"""
    assert nameservers(text) == ("192.0.2.1", "2001:db8::1", "fe80::1%lo")
    assert nameservers("") == ()
    assert len(nameservers("\n".join(f"nameserver 192.0.2.{n}" for n in range(50)))) == 8


def test_addresses_in_their_forms() -> None:
    assert parse("192.0.2.1").address == ("192.0.2.1", 53)
    assert parse("192.0.2.1#5353").address == ("192.0.2.1", 5353)
    assert parse("2001:db8::1#53").family == socket.AF_INET6
    assert parse("fe80::1%lo").address[3:] == (socket.if_nametoindex("lo"),)


@pytest.mark.parametrize(
    "text", ["", "example.com", "192.0.2.1#0", "192.0.2.1#65536", "192.0.2.1#x", "1.2.3", "::1#"]
)
def test_what_is_not_a_server(text: str) -> None:
    if text in ("1.2.3", "::1#"):  # inet_aton's and our own leniency, both harmless
        assert parse(text)
    else:
        with pytest.raises(ValueError, match="DNS server"):
            parse(text)


def test_the_hosts_servers_are_followed_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    upstreams = Upstreams(str(path))
    assert upstreams.choose((), 0.0) == ("192.0.2.1",)
    path.write_text("nameserver 192.0.2.2\nnameserver 192.0.2.3\n")
    assert upstreams.choose((), LOOK_EVERY / 2) == ("192.0.2.1",)
    assert upstreams.choose((), LOOK_EVERY * 2) == ("192.0.2.2", "192.0.2.3")
    other = tmp_path / "other"
    other.write_text("nameserver 192.0.2.4\n")
    other.rename(path)  # as resolvconf and NetworkManager do
    assert upstreams.choose((), LOOK_EVERY * 4) == ("192.0.2.4",)
    path.unlink()
    assert upstreams.choose((), LOOK_EVERY * 6) == ("192.0.2.4",)
    path.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("nameserver 127.0.0.53\n")
    assert upstreams.choose((), LOOK_EVERY * 8) == ("127.0.0.53",)


def test_a_missing_resolv_conf_is_no_servers(tmp_path: Path) -> None:
    assert Upstreams(str(tmp_path / "none")).choose((), 0.0) == ()


def test_what_is_configured_wins_and_what_a_network_wants_wins_over_that(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    upstreams = Upstreams(str(path))
    upstreams.configure(["192.0.2.9"])
    assert upstreams.choose((), 0.0) == ("192.0.2.9",)
    assert upstreams.choose(("192.0.2.8",), 0.0) == ("192.0.2.8",)
    upstreams.configure([])
    assert upstreams.choose((), 0.0) == ("192.0.2.1",)


def test_never_ourselves() -> None:
    upstreams = Upstreams("/nonexistent")
    assert upstreams.choose(("10.0.0.1",), 0.0) == ("10.0.0.1",)
    for address in ("10.0.0.1", "fd00::1"):
        upstreams.listens(address, here=True)
    assert upstreams.choose(("10.0.0.1", "192.0.2.1", "fd00::1"), 0.0) == ("192.0.2.1",)
    upstreams.listens("10.0.0.1", here=False)
    assert upstreams.choose(("10.0.0.1", "fd00::1"), 0.0) == ("10.0.0.1",)


def test_a_server_that_let_us_wait_is_asked_last_for_a_while() -> None:
    upstreams = Upstreams("/nonexistent")
    servers = ("192.0.2.1", "192.0.2.2")
    upstreams.failed(parse("192.0.2.1"), 100.0)
    assert [s.text for s in upstreams.ordered(servers, 101.0)] == ["192.0.2.2", "192.0.2.1"]
    assert not upstreams.all_away(servers, 101.0)
    assert [s.text for s in upstreams.ordered(servers, 100.0 + SHUN)] == ["192.0.2.1", "192.0.2.2"]
    upstreams.failed(parse("192.0.2.2"), 100.0)
    assert upstreams.all_away(servers, 101.0)
    upstreams.answered(parse("192.0.2.1"))
    assert not upstreams.all_away(servers, 101.0)
