from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from netd.cni import judge, results
from netd.cni.config import Config, Ipam, Range
from netd.cni.spec import Call, CniError
from netd.model import Network, Subnet
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


def test_a_network_with_room_is_not_full() -> None:
    judge.refuse_full(Config(name="front"), NETWORK, view(NETWORK))


def test_a_network_without_room_is_full() -> None:
    subnet = Subnet(cidr=ip_network("10.1.0.0/30"), gateway=ip_address("10.1.0.1"))
    network = replace(NETWORK, subnets=(subnet,))
    with pytest.raises(CniError, match="no IPv4 address left: 1 are in use") as caught:
        judge.refuse_full(Config(name="front"), network, view(network))
    assert caught.value.cni == 50


@pytest.mark.parametrize(("last", "full"), [("10.1.0.2", True), ("10.1.0.3", False)])
def test_host_locals_ranges_are_what_counts(last: str, full: bool) -> None:
    each = Range(subnet="10.1.0.0/16", range_start="10.1.0.1", range_end=last)
    config = Config(name="front", ipam=Ipam(type="host-local", ranges=[[each]]))
    if full:  # .1 is the gateway, .2 is in use
        with pytest.raises(CniError):
            judge.refuse_full(config, NETWORK, view(NETWORK))
    else:
        judge.refuse_full(config, NETWORK, view(NETWORK))


def test_of_other_plugins_nothing_is_known() -> None:
    judge.refuse_full(Config(name="front", ipam=Ipam(type="dhcp")), NETWORK, view(NETWORK))
    assert ip_interface("10.1.0.2/16") in ENDPOINT.addresses
