"""From what a person asked for to what runtime and engine are told; pure, and all checks first.

`check` turns a `Request`, texts as they were typed, into a `Launch`, in which every value has been
parsed. It raises `Invalid` naming the option and the value, so a request that can never work is
refused before anything exists. Values that only one room understands (capabilities, users, MAC
addresses, subnets) are checked there.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeVar

import msgspec

from netd import names
from netd.errors import Invalid
from netd.model import IPAddress, Netns, Network, Owner, PortMapping, Proto, Sandbox, StaticRoute, Want
from netd.ports import parse_publish
from netd.runtime.spec import ContainerSpec, Limits, Process, Volume

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOST_GATEWAY = "host-gateway"
"""What --add-host takes, as with docker, for the address at which the container reaches its host."""

EVERY_INTERFACE = "net/ipv6/conf/all/disable_ipv6"
"""The one sysctl of "all" that is also set on each interface there is (addrconf_disable_ipv6)."""

_OF_INTERFACE = re.compile(r"net/ipv[46]/conf/(?!(?:all|default|lo)/)[^/]+/[^/]+")
_SEPARATORS = str.maketrans("./", "/.")

_RESOLVER_OPTION = re.compile(r"[a-z0-9][a-z0-9-]*(:\d{1,5})?")

LEAST_MEMORY = 6 * 1024 * 1024
"""Below this the first process is killed while it is being set up (docker draws the same line)."""

HOSTNAME = re.compile(r"(?!.{65})[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?(\.[a-zA-Z0-9_-]{1,63})*")
"""RFC 1123 labels, with the underscore that people use; 64 bytes is what the kernel keeps (utsname)."""

A = TypeVar("A", IPv4Address, IPv6Address)


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """One --network, as typed; empty texts stand for "choose"."""

    network: str
    ip: str = ""
    ip6: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()
    ifname: str = ""
    gw_priority: int = 0
    routes: tuple[str, ...] = ()
    options: Mapping[str, str] = {}
    avoid: tuple[str, ...] = ()


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A container as it is asked for; the fields are those of the API's RunRequest."""

    name: str = ""
    command: tuple[str, ...] = ()
    detach: bool = False
    remove: bool = False
    interactive: bool = False
    tty: bool = False
    rows: int = 24
    columns: int = 80
    networks: tuple[Attachment, ...] = ()
    publish: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    hostname: str = ""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    hosts: Mapping[str, str] = {}
    env: Mapping[str, str] = {}
    volumes: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    memory: int = 0
    cpus: float = 0.0
    pids: int = 0
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = {}
    read_only: bool = False
    rootfs: str = ""
    labels: Mapping[str, str] = {}


