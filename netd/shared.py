"""A mapping of which every version stays as it is, and the next one costs little.

Readers hold versions (`netd.view`), so a change must not touch what they have, and copying a dict of a
thousand endpoints for each change is most of what the change costs. Here versions share one large dict
that is never written again, and each has a small one of its own with what is different. When the small
one has grown to `SMALL` entries, or to the size of the large one, the next version starts a large one
anew: for n keys a change costs n/SMALL, which a million endpoints would not make noticeable.

Order is that of a dict, which a hash trie, as in the package immutables, would forget. Only a key that
was taken out and has come back may stand where it was.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
SMALL = 256
_GONE: Final = object()
_NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Shared(Mapping[K, V]):
    """An immutable mapping with cheap successors."""

    __slots__ = ("_base", "_changes", "_length")

    def __init__(self, items: Mapping[K, V] = _NOTHING) -> None:
        self._base: Mapping[K, V] = dict(items)
        self._changes: Mapping[K, V | object] = {}
        self._length = len(self._base)

    def __getitem__(self, key: K) -> V:
        value = self._changes.get(key, _NOTHING)
        if value is _NOTHING:
            return self._base[key]
        if value is _GONE:
            raise KeyError(key)
        return value  # type: ignore[return-value]

    def __iter__(self) -> Iterator[K]:
        changes = self._changes
        for key in self._base:
            if changes.get(key) is not _GONE:
                yield key
        for key, value in changes.items():
            if value is not _GONE and key not in self._base:
                yield key

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"Shared({dict(self)!r})"

    def but(self, key: K, value: V) -> Shared[K, V]:
        """This one, with `key` meaning `value`."""
        return self._next({**self._changes, key: value}, self._length + (key not in self))

    def without(self, key: K) -> Shared[K, V]:
        """This one, less `key`; the same where it has none such."""
        if key not in self:
            return self
        changes = {other: value for other, value in self._changes.items() if other != key}
        if key in self._base:
            changes[key] = _GONE
        return self._next(changes, self._length - 1)

    def _next(self, changes: Mapping[K, V | object], length: int) -> Shared[K, V]:
        new: Shared[K, V] = Shared.__new__(Shared)
        new._base, new._changes, new._length = self._base, changes, length
        return Shared(new) if len(changes) > min(SMALL, length) else new
