"""Settings of the daemon: frozen, read once, from three places.

Later wins: built-in defaults, the TOML file (`--config`, else /etc/netd/netd.toml if it exists),
environment variables (NETD_STATE_DIR, NETD_RUN_DIR, NETD_LOG_FORMAT), flags of `netd daemon`. An
unknown key, or a value of the wrong type, is refused with the file and the key named.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Any

import msgspec

from netd.errors import Invalid

DEFAULT_CONFIG = Path("/etc/netd/netd.toml")


class Pool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where networks without --subnet get theirs: blocks of `size` (a prefix length) out of `base`."""

    base: str
    size: int


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be configured. Paths are absolute; times in seconds; sizes in bytes."""

    state_dir: str = "/var/lib/netd"
    run_dir: str = "/run/netd"
    socket_group: str = "netd"
    log_format: str = "text"
    log_level: str = "info"
    pools: tuple[Pool, ...] = (Pool("10.89.0.0/16", 24), Pool("10.90.0.0/15", 24), Pool("172.16.0.0/12", 24))
    container_log_bytes: int = 10 * 1024 * 1024
    upstreams: tuple[str, ...] = ()
    """DNS servers to forward to instead of those in the host's resolv.conf."""

    vxlan_port: int = 4789
    """The UDP port of the overlays (RFC 7348, 5); the same on every node of a cluster."""

    wireguard_port: int = 51820
    """The UDP port of encrypted overlays; the others read it from this node's record."""

    wireguard_go: str = ""
    """The program that does WireGuard where the kernel does not, "/usr/bin/wireguard-go"; empty for none."""

    wireguard_days: float = 30.0
    """Days after which this node's WireGuard key is replaced; 0 for never."""

    cluster: str = ""
    """Where the cluster's etcd is, "etcd://h1:2379,h2:2379"; empty for a host by itself."""

    cluster_ca: str = ""
    cluster_cert: str = ""
    cluster_key: str = ""
    """PEM files: who signs etcd's certificate, and this host's own certificate and key for it."""

    cluster_insecure: bool = False
    """Speak to etcd in plain text, also beyond this host."""

    cluster_ttl: int = 10
    """Seconds without a sign of life after which the others take this node for dead."""

    cluster_grace: float = 3600.0
    """Seconds for which the addresses of a dead node are kept for it."""

    node_name: str = ""
    """What this host is called in the cluster; the host's name if empty."""

    advertise: str = ""
    """The address at which the other hosts reach this one; that by which it reaches etcd if empty."""

    @property
    def state(self) -> Path:
        return Path(self.state_dir)

    @property
    def run(self) -> Path:
        return Path(self.run_dir)

    @property
    def key_file(self) -> Path:
        """Where this node's private WireGuard key is."""
        return self.state / "wireguard.key"

    @property
    def socket(self) -> Path:
        """Where the gRPC API listens."""
        return self.run / "netd.sock"

    @property
    def namespaces(self) -> Path:
        """Where the network namespaces that netd made are held, each under its label."""
        return self.run / "netns"

    @property
    def cni_socket(self) -> Path:
        """Where the CNI entrypoint's frames arrive."""
        return self.run / "cni.sock"

    @property
    def packet_socket(self) -> Path:
        """Where descriptors of packet sockets are asked for."""
        return self.run / "packet.sock"


ENVIRONMENT = {"NETD_STATE_DIR": "state_dir", "NETD_RUN_DIR": "run_dir", "NETD_LOG_FORMAT": "log_format"}


