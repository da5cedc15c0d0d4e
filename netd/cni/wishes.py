"""What a configuration asks of the engine: a network, a place in it, ports, names; pure.

A network that is defined inline is made on first use under the configuration's name, and marked with
a digest of what defines it. So a second pod finds it, a changed configuration is noticed, and a
network of that name that somebody made by hand is not mistaken for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_interface
from typing import Any

import msgspec

from netd import names
from netd.cni import spec
from netd.cni.config import Config, Range, Route, address_of, subnet_of
from netd.cni.results import Result
from netd.cni.spec import Call, CniError
from netd.drivers import shaping
from netd.ipam import usable
from netd.model import (
    IPAddress,
    IPInterface,
    IPNetwork,
    Netns,
    Network,
    NetworkRequest,
    Owner,
    PortMapping,
    Proto,
    Sandbox,
    StaticRoute,
    Want,
)

DEFINED_BY = "netd.cni/config"
"""The label of a network that a configuration defined: a digest of what defined it."""

NETWORK = "netd.cni/network"
"""The label of an attachment: the name in the configuration, by which GC finds what is its to judge."""


def network_request(config: Config, given: Result | None) -> NetworkRequest:
    """The network that `config` defines. `given` is what another plugin's IPAM gave, if one did."""
    ranges = _ranges(config) if config.ipam.own else []
    subnets, gateways, narrowed = _own(ranges) if config.ipam.own else _foreign(config, given)
    return NetworkRequest(
        name=config.name,
        driver=config.mode,
        subnets=tuple(dict.fromkeys(map(str, subnets))),
        gateways=tuple(dict.fromkeys(map(str, gateways))),
        ip_ranges=tuple(narrowed),
        ipv4=not subnets or any(subnet.version == 4 for subnet in subnets),
        internal=config.internal,
        icc=not config.port_isolation,
        gateway_mode="routed" if config.ip_masq is False else "nat",
        mtu=config.mtu,
        labels={DEFINED_BY: digest(config)},
        options={"bridge.name": config.bridge} if config.bridge else {},
    )


def digest(config: Config) -> str:
    """Changes with everything in a configuration that defines its network."""
    defining = [
        config.bridge,
        config.subnets,
        config.ranges,
        config.gateway,
        config.ip_masq,
        config.mtu,
        config.internal,
        config.port_isolation,
        config.ipam.type,
        config.ipam.all_ranges(),
        config.runtime_config.ip_ranges,
    ]
    if config.mode != Config().mode:  # later than the others, and digests of networks that exist must stay
        defining.append(config.mode)
    return names.digest(msgspec.json.encode(defining).decode(), 16)


def _ranges(config: Config) -> list[Range]:
    found = [each if isinstance(each, Range) else Range(subnet=each) for each in config.subnets]
    for several in (*config.ranges, *config.runtime_config.ip_ranges):
        found += several
    found += config.ipam.all_ranges()
    gateways = [config.gateway] if isinstance(config.gateway, str) else config.gateway
    for gateway in filter(None, gateways):
        address = address_of("gateway", gateway)
        for index, each in enumerate(found):
            if address in subnet_of(each.subnet):
                found[index] = msgspec.structs.replace(each, gateway=gateway)
                break
        else:
            raise CniError(
                spec.INVALID_CONFIG, f"gateway {gateway} lies in none of the subnets; name its subnet"
            )
    return found


def _own(ranges: Sequence[Range]) -> tuple[list[IPNetwork], list[IPAddress], list[str]]:
    """Subnets, gateways, and what of the subnets may be given (FIRST-LAST), of netd's own IPAM."""
    subnets = [subnet_of(each.subnet) for each in ranges]
    gateways = [address_of("gateway", each.gateway) for each in ranges if each.gateway]
    narrowed = {
        subnet for each, subnet in zip(ranges, subnets, strict=True) if each.range_start or each.range_end
    }
    runs = [_run(each, subnet) for each, subnet in zip(ranges, subnets, strict=True) if subnet in narrowed]
    return subnets, gateways, list(dict.fromkeys(runs))


def _run(each: Range, subnet: IPNetwork) -> str:
    """One of host-local's ranges; an end that is left out is that of the subnet."""
    low, high = usable(subnet)
    first = address_of("rangeStart", each.range_start) if each.range_start else subnet[low - int(subnet[0])]
    last = address_of("rangeEnd", each.range_end) if each.range_end else subnet[high - int(subnet[0])]
    if first not in subnet or last not in subnet or int(first) > int(last):
        raise CniError(spec.INVALID_CONFIG, f"range {first} to {last} is no part of {subnet}")
    return f"{first}-{last}"


def _foreign(config: Config, given: Result | None) -> tuple[list[IPNetwork], list[IPAddress], list[str]]:
    """The subnets of another plugin's IPAM: all that it is configured with, and what it gave."""
    subnets: list[IPNetwork] = []
    gateways: list[IPAddress] = []
    for ip in given.ips if given else ():
        subnets.append(ip_interface(ip["address"]).network)
        if ip.get("gateway"):
            gateways.append(address_of("gateway", ip["gateway"]))
    if config.ipam.type == "host-local":
        for each in (
            *config.ipam.all_ranges(),
            *(each for many in config.runtime_config.ip_ranges for each in many),
        ):
            if (subnet := subnet_of(each.subnet)) not in subnets:
                subnets.append(subnet)
                if each.gateway:
                    gateways.append(address_of("gateway", each.gateway))
    return subnets, [gateway for gateway in gateways if any(gateway in subnet for subnet in subnets)], []


