from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from netd.cni import judge, results
from netd.cni.config import Config, Ipam, Range
from netd.cni.spec import Call, CniError
from netd.dns_lookup import Answer, Record
from netd.model import Endpoint, Network
from netd.store.base import Attached
from netd.view import View
from tests.unit.cni.test_results import ENDPOINT, NETWORK, SANDBOX, WHOLE

CALL = Call(command="CHECK", container="pod1", ifname="eth0", netns="/run/netns/pod1")


def changed(**interface: Any) -> results.Result:
    *others, own = WHOLE.interfaces
    return replace(WHOLE, interfaces=(*others, {**own, **interface}))


def test_the_truth_is_accepted_and_so_is_what_others_have_added() -> None:
    assert judge.told_wrongly(CALL, WHOLE, ENDPOINT) == []
    later = replace(
        WHOLE,
        interfaces=(*WHOLE.interfaces, {"name": "later0", "sandbox": "/x"}),
        ips=(*WHOLE.ips, {"address": "192.0.2.1/24", "interface": 3}),
    )
    assert judge.told_wrongly(CALL, later, ENDPOINT) == []


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        (results.Result(), "prevResult has no interface eth0"),
        (changed(sandbox="/other"), "/other"),
        (changed(mac="02:00:00:00:00:99"), "02:00:00:00:00:99"),
        (replace(WHOLE, ips=({"address": "10.1.0.77/16", "interface": 2},)), "10.1.0.77/16 was never given"),
    ],
)
def test_what_is_not_so_is_told(told: results.Result, complaint: str) -> None:
    [found] = judge.told_wrongly(CALL, told, ENDPOINT)
    assert complaint in found


def view(network: Network) -> View:
    return View.of([network], [Attached(SANDBOX, (replace(ENDPOINT, addresses=ENDPOINT.addresses[:1]),))])


def test_a_network_that_is_exhausted_is_refused() -> None:
    judge.refuse_exhausted(NETWORK, {})
    with pytest.raises(CniError, match="no IPv6 address left: 7 are in use") as caught:
        judge.refuse_exhausted(NETWORK, {6: 7})
    assert caught.value.cni == 50


def giving(last: str) -> Config:
    each = Range(subnet="10.1.0.0/16", range_start="10.1.0.1", range_end=last)
    return Config(name="front", ipam=Ipam(type="host-local", ranges=[[each]]))


@pytest.mark.parametrize(("last", "found"), [("10.1.0.2", {4: 2}), ("10.1.0.3", {})])
def test_host_locals_ranges_are_what_counts(last: str, found: dict[int, int]) -> None:
    assert judge.exhausted(giving(last), NETWORK, view(NETWORK)) == found  # .1 is the gateway, .2 is in use


class Unread(View):
    """A view whose endpoints nobody may look at."""

    def endpoints_in(self, network_id: str) -> tuple[Endpoint, ...]:
        raise AssertionError(f"the endpoints of {network_id} were listed")


def test_addresses_are_compared_only_where_there_are_enough_to_fill_the_ranges() -> None:
    small = view(NETWORK)
    unread = Unread(**{each.name: getattr(small, each.name) for each in fields(View)})
    assert judge.exhausted(giving("10.1.0.3"), NETWORK, unread) == {}
    with pytest.raises(AssertionError, match="were listed"):
        judge.exhausted(giving("10.1.0.2"), NETWORK, unread)


def test_of_other_plugins_nothing_is_known() -> None:
    assert judge.exhausted(Config(name="front", ipam=Ipam(type="dhcp")), NETWORK, view(NETWORK)) == {}


def test_a_name_must_lead_to_all_addresses() -> None:
    records = tuple(Record("web", 5, kind, data) for kind, data in (("A", "10.1.0.2"), ("A", "10.1.0.9")))
    answers = [Answer("A", "NOERROR", records), Answer("AAAA", "NOERROR", ())]
    [complaint] = judge.unresolved("web", ENDPOINT, answers)
    assert complaint == "DNS: web does not lead to fd00:1::2 but to 10.1.0.2, 10.1.0.9"
    assert judge.unresolved("web", replace(ENDPOINT, addresses=ENDPOINT.addresses[:1]), answers) == []
