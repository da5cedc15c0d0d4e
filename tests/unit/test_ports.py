"""What can be typed after -p, and which two published ports exclude each other."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from netd.errors import AlreadyExists, Exhausted, Invalid
from netd.model import PortMapping, Proto
from netd.ports import FALLBACK, Ports, ephemeral, parse_publish, show


def mapping(
    port: int, ip: str = "", proto: Proto = Proto.TCP, end: int = 0, container: int = 80
) -> PortMapping:
    return PortMapping(
        proto=proto,
        host_ip=ip_address(ip) if ip else None,
        host_port=port,
        container_port=container,
        host_port_end=end,
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("80", [mapping(0)]),
        ("8080:80", [mapping(8080)]),
        ("8080:80/tcp", [mapping(8080)]),
        ("53:53/udp", [mapping(53, proto=Proto.UDP, container=53)]),
        ("53:53/UDP", [mapping(53, proto=Proto.UDP, container=53)]),
        ("0:80", [mapping(0)]),
        ("127.0.0.1:8080:80", [mapping(8080, "127.0.0.1")]),
        ("127.0.0.1::80", [mapping(0, "127.0.0.1")]),
        ("[::1]:8080:80", [mapping(8080, "::1")]),
        ("[fd00::1]::80/udp", [mapping(0, "fd00::1", Proto.UDP)]),
        (":80", [mapping(0)]),
        ("8000-8002:80-82", [mapping(8000), mapping(8001, container=81), mapping(8002, container=82)]),
        ("80-81", [mapping(0), mapping(0, container=81)]),
        ("8000-8010:80", [mapping(8000, end=8010)]),
        ("10.0.0.1:8000-8001:80-81/udp", [
            mapping(8000, "10.0.0.1", Proto.UDP), mapping(8001, "10.0.0.1", Proto.UDP, container=81),
        ]),
    ],
)  # fmt: skip
def test_reads_what_docker_reads(spec: str, expected: list[PortMapping]) -> None:
    assert list(parse_publish(spec)) == expected


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("", "'' is neither a port nor a range"),
        ("x", "'x' is neither a port nor a range"),
        ("8080:", "'' is neither a port nor a range"),
        ("8080:0", "a container port lies between 1 and 65535"),
        ("8080:65536", "65536 is above 65535"),
        ("99999:80", "99999 is above 65535"),
        ("8080:80/sctp", "'sctp' cannot be published, tcp and udp can"),
        ("8080:80/", "'' cannot be published"),
        ("8000-8002:80-81", "3 host ports cannot be mapped to 2 container ports"),
        ("8000:80-81", "1 host ports cannot be mapped to 2"),
        ("8002-8000:80", "does not begin below its end"),
        ("0-5:80", "does not begin below its end"),
        ("localhost:8080:80", "'localhost' is not an IP address"),
        ("::1:8080:80", "an IPv6 address in brackets"),
        ("[::1]8080:80", "an IPv6 address in brackets"),
        ("[::1:8080:80", "an IPv6 address in brackets"),
        ("[::ffff:10.0.0.1]:80:80", "write 10.0.0.1 instead"),
        ("1:2:3:4", "brackets"),
        ("8080:80/tcp/udp", "write .IP:"),
        ("8080:8\N{ARABIC-INDIC DIGIT ZERO}", "neither a port nor"),
        ("-1:80", "'-1' is neither"),
        ("1.5:80", "'1.5' is neither"),
    ],
)
def test_refuses_the_rest_and_says_why(spec: str, complaint: str) -> None:
    with pytest.raises(Invalid, match=complaint) as caught:
        parse_publish(spec)
    assert repr(spec) in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "excluded"),
    [
        (mapping(80), mapping(80), True),
        (mapping(80), mapping(81), False),
        (mapping(80), mapping(80, proto=Proto.UDP), False),
        (mapping(80), mapping(80, "127.0.0.1"), True),
        (mapping(80), mapping(80, "::1"), True),
        (mapping(80, "127.0.0.1"), mapping(80, "127.0.0.2"), False),
        (mapping(80, "127.0.0.1"), mapping(80, "::1"), False),
        (mapping(80, "0.0.0.0"), mapping(80, "127.0.0.1"), True),
        (mapping(80, "0.0.0.0"), mapping(80, "::1"), False),
        (mapping(80, "::"), mapping(80, "::1"), True),
        (mapping(80, "::"), mapping(80, "0.0.0.0"), False),
        (mapping(80, "fd00::1"), mapping(80, "fd00::1", container=81), True),
    ],
)
def test_which_exclude_each_other(one: PortMapping, other: PortMapping, excluded: bool) -> None:
    for first, second in ((one, other), (other, one)):
        table = Ports()
        table.claim("a", "web", first)
        assert table.holder(second) == ("web" if excluded else None)
        if excluded:
            with pytest.raises(AlreadyExists, match="already published by 'web'"):
                table.claim("b", "db", second)
        table.release("a", [first])
        table.claim("b", "db", second)


def test_releasing_touches_only_ones_own() -> None:
    table = Ports()
    table.claim("a", "web", mapping(80, "127.0.0.1"))
    table.claim("b", "db", mapping(80, "127.0.0.2"))
    table.release("b", [mapping(80, "127.0.0.1"), mapping(81)])
    assert table.holder(mapping(80, "127.0.0.1")) == "web"
    assert table.holds("a", mapping(80, "127.0.0.1"))
    assert not table.holds("b", mapping(80, "127.0.0.1"))
    assert not table.holds("a", mapping(80))
    table.release("a", [mapping(80, "127.0.0.1")])
    assert table.holder(mapping(80, "127.0.0.1")) is None
    assert table.holder(mapping(80, "127.0.0.2")) == "db"


def test_a_named_port_is_the_only_candidate() -> None:
    table = Ports()
    table.claim("a", "web", mapping(80))
    assert list(table.candidates(mapping(80), range(5000, 5010))) == [mapping(80)]


def test_a_range_offers_what_is_free_and_says_when_nothing_is() -> None:
    table = Ports()
    table.claim("a", "web", mapping(8000))
    assert next(table.candidates(mapping(8000, end=8002), ())) == mapping(8001)
    for port in (8001, 8002):
        table.claim("a", "web", mapping(port))
    with pytest.raises(Exhausted, match="port 8000-8002/tcp cannot be had: none of 3 is free"):
        next(table.candidates(mapping(8000, end=8002), ()))


def test_a_choice_goes_round_and_skips_what_is_held() -> None:
    table = Ports()
    table.claim("a", "web", mapping(5001))
    chosen = [next(table.candidates(mapping(0), range(5000, 5003))).host_port for _ in range(3)]
    assert chosen == [5000, 5002, 5000]


def test_ephemeral_ports_leave_out_the_reserved_ones() -> None:
    assert list(ephemeral("5000\t5005\n", "5001,5003-5004\n")) == [5000, 5002, 5005]
    assert list(ephemeral("5000 5001", "")) == [5000, 5001]
    assert ephemeral("", "") == FALLBACK


def test_shows_ports_as_they_are_typed() -> None:
    assert show(mapping(80)) == "80/tcp"
    assert show(mapping(80, "127.0.0.1")) == "127.0.0.1:80/tcp"
    assert show(mapping(53, "::1", Proto.UDP)) == "[::1]:53/udp"
