"""Whether what the runtime was told is so, and whether a network has room; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import ip_interface

from netd.cni import spec
from netd.cni.config import Config, Range, address_of, subnet_of
from netd.cni.results import Result
from netd.cni.spec import Call, CniError
from netd.dns_lookup import Answer
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


def refuse_exhausted(network: Network, exhausted: Mapping[int, int]) -> None:
    """Say so where a family of the network has no address left to give; `exhausted` says how many it had."""
    for family, size in exhausted.items():
        raise CniError(
            spec.NOT_AVAILABLE,
            f"network {network.name!r} has no IPv{family} address left: {size} are in use",
        )


def exhausted(config: Config, network: Network, view: View) -> dict[int, int]:
    """The families of which another plugin's IPAM has no address left. Only host-local's is known.

    Asked every few seconds, so addresses are compared with the ranges only where there are enough to fill
    them: an attachment has at most one of a family.
    """
    if config.ipam.type != "host-local":
        return {}
    runs = [_run(each) for each in config.ipam.all_ranges()]
    sizes: Counter[int] = Counter()
    for family, first, last in runs:
        sizes[family] += last - first + 1
    if all(
        view.population(network.id) + len(network.gateways(family)) < size for family, size in sizes.items()
    ):
        return {}
    used = [address.ip for e in view.endpoints_in(network.id) for address in e.addresses]
    used += [gateway for family in network.families for gateway in network.gateways(family)]
    held: Counter[int] = Counter()
    for family, first, last in runs:
        held[family] += sum(ip.version == family and first <= int(ip) <= last for ip in used)
    return {family: size for family, size in sizes.items() if held[family] >= size}


def _run(each: Range) -> tuple[int, int, int]:
    """Family, first and last address of what host-local gives out of a range."""
    cidr = subnet_of(each.subnet)
    first, last = usable(cidr)
    return (
        cidr.version,
        int(address_of("rangeStart", each.range_start)) if each.range_start else first,
        int(address_of("rangeEnd", each.range_end)) if each.range_end else last,
    )


def unresolved(name: str, endpoint: Endpoint, answers: Sequence[Answer]) -> list[str]:
    """What the DNS says of a pod's `name` that is not so: each of its addresses must be among the records."""
    told = {record.data for answer in answers for record in answer.records}
    return [
        f"DNS: {name} does not lead to {address.ip} but to {', '.join(sorted(told)) or 'nothing'}"
        for address in endpoint.addresses
        if str(address.ip) not in told
    ]
