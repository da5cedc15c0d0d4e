"""Every error that netd reports, in one tree.

::

    NetdError
    ├── Invalid            the request itself is wrong (a value, a name, a combination)
    ├── NotFound           the thing named does not exist
    ├── AlreadyExists      the name, address or port is taken
    ├── InUse              the thing exists but something else still depends on it
    ├── Exhausted          a pool (addresses, ports, VNIs, disk) has nothing left
    ├── Unsupported        this kernel or this host cannot do what was asked
    ├── Denied             the caller may not do this
    ├── Unavailable        try again later: the daemon, a peer or the store is away
    │   └── Unreachable    said by a client: nobody answers at the socket
    ├── Corrupt            a file that netd owns cannot be trusted; it is left untouched
    └── KernelError        the kernel refused an operation; carries errno and the object

A message is one line for the person who typed the request: it names the thing, the value and
the way out. The class decides how the same refusal looks to each kind of caller: a gRPC status
name, a CNI error code (CNI SPEC.md, "Error"; 100 and above are the plugin's own) and the exit
status of the command line.
"""

from __future__ import annotations

import errno as _errno
import os


class NetdError(Exception):
    """Base of everything netd raises on purpose.

    `grpc` is the name of a `grpc.StatusCode` member; `cni` a CNI error code; `exit_code` what
    `netd` the command exits with.
    """

    grpc = "INTERNAL"
    cni = 100
    exit_code = 1


class Invalid(NetdError):
    """The request can never succeed as it stands: a malformed value or an impossible combination."""

    grpc = "INVALID_ARGUMENT"
    cni = 7


class NotFound(NetdError):
    """A network, container or address that was named does not exist."""

    grpc = "NOT_FOUND"
    cni = 101


class AlreadyExists(NetdError):
    """A name, an address, a MAC or a port is held by something else; the message names the holder."""

    grpc = "ALREADY_EXISTS"
    cni = 102


class InUse(NetdError):
    """Removal or change is refused because something still depends on the thing."""

    grpc = "FAILED_PRECONDITION"
    cni = 103


class Exhausted(NetdError):
    """A finite pool has nothing left to give."""

    grpc = "RESOURCE_EXHAUSTED"
    cni = 104


USED_UP = {_errno.EMFILE, _errno.ENFILE, _errno.ENOBUFS, _errno.ENOMEM, _errno.ENOSPC, _errno.EDQUOT}
"""Errors of the system that are nobody's defect: something of this host is used up, and may come back."""


def used_up(error: Exception) -> Exhausted | None:
    """`error` as a refusal, where it says that something of this host is used up."""
    if isinstance(error, OSError) and error.errno in USED_UP:
        return Exhausted(f"the daemon cannot go on with this: {os.strerror(error.errno)}; try again later")
    return None


class Unsupported(NetdError):
    """The kernel or the host lacks a feature. Never answered by silently doing less."""

    grpc = "UNIMPLEMENTED"
    cni = 105


class Denied(NetdError):
    """The caller has no right to this."""

    grpc = "PERMISSION_DENIED"
    cni = 106


class Unavailable(NetdError):
    """Not now; the same request may succeed later (CNI code 11, "try again later")."""

    grpc = "UNAVAILABLE"
    cni = 11


class Unreachable(Unavailable):
    """Nobody answers at the daemon's socket, or the daemon went away in the middle of a request."""

    exit_code = 125


class Corrupt(NetdError):
    """A file of netd's is damaged or from a newer version. It is reported and left as it is."""

    grpc = "DATA_LOSS"
    cni = 107


class KernelError(NetdError):
    """The kernel refused one operation.

    `errno` is the positive errno; `what` names the object in the golden-text form; `hint` is the
    kernel's own words (netlink extended ACK) where it gave some.
    """

    grpc = "INTERNAL"
    cni = 108

    def __init__(self, errno: int, what: str, hint: str = "") -> None:
        self.errno = errno
        self.what = what
        self.hint = hint
        name = _errno.errorcode.get(errno, str(errno))
        text = f"{what}: {os.strerror(errno)} ({name})"
        super().__init__(f"{text}: {hint}" if hint else text)


BY_GRPC: dict[str, type[NetdError]] = {
    cls.grpc: cls
    for cls in (Invalid, NotFound, AlreadyExists, InUse, Exhausted, Unsupported, Denied, Unavailable, Corrupt)
}
"""How the client turns a gRPC status back into the class that the daemon raised."""

EXIT_CODE_METADATA = "netd-exit-code"
"""Trailing metadata of every refusal: `exit_code` of the error. Its presence also tells a refusal of the
daemon from a broken connection, which gRPC reports as UNAVAILABLE just the same."""
