"""The short forms of Compose files, each turned into its one meaning; pure.

Every function is given the path at which the value stands in the file, for the message of the
`Invalid` that it raises.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from netd.errors import Invalid
from netd.topology.compose import Assignments, Names, PortFile, Scalar, VolumeFile

_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)")
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def boolean(value: bool | str, path: str) -> bool:
    """A truth value; Compose also takes the texts that YAML 1.1 did."""
    if isinstance(value, bool):
        return value
    match value.lower():
        case "true" | "yes" | "on" | "y" | "1":
            return True
        case "false" | "no" | "off" | "n" | "0":
            return False
    raise Invalid(f"{path}: {value!r} is neither true nor false")


def size(value: int | str, path: str) -> int:
    """A number of bytes: 67108864, 64m, 1.5g; units are powers of 1024."""
    if isinstance(value, int):
        return value
    found = _SIZE.fullmatch(value.strip())
    if not found:
        raise Invalid(f"{path}: {value!r} is not a size: write a number and b, k, m, g or t, like 64m")
    return int(float(found[1]) * _SIZES[found[2].lower()])


def number(value: float | str, path: str) -> float:
    """A number that may have come as text."""
    try:
        return float(value)
    except ValueError:
        raise Invalid(f"{path}: {value!r} is not a number") from None


def seconds(text: str, path: str) -> float:
    """A length of time such as "1m30s" or "50ms", in seconds."""
    at, total = 0, 0.0
    while found := _DURATION.match(text, at):
        total += float(found[1]) * _SECONDS[found[2]]
        at = found.end()
    if at != len(text) or not text:
        raise Invalid(f"{path}: {text!r} is not a length of time: write it like 50ms, 3s or 1m30s")
    return total


def words(value: Names | None) -> list[str]:
    """A command: a text is split as a shell would, but no shell runs it."""
    if value is None:
        return []
    return shlex.split(value) if isinstance(value, str) else list(value)


def names(value: Names) -> list[str]:
    """A list that may be a single text."""
    return [value] if isinstance(value, str) else list(value)


def text(value: Scalar) -> str:
    """A scalar as a process gets to see it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def assignments(value: Assignments, path: str) -> dict[str, str | None]:
    """`K=V` texts or a mapping; None where only the key is given."""
    if isinstance(value, dict):
        return {key: None if item is None else text(item) for key, item in value.items()}
    found: dict[str, str | None] = {}
    for n, item in enumerate(value):
        key, given, rest = item.partition("=")
        if not key:
            raise Invalid(f"{path}[{n}]: {item!r} must have the form KEY=VALUE")
        found[key] = rest if given else None
    return found


def plain(value: Assignments, path: str) -> dict[str, str]:
    """`assignments` in which a key alone has an empty value."""
    return {key: item or "" for key, item in assignments(value, path).items()}


def environment(
    value: Assignments, files: Iterable[Mapping[str, str]], variables: Mapping[str, str], path: str
) -> dict[str, str]:
    """The variables of a service: those of its env files, then its own; a bare key is the caller's."""
    found: dict[str, str] = {}
    for file in files:
        found.update(file)
    for key, item in assignments(value, path).items():
        if item is not None:
            found[key] = item
        elif key in variables:
            found[key] = variables[key]
        else:
            found.pop(key, None)
    return found


def env_lines(content: str) -> dict[str, str]:
    """The variables of an env file: `K=V` lines, `#` comments, quotes around a whole value taken off."""
    found = {}
    for raw in content.splitlines():
        line = raw.strip().removeprefix("export ")
        key, given, value = line.partition("=")
        if not line or line.startswith("#") or not given:
            continue
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        else:
            value = value.partition(" #")[0].rstrip()
        found[key.strip()] = value
    return found


def extra_hosts(value: Mapping[str, str | list[str]] | Sequence[str], path: str) -> dict[str, str]:
    """Names with their addresses: `HOST=IP`, `HOST:IP` or a mapping; IPv6 may stand in brackets."""
    found = {}
    if isinstance(value, Mapping):
        pairs = [
            (name, address)
            for name, given in value.items()
            for address in ([given] if isinstance(given, str) else given)
        ]
    else:
        pairs = []
        for n, item in enumerate(value):
            separator = "=" if "=" in item else ":"
            name, given_, address = item.partition(separator)
            if not given_ or not name:
                raise Invalid(f"{path}[{n}]: {item!r} must have the form HOST=IP")
            pairs.append((name, address))
    for name, address in pairs:
        if name in found:
            raise Invalid(f"{path}: {name!r} has two addresses; netd takes one a name")
        found[name] = address.removeprefix("[").removesuffix("]")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One published port: `host` is 0 for one that the daemon chooses, up to `host_end` if that is set."""

    address: str = ""
    host: int = 0
    host_end: int = 0
    container: int
    proto: str = "tcp"

    @property
    def spec(self) -> str:
        """As the daemon's `publish` takes it."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        host = f"{self.host}-{self.host_end}" if self.host_end else str(self.host or "")
        middle = f"{host}:" if host or address else ""
        return f"{address + ':' if address else ''}{middle}{self.container}/{self.proto}"


