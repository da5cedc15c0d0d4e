"""The configuration that a runtime hands to the plugin, parsed and checked; pure.

It is the reference bridge plugin's, so that a conflist works when only `type` is changed, and a few
keys of netd's own. Four ways to deal with a key:

    known              read, and of the right type or refused (code 7)
    cannot be done     refused if it asks for something (code 2, with key and value), as the
                       specification wants it: `vlan`, `promiscMode`, ...
    almost known       refused (code 7): a misspelt `internal` would open a network in silence
    anything else      ignored: it may be for another plugin of the chain, or for a later version
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec

from netd.cni import spec
from netd.cni.spec import CniError
from netd.model import PTP, IPAddress, IPNetwork


class Base(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Keys are camelCase in JSON. Unknown ones are for the caller to judge."""


class Route(Base, frozen=True):
    """`gw` left out: the gateway of the network."""

    dst: str
    gw: str = ""


class Range(Base, frozen=True):
    """A subnet in host-local's words."""

    subnet: str
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""


class Ipam(Base, frozen=True):
    """Who gives addresses: netd itself (`type` empty or "netd"), or the plugin of that name.

    `subnet`, `range_start`, `range_end` and `gateway` are host-local's older form of one range.
    """

    type: str = ""
    ranges: list[list[Range]] = []
    subnet: str = ""
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""
    routes: list[Route] = []

    @property
    def own(self) -> bool:
        """Whether netd gives the addresses."""
        return self.type in ("", "netd")

    def all_ranges(self) -> list[Range]:
        """Both forms as one."""
        flat = Range(
            subnet=self.subnet, range_start=self.range_start, range_end=self.range_end, gateway=self.gateway
        )
        return [*([flat] if self.subnet else []), *(each for several in self.ranges for each in several)]


class Dns(Base, frozen=True):
    """DNS as a result carries it."""

    nameservers: list[str] = []
    domain: str = ""
    search: list[str] = []
    options: list[str] = []


class RuntimeDns(Base, frozen=True):
    """DNS as the capability `dns` names it."""

    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []


class PortMap(Base, frozen=True):
    """One entry of the capability `portMappings`; host port 0 publishes nothing."""

    host_port: int = 0
    container_port: int = 0
    protocol: str = "tcp"
    host_ip: str = msgspec.field(default="", name="hostIP")


class Bandwidth(Base, frozen=True):
    """Rates in bits a second, bursts in bits; as the pod sees them, 0 for no limit."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


class Runtime(Base, frozen=True):
    """What the runtime asks of this one attachment. `aliases` may be grouped by network (podman)."""

    port_mappings: list[PortMap] = []
    ip_ranges: list[list[Range]] = []
    bandwidth: Bandwidth = Bandwidth()
    dns: RuntimeDns = RuntimeDns()
    ips: list[str] = []
    mac: str = ""
    aliases: list[str] | dict[str, list[str]] = []


class CniArgs(Base, frozen=True):
    """`args.cni`."""

    ips: list[str] = []
    mac: str = ""
    labels: list[dict[str, str]] | dict[str, str] = {}


class Args(Base, frozen=True):
    """`args`."""

    cni: CniArgs = CniArgs()


class Attachment(Base, frozen=True):
    """One that GC must keep."""

    container_id: str = msgspec.field(name="containerID")
    ifname: str


class Config(Base, frozen=True):
    """A network configuration; `network` names a network of netd's, all else defines one."""

    cni_version: str = ""
    name: str = ""
    type: str = ""
    network: str = ""
    bridge: str = ""
    subnets: list[str | Range] = []
    ranges: list[list[Range]] = []
    gateway: list[str] | str = []
    is_gateway: bool = False
    is_default_gateway: bool = False
    ip_masq: bool | None = None
    hairpin_mode: bool = False
    mtu: int = 0
    internal: bool = False
    port_isolation: bool = False
    routes: list[Route] = []
    dns: Dns = Dns()
    aliases: list[str] = []
    mode: str = "bridge"
    ipam: Ipam = Ipam()
    args: Args = Args()
    runtime_config: Runtime = Runtime()
    prev_result: dict[str, Any] | None = None
    valid_attachments: list[Attachment] | None = msgspec.field(default=None, name="cni.dev/valid-attachments")


KNOWN = frozenset(field.encode_name for field in msgspec.structs.fields(Config))

# Keys of the reference bridge plugin that change nothing here: what they ask for is always so, or is
# about a mechanism that netd does not use.
ALWAYS = frozenset({"capabilities", "forceAddress", "ipMasqBackend", "macspoofchk", "preserveDefaultVlan"})

CANNOT: Mapping[str, str] = {
    "vlan": "netd's bridges have no VLANs",
    "vlanTrunk": "netd's bridges have no VLANs",
    "promiscMode": "netd turns hairpin on for each port instead",
    "enabledad": "netd assigns addresses itself and uses them at once",
    "disableContainerInterface": "netd always configures the interface",
}
"""Keys of the reference bridge plugin that ask for what netd does not do."""