class Mode(StrEnum):
    """Where a container's network comes from."""

    NETWORKS = "networks"
    NONE = "none"
    HOST = "host"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A request whose every value has been read. An address None in `hosts` is the host's gateway.

    `shares` is how the container was referred to whose network this one is to share, else empty.
    """

    request: Request
    mode: Mode
    wants: tuple[Want, ...]
    ports: tuple[PortMapping, ...]
    exposed: tuple[tuple[Proto, int], ...]
    hosts: tuple[tuple[str, IPAddress | None], ...]
    dns: tuple[IPAddress, ...]
    volumes: tuple[Volume, ...]
    shares: str = ""


def check(request: Request) -> Launch:
    """Read all of `request`. Raises `Invalid` naming the option and the value."""
    if request.name:
        names.check_name("container", request.name)
    _check_command(request.command)
    _check_environment(request.env)
    if request.hostname:
        _hostname("--hostname", request.hostname)
    _check_resolver(request)
    _absolute("--workdir", request.workdir or "/")
    if request.rootfs not in ("", "host"):
        _absolute("--rootfs", request.rootfs)
    _check_limits(request)
    mode, wants = _networks(request.networks)
    ports = tuple(mapping for spec in request.publish for mapping in parse_publish(spec))
    named = request.networks[0].network if mode is not Mode.NETWORKS else ""
    if ports and named:
        raise Invalid(f"--publish {request.publish[0]!r} has no effect with --network {named}: leave one out")
    if mode is Mode.CONTAINER:
        _check_sharing(request, named)
    return Launch(
        request=request,
        mode=mode,
        wants=wants,
        ports=ports,
        exposed=tuple(_exposed(text) for text in request.expose),
        hosts=tuple(host for name, texts in request.hosts.items() for host in _hosts(name, texts)),
        dns=tuple(_address("--dns", text) for text in request.dns),
        volumes=tuple(_volume(text) for text in request.volumes),
        shares=named.removeprefix(names.SHARED) if mode is Mode.CONTAINER else "",
    )


def want(attachment: Attachment) -> Want:
    """What one --network asks of the engine, which checks the rest against the network."""
    if not attachment.network:
        raise Invalid("an attachment names no network: give its name or id")
    return Want(
        network=attachment.network,
        ip=_of_family(IPv4Address, "ip", attachment.ip),
        ip6=_of_family(IPv6Address, "ip6", attachment.ip6),
        mac=attachment.mac,
        aliases=tuple(map(_alias, attachment.aliases)),
        ifname=names.check_ifname(attachment.ifname) if attachment.ifname else "",
        gateway_priority=attachment.gw_priority,
        routes=tuple(map(_route, attachment.routes)),
        options=dict(attachment.options),
        avoid=frozenset(_address("avoid", text) for text in attachment.avoid),
    )


def host_gateways(mode: Mode, wants: Sequence[Want], networks: Sequence[Network]) -> tuple[IPAddress, ...]:
    """The addresses of the host that `host-gateway` stands for, one a family.

    `networks` are those of `wants`, in their order. The one that gets the default route counts, or
    the first where all are internal: its gateway is the host all the same.
    """
    if mode is Mode.HOST:
        return (IPv4Address("127.0.0.1"), IPv6Address("::1"))
    pairs = list(zip(wants, networks, strict=True))
    outward = [pair for pair in pairs if not pair[1].internal] or pairs
    if not outward:
        raise Invalid(f"--add-host with {HOST_GATEWAY!r} needs a network: --network none reaches no host")
    _, network = max(outward, key=lambda pair: pair[0].gateway_priority or 0)
    return tuple(network.gateways(family)[0] for family in network.families)


def sandbox(
    launch: Launch, *, id: str, name: str, hostname: str, netns: Netns, gateways: Sequence[IPAddress]
) -> Sandbox:
    """What the engine is told of the container."""
    return Sandbox(
        id=id,
        name=name,
        owner=Owner.CONTAINER,
        netns=netns,
        hostname=hostname,
        ports=launch.ports,
        exposed=launch.exposed,
        hosts=hosts(launch, gateways),
        dns=launch.dns,
        labels=launch.request.labels,
        sysctls=_of_interfaces(launch.request.sysctls),
    )


def _of_interfaces(sysctls: Mapping[str, str]) -> dict[str, str]:
    """Those of --sysctl, by path, that are about interfaces. Whoever makes the interface sets them: before
    that they are not there, and a setting of its own would come in their way."""
    # As in sysctl(8), a slash stands for a dot inside a name: net.ipv4.conf.eth0/100.forwarding.
    by_path = {key.translate(_SEPARATORS): value for key, value in sysctls.items()}
    return {p: value for p, value in by_path.items() if p == EVERY_INTERFACE or _OF_INTERFACE.fullmatch(p)}


def hosts(launch: Launch, gateways: Sequence[IPAddress]) -> tuple[tuple[str, IPAddress], ...]:
    """The --add-host entries with `host-gateway` replaced by `gateways`."""
    return tuple(
        (name, each) for name, address in launch.hosts for each in ((address,) if address else gateways)
    )


def container(
    launch: Launch, *, id: str, hostname: str, netns: Netns | None, log_bytes: int, hide: tuple[str, ...]
) -> ContainerSpec:
    """What the runtime is told of the container; without `netns` it runs in the host's network."""
    request = launch.request
    sysctls = request.sysctls
    if launch.mode is Mode.NETWORKS:
        mine = _of_interfaces(sysctls).keys() - {EVERY_INTERFACE}
        sysctls = {key: value for key, value in sysctls.items() if key.translate(_SEPARATORS) not in mine}
    return ContainerSpec(
        id=id,
        process=Process(
            argv=request.command,
            env=environment(request, hostname),
            workdir=request.workdir or "/",
            user=request.user,
            tty=request.tty,
            interactive=request.interactive,
            rows=request.rows or 24,
            columns=request.columns or 80,
        ),
        hostname=hostname,
        netns=netns.path if netns else "",
        netns_device=netns.device if netns else 0,
        netns_inode=netns.inode if netns else 0,
        rootfs=request.rootfs or "host",
        read_only=request.read_only,
        volumes=launch.volumes,
        cap_add=request.cap_add,
        cap_drop=request.cap_drop,
        sysctls=sysctls,
        limits=Limits(memory=request.memory, cpus=request.cpus, pids=request.pids),
        log_bytes=log_bytes,
        hide=hide,
    )


