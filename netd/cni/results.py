"""Results in the shape of each version; pure.

Inside there is one shape, that of the newest version. Older ones have less, or call it otherwise:

    0.1, 0.2        `ip4` and `ip6` with one address each, routes inside them
    0.3, 0.4        each address says its family as `version`
    1.0             that is gone
    1.1             interfaces tell their MTU
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import msgspec

from netd import names
from netd.cni import spec
from netd.cni.spec import CniError
from netd.model import Endpoint, Network, Sandbox

Item = Mapping[str, Any]

DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What ADD answers, with the keys of the newest version."""

    interfaces: tuple[Item, ...] = ()
    ips: tuple[Item, ...] = ()
    routes: tuple[Item, ...] = ()
    dns: Item = field(default_factory=dict)

    def after(self, previous: Result) -> Result:
        """This result behind that of the plugins before: theirs first, our indexes moved."""
        offset = len(previous.interfaces)
        moved = tuple(
            {**ip, "interface": ip["interface"] + offset} if "interface" in ip else ip for ip in self.ips
        )
        return Result(
            interfaces=previous.interfaces + self.interfaces,
            ips=previous.ips + moved,
            routes=previous.routes + self.routes,
            dns=self.dns or previous.dns,
        )


def of(network: Network, sandbox: Sandbox, endpoint: Endpoint, carried: Collection[int], dns: Item) -> Result:
    """What ADD made: the bridge if there is one, the pair, and what is inside. `carried` are the families
    (4, 6) whose default route the endpoint has."""
    bridge = {"name": names.bridge_name(network), "mac": names.mac_of(network.id), "mtu": network.mtu}
    interfaces: list[Item] = [bridge] if network.bridged else []
    interfaces += [
        {"name": names.host_ifname(endpoint), "mtu": network.mtu},
        {"name": endpoint.ifname, "mac": endpoint.mac, "mtu": network.mtu, "sandbox": sandbox.netns.path},
    ]
    gateways = {subnet.cidr: str(subnet.gateway) for subnet in network.subnets}
    ips = [
        {"address": str(address), "gateway": gateways[subnet.cidr], "interface": len(interfaces) - 1}
        for address in endpoint.addresses
        for subnet in network.subnets
        if address.ip in subnet.cidr
    ]
    defaults = [{"dst": DEFAULT[f], "gw": str(network.gateways(f)[0])} for f in sorted(carried)]
    static = [
        {"dst": str(route.destination), **({"gw": str(route.via)} if route.via else {})}
        for route in endpoint.routes
    ]
    return Result(
        interfaces=tuple(interfaces),
        ips=tuple(ips),
        routes=(*defaults, *static),
        dns=dns,
    )


def render(result: Result, version: str) -> bytes:
    """The answer to ADD in a version."""
    if not spec.at_least(version, "0.3.0"):
        found = _oldest(result)
    else:
        found = {
            "interfaces": [_interface(each, version) for each in result.interfaces],
            "ips": [_address(each, version) for each in result.ips],
            "routes": list(result.routes),
            "dns": dict(result.dns),
        }
    # Not json.dumps, whose indent is written in Python: twenty times slower, for the same bytes.
    return msgspec.json.format(msgspec.json.encode({"cniVersion": version, **found}), indent=4) + b"\n"


def _interface(item: Item, version: str) -> dict[str, Any]:
    newer = () if spec.at_least(version, "1.1.0") else ("mtu",)
    return {key: value for key, value in item.items() if key not in newer}


def _address(item: Item, version: str) -> dict[str, Any]:
    if spec.at_least(version, "1.0.0"):
        return dict(item)
    return {"version": str(ip_interface(item["address"]).version), **item}


def _oldest(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for ip in result.ips:
        family = ip_interface(ip["address"]).version
        routes = [
            route for route in result.routes if ip_network(route["dst"], strict=False).version == family
        ]
        entry = {"ip": ip["address"], "gateway": ip.get("gateway"), "routes": routes}
        found.setdefault(f"ip{family}", {key: value for key, value in entry.items() if value})
    return {**found, "dns": dict(result.dns)}


def parse(found: Mapping[str, Any]) -> Result:
    """A result of version 0.2 or newer, from an IPAM plugin or from before us in the chain.

    Raises `CniError` (code 7) for what is none.
    """
    try:
        if "ip4" in found or "ip6" in found:
            return _parse_oldest(found)
        return Result(
            interfaces=tuple(dict(each) for each in found.get("interfaces") or ()),
            ips=tuple(_checked_address(each) for each in found.get("ips") or ()),
            routes=tuple(_checked_route(each) for each in found.get("routes") or ()),
            dns=dict(found.get("dns") or {}),
        )
    except (TypeError, ValueError, KeyError) as error:
        raise CniError(spec.INVALID_CONFIG, f"this is no result of a CNI plugin: {error!r}") from error


def _checked_address(item: Item) -> Item:
    ip_interface(item["address"])
    if item.get("gateway"):
        ip_address(item["gateway"])
    return {key: value for key, value in item.items() if key != "version" and value is not None}


def _checked_route(item: Item) -> Item:
    ip_network(item["dst"], strict=False)
    if item.get("gw"):
        ip_address(item["gw"])
    return dict(item)


def _parse_oldest(found: Mapping[str, Any]) -> Result:
    result = Result(dns=dict(found.get("dns") or {}))
    for key in ("ip4", "ip6"):
        if entry := found.get(key):
            address = _checked_address({"address": entry["ip"], "gateway": entry.get("gateway") or None})
            routes = tuple(_checked_route(each) for each in entry.get("routes") or ())
            result = replace(result, ips=(*result.ips, address), routes=(*result.routes, *routes))
    return result
