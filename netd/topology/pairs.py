"""`x-netd.links`: each becomes a network of the driver `link` with two services in it; pure.

From there on it is a network like any other: routes may lead through it, a router may name it in `allow`,
it is drawn, checked, edited and taken down. A service that has an end of a link and names no `networks` is
in no other network, in particular not in "default".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from itertools import islice

import msgspec

from netd.errors import Invalid
from netd.model import LINK, LINK_ENDS
from netd.topology import links, values
from netd.topology.compose import (
    AttachmentExtra,
    AttachmentFile,
    File,
    Ipam,
    IpamConfig,
    Link,
    LinkEnd,
    Netem,
    NetworkFile,
    Service,
)


def unfolded(file: File) -> File:
    """`file` with its links as networks. Raises `Invalid` naming the path and the value."""
    networks, services = dict(file.networks), dict(file.services)
    for n, link in enumerate(file.x_netd.links):
        path = f"x-netd.links[{n}]"
        ends = _ends(link, services, path)
        key = link.name or "-".join(end.service for end in ends)
        if key in networks:
            raise Invalid(f"{path}.name: there is a network {key!r} already: give the link another name")
        networks[key] = _network(link, path)
        for end, attachment in zip(ends, _attachments(link, ends, path), strict=True):
            services[end.service] = _joined(services[end.service], key, attachment)
    return msgspec.structs.replace(file, networks=networks, services=services)


def _ends(link: Link, services: dict[str, Service], path: str) -> list[LinkEnd]:
    if len(link.endpoints) != LINK_ENDS:
        raise Invalid(f"{path}.endpoints: a link has two ends, not {len(link.endpoints)}")
    ends = []
    for m, given in enumerate(link.endpoints):
        service, _, ifname = given.partition(":") if isinstance(given, str) else ("", "", "")
        end = LinkEnd(service=service, interface_name=ifname) if isinstance(given, str) else given
        if end.service not in services:
            raise values.unknown("service", end.service, services, f"{path}.endpoints[{m}]")
        count = services[end.service].scale
        if (services[end.service].deploy.replicas if count is None else count) != 1:
            raise Invalid(
                f"{path}.endpoints[{m}]: {end.service!r} has not one container, but an end needs it"
            )
        ends.append(end)
    if ends[0].service == ends[1].service:
        raise Invalid(f"{path}.endpoints: both are of {ends[0].service!r}; a link joins two services")
    return ends


def _network(link: Link, path: str) -> NetworkFile:
    for what, subnet, version in (("subnet", link.subnet, 4), ("subnet6", link.subnet6, 6)):
        try:
            if subnet and ip_network(subnet).version != version:
                raise ValueError(f"{subnet} is not of IPv{version}")
        except ValueError as error:
            raise Invalid(f"{path}.{what}: {error}") from None
    subnets = [IpamConfig(subnet=each) for each in (link.subnet, link.subnet6) if each]
    return NetworkFile(
        driver=LINK,
        driver_opts={"mtu": link.mtu} if link.mtu else {},
        enable_ipv4=bool(link.subnet) or not link.subnet6,
        enable_ipv6=bool(link.subnet6),
        ipam=Ipam(config=subnets),
    )


def _attachments(link: Link, ends: Sequence[LinkEnd], path: str) -> Iterator[AttachmentFile]:
    ipv4 = _addresses(link.subnet, [end.ipv4_address for end in ends], f"{path}.subnet")
    ipv6 = _addresses(link.subnet6, [end.ipv6_address for end in ends], f"{path}.subnet6")
    netem = link.netem
    links.options(netem, f"{path}.netem")  # what it refuses is named as the file has it
    for n, end in enumerate(ends):
        # What is lost or waits does so at the first end, whichever way it goes; or it would twice.
        own = netem if n == 0 or netem is None else Netem(rate=netem.rate)
        yield AttachmentFile(
            aliases=end.aliases,
            ipv4_address=ipv4[n],
            ipv6_address=ipv6[n],
            mac_address=end.mac_address,
            interface_name=end.interface_name,
            x_netd=AttachmentExtra(netem=own) if own and own != Netem() else None,
        )


def _addresses(subnet: str, given: Sequence[str], path: str) -> list[str]:
    """Those given, and for the others the first of the subnet that are free."""
    if not subnet:
        return list(given)
    first = [str(address) for address in islice(ip_network(subnet).hosts(), 2 * LINK_ENDS)]
    free = iter([address for address in first if address not in given])
    found = [address or next(free, "") for address in given]
    if "" in found:
        raise Invalid(f"{path}: {subnet} has no two addresses: use one with at least two, like a /30")
    return found


def _joined(service: Service, key: str, attachment: AttachmentFile) -> Service:
    there = service.networks
    named = dict(there) if isinstance(there, dict) else dict.fromkeys(there, None)
    return msgspec.structs.replace(service, networks={**named, key: attachment})