def environment(request: Request, hostname: str) -> dict[str, str]:
    """The first process's environment; HOME depends on the user and is the runtime's to add."""
    return {
        "PATH": PATH,
        "HOSTNAME": hostname,
        **({"TERM": "xterm"} if request.tty else {}),
        **request.env,
    }


def process(
    request: Request,
    hostname: str,
    *,
    command: tuple[str, ...],
    env: Mapping[str, str],
    workdir: str,
    user: str,
    tty: bool,
    interactive: bool,
    rows: int,
    columns: int,
) -> Process:
    """A further process in the container of `request`, which gives the defaults."""
    _check_command(command)
    _check_environment(env)
    inherited = environment(msgspec.structs.replace(request, tty=tty), hostname)
    return Process(
        argv=command,
        env={**inherited, **env},
        workdir=_absolute("--workdir", workdir or request.workdir or "/"),
        user=user or request.user,
        tty=tty,
        interactive=interactive,
        rows=rows or 24,
        columns=columns or 80,
    )


def signal_number(text: str) -> int:
    """The number of a signal given as "SIGTERM", "TERM" or "15"."""
    try:
        if text.isdecimal():
            return int(signal.Signals(int(text)))
        return int(signal.Signals["SIG" + text.upper().removeprefix("SIG")])
    except (ValueError, KeyError):
        raise Invalid(f"signal {text!r} is not known: use a name such as SIGTERM, or a number") from None


def _check_command(command: tuple[str, ...]) -> None:
    if not command or not command[0]:
        raise Invalid("no command is given: say what to run, after `--`")
    if any("\0" in word for word in command):
        raise Invalid("the command contains a NUL byte")


def _check_environment(env: Mapping[str, str]) -> None:
    for key, value in env.items():
        if not key or "=" in key or "\0" in key + value:
            raise Invalid(f"--env {key!r} is not a variable: use NAME=VALUE without NUL bytes")


def _check_limits(request: Request) -> None:
    if request.memory and request.memory < LEAST_MEMORY:
        raise Invalid(f"--memory {request.memory} bytes is too little: at least 6m")
    if not math.isfinite(request.cpus) or (request.cpus and request.cpus < 0.01):
        raise Invalid(f"--cpus {request.cpus} must be at least 0.01")
    if max(request.rows, request.columns) > 0xFFFF:
        raise Invalid(f"a terminal of {request.columns}x{request.rows} is too large")


def _check_resolver(request: Request) -> None:
    for domain in request.dns_search:
        if domain != ".":
            _hostname("--dns-search", domain.removesuffix("."))
    for option in request.dns_options:
        if not _RESOLVER_OPTION.fullmatch(option):
            raise Invalid(f"--dns-option {option!r} is not one of resolv.conf(5), like timeout:1 or rotate")


