"""From a service's `networks` and `routes` to what the daemon is asked for; pure.

An address that the file gives to one service is promised: whoever gets one by chance in that network gets
another, however long before the other he starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from netd import names
from netd.api import netd_pb2 as pb
from netd.errors import Invalid
from netd.model import LINK, ROUTER
from netd.topology import links, values
from netd.topology.compose import AttachmentFile, Service
from netd.topology.surroundings import Surroundings


def is_special(network: str) -> bool:
    """Whether an attachment is none: no network, the host's, or another container's."""
    return network in names.NO_NETWORKS or network.startswith(names.SHARED)


def attachments(key: str, file: Service, around: Surroundings, path: str) -> list[pb.Attachment]:
    """What the daemon is asked for, in the order of connecting. Raises `Invalid` naming the path."""
    wanted = attachments_of(file)
    made = []
    for name, entry in wanted.items():
        where = f"{path}.networks.{name}"
        if name not in around.networks:
            raise values.unknown("network", name, around.networks, where)
        own = asked_for(entry, where)
        made.append(
            pb.Attachment(
                network=around.networks[name].name,
                ip=own.get(4, ""),
                ip6=own.get(6, ""),
                avoid=sorted(each for each in around.promised[name] if (6 if ":" in each else 4) not in own),
                mac=_mac(entry.mac_address),
                aliases=dict.fromkeys([key, *entry.aliases]),
                ifname=entry.interface_name,
                gw_priority=entry.gw_priority,
                options=_link_options(file, name, entry, around, where),
            )
        )
    _add_routes(made, list(wanted), file, around, path)
    if file.mac_address and not any(each.mac for each in made):
        made[0].mac = _mac(file.mac_address)
    return made


def promised(services: Mapping[str, Service]) -> dict[str, frozenset[str]]:
    """The addresses that services ask for in each network, by its key. Raises `Invalid` naming the path."""
    found: dict[str, set[str]] = {}
    for key, file in services.items():
        for name, entry in attachments_of(file).items():
            own = asked_for(entry, f"services.{key}.networks.{name}")
            found.setdefault(name, set()).update(own.values())
    return {name: frozenset(addresses) for name, addresses in found.items()}


def asked_for(entry: AttachmentFile, path: str) -> dict[int, str]:
    """The addresses of an entry by family, written as the daemon writes them. Raises `Invalid`."""
    found = {}
    for family, given in ((4, entry.ipv4_address), (6, entry.ipv6_address)):
        if given:
            try:
                found[family] = str((IPv4Address if family == 4 else IPv6Address)(given))
            except ValueError:
                raise Invalid(
                    f"{path}.ipv{family}_address: {given!r} is not an IPv{family} address"
                ) from None
    return found


def _mac(given: str) -> str:
    return given.strip().lower().replace("-", ":")


def _link_options(
    file: Service, name: str, entry: AttachmentFile, around: Surroundings, path: str
) -> dict[str, str]:
    own = entry.x_netd.netem if entry.x_netd else None
    request = around.networks[name].request
    found = links.options(own or around.impairments.get(name), f"{path}.x-netd.netem")
    if request is not None and request.driver == LINK:
        found.pop(links.FROM, None)  # the other end's TO
    if routes_for_others(file):
        found[ROUTER] = "yes"
    return found


def routes_for_others(file: Service) -> bool:
    """Whether a service is a router: it says so, or turns forwarding on as Compose files do."""
    if file.x_netd and file.x_netd.forward:
        return True
    return values.plain(file.sysctls, "sysctls").get("net.ipv4.ip_forward") == "1"


def _add_routes(
    made: list[pb.Attachment], keys: list[str], file: Service, around: Surroundings, path: str
) -> None:
    """Put every route where its gateway is."""
    for n, text in enumerate(file.x_netd.routes if file.x_netd else ()):
        where = f"{path}.x-netd.routes[{n}]"
        destination, given, via = text.partition(" via ")
        try:
            family = ip_network(destination.strip()).version
        except ValueError as error:
            raise Invalid(f"{where}: {error}") from None
        if not given:
            raise Invalid(f"{where}: {text!r} must have the form NETWORK via SERVICE or NETWORK via ADDRESS")
        key, gateway = _gateway(via.strip(), family, keys, around, where)
        made[keys.index(key)].routes.append(f"{destination.strip()} via {gateway}")


def _gateway(via: str, family: int, keys: list[str], around: Surroundings, where: str) -> tuple[str, str]:
    """The network, by key, and the address that `via` stands for."""
    if via not in around.services:
        try:
            address = ip_address(via)
        except ValueError:
            raise values.unknown("service", via, around.services, where) from None
        for key in keys:
            if any(address in ip_network(subnet) for subnet in around.networks[key].subnets):
                return key, via
        raise Invalid(f"{where}: {via} lies in no subnet that the file gives to this service's networks")
    theirs = attachments_of(around.services[via])
    for key in keys:
        if key in theirs and (fixed := asked_for(theirs[key], where).get(family)):
            return key, fixed
    raise Invalid(
        f"{where}: {via!r} needs a fixed IPv{family} address in a network that both have: give it one"
    )


def attachments_of(file: Service) -> dict[str, AttachmentFile]:
    """The networks of a service by key, in the order of connecting: higher `priority` first, then as written.

    None named is the network "default". With `network_mode` there is none.
    """
    if file.network_mode:
        return {}
    named = file.networks if isinstance(file.networks, dict) else dict.fromkeys(file.networks)
    entries = {name: entry or AttachmentFile() for name, entry in named.items()} or {
        "default": AttachmentFile()
    }
    return dict(sorted(entries.items(), key=lambda pair: -pair[1].priority))
