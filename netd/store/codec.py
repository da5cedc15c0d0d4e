"""Values to JSON text and back: the form in which records lie in a store.

JSON, because a person with a broken host should be able to read it. msgspec writes it and parses it;
what it gave is made into values here, because msgspec cannot decode a union of two types that it does
not know itself (`IPv4Address | IPv6Address`), and the model is full of them.

Reading is strict: an unknown key, a missing one or a value of another type raises `Invalid`. A
record that a newer netd wrote is thereby refused instead of being read as less than it says.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
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
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

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
        value: T = _reader(cast(Hashable, kind))(msgspec.json.decode(text))
    except (msgspec.DecodeError, ValueError, TypeError, KeyError) as error:
        raise Invalid(f"not a valid {kind.__name__}: {error}") from error
    return value


Reader = Callable[[Any], Any]
"""Makes a value of what JSON gave. One for each type, put together once: a start reads thousands."""


@cache
def _reader(kind: Hashable) -> Reader:
    """The reader for `kind`, which is anything that annotates a field of the model."""
    if kind in TEXTUAL:
        return partial(_read_text, TEXTUAL[kind])
    if isinstance(kind, UnionType):
        return partial(_read_optional, _reader(_other_than_none(kind)))
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return partial(_read_fields, kind, {field.name: _reader(hints[field.name]) for field in fields(kind)})
    if get_origin(kind) is tuple:
        members = get_args(kind)
        if members[-1] is Ellipsis:
            return partial(_read_all, _reader(members[0]))
        return partial(_read_each, tuple(map(_reader, members)))
    if get_origin(kind) is Mapping:
        return partial(_read_values, _reader(get_args(kind)[1]))
    if kind in (str, int, bool):
        return partial(_read_same, kind)
    return partial(msgspec.convert, type=kind)


def _read_same(kind: type, raw: Any) -> Any:
    if type(raw) is not kind:
        raise ValueError(f"{raw!r} is not of type {kind.__name__}")
    return raw


def _read_text(parse: Callable[[str], Any], raw: Any) -> Any:
    return parse(_read_same(str, raw))


def _read_optional(read: Reader, raw: Any) -> Any:
    return None if raw is None else read(raw)


def _read_fields(kind: Callable[..., Any], readers: Mapping[str, Reader], raw: Any) -> Any:
    given = _read_same(dict, raw)
    if unknown := given.keys() - readers.keys():
        raise ValueError(f"unknown key {min(unknown)!r}")
    return kind(**{name: readers[name](value) for name, value in given.items()})


def _read_all(read: Reader, raw: Any) -> Any:
    return tuple([read(part) for part in _read_same(list, raw)])


def _read_each(readers: tuple[Reader, ...], raw: Any) -> Any:
    return tuple(read(part) for read, part in zip(readers, _read_same(list, raw), strict=True))


def _read_values(read: Reader, raw: Any) -> Any:
    return {key: read(value) for key, value in _read_same(dict, raw).items()}


def _other_than_none(union: UnionType) -> Any:
    """`X` of `X | None`, where X may itself be one of the unions of address types."""
    rest = [member for member in get_args(union) if member is not type(None)]
    whole = rest[0]
    for member in rest[1:]:
        whole = whole | member
    return whole
