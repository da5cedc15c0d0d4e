"""Whether what the runtime was told is so, and whether a network has room; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_interface

from netd.cni import spec
from netd.cni.config import Config, address_of, subnet_of
from netd.cni.results import Result
from netd.cni.spec import Call, CniError
from netd.ipam import usable
from netd.model import Endpoint, Network
from netd.view import View


def told_wrongly(call: Call, told: Result, endpoint: Endpoint) -> list[str]:
    """What the runtime was told and is not so; what later plugins have added is theirs."""
    own = [
        (index, each)
        for index, each in enumerate(told.interfaces)
        if each.get("sandbox") and each.get("name") == call.ifname
    ]
    if not own:
        return [f"prevResult has no interface {call.ifname}"]
    index, interface = own[0]
    complaints = []
    if interface["sandbox"] != call.netns:
        complaints.append(f"prevResult has {call.ifname} in {interface['sandbox']}, not in {call.netns}")
    if interface.get("mac", endpoint.mac) != endpoint.mac:
        complaints.append(f"prevResult has mac {interface['mac']}, not {endpoint.mac}")
    addresses = {ip_interface(ip["address"]) for ip in told.ips if ip.get("interface") == index}
    complaints += [f"{each} was never given" for each in sorted(map(str, addresses - {*endpoint.addresses}))]
    return complaints


def refuse_full(config: Config, network: Network, view: View) -> None:
    """Say so where a family of the network has no address left to give."""
    used = [address.ip for endpoint in view.endpoints_in(network.id) for address in endpoint.addresses]
    sizes: Counter[int] = Counter()
    held: Counter[int] = Counter()
    for first, last, family in _spans(config, network):
        sizes[family] += last - first + 1
        held[family] += sum(address.version == family and first <= int(address) <= last for address in used)
        gateways = map(int, network.gateways(family))
        sizes[family] -= sum(first <= gateway <= last for gateway in gateways)
    for family, size in sizes.items():
        if held[family] >= size:
            raise CniError(
                spec.NOT_AVAILABLE,
                f"network {network.name!r} has no IPv{family} address left: {size} are in use",
            )


def _spans(config: Config, network: Network) -> Iterator[tuple[int, int, int]]:
    """What can be given, as (first, last, family). Of other IPAM plugins only host-local's is known."""
    if config.ipam.own:
        for subnet in network.subnets:
            first, last = usable(subnet.cidr)
            if subnet.range is not None:
                first = max(first, int(subnet.range.network_address))
                last = min(last, int(subnet.range.broadcast_address))
            yield first, last, subnet.family
    elif config.ipam.type == "host-local":
        for each in config.ipam.all_ranges():
            cidr = subnet_of(each.subnet)
            first, last = usable(cidr)
            first = int(address_of("rangeStart", each.range_start)) if each.range_start else first
            last = int(address_of("rangeEnd", each.range_end)) if each.range_end else last
            yield first, last, cidr.version