def load(
    config: Path | None, flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> Settings:
    """Merge the layers. Raises `Invalid` naming the file and the key, or the flag."""
    values: dict[str, Any] = {}
    path = config or DEFAULT_CONFIG
    if config or path.exists():
        try:
            values.update(tomllib.loads(path.read_text()))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Invalid(f"configuration file {path}: {error}") from error
    # Who is to blame for what does not come from the file.
    origin: dict[str, str] = {}
    for variable, key in ENVIRONMENT.items():
        if environment.get(variable):
            values[key] = environment[variable]
            origin[key] = variable
    for key, value in flags.items():
        if value is not None:
            values[key] = value
            origin[key] = f"--{key.replace('_', '-')}"
    try:
        settings = msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise Invalid(f"configuration ({path}): {error}") from error
    return _checked(settings, path, origin)


def _checked(settings: Settings, path: Path, origin: Mapping[str, str]) -> Settings:
    def named(key: str) -> str:
        return f"{origin.get(key, f'configuration ({path}): {key}')} {getattr(settings, key)!r}"

    for key in ("state_dir", "run_dir"):
        if not os.path.isabs(getattr(settings, key)):  # noqa: PTH117  (text, not a Path yet)
            raise Invalid(f"{named(key)} must be an absolute path")
    if settings.log_format not in ("text", "json"):
        raise Invalid(f"{named('log_format')} must be 'text' or 'json'")
    if settings.container_log_bytes < 1:
        raise Invalid(f"{named('container_log_bytes')} must be at least 1")
    if not 1024 <= settings.vxlan_port <= 65534:  # the next one is for encrypted networks
        raise Invalid(
            f"configuration ({path}): vxlan_port {settings.vxlan_port} must lie between 1024 and 65534"
        )
    _check_wireguard(settings, path)
    _check_cluster(settings, path)
    _check_upstreams(settings, path)
    for pool in settings.pools:
        try:
            base = IPv4Network(pool.base)
        except ValueError as error:
            raise Invalid(f"configuration ({path}): pool base {pool.base!r}: {error}") from error
        if not base.prefixlen <= pool.size <= 30:
            raise Invalid(
                f"configuration ({path}): pool {pool.base} cannot be cut into /{pool.size}: "
                f"the size must lie between {base.prefixlen} and 30"
            )
    return settings


def _check_upstreams(settings: Settings, path: Path) -> None:
    for server in settings.upstreams:
        host, _, port = server.partition("#")
        try:
            ip_address(host)
            if port and not 0 < int(port) < 65536:
                raise ValueError(port)
        except ValueError:
            raise Invalid(
                f"configuration ({path}): upstreams: {server!r} is not a DNS server's address; write it like "
                "192.0.2.53, or 192.0.2.53#5353 for another port"
            ) from None


def _check_wireguard(settings: Settings, path: Path) -> None:
    if not 1024 <= settings.wireguard_port <= 65535:
        raise Invalid(
            f"configuration ({path}): wireguard_port {settings.wireguard_port} must lie between 1024 and "
            "65535"
        )
    if settings.wireguard_port - settings.vxlan_port in (0, 1):
        raise Invalid(
            f"configuration ({path}): wireguard_port {settings.wireguard_port} is where VXLAN is spoken "
            f"(vxlan_port {settings.vxlan_port}, and the one above it within WireGuard)"
        )
    if settings.wireguard_go and not os.path.isabs(settings.wireguard_go):  # noqa: PTH117
        raise Invalid(
            f"configuration ({path}): wireguard_go {settings.wireguard_go!r} must be an absolute path"
        )
    if settings.wireguard_days and not 0.01 <= settings.wireguard_days <= 3650:
        raise Invalid(
            f"configuration ({path}): wireguard_days {settings.wireguard_days:g} must be 0, for never, or "
            "lie between 0.01 and 3650"
        )


def _check_cluster(settings: Settings, path: Path) -> None:
    if bool(settings.cluster_cert) != bool(settings.cluster_key):
        raise Invalid(f"configuration ({path}): cluster_cert and cluster_key only make sense together")
    if settings.cluster_cert and not settings.cluster_ca:
        raise Invalid(f"configuration ({path}): cluster_cert needs cluster_ca, who signs etcd's certificate")
    if not 1 <= settings.cluster_ttl <= 600:
        raise Invalid(
            f"configuration ({path}): cluster_ttl {settings.cluster_ttl} must lie between 1 and 600 seconds"
        )
    if not 0 <= settings.cluster_grace <= 30 * 24 * 3600:
        raise Invalid(
            f"configuration ({path}): cluster_grace {settings.cluster_grace:g} must lie between 0 and "
            "2592000 seconds, 30 days"
        )
    if not settings.cluster and (settings.cluster_ca or settings.node_name or settings.advertise):
        raise Invalid(
            f"configuration ({path}): cluster_ca, node_name and advertise are about a cluster; say where its "
            "etcd is with cluster"
        )