DEFINING = frozenset(
    {"bridge", "subnets", "ranges", "gateway", "ip_masq", "mtu", "internal", "port_isolation", "mode"}
)
"""What makes sense only where a network is defined."""

MODES = ("bridge", PTP)
"""The drivers that a configuration can define a network of."""

SIMILAR = 0.8
"""How alike a key must be to one of ours to be taken for a misspelling (difflib's ratio)."""


def parse(text: bytes, command: str) -> Config:
    """The configuration of a call. Raises `CniError` with code 1, 2, 6 or 7."""
    keys = decode(text)
    version = _version(keys)
    if version not in spec.VERSIONS:
        supported = ", ".join(spec.VERSIONS)
        raise CniError(spec.INCOMPATIBLE_VERSION, f"cniVersion {version!r} is not one of {supported}")
    since = spec.SINCE.get(command, spec.VERSIONS[0])
    if not spec.at_least(version, since):
        raise CniError(
            spec.INCOMPATIBLE_VERSION, f"cniVersion {version} has no {command}; it exists since {since}"
        )
    try:
        config = msgspec.convert({**keys, "cniVersion": version}, Config)
    except msgspec.ValidationError as error:
        raise CniError(spec.INVALID_CONFIG, f"network configuration: {error}") from error
    if not spec.CONTAINER_ID.fullmatch(config.name):
        raise CniError(
            spec.INVALID_CONFIG,
            f"network name {config.name!r} is not valid: letters, digits, '_', '.' and '-', the first a "
            "letter or digit",
        )
    _check_keys(keys)
    _check_values(config)
    return config


def decode(text: bytes) -> dict[str, Any]:
    """A JSON object, whatever is in it. Raises `CniError` with code 6."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CniError(spec.DECODING_FAILURE, "the network configuration is no JSON", str(error)) from error
    if not isinstance(found, dict):
        raise CniError(spec.DECODING_FAILURE, "the network configuration is no JSON object")
    return found


def version_of(text: bytes) -> str:
    """The version to answer in, whatever else is wrong with the configuration."""
    try:
        version = _version(decode(text))
    except CniError:
        return spec.NEWEST
    return version if version in spec.VERSIONS else spec.NEWEST


def _version(keys: Mapping[str, Any]) -> str:
    version = keys.get("cniVersion") or "0.1.0"
    if not isinstance(version, str):
        raise CniError(spec.DECODING_FAILURE, f"cniVersion {version!r} is no text")
    return version


def _check_keys(keys: Mapping[str, Any]) -> None:
    for key, value in keys.items():
        if (reason := CANNOT.get(key)) and value:
            raise CniError(spec.UNSUPPORTED_FIELD, f"{key}: {json.dumps(value)} is not supported: {reason}")
        if key in KNOWN or key in ALWAYS or key in CANNOT or "." in key or "/" in key:
            continue
        if meant := difflib.get_close_matches(key, KNOWN | ALWAYS | CANNOT.keys(), 1, SIMILAR):
            raise CniError(
                spec.INVALID_CONFIG, f"{key}: {json.dumps(value)} is not known; did you mean {meant[0]}?"
            )


def _check_values(config: Config) -> None:
    if config.mode not in MODES:
        known = " and ".join(f'"{mode}"' for mode in MODES)
        raise CniError(spec.UNSUPPORTED_FIELD, f'mode: "{config.mode}" is not supported, {known} are')
    if config.mode == PTP and config.bridge:
        raise CniError(
            spec.INVALID_CONFIG, f'bridge: "{config.bridge}" makes no sense in mode "ptp", which has none'
        )
    if config.network and (defining := _defining(config)):
        raise CniError(
            spec.INVALID_CONFIG,
            f"{defining} defines a network, but network {config.network!r} is one that exists; leave one out",
        )
    limits = config.runtime_config.bandwidth
    for way, rate, burst in (
        ("ingress", limits.ingress_rate, limits.ingress_burst),
        ("egress", limits.egress_rate, limits.egress_burst),
    ):
        if rate < 0 or burst < 0 or (burst and not rate):
            raise CniError(
                spec.INVALID_CONFIG,
                f"runtimeConfig.bandwidth: {way}Rate {rate} with {way}Burst {burst} is no limit",
            )


def _defining(config: Config) -> str:
    """The first key that would define a network; empty where there is none."""
    defaults = Config()
    for field in msgspec.structs.fields(Config):
        if field.name in DEFINING and getattr(config, field.name) != getattr(defaults, field.name):
            return field.encode_name
    return "ipam.ranges" if config.ipam.own and config.ipam.all_ranges() else ""


def subnet_of(text: str) -> IPNetwork:
    """A subnet as it was written, host bits or not. Raises `CniError` with code 7."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise CniError(spec.INVALID_CONFIG, f"{text!r} is not a subnet: write it like 10.1.0.0/16") from None


def address_of(what: str, text: str) -> IPAddress:
    """An address as it was written. Raises `CniError` with code 7, naming what it is."""
    try:
        return ip_address(text)
    except ValueError:
        raise CniError(spec.INVALID_CONFIG, f"{what} {text!r} is not an address") from None
