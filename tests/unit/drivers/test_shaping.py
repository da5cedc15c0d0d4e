from __future__ import annotations

from dataclasses import replace

import pytest

from netd import names
from netd.drivers import bridge, shaping
from netd.errors import Invalid
from netd.objects import Ifb, Redirect, Shaper
from tests.unit.drivers.test_bridge import NET, WEB, endpoint

ENDPOINT = endpoint(NET)
HOST, IFB = names.host_ifname(ENDPOINT), names.ifb_name(ENDPOINT)


def limits(**options: str) -> list[object]:
    named = {f"bandwidth.{way}": value for way, value in options.items()}
    limited = replace(ENDPOINT, options=named)
    found = bridge.endpoint(NET, WEB, limited, ())
    return [item for item in found if isinstance(item, Ifb | Shaper | Redirect)]


def test_nothing_is_limited_unless_asked_for() -> None:
    assert limits() == []


def test_the_way_to_a_container_is_limited_where_its_pair_begins() -> None:
    assert limits(ingress="8000000/100000") == [Shaper(HOST, 1_000_000, 12_500)]


def test_the_way_from_a_container_is_limited_behind_a_device_of_its_own() -> None:
    [ifb, shaper, redirect] = limits(egress="80000000")
    assert isinstance(ifb, Ifb)
    assert (ifb.name, ifb.mtu) == (IFB, NET.mtu)
    assert ifb.alias.startswith(names.ALIAS_PREFIX)
    assert (shaper, redirect) == (Shaper(IFB, 10_000_000, 200_000), Redirect(HOST, IFB))


def test_its_other_name_is_its_own() -> None:
    limited = replace(ENDPOINT, options={shaping.FROM: "80000000"})
    named = [item.altname for item in bridge.endpoint(NET, WEB, limited, ()) if hasattr(item, "altname")]
    assert len({*named}) == 2
    assert max(map(len, named)) <= 127


@pytest.mark.parametrize(
    ("value", "burst"),
    [
        ("80000000/0", 200_000),
        ("80000000/2147483647", 200_000),  # what a kubelet asks for
        ("80000000/800000", 100_000),
        ("80000000/8", 2 * (NET.mtu + 18)),
        ("8000", 2 * (NET.mtu + 18)),
    ],
)
def test_a_burst_is_between_two_frames_and_twenty_milliseconds(value: str, burst: int) -> None:
    [shaper] = limits(ingress=value)
    assert isinstance(shaper, Shaper)
    assert shaper.burst == burst


@pytest.mark.parametrize("value", ["x", "1/", "-5", "999", "1000/x", "9000000000000", "0"])
def test_what_is_no_limit_is_refused(value: str) -> None:
    shaping.check({shaping.TO: "1000/1", "other": "x"})
    with pytest.raises(Invalid, match=r"bandwidth\.egress"):
        shaping.check({shaping.FROM: value})
