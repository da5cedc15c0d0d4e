from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.shared import SMALL, Shared

CHANGES = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.one_of(st.none(), st.integers(0, 9))), max_size=60
)


@given(CHANGES)
def test_every_version_is_a_dict_and_stays_one(changes: list[tuple[str, int | None]]) -> None:
    shared: Shared[str, int] = Shared({"a": 1, "h": 2})
    plain = {"a": 1, "h": 2}
    versions = []
    for key, value in changes:
        if value is None:
            shared = shared.without(key)
            plain.pop(key, None)
        else:
            shared = shared.but(key, value)
            plain[key] = value
        versions.append((shared, dict(plain)))
    for version, wanted in versions:
        assert dict(version) == wanted
        assert version == wanted
        assert len(version) == len(wanted)
        assert [key for key in "abcdefgh" if key in version] == sorted(wanted)


def test_order_is_that_of_coming() -> None:
    shared: Shared[str, int] = Shared({"c": 1, "b": 2})
    for key in ("x", "a", "b"):
        shared = shared.but(key, 7)
    assert list(shared) == ["c", "b", "x", "a"]
    assert list(shared.without("b").values()) == [1, 7, 7]


def test_what_is_not_there_is_missing() -> None:
    shared: Shared[str, int] = Shared({"a": 1})
    assert shared.without("b") is shared
    for gone in (shared.without("a"), Shared[str, int]()):
        with pytest.raises(KeyError):
            gone["a"]
        assert gone.get("a") is None
        assert "a" not in gone


def test_a_change_costs_the_same_however_many_there_are() -> None:
    def seconds(count: int) -> float:
        shared: Shared[str, int] = Shared({str(number): number for number in range(count)})
        best = 1.0
        for _ in range(5):
            version, began = shared, time.perf_counter()
            for number in range(SMALL // 2):
                version = version.but(f"new{number}", number)
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(200_000) < 3 * seconds(2_000)