def want(config: Config, call: Call, network: Network, given: Result | None) -> Want:
    """The place in `network` that one attachment asks for."""
    runtime = config.runtime_config
    if given is not None:
        wanted = [ip_interface(ip["address"]) for ip in given.ips]
        routes = [*_routes(given.routes), *config.routes]
    else:
        wanted = _requested(config, call)
        routes = [*config.ipam.routes, *config.routes]
    four, six = ([each for each in wanted if each.version == version] for version in (4, 6))
    if len(four) > 1 or len(six) > 1:
        listed = ", ".join(map(str, wanted))
        raise CniError(spec.INVALID_CONFIG, f"more than one address of a family is not supported: {listed}")
    default, static = _split(routes, network)
    aliases = runtime.aliases
    grouped = aliases.get(config.name, []) if isinstance(aliases, dict) else aliases
    return Want(
        network=network.id,
        ip=four[0].ip if four else None,  # type: ignore[arg-type]
        ip6=six[0].ip if six else None,  # type: ignore[arg-type]
        mac=(runtime.mac or config.args.cni.mac or call.args.get("MAC", "")).lower(),
        aliases=(*config.aliases, *grouped),
        ifname=call.ifname,
        gateway_priority=0 if _takes_default(config, default, given) else None,
        routes=tuple(static),
        options=_limits(config),
    )


def _limits(config: Config) -> dict[str, str]:
    limits = config.runtime_config.bandwidth
    found = {}
    if limits.ingress_rate:
        found[shaping.TO] = f"{limits.ingress_rate}/{limits.ingress_burst}"
    if limits.egress_rate:
        found[shaping.FROM] = f"{limits.egress_rate}/{limits.egress_burst}"
    return found


def _requested(config: Config, call: Call) -> list[IPInterface]:
    texts = config.runtime_config.ips or config.args.cni.ips or [call.args.get("IP", "")]
    found = []
    for text in filter(None, (part.strip() for each in texts for part in each.split(","))):
        try:
            found.append(ip_interface(text))
        except ValueError:
            raise CniError(spec.INVALID_CONFIG, f"requested address {text!r} is not one") from None
    return found


def _routes(routes: Sequence[Mapping[str, Any]]) -> list[Route]:
    return [Route(dst=str(route["dst"]), gw=str(route.get("gw") or "")) for route in routes]


def _split(routes: Sequence[Route], network: Network) -> tuple[bool, list[StaticRoute]]:
    """Whether a default route is asked for, and the others, by the network's gateway unless they say."""
    default, static = False, []
    for route in routes:
        destination = subnet_of(route.dst)
        if destination.prefixlen == 0:
            default = True
            continue
        gateways = network.gateways(destination.version)
        via = address_of("gw", route.gw) if route.gw else gateways[0] if gateways else None
        if via is None:
            raise CniError(
                spec.INVALID_CONFIG,
                f"route {route.dst}: network {network.name!r} has no IPv{destination.version}",
            )
        static.append(StaticRoute(destination=destination, via=via))
    return default, static


def _takes_default(config: Config, listed: bool, given: Result | None) -> bool:
    """The reference: only if asked for. A configuration that says nothing about routes and lets netd give
    the addresses wants what every container of netd's has."""
    silent = given is None and not config.ipam.routes and not config.routes
    return config.is_default_gateway or listed or silent


def sandbox(config: Config, call: Call, netns: Netns) -> Sandbox:
    """The attachment's owner, with the ports that it publishes."""
    labels = {key: value for key, value in call.args.items() if key.startswith("K8S_")}
    given = config.args.cni.labels
    pairs = (
        given if isinstance(given, dict) else {each.get("key", ""): each.get("value", "") for each in given}
    )
    servers = [address_of("dns", text) for text in config.runtime_config.dns.servers]
    return Sandbox(
        id=call.sandbox,
        name=name(call),
        owner=Owner.CNI,
        netns=netns,
        hostname=call.args.get("K8S_POD_NAME", ""),
        ports=tuple(_ports(config)),
        dns=tuple(servers),
        labels={**pairs, **labels, NETWORK: config.name},
    )


def name(call: Call) -> str:
    """What people call the pod: its own name where the runtime told it, with its namespace if it has one."""
    pod, space = call.args.get("K8S_POD_NAME", ""), call.args.get("K8S_POD_NAMESPACE", "")
    for candidate in (f"{pod}.{space}" if space not in ("", pod) else pod, pod, call.container[:63]):
        if names.NAME.fullmatch(candidate):
            return candidate
    return call.container[:12]


def _ports(config: Config) -> list[PortMapping]:
    found = []
    for port in config.runtime_config.port_mappings:
        if port.host_port == 0:
            continue
        shown = f"{port.host_ip or '*'}:{port.host_port}->{port.container_port}/{port.protocol}"
        try:
            proto = Proto(port.protocol.lower())
        except ValueError:
            raise CniError(
                spec.UNSUPPORTED_FIELD, f"portMappings {shown}: protocol is not supported, tcp and udp are"
            ) from None
        if not (0 < port.host_port < 65536 and 0 < port.container_port < 65536):
            raise CniError(spec.INVALID_CONFIG, f"portMappings {shown}: ports lie between 1 and 65535")
        found.append(
            PortMapping(
                proto=proto,
                host_ip=address_of("hostIP", port.host_ip) if port.host_ip else None,
                host_port=port.host_port,
                container_port=port.container_port,
            )
        )
    return found
