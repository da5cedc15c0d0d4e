"""From what was asked for to what it means: `NetworkRequest` to `Network`, `Want` to `Endpoint`.

Everything is checked here, before anything is touched, and every refusal names the thing, the value
and the way out. Nothing here does I/O; what must be known of the host is passed in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from netd import names, subnets
from netd.drivers import connlimit, driver, shaping
from netd.errors import AlreadyExists, Invalid
from netd.model import (
    LINK,
    PTP,
    ROUTER,
    Endpoint,
    GatewayMode,
    IPAddress,
    IPInterface,
    Network,
    NetworkRequest,
    PortMapping,
    Sandbox,
    Scope,
    StaticRoute,
    Want,
    default_route_of,
)
from netd.ports import show
from netd.settings import Settings

FALLBACK_MTU = 1500
"""Bytes, where the host has no default route to take the MTU from."""
SMALLEST_MTU = {4: 68, 6: 1280}
"""RFC 791, 3.2 and RFC 8200, 5."""
LARGEST_MTU = 65535
OVERLAY = "overlay"
"""The driver whose networks are the cluster's."""
RESERVED_IFNAMES = ("lo", "all", "default")
"""The loopback interface, and two directories among the interfaces' sysctls."""


def network(
    request: NetworkRequest,
    *,
    id: str,
    created: float,
    settings: Settings,
    networks: Collection[Network],
    host: Collection[subnets.HostNetwork],
    mtu: int,
    clustered: bool = False,
) -> Network:
    """The network that `request` means. `mtu` is the uplink's, 0 where there is none; `networks` are
    those that exist, `host` what the host reaches beside them; `clustered` whether it is in a cluster.

    Raises `Invalid`, `AlreadyExists` (overlap) or `Exhausted` (no subnet left in the pools).
    """
    names.check_name("network", request.name)
    if request.name in names.NO_NETWORKS:
        raise Invalid(f"network name {request.name!r} has a meaning of its own: choose another")
    resolved = Network(
        id=id,
        name=request.name,
        driver=request.driver,
        subnets=subnets.resolve(request, id, pools=settings.pools, networks=networks, host=host),
        mtu=request.mtu or mtu or FALLBACK_MTU,
        internal=request.internal,
        icc=request.icc,
        gateway_mode=_gateway_mode(request),
        dns=tuple(_dns(request.name, text) for text in request.dns),
        labels=dict(request.labels),
        options=dict(request.options),
        created=created,
        **_of_cluster(request, clustered),
    )
    _check_mtu(resolved)
    driver(resolved.driver).check(resolved)
    _check_place_is_free(resolved, networks)
    return resolved


def check_place(
    network: Network, networks: Collection[Network], host: Collection[subnets.HostNetwork]
) -> None:
    """Whether there is room here for a network that others made. Raises `AlreadyExists` (its name, its
    bridge, or an overlap with one of `networks` or what the `host` reaches)."""
    for other in networks:
        if other.name == network.name:
            raise AlreadyExists(
                f"network {network.name!r} of the cluster cannot be had here: this host has one of that "
                "name; remove it"
            )
    subnets.check_free(network, networks, host)
    _check_place_is_free(network, networks)


def _of_cluster(request: NetworkRequest, clustered: bool) -> dict[str, Any]:
    if request.driver != OVERLAY or not clustered:
        return {}
    for text in request.ip_ranges:
        if "-" in text:  # nodes are given whole blocks of a subnet
            raise Invalid(
                f"network {request.name!r}: ip-range {text} of a cluster's network must be a prefix"
            )
    return {"scope": Scope.CLUSTER, "mtu_limit": request.mtu}


def _gateway_mode(request: NetworkRequest) -> GatewayMode:
    try:
        return GatewayMode(request.gateway_mode)
    except ValueError:
        modes = ", ".join(GatewayMode)
        raise Invalid(
            f"network {request.name!r}: gateway mode {request.gateway_mode!r} does not exist; choose one "
            f"of: {modes}"
        ) from None


