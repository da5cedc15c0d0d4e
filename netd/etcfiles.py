"""The three files of /etc that every container gets, as text; pure.

`/etc/hosts` names only the container itself, its --add-host entries and the loopback. Its neighbours
are the DNS's business: a hosts file cannot be updated in all of them at once, and stale entries would
win over the DNS. `/etc/resolv.conf` points at the gateways of the networks that the container is in,
where netd's DNS listens; `ndots:0` lets it see a single-label name before any search list is tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from netd.model import Endpoint, IPAddress, Network

LOOPBACK = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def hosts(
    *,
    hostname: str,
    name: str,
    endpoints: Sequence[Endpoint],
    extra: Iterable[tuple[str, IPAddress]],
    base: str = LOOPBACK,
) -> str:
    """/etc/hosts: the loopback (or the host's own file as `base`), what was asked for, own addresses.

    The extra ones come before its own: a resolver takes the first line that fits, and they were asked for.
    """
    lines = [f"{address}\t{alias}\n" for alias, address in extra]
    lines += own_lines(hostname, name, endpoints)
    return (base if base.endswith("\n") or not base else base + "\n") + "".join(lines)


def own_lines(hostname: str, name: str, endpoints: Sequence[Endpoint]) -> list[str]:
    """The lines of /etc/hosts that say who the container itself is."""
    own = hostname if hostname == name else f"{hostname} {name}"
    return [f"{address.ip}\t{own}\n" for endpoint in endpoints for address in endpoint.addresses]


def resolv_conf(
    endpoints: Sequence[Endpoint],
    networks: Mapping[str, Network],
    searches: Sequence[str] = (),
    options: Sequence[str] = (),
) -> str:
    """/etc/resolv.conf of a container in these networks; empty where it is in none.

    `searches` are domains to look in, instead of the only network's own; "." stands for none.
    """
    joined = [networks[endpoint.network] for endpoint in endpoints]
    servers = [
        f"nameserver {subnet.gateway}\n"
        for endpoint, network in zip(endpoints, joined, strict=True)
        for family in (4, 6)
        for subnet in [s for s in network.subnets if s.family == family and endpoint.of_family(family)][:1]
        if subnet.gateway
    ]
    if not servers:
        return ""
    # With several networks a search list would have to choose one of them to win; the DNS itself
    # looks in all networks of whoever asks.
    searches = searches or [network.name for network in joined if len(joined) == 1]
    if not any(option.startswith("ndots:") for option in options):
        options = ("ndots:0", *options)
    return "".join(servers) + asked_of_resolver(searches, options)


def asked_of_resolver(searches: Sequence[str], options: Sequence[str]) -> str:
    """The lines of /etc/resolv.conf that say where to look and how."""
    domains = [domain for domain in searches if domain != "."]
    lines = (("search", domains), ("options", options))
    return "".join(f"{word} {' '.join(values)}\n" for word, values in lines if values)
