"""A Compose file as typed values: every key that netd implements, and no other.

The types below are the single source: they parse the file, they generate the JSON schema for
editors (`netd.topology.schema`), and `docs/topologies.md` is checked against them. A key that is
not here is named in an error, or with `lenient` in a warning; it is never ignored in silence. Keys
that begin with `x-` are the user's own, except `x-netd`, which says what Compose cannot.

Short forms stay short here (a port is "8080:80" or a mapping); `netd.topology.project` gives
each its one meaning. Shapes follow compose-spec's schema (compose-spec.json, 2020-12).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import msgspec.inspect as inspect

from netd.errors import Invalid

Scalar = str | int | float | bool | None
Names = list[str] | str
Assignments = dict[str, Scalar] | list[str]


class _Keys(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A mapping whose keys are all known."""


class IpamConfig(_Keys, frozen=True):
    """One subnet of a network."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    aux_addresses: dict[str, str] = {}


class Ipam(_Keys, frozen=True):
    """Address management of a network; `driver` can only be "default"."""

    driver: Literal["default"] = "default"
    config: list[IpamConfig] = []


class Netem(_Keys, frozen=True):
    """What a link does to packets: times like "20ms", shares like "0.5%", rates like "10mbit"."""

    delay: str = ""
    jitter: str = ""
    loss: str = ""
    duplicate: str = ""
    rate: str = ""
    seed: int = 0


class NetworkExtra(_Keys, frozen=True):
    """`x-netd` of a network: upstream DNS servers, and impairments for each of its endpoints."""

    dns: list[str] = []
    netem: Netem | None = None


class NetworkFile(_Keys, frozen=True):
    """One entry under the top-level `networks`."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str | int | float | bool] = {}
    attachable: bool | str = False
    internal: bool | str = False
    enable_ipv4: bool | str = True
    enable_ipv6: bool | str = False
    external: bool | str = False
    ipam: Ipam | None = None
    labels: Assignments = {}
    x_netd: NetworkExtra | None = msgspec.field(default=None, name="x-netd")


class AttachmentExtra(_Keys, frozen=True):
    """`x-netd` of a service's network entry: impairments of this one endpoint."""

    netem: Netem | None = None


class AttachmentFile(_Keys, frozen=True):
    """What a service asks of one network. `priority` orders connecting only, never the gateway."""

    aliases: list[str] = []
    ipv4_address: str = ""
    ipv6_address: str = ""
    mac_address: str = ""
    interface_name: str = ""
    gw_priority: int = 0
    priority: int = 0
    x_netd: AttachmentExtra | None = msgspec.field(default=None, name="x-netd")


class PortFile(_Keys, frozen=True):
    """A published port in its long form."""

    target: int | str
    published: str | int = ""
    host_ip: str = ""
    protocol: str = "tcp"
    app_protocol: str = ""
    mode: Literal["host", "ingress"] = "ingress"
    name: str = ""


class Dependency(_Keys, frozen=True):
    """When a service may start, as seen from another."""

    condition: Literal["service_started", "service_healthy", "service_completed_successfully"] = (
        "service_started"
    )
    required: bool = True
    restart: bool = False


class Healthcheck(_Keys, frozen=True):
    """How a service is found healthy; times like "1m30s"."""

    test: Names = []
    interval: str = "30s"
    timeout: str = "30s"
    retries: int | float = 3
    start_period: str = "0s"
    start_interval: str = "50ms"
    disable: bool = False


class BindOptions(_Keys, frozen=True):
    """Of a bind mount; the path is never created unless asked for."""

    create_host_path: bool | str = False


class VolumeFile(_Keys, frozen=True):
    """A mount in its long form."""

    type: Literal["bind", "volume"]
    target: str
    source: str = ""
    read_only: bool | str = False
    bind: BindOptions | None = None


class Limits(_Keys, frozen=True):
    """`deploy.resources.limits`."""

    cpus: str | float = 0
    memory: str | int = 0
    pids: int = 0


class Resources(_Keys, frozen=True):
    """`deploy.resources`."""

    limits: Limits = Limits()


class Deploy(_Keys, frozen=True):
    """The part of `deploy` that means something on one host."""

    replicas: int = 1
    resources: Resources = Resources()
    labels: Assignments = {}


class Forward(_Keys, frozen=True):
    """What a router lets through: "front->mid tcp/8080" between two of its networks, or its links."""

    policy: Literal["accept", "drop"] = "accept"
    allow: list[str] = []


class ServiceExtra(_Keys, frozen=True):
    """`x-netd` of a service. `rootfs` is a directory (or "host") in place of an image; `routes` are
    "10.0.0.0/8 via r1"; `forward` makes it a router; `host` places it on one of `x-netd.hosts`."""

    rootfs: str = ""
    routes: list[str] = []
    forward: Forward | None = None
    host: str = ""


class Service(_Keys, frozen=True):
    """One entry under `services`."""

    image: str = ""
    container_name: str = ""
    command: Names | None = None
    entrypoint: Names | None = None
    environment: Assignments = {}
    env_file: Names = []
    expose: list[str | int] = []
    ports: list[str | int | PortFile] = []
    networks: list[str] | dict[str, AttachmentFile | None] = []
    network_mode: str = ""
    hostname: str = ""
    mac_address: str = ""
    dns: Names = []
    dns_search: Names = []
    dns_opt: list[str] = []
    extra_hosts: dict[str, str | list[str]] | list[str] = {}
    depends_on: list[str] | dict[str, Dependency] = []
    healthcheck: Healthcheck | None = None
    volumes: list[str | VolumeFile] = []
    working_dir: str = ""
    user: str | int = ""
    read_only: bool | str = False
    tty: bool | str = False
    stdin_open: bool | str = False
    sysctls: Assignments = {}
    cap_add: list[str] = []
    cap_drop: list[str] = []
    cpus: str | float = 0
    mem_limit: str | int = 0
    pids_limit: int = 0
    scale: int | None = None
    deploy: Deploy = Deploy()
    labels: Assignments = {}
    profiles: list[str] = []
    stop_grace_period: str = "10s"
    restart: str = "no"
    x_netd: ServiceExtra | None = msgspec.field(default=None, name="x-netd")


