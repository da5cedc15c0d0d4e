"""Values to JSON text and back: the form in which records lie in a store.

JSON, because a person with a broken host should be able to read it. msgspec writes it and does the
leaves; the frame of dataclasses, tuples and unions is walked here, because msgspec cannot decode a
union of two types that it does not know itself (`IPv4Address | IPv6Address`), and the model is full
of them.

Reading is strict: an unknown key, a missing one or a value of another type raises `Invalid`. A
record that a newer netd wrote is thereby refused instead of being read as less than it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from netd.errors import Invalid
from netd.model import IPAddress, IPInterface, IPNetwork

T = TypeVar("T")

TEXTUAL: Mapping[Any, Callable[[str], Any]] = {
    IPv4Address: IPv4Address,
    IPv6Address: IPv6Address,
    IPAddress: ip_address,
    IPInterface: ip_interface,
    IPNetwork: ip_network,
}
_WRITTEN_AS_TEXT = (IPv4Address, IPv6Address, IPv4Interface, IPv6Interface, IPv4Network, IPv6Network)


def _hook(value: Any) -> Any:
    if isinstance(value, _WRITTEN_AS_TEXT):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in the store")


_encoder = msgspec.json.Encoder(enc_hook=_hook)


def encode(value: Any) -> str:
    """`value`, a dataclass of `netd.model` or `netd.store.base`, as one line of JSON."""
    return _encoder.encode(value).decode()


def decode(text: str | bytes, kind: type[T]) -> T:
    """The `kind` that `text` describes. Raises `Invalid` saying what about it is wrong."""
    try:
        value: T = _build(msgspec.json.decode(text), kind)
    except (msgspec.DecodeError, ValueError, TypeError, KeyError) as error:
        raise Invalid(f"not a valid {kind.__name__}: {error}") from error
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _build(raw: Any, kind: Any) -> Any:
    """`raw`, as JSON gave it, as a `kind`, which is anything that annotates a field of the model."""
    if kind in TEXTUAL:
        return TEXTUAL[kind](msgspec.convert(raw, str))
    if isinstance(kind, UnionType):
        return None if raw is None else _build(raw, _other_than_none(kind))
    if is_dataclass(kind):
        hints = _hints(kind)  # type: ignore[arg-type]  # is_dataclass is true of instances, too
        given = msgspec.convert(raw, dict[str, Any])
        if unknown := given.keys() - hints.keys():
            raise ValueError(f"unknown key {min(unknown)!r}")
        return kind(**{name: _build(value, hints[name]) for name, value in given.items()})  # type: ignore[operator]
    if get_origin(kind) is tuple:
        parts, members = msgspec.convert(raw, list[Any]), get_args(kind)
        if members[-1] is Ellipsis:
            return tuple(_build(part, members[0]) for part in parts)
        return tuple(_build(part, member) for part, member in zip(parts, members, strict=True))
    if get_origin(kind) is Mapping:
        return {key: _build(value, get_args(kind)[1]) for key, value in msgspec.convert(raw, dict).items()}
    return msgspec.convert(raw, kind)


def _other_than_none(union: UnionType) -> Any:
    """`X` of `X | None`, where X may itself be one of the unions of address types."""
    rest = [member for member in get_args(union) if member is not type(None)]
    whole = rest[0]
    for member in rest[1:]:
        whole = whole | member
    return whole