def ports(values: Sequence[str | int | PortFile], path: str) -> tuple[Port, ...]:
    """Every port of `values`, ranges drawn apart."""
    found: list[Port] = []
    for n, value in enumerate(values):
        where = f"{path}[{n}]"
        if isinstance(value, PortFile):
            parts = (value.host_ip, str(value.published), str(value.target), value.protocol)
            found += _port_range(*parts, where, str(value.target))
        else:
            found += _short_port(str(value), where)
    return tuple(dict.fromkeys(found))


def _short_port(given: str, path: str) -> list[Port]:
    rest, _, proto = given.partition("/")
    rest, _, container = rest.rpartition(":")
    address, _, host = rest.rpartition(":")
    return _port_range(address.strip("[]"), host, container, proto or "tcp", path, given)


def _port_range(address: str, host: str, container: str, proto: str, path: str, given: str) -> list[Port]:
    if proto not in ("tcp", "udp"):
        raise Invalid(f"{path}: protocol {proto!r} of {given!r} must be tcp or udp")
    if address:
        try:
            ip_address(address)
        except ValueError:
            raise Invalid(f"{path}: {address!r} in {given!r} is not an IP address") from None
    first, last = port_range(container, path, given)
    inside = range(first, last + 1)
    if not host:
        return [Port(address=address, container=each, proto=proto) for each in inside]
    host_first, host_last = port_range(host, path, given)
    if len(inside) == 1 and host_last > host_first:
        return [Port(address=address, host=host_first, host_end=host_last, container=inside[0], proto=proto)]
    if host_last - host_first + 1 != len(inside):
        raise Invalid(f"{path}: {given!r} has ranges of different length")
    return [
        Port(address=address, host=host_first + n, container=each, proto=proto)
        for n, each in enumerate(inside)
    ]


def port_range(value: str, path: str, given: str) -> tuple[int, int]:
    """ "80" or "8000-8005" as its first and last port."""
    found = _RANGE.fullmatch(value)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < first <= last < 65536:
        raise Invalid(f"{path}: {given!r} is not a port: write it like 80, 8080:80 or 127.0.0.1:8080:80/udp")
    return first, last


def exposed(values: Sequence[str | int], path: str) -> list[str]:
    """`expose` entries as the daemon takes them, ranges drawn apart."""
    found = []
    for n, value in enumerate(values):
        ports_, _, proto = str(value).partition("/")
        first, last = port_range(ports_, f"{path}[{n}]", str(value))
        found += [f"{port}/{proto or 'tcp'}" for port in range(first, last + 1)]
    return found


def volume(value: str | VolumeFile, path: str) -> tuple[str, str, bool]:
    """(source, target, read only) of a mount. A source that is no path names a volume of the file."""
    if isinstance(value, VolumeFile):
        source, target, read_only = value.source, value.target, boolean(value.read_only, f"{path}.read_only")
        path_like = source.startswith(("/", ".", "~"))
        if value.type == "bind" and not path_like:
            source = f"./{source}"
        if not source or (value.type == "volume" and path_like):
            raise Invalid(f"{path}.source: {value.source!r} does not name a volume; give its key")
    else:
        parts = value.split(":")
        if len(parts) not in (2, 3):
            raise Invalid(f"{path}: volume {value!r} must have the form SOURCE:TARGET[:ro]")
        source, target, modes = parts[0], parts[1], (parts[2].split(",") if parts[2:] else [])
        for mode in modes:
            if mode not in ("ro", "rw", "z", "Z"):
                raise Invalid(f"{path}: mode {mode!r} of volume {value!r} must be ro or rw")
        read_only = "ro" in modes
    if not target.startswith("/"):
        raise Invalid(f"{path}: target {target!r} must be an absolute path")
    return source, target, read_only


def capability(name: str) -> str:
    """A capability as the daemon spells it; Compose takes it with and without the prefix."""
    return name.upper().removeprefix("CAP_")


def unknown(kind: str, name: str, known: Iterable[Any], path: str) -> Invalid:
    """The refusal of a reference to something that the file does not define."""
    listed = ", ".join(sorted(map(str, known))) or "none"
    return Invalid(f"{path}: {kind} {name!r} is not defined in this file; there are: {listed}")
