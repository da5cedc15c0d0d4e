"""From an entry under `networks` to what the daemon is asked for; pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network

from netd import names
from netd.api import netd_pb2 as pb
from netd.errors import Invalid
from netd.topology.compose import NetworkFile
from netd.topology.values import boolean, plain, text

PROJECT_LABEL = "netd.topology.project"
NETWORK_LABEL = "netd.topology.network"
DIGEST_LABEL = "netd.topology.digest"

_DOCKER = "com.docker.network."


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectNetwork:
    """A network of a project: `key` in the file, `name` for the daemon.

    `request` is None for an external one, which must exist and is never made or removed.
    """

    key: str
    name: str
    request: pb.CreateNetworkRequest | None
    internal: bool = False
    subnets: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Changes with everything that cannot be changed in a network that exists."""
        return self.request.labels[DIGEST_LABEL] if self.request else ""


def network(key: str, file: NetworkFile, project: str) -> ProjectNetwork:
    """The network `key` of a project. Raises `Invalid` naming the path in the file."""
    path = f"networks.{key}"
    name = file.name or (key if boolean(file.external, f"{path}.external") else f"{project}_{key}")
    if boolean(file.external, f"{path}.external"):
        if file != NetworkFile(name=file.name, external=file.external):
            raise Invalid(f"{path}: external network {name!r} is not made here; leave out all but its name")
        return ProjectNetwork(key=key, name=name, request=None)
    request = pb.CreateNetworkRequest(
        name=name,
        driver=file.driver or "bridge",
        internal=boolean(file.internal, f"{path}.internal"),
        ipv6=boolean(file.enable_ipv6, f"{path}.enable_ipv6"),
        dns=file.x_netd.dns if file.x_netd else (),
    )
    _addresses(request, file, path)
    _options(request, file, path)
    if not boolean(file.enable_ipv4, f"{path}.enable_ipv4"):
        if not request.ipv6 and not any(":" in subnet for subnet in request.subnets):
            raise Invalid(f"{path}: without IPv4 the network needs enable_ipv6 or an IPv6 subnet")
        if any(":" not in subnet for subnet in request.subnets):
            raise Invalid(f"{path}.enable_ipv4: false, but the network has an IPv4 subnet")
        request.no_ipv4 = True
    request.labels.update(plain(file.labels, f"{path}.labels"))
    digest = names.digest(request.SerializeToString(deterministic=True).hex(), 16)
    request.labels.update({PROJECT_LABEL: project, NETWORK_LABEL: key, DIGEST_LABEL: digest})
    return ProjectNetwork(
        key=key, name=name, request=request, internal=request.internal, subnets=tuple(request.subnets)
    )


def _addresses(request: pb.CreateNetworkRequest, file: NetworkFile, path: str) -> None:
    for n, config in enumerate(file.ipam.config if file.ipam else ()):
        where = f"{path}.ipam.config[{n}]"
        if not config.subnet:
            if config.gateway or config.ip_range or config.aux_addresses:
                raise Invalid(f"{where}: a gateway, a range and reserved addresses need their subnet")
            continue
        try:
            ip_network(config.subnet)
        except ValueError as error:
            raise Invalid(f"{where}.subnet: {error}") from None
        request.subnets.append(config.subnet)
        if config.gateway:
            request.gateways.append(config.gateway)
        if config.ip_range:
            request.ip_ranges.append(config.ip_range)
        request.aux_addresses.update(config.aux_addresses)


def _options(request: pb.CreateNetworkRequest, file: NetworkFile, path: str) -> None:
    """Options of the driver, netd's own and those that Docker's bridge driver has a name for."""
    modes = set()
    for option, given in file.driver_opts.items():
        where, value = f"{path}.driver_opts.{option}", text(given)
        match option.removeprefix(_DOCKER):
            case "driver.mtu" | "mtu":
                if not value.isdecimal():
                    raise Invalid(f"{where}: {value!r} is not a number of bytes")
                request.mtu = int(value)
            case "bridge.enable_icc":
                request.no_icc = not boolean(value, where)
            case "bridge.enable_ip_masquerade":
                if not boolean(value, where):
                    modes.add("routed")
            case "bridge.gateway_mode_ipv4" | "bridge.gateway_mode_ipv6":
                modes.add(value)
            case "bridge.name":
                request.options["bridge.name"] = value
            case _ if option.startswith(_DOCKER):
                raise Invalid(f"{where}: {value!r}: netd has nothing that answers to this option")
            case _:
                request.options[option] = value
    if len(modes) > 1:
        raise Invalid(f"{path}.driver_opts: netd has one gateway mode for both families, not {sorted(modes)}")
    request.gateway_mode = next(iter(modes), "")
