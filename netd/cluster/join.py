"""From settings to a member of a cluster: who this host is, where it is, and whom it trusts.

The address at which others reach this host is, unless it is given, the one by which it reaches etcd:
the kernel says which that is when a datagram socket is connected, and nothing is sent. It is asked
again several times a second, so a host whose address changes moves within the cluster by itself.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from netd import names
from netd.cluster import records
from netd.cluster.etcd import Target, parse
from netd.cluster.membership import EtcdCluster
from netd.errors import Invalid, Unavailable
from netd.model import IPAddress, Node
from netd.settings import Settings
from netd.store.base import Store

CAPABILITIES = ("vxlan",)

Peer = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]
"""A member of etcd as a socket is connected to it."""


def join(settings: Settings, store: Store) -> EtcdCluster | None:
    """The cluster that `settings` name, None where they name none. Nothing is sent yet.

    Raises `Invalid` for settings that cannot be, and `Unavailable` where nothing says how others
    could reach this host.
    """
    if not settings.cluster:
        return None
    target = Target(
        endpoints=parse(settings.cluster),
        ca=Path(settings.cluster_ca) if settings.cluster_ca else None,
        cert=Path(settings.cluster_cert) if settings.cluster_cert else None,
        key=Path(settings.cluster_key) if settings.cluster_key else None,
    )
    if target.ca is None and not settings.cluster_insecure:
        _check_loopback(target.endpoints)
    name = names.check_name("node", settings.node_name or socket.gethostname())
    source: Source | None = None
    if settings.advertise:
        address = _advertised(settings.advertise)
    else:
        source = Source(target.endpoints)
        address = source.first()
    return EtcdCluster(
        target,
        Node(name=name, address=address, capabilities=CAPABILITIES, wireguard_port=settings.wireguard_port),
        store,
        ttl=settings.cluster_ttl,
        grace=settings.cluster_grace,
        locate=source.find if source else None,
    )


def _check_loopback(endpoints: Sequence[str]) -> None:
    for endpoint in endpoints:
        host = endpoint.rpartition(":")[0].strip("[]")
        try:
            is_here = ip_address(host).is_loopback
        except ValueError:
            is_here = host == "localhost"
        if not is_here:
            raise Invalid(
                f"cluster member {endpoint} would be spoken to in plain text, and whoever can read and write "
                "there rules every node's network: give --cluster-ca, --cluster-cert and --cluster-key, or "
                "say --cluster-insecure"
            )


def _advertised(text: str) -> IPAddress:
    try:
        address = ip_address(text)
        records.check_underlay(address)
    except (ValueError, Invalid) as error:
        raise Invalid(f"--advertise {text!r}: {error}") from None
    return address


class Source:
    """Finds the address by which this host reaches `endpoints`. Their names are resolved once."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._endpoints = endpoints
        self._peers: list[Peer] = []
        for endpoint in endpoints:
            host, _, port = endpoint.rpartition(":")
            try:
                found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
            except OSError:
                continue  # that one tells nothing; the others may
            self._peers += [(each[0], each[4]) for each in found]  # type: ignore[misc]

    def first(self) -> IPAddress:
        """As `find`; raises `Unavailable` instead of returning None."""
        address = self.find()
        if address is None:
            raise Unavailable(
                f"it cannot be told at which address other hosts reach this one: it reaches none of "
                f"{', '.join(self._endpoints)}, or only over loopback; say it with --advertise"
            )
        return address

    def find(self) -> IPAddress | None:
        """The address, or None where no way leads to any of them."""
        for family, peer in self._peers:
            with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
                try:
                    probe.connect(peer)
                    address = ip_address(probe.getsockname()[0].partition("%")[0])
                    records.check_underlay(address)
                except (OSError, Invalid):
                    continue
                return address
        return None