def _networks(attachments: tuple[Attachment, ...]) -> tuple[Mode, tuple[Want, ...]]:
    special = [each.network for each in attachments if is_special(each.network)]
    if not special:
        return Mode.NETWORKS, tuple(want(each) for each in attachments)
    named = special[0]
    if len(attachments) > 1:
        raise Invalid(f"--network {named} stands alone: leave out the other --network options")
    if attachments[0] != Attachment(network=named):
        raise Invalid(
            f"--network {named} takes no address, name or priority: no interface is made for this container"
        )
    if named == names.SHARED:
        raise Invalid(f"--network {named} names no container: write {names.SHARED}NAME")
    return Mode(named.partition(":")[0]), ()


def is_special(network: str) -> bool:
    """Whether --network means something else than a network of that name."""
    return network in names.NO_NETWORKS or network.startswith(names.SHARED)


def _check_sharing(request: Request, named: str) -> None:
    """What belongs to the network belongs to the container that owns it (docker refuses the same)."""
    for option, given in (
        ("--hostname", request.hostname),
        ("--dns", ", ".join(request.dns)),
        ("--dns-search", ", ".join(request.dns_search)),
        ("--dns-option", ", ".join(request.dns_options)),
        ("--add-host", ", ".join(request.hosts)),
        ("--expose", ", ".join(request.expose)),
        ("--sysctl", ", ".join(key for key in request.sysctls if key.startswith("net."))),
    ):
        if given:
            raise Invalid(
                f"{option} {given!r} cannot be had with --network {named}: it is that container's to say; "
                "leave one out"
            )


def _exposed(text: str) -> tuple[Proto, int]:
    port, _, proto = text.partition("/")
    if not port.isdecimal() or not 0 < int(port) < 65536 or (proto or "tcp") not in tuple(Proto):
        raise Invalid(f"--expose {text!r} is not a port: use PORT, PORT/tcp or PORT/udp")
    return Proto(proto or "tcp"), int(port)


def _hosts(name: str, texts: str) -> Iterator[tuple[str, IPAddress | None]]:
    """The addresses of one name: of both families, or of several machines."""
    _hostname("--add-host", name)
    for text in texts.split(","):
        yield name, None if text == HOST_GATEWAY else _address(f"--add-host {name}", text)


def _volume(text: str) -> Volume:
    source, separator, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not separator or mode not in ("", "ro", "rw"):
        raise Invalid(f"--volume {text!r} is not SOURCE:TARGET or SOURCE:TARGET:ro")
    source, target = _absolute("--volume", source), _absolute("--volume", target)
    if target == "/":
        raise Invalid(f"--volume {text!r} would hide the whole root: use --rootfs instead")
    return Volume(source=source, target=target, read_only=mode == "ro")


def _absolute(option: str, path: str) -> str:
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise Invalid(f"{option} {path!r} is not an absolute path without '..'")
    return path


def _hostname(option: str, text: str) -> str:
    if not HOSTNAME.fullmatch(text):
        raise Invalid(
            f"{option} {text!r} is not a host name: letters, digits, '-', '_' and '.', at most 64 bytes"
        )
    return text


def _route(text: str) -> StaticRoute:
    """ "NETWORK via ADDRESS", or "NETWORK" alone for what is reached without a router."""
    destination, via, gateway = text.partition(" via ")
    try:
        network = ip_network(destination.strip())
    except ValueError:
        raise Invalid(
            f"route {text!r} must have the form NETWORK via ADDRESS, like 10.0.0.0/8 via 10.89.0.2"
        ) from None
    return StaticRoute(destination=network, via=_address("route via", gateway.strip()) if via else None)


def _alias(text: str) -> str:
    """A name, or `*.NAME` for everything below one."""
    _hostname("alias", text.removeprefix("*."))
    return text


def _address(option: str, text: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError:
        raise Invalid(f"{option} {text!r} is not an IP address") from None
    if isinstance(address, IPv6Address) and address.scope_id:
        raise Invalid(f"{option} {text!r} has a zone, which means nothing inside a container: leave it out")
    return address


def _of_family(family: type[A], option: str, text: str) -> A | None:
    if not text:
        return None
    address = _address(option, text)
    if not isinstance(address, family):
        wanted, other = ("IPv4", "ip6") if family is IPv4Address else ("IPv6", "ip")
        raise Invalid(f"{option} {text!r} is not an {wanted} address: give it as {other}")
    return address
