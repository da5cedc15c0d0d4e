"""The words of the specification: versions, error codes, the variables of a call."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from netd.errors import NetdError

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
INVALID_ENVIRONMENT = 4
DECODING_FAILURE = 6
INVALID_CONFIG = 7
HOST_NAMESPACE = 8  # not the specification's but its reference library's (pkg/skel)
TRY_AGAIN = 11
NOT_AVAILABLE = 50

SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
"""Verbs that older versions do not have."""

REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
}

CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
IFNAME = re.compile(r"[^\s/:]{1,15}")


class CniError(NetdError):
    """A refusal with a code of the specification's. `details` is for whoever reads the log."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        self.cni = code
        self.details = details
        super().__init__(message)


def at_least(version: str, other: str) -> bool:
    """Whether `version` is not older than `other`; both are of `VERSIONS`."""
    return VERSIONS.index(version) >= VERSIONS.index(other)


def error_object(error: NetdError, version: str) -> bytes:
    """An error as the specification shapes it, on one line."""
    found = {"cniVersion": version, "code": error.cni, "msg": " ".join(str(error).split())}
    if details := getattr(error, "details", ""):
        found["details"] = details
    return json.dumps(found).encode() + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One execution of the plugin: its variables, its configuration, the namespace it brought.

    `namespace` is (device, inode) of what CNI_NETNS was when the runtime asked, None where it could not
    be opened (DEL) or was not given.
    """

    command: str
    container: str = ""
    ifname: str = ""
    netns: str = ""
    path: tuple[str, ...] = ()
    args: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    namespace: tuple[int, int] | None = None
    config: bytes = b""

    @property
    def sandbox(self) -> str:
        """The id that this attachment has in netd."""
        return f"{self.container}/{self.ifname}"


def call(variables: Mapping[str, str], config: bytes, namespace: tuple[int, int] | None) -> Call:
    """A call from its variables. Raises `CniError` as the entrypoint does: it may be another program."""
    command = variables.get("CNI_COMMAND", "")
    if command not in REQUIRED:
        raise CniError(INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {command}")
    missing = [name for name in REQUIRED[command] if not variables.get(name)]
    if missing:
        raise CniError(INVALID_ENVIRONMENT, f"required env variables missing: {', '.join(missing)}")
    container, ifname = variables.get("CNI_CONTAINERID", ""), variables.get("CNI_IFNAME", "")
    if REQUIRED[command]:
        if not CONTAINER_ID.fullmatch(container):
            raise CniError(INVALID_ENVIRONMENT, "invalid characters in CNI_CONTAINERID", container)
        if not IFNAME.fullmatch(ifname) or ifname in (".", ".."):
            raise CniError(INVALID_ENVIRONMENT, "CNI_IFNAME is no interface name", ifname)
    return Call(
        command=command,
        container=container,
        ifname=ifname,
        netns=variables.get("CNI_NETNS", ""),
        path=tuple(filter(None, variables.get("CNI_PATH", "").split(":"))),
        args=arguments(variables.get("CNI_ARGS", "")) if command in ("ADD", "CHECK") else {},
        variables=variables,
        namespace=namespace,
        config=config,
    )


def arguments(text: str) -> dict[str, str]:
    """CNI_ARGS, `K=V;K=V`. A key that nobody here knows is refused unless IgnoreUnknown is true."""
    found: dict[str, str] = {}
    for pair in filter(None, text.split(";")):
        key, equals, value = pair.partition("=")
        if not key or not equals or "=" in value:
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: {pair!r} must have the form KEY=VALUE")
        found[key] = value
    unknown = [
        key for key in found if key not in ("IgnoreUnknown", "IP", "MAC") and not key.startswith("K8S_")
    ]
    if unknown and found.get("IgnoreUnknown", "").lower() not in ("1", "true", "t"):
        raise CniError(
            INVALID_ENVIRONMENT, f"CNI_ARGS: unknown {', '.join(unknown)}; IgnoreUnknown=1 lets them pass"
        )
    return found