class VolumeDefinition(_Keys, frozen=True):
    """One entry under the top-level `volumes`: a directory that netd keeps for the project."""

    name: str = ""
    driver: Literal["", "local"] = ""
    labels: Assignments = {}


class LinkEnd(_Keys, frozen=True):
    """One end of a link in its long form; what it may say of its interface is as in a network."""

    service: str
    interface_name: str = ""
    ipv4_address: str = ""
    ipv6_address: str = ""
    mac_address: str = ""
    aliases: list[str] = []


class Link(_Keys, frozen=True):
    """A wire between two services, without a bridge: "r1:wan0" or a mapping each. Called "r1-r2" where it
    has no `name`; the first addresses of its subnets are the ends' in their order."""

    endpoints: list[str | LinkEnd]
    name: str = ""
    subnet: str = ""
    subnet6: str = ""
    mtu: int = 0
    netem: Netem | None = None


class HostFile(_Keys, frozen=True):
    """A host of its own: a namespace of this machine with its own daemon, for overlays."""

    spawn: Literal["netns"] = "netns"


class Capture(_Keys, frozen=True):
    """Where packets are recorded while the topology is up: "web:eth0", "r1:*" or "network:front"."""

    on: str
    filter: str = ""


class Ping(_Keys, frozen=True):
    """An echo request of `size` payload bytes; `df` forbids fragmenting it on the way."""

    size: int = 56
    df: bool = False


class Check(_Keys, frozen=True):
    """One reachability assertion: `to` is "name:port/proto", or a name with `ping`."""

    source: str = msgspec.field(name="from")
    to: str
    expect: Literal["open", "blocked"] = "open"
    within: str = "5s"
    via: list[str] = []
    ping: Ping | bool = False
    family: Literal[0, 4, 6] = 0


class Extra(_Keys, frozen=True):
    """`x-netd` of the file: what Compose cannot say. `images` maps an image to a directory or "host"; "*"
    stands for all others. `underlay` is the family over which hosts send what is their containers'."""

    version: Literal[1] = 1
    images: dict[str, str] = {}
    links: list[Link] = []
    hosts: dict[str, HostFile | None] = {}
    underlay: Literal[4, 6] = 4
    capture: list[Capture] = []
    checks: list[Check] = []


class File(_Keys, frozen=True):
    """A whole topology file."""

    services: dict[str, Service]
    version: str = ""
    name: str = ""
    networks: dict[str, NetworkFile | None] = {}
    volumes: dict[str, VolumeDefinition | None] = {}
    x_netd: Extra = msgspec.field(default=Extra(), name="x-netd")


def parse(value: Any, name: str) -> tuple[File, list[str]]:
    """The file `name` as typed values, and the paths of keys that netd does not implement.

    Raises `Invalid` naming the path and the value for what has the wrong shape. The caller decides
    whether unimplemented keys are an error or a warning.
    """
    unknown: list[str] = []
    known = _known(value, inspect.type_info(File), "", unknown)
    try:
        return msgspec.convert(known, File), unknown
    except msgspec.ValidationError as error:
        raise Invalid(f"{name}: {_where(known, error)}") from error


def _known(value: Any, kind: inspect.Type, path: str, unknown: list[str]) -> Any:
    """`value` without the keys that `kind` does not have; their paths are added to `unknown`."""
    if isinstance(kind, inspect.UnionType):
        chosen = next((each for each in kind.types if _fits(value, each)), None)
        return _known(value, chosen, path, unknown) if chosen else value
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        fields = {field.encode_name: field.type for field in kind.fields}
        kept = {}
        for key, item in value.items():
            where = f"{path}.{key}" if path else str(key)
            if key in fields:
                kept[key] = _known(item, fields[key], where, unknown)
            elif not str(key).startswith("x-"):
                unknown.append(where)
        return kept
    if isinstance(kind, inspect.DictType) and isinstance(value, dict):
        return {
            key: _known(item, kind.value_type, f"{path}.{key}" if path else str(key), unknown)
            for key, item in value.items()
        }
    if isinstance(kind, inspect.ListType) and isinstance(value, list):
        return [_known(item, kind.item_type, f"{path}[{n}]", unknown) for n, item in enumerate(value)]
    return value


def _fits(value: Any, kind: inspect.Type) -> bool:
    if isinstance(value, dict):
        return isinstance(kind, inspect.StructType | inspect.DictType)
    return isinstance(value, list) and isinstance(kind, inspect.ListType)


def _where(value: Mapping[str, Any], error: msgspec.ValidationError) -> str:
    """msgspec's complaint, with the entry named where msgspec says only `[...]`."""
    text = str(error)
    for section, kind in (("services", Service), ("networks", NetworkFile), ("volumes", VolumeDefinition)):
        if f"$.{section}[...]" not in text:
            continue
        for name, entry in value.get(section, {}).items():
            try:
                msgspec.convert(entry, kind | None)
            except msgspec.ValidationError as inner:
                return str(inner).replace("`$", f"`{section}.{name}", 1)
    return text.replace("`$.", "`")
