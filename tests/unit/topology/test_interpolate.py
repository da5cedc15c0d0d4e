from __future__ import annotations

import pytest

from netd.errors import Invalid
from netd.topology.interpolate import interpolate

VARIABLES = {"A": "1", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A", "1"),
        ("x${A}y", "x1y"),
        ("${NONE}", ""),
        ("${NONE:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${NONE-d}", "d"),
        ("${NONE:-${A}}", "1"),
        ("${A:+r}", "r"),
        ("${EMPTY:+r}", ""),
        ("${EMPTY+r}", "r"),
        ("$$A", "$A"),
        ("${A:?needed}", "1"),
    ],
)
def test_references(text: str, value: str) -> None:
    assert interpolate(text, VARIABLES, lambda name: None) == value


def test_values_are_replaced_wherever_they_stand_and_keys_are_not() -> None:
    given = {"$A": ["$A", {"b": "${A}"}], "n": 3}
    assert interpolate(given, VARIABLES, lambda name: None) == {"$A": ["1", {"b": "1"}], "n": 3}


def test_the_unset_are_told() -> None:
    told: list[str] = []
    interpolate(["$ONE", "${TWO:-x}", "${THREE}"], {}, told.append)
    assert told == ["ONE", "THREE"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("${NONE:?say a port}", "say a port"),
        ("${A", "without its '}'"),
        ("a $ b", "lone '$'"),
        ("${1}", "name of a variable"),
        ("${A!x}", "A"),
    ],
)
def test_what_is_malformed_is_named_with_its_path(text: str, complaint: str) -> None:
    with pytest.raises(Invalid) as raised:
        interpolate({"services": [text]}, VARIABLES, lambda name: None)
    assert complaint in str(raised.value)
    assert "services[0]" in str(raised.value)
