"""What can be read from a view, and that an old one stays what it was."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from netd.errors import Invalid, NotFound
from netd.model import Endpoint, Netns, Network, Owner, Sandbox, Subnet
from netd.names import mac_of
from netd.store.base import Attached
from netd.view import View


def network(id: str, name: str, *cidrs: str, internal: bool = False) -> Network:
    subnets = tuple(Subnet(cidr=ip_network(cidr), gateway=ip_address(ip_network(cidr)[1])) for cidr in cidrs)
    return Network(id=id, name=name, driver="bridge", subnets=subnets, mtu=1500, internal=internal)


FRONT = network("aa11", "front", "10.1.0.0/24", "fd01::/64")
BACK = network("aa22", "back", "10.2.0.0/24")


def sandbox(id: str) -> Sandbox:
    return Sandbox(
        id=id, name=f"name-{id}", owner=Owner.CONTAINER, netns=Netns(label=id, path="", device=1, inode=1)
    )


def endpoint(id: str, of: str, net: Network, *addresses: str, order: int = 0) -> Endpoint:
    return Endpoint(
        id=id,
        network=net.id,
        sandbox=of,
        ifname=f"eth{order}",
        mac=mac_of(id),
        addresses=tuple(map(ip_interface, addresses)),
        order=order,
    )


ONE = endpoint("e1", "web", BACK, "10.2.0.2/24")
TWO = endpoint("e2", "web", FRONT, "10.1.0.2/24", "fd01::2/64", order=1)
WEB = Attached(sandbox("web"), (ONE, TWO))
DB = Attached(sandbox("db"), (endpoint("e3", "db", BACK, "10.2.0.3/24"),))


def test_networks_are_found_by_name_id_and_unique_prefix() -> None:
    odd = network("bb33", "aa11", "10.3.0.0/24")  # a name that is another's id: the name wins
    view = View.of([FRONT, BACK, odd], [])
    assert view.network("front") == FRONT
    assert view.network("aa22") == BACK
    assert view.network("aa2") == BACK
    assert view.network("aa11") == odd
    with pytest.raises(Invalid, match="'aa' is ambiguous: it begins the ids of back, front"):
        view.network("aa")
    for ref in ("nope", "", "fron"):
        with pytest.raises(NotFound, match=f"network '{ref}' does not exist"):
            view.network(ref)


def test_building_up_step_by_step_is_the_same_as_at_once() -> None:
    whole = View.of([FRONT, BACK], [WEB, DB])
    steps = View().with_network(FRONT).with_network(BACK)
    steps = (
        steps.with_sandbox("db", DB)
        .with_sandbox("web", replace(WEB, endpoints=(ONE,)))
        .with_sandbox("web", WEB)
    )
    assert steps == whole
    assert steps.endpoints_of("web") == (ONE, TWO)
    assert {end.id for end in steps.endpoints_in(BACK.id)} == {"e1", "e3"}
    assert steps.attached("web") == WEB
    assert steps.attached("nobody") is None
    assert steps.endpoints_of("nobody") == steps.endpoints_in("nowhere") == ()
    assert (steps.population(BACK.id), steps.population("nowhere")) == (2, 0)


def test_an_old_view_stays_what_it_was() -> None:
    old = View.of([FRONT, BACK], [WEB, DB])
    new = old.with_sandbox("web", None).without_network(FRONT.id)
    assert old.attached("web") == WEB
    assert old.network("front") == FRONT
    assert new == View.of([BACK], [DB])
    assert new.endpoints_in(FRONT.id) == ()


def test_default_routes_are_where_the_model_says() -> None:
    view = View.of([FRONT, BACK], [WEB])
    assert view.default_routes(ONE) == (4,)
    assert view.default_routes(TWO) == (6,)


def test_a_network_that_goes_takes_its_complaint_along() -> None:
    view = View.of([FRONT, BACK], []).with_degraded({FRONT.id: "broken"})
    assert view.without_network(FRONT.id).degraded == {}
    assert view.without_network(BACK.id).degraded == {FRONT.id: "broken"}
