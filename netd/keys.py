"""A node's WireGuard key: made here, kept in one file, and never anywhere else.

A private key is 32 random bytes, the public one follows from it (X25519, RFC 7748). The computation
needs no library: it is a dozen lines of exact arithmetic, done when a key is made or read, a
millisecond each. It does not take constant time, which matters only to somebody who can measure this
process from the same host as it makes a key.

Keys are text as `wg` has them, base64. The private one is in a file that only root can read, which
the kernel adapter reads where a device must be given it. So it is in no value, no log, no argument.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import time
from pathlib import Path

from netd.errors import Denied, Invalid, KernelError

SIZE = 32
KEY = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
"""A key as text: of the last digit before the padding only four bits count."""

_P = 2**255 - 19
_A24 = 121665
_BASE = (9).to_bytes(SIZE, "little")


def x25519(scalar: bytes, point: bytes) -> bytes:
    """The function X25519 of RFC 7748, section 5: both 32 bytes, little-endian."""
    k = int.from_bytes(clamped(scalar), "little")
    u = int.from_bytes(point, "little") % 2**255
    x2, z2, x3, z3, swapped = 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swapped ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swapped = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % _P, b * b % _P, d * a % _P, c * b % _P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % _P, u * (da - cb) ** 2 % _P
        x2, z2 = aa * bb % _P, e * (aa + _A24 * e) % _P
    if swapped:
        x2, z2 = x3, z3
    return (x2 * pow(z2, _P - 2, _P) % _P).to_bytes(SIZE, "little")


def clamped(scalar: bytes) -> bytes:
    """The scalar with the bits set and cleared that RFC 7748, section 5, wants so."""
    raw = bytearray(scalar)
    raw[0] &= 248
    raw[31] = raw[31] & 127 | 64
    return bytes(raw)


def public_of(private: str) -> str:
    """The public key of a private one. Raises `Invalid`."""
    return text_of(x25519(raw_of(private), _BASE))


def new() -> str:
    """A private key."""
    return text_of(clamped(os.urandom(SIZE)))


def text_of(raw: bytes) -> str:
    """A key as text."""
    return base64.b64encode(raw).decode("ascii")


def raw_of(text: str) -> bytes:
    """The 32 bytes of a key. Raises `Invalid`, which does not say what was there: it may be a secret."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != SIZE:
        raise Invalid("a WireGuard key is 32 bytes in base64, 44 characters")
    return raw


class KeyFile:
    """The file that holds this node's private key, and nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def private(self) -> str:
        """The private key, "" where there is none. Raises `Denied` for a file that others could have read
        or written, `Invalid` for one that holds no key."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise Denied(f"{self.path} cannot be read: {error.strerror}") from None
        with os.fdopen(descriptor) as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise Denied(f"{self.path} could be used by others than root")
            text = file.read(256).strip()
        try:
            raw_of(text)
        except Invalid as error:
            raise Invalid(f"{self.path}: {error}") from None
        return text

    def public(self) -> str:
        """The public key, "" where there is none. Raises as `private`."""
        private = self.private()
        return public_of(private) if private else ""

    def age(self) -> float:
        """Seconds since the key was made; 0 where there is none."""
        try:
            return max(0.0, time.time() - self.path.stat().st_mtime)
        except FileNotFoundError:
            return 0.0

    def keep(self, private: str) -> None:
        """Hold this key from now on, in one step and over power loss. Raises `KernelError`."""
        raw_of(private)
        try:
            self._replace(f"{private}\n")
        except OSError as error:
            raise KernelError(error.errno or 0, f"write {self.path}") from error

    def _replace(self, text: str) -> None:
        beside = self.path.with_name(f".{self.path.name}.new")
        beside.unlink(missing_ok=True)
        descriptor = os.open(
            beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
