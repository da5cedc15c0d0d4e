"""What a person types on the command line, as the values that the API wants; pure.

Only what the daemon cannot know is decided here: the caller's directory and environment, and the
spelling of sizes and of `K=V`. Addresses, ports and names go to the daemon as typed, so that every
caller of the API gets the same refusal. Wrong values are usage errors and name themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from netd.api import netd_pb2 as pb

UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)

ATTACHMENT_KEYS = ("ip", "ip6", "mac", "alias", "ifname", "gw-priority", "connlimit")


class Size(click.ParamType[int]):
    """A number of bytes: 67108864, 64m, 64MiB, 1.5g; units are powers of 1024, as docker's are."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, context: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = SIZE.fullmatch(value.strip())
        if not found:
            self.fail(
                f"{value!r} is not a size: write a number and b, k, m, g or t, like 64m", param, context
            )
        return int(float(found[1]) * UNITS[found[2].lower()])


def pairs(
    option: str, texts: Iterable[str], separator: str = "=", words: tuple[str, str] = ("KEY", "VALUE")
) -> dict[str, str]:
    """`K=V` texts as a mapping; later wins. The value may be empty and may hold the separator."""
    found = {}
    for text in texts:
        key, given, value = text.partition(separator)
        if not key or not given:
            raise click.UsageError(f"{option} {text!r} must have the form {separator.join(words)}")
        found[key] = value
    return found


def extra_hosts(texts: Iterable[str]) -> dict[str, str]:
    """`NAME:IP` texts of `--add-host` as a mapping; a name that comes again has more addresses."""
    found: dict[str, str] = {}
    for text in texts:
        for name, address in pairs("--add-host", [text], ":", ("NAME", "IP")).items():
            found[name] = f"{found[name]},{address}" if name in found else address
    return found


def environment(
    texts: Iterable[str], files: Iterable[str], caller: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables of `--env-file` and `-e`, later wins; `K` alone takes the caller's value, if any."""
    lines = [line for file in files for line in _lines(file)]
    found = {}
    for text in (*lines, *texts):
        key, given, value = text.partition("=")
        if not key or re.search(r"\s", key):
            raise click.UsageError(f"environment variable {text!r} must have the form KEY=VALUE or KEY")
        if given:
            found[key] = value
        elif key in caller:
            found[key] = caller[key]
    return found


def _lines(file: str) -> list[str]:
    try:
        with open(file) as lines:  # noqa: PTH123  (pathlib takes 3 ms to import)
            text = lines.read()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--env-file {file!r} cannot be read: {error}") from error
    return [line for raw in text.splitlines() if (line := raw.lstrip()) and not line.startswith("#")]


def volume(text: str) -> str:
    """`SRC:DST[:ro]` with SRC made absolute: the daemon lives in another directory than the caller."""
    source, *rest = text.split(":")
    if not source or not 1 <= len(rest) <= 2 or not rest[0].startswith("/"):
        raise click.UsageError(f"volume {text!r} must have the form SRC:DST[:ro] with an absolute DST")
    if rest[1:] not in ([], ["ro"], ["rw"]):
        raise click.UsageError(f"volume {text!r}: mode {rest[1]!r} must be 'ro' or 'rw'")
    target = rest[0] if rest[1:] != ["ro"] else f"{rest[0]}:ro"
    return f"{os.path.abspath(source)}:{target}"  # noqa: PTH100  (symbolic links are the daemon's to follow)


def rootfs(text: str) -> str:
    """The word "host" or a directory, made absolute."""
    return text if text == "host" else os.path.abspath(text)  # noqa: PTH100


def attachment(text: str) -> pb.Attachment:
    """`NAME[,ip=..][,ip6=..][,mac=..][,alias=..]...[,ifname=..][,gw-priority=N][,connlimit=N]`, as docker
    writes it, too."""
    from netd.api import netd_pb2 as pb

    name, *fields = text.split(",")
    name = name.removeprefix("name=")
    if not name or "=" in name:
        raise click.UsageError(f"network {text!r} must begin with the network's name")
    wanted = pb.Attachment(network=name)
    for field in fields:
        key, given, value = field.partition("=")
        if key not in ATTACHMENT_KEYS or not given or not value:
            known = ", ".join(f"{each}=" for each in ATTACHMENT_KEYS)
            raise click.UsageError(f"network {text!r}: {field!r} must be one of {known} with a value")
        match key:
            case "alias":
                wanted.aliases.append(value)
            case "connlimit":
                wanted.options[key] = value
            case "gw-priority":
                wanted.gw_priority = _priority(text, value)
            case _:
                setattr(wanted, key, value)
    return wanted


def _priority(text: str, value: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,9}", value):
        raise click.UsageError(f"network {text!r}: gw-priority {value!r} must be a whole number")
    return int(value)