def _dns(name: str, text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise Invalid(f"network {name!r}: DNS server {text!r} is not an IP address") from None


def _check_mtu(network: Network) -> None:
    smallest = max(SMALLEST_MTU[family] for family in network.families)
    if not smallest <= network.mtu <= LARGEST_MTU:
        raise Invalid(
            f"network {network.name!r}: MTU {network.mtu} is not possible; it must lie between {smallest} "
            f"and {LARGEST_MTU} bytes"
        )


def _check_place_is_free(network: Network, networks: Collection[Network]) -> None:
    """Whether nobody else has what the rules know the network by: its bridge, or the group of its links."""
    for other in networks:
        if network.bridged and other.bridged and names.bridge_name(network) == names.bridge_name(other):
            raise AlreadyExists(
                f"network {network.name!r}: the bridge {names.bridge_name(other)} belongs to network "
                f"{other.name!r}; choose another bridge.name"
            )
        if network.driver == other.driver == PTP and names.link_group(network) == names.link_group(other):
            raise AlreadyExists(
                f"network {network.name!r}: by chance its links would be in the group of network "
                f"{other.name!r}; try again"
            )


def check_wants(
    name: str, wants: Sequence[Want], networks: Sequence[Network], siblings: Sequence[Endpoint]
) -> None:
    """Whether the sandbox `name` with the endpoints `siblings` may be put into `networks`, one a want.

    Raises `Invalid` or `AlreadyExists`.
    """
    present = {endpoint.network for endpoint in siblings}
    ifnames = {endpoint.ifname for endpoint in siblings}
    for want, network in zip(wants, networks, strict=True):
        if network.id in present:
            raise AlreadyExists(
                f"container {name!r} is in network {network.name!r} already; it can be there once"
            )
        present.add(network.id)
        if want.ifname:
            if names.check_ifname(want.ifname) in RESERVED_IFNAMES:
                raise Invalid(f"interface name {want.ifname!r} has a meaning of its own; choose another")
            if want.ifname in ifnames:
                raise AlreadyExists(
                    f"container {name!r} has an interface {want.ifname!r} already; choose another"
                )
            ifnames.add(want.ifname)
        _check_options(want.options, network)
        for alias in want.aliases:
            names.check_name("alias", alias.removeprefix("*."))
        for route in want.routes:
            _check_route(route, network)


def check_sysctls(sandbox: Sandbox, endpoints: Sequence[Endpoint]) -> None:
    """Whether a new sandbox has the interfaces whose sysctls its owner wants set. Raises `Invalid`."""
    present = [endpoint.ifname for endpoint in endpoints]
    for path in sandbox.sysctls:
        ifname = path.split("/")[3]
        if ifname != "all" and ifname not in present:
            raise Invalid(
                f"--sysctl {path.replace('/', '.')}: container {sandbox.name!r} has no interface {ifname!r}, "
                f"only {', '.join(present)}"
            )


def check_can_publish(
    sandbox: Sandbox,
    endpoints: Sequence[Endpoint],
    networks: Mapping[str, Network],
    ports: Sequence[PortMapping],
) -> None:
    """Raise `Invalid` where nobody could be answered who comes in by `ports`."""
    if ports and not any(default_route_of(tuple(endpoints), networks, family) for family in (4, 6)):
        raise Invalid(
            f"port {show(ports[0])} cannot be published: container {sandbox.name!r} is in no network "
            "with a way out; connect it to one that is not internal"
        )


def updated(endpoint: Endpoint, network: Network, options: Mapping[str, str]) -> Endpoint:
    """`endpoint` with other options: those named change, an empty text takes one away. Raises `Invalid`."""
    wanted = {key: text for key, text in {**endpoint.options, **options}.items() if text}
    _check_options(wanted, network)
    return replace(endpoint, options=wanted)


def _check_options(options: Mapping[str, str], network: Network) -> None:
    shaping.check(options)
    connlimit.check(options)
    if network.driver == PTP and options.get(ROUTER) == "yes":
        raise Invalid(f"network {network.name!r} can have no router: no container there is next to another")
    if network.driver == LINK and options.get(connlimit.OPTION):
        raise Invalid(f"{connlimit.OPTION} cannot be had on link {network.name!r}: nobody counts there")
    if network.driver == LINK and options.get(shaping.FROM):
        raise Invalid(
            f"{shaping.FROM} {options[shaping.FROM]!r} cannot be had on link {network.name!r}: what one end "
            f"sends is limited by {shaping.TO} of the other"
        )


def _check_route(route: StaticRoute, network: Network) -> None:
    where = f"route {route.destination} via {route.via}" if route.via else f"route {route.destination}"
    if route.destination.prefixlen == 0 and network.driver != LINK:
        raise Invalid(f"{where}: the default route follows from the gateway priority; leave this one out")
    if route.via is None:
        if route.destination.version not in network.families:
            raise Invalid(f"{where}: network {network.name!r} has no IPv{route.destination.version}")
        if network.driver == PTP:
            raise Invalid(
                f"{where}: in network {network.name!r} nothing is next to a container but its gateway; "
                "name that"
            )
        return
    if route.via.version != route.destination.version:
        raise Invalid(f"{where}: the gateway is of the other address family")
    if not any(route.via in subnet.cidr for subnet in network.subnets):
        raise Invalid(f"{where}: the gateway lies in no subnet of network {network.name!r}")
    if network.driver == PTP and route.via not in network.gateways(route.via.version):
        raise Invalid(
            f"{where}: in network {network.name!r} nothing is next to a container but its gateway, "
            f"{', '.join(map(str, network.gateways(route.via.version)))}; name that"
        )


def endpoint(
    want: Want,
    network: Network,
    sandbox: Sandbox,
    *,
    id: str,
    siblings: Sequence[Endpoint],
    named: Collection[str],
    addresses: tuple[IPInterface, ...],
    mac: str,
    announced: bool,
) -> Endpoint:
    """The endpoint that `want`, checked before, means, beside those that the sandbox has.

    It comes after all of them, under the name asked for or the first free ethN; `named` are names
    that the same request asks for elsewhere.
    """
    taken = {sibling.ifname for sibling in siblings} | set(named)
    return Endpoint(
        id=id,
        network=network.id,
        sandbox=sandbox.id,
        ifname=want.ifname or next(name for n in range(len(taken) + 1) if (name := f"eth{n}") not in taken),
        mac=mac,
        addresses=addresses,
        order=max((sibling.order for sibling in siblings), default=-1) + 1,
        gateway_priority=want.gateway_priority,
        aliases=want.aliases,
        routes=want.routes,
        options=dict(want.options),
        announced=announced,
    )
