from __future__ import annotations

from typing import Any

import pytest

from netd.errors import Invalid
from netd.topology.yaml12 import MAX_BYTES, load


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("22:22", "22:22"),
        ("49100:22", "49100:22"),
        ("off", "off"),
        ("yes", "yes"),
        ("2026-11-24", "2026-11-24"),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        ("true", True),
        ("~", None),
        ("'22'", "22"),
    ],
)
def test_scalars_are_read_by_yaml_1_2(text: str, value: Any) -> None:
    found = load(f"a: {text}", "t.yaml")["a"]
    assert (found, type(found)) == (value, type(value))


def test_anchors_and_merges() -> None:
    text = "base: &b {image: x, tty: true}\nweb: {<<: *b, tty: false}"
    assert load(text, "t.yaml")["web"] == {"image": "x", "tty": False}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\na: 2", "t.yaml: line 2: key 'a' is given twice"),
        ("a: [1", "t.yaml: line 1"),
        ("", "t.yaml: the file is empty"),
        ("a: &x [*x]", "contains itself"),
        ("!!python/object:os.system {}", "t.yaml: line 1"),
        ("a: " + "[" * 70 + "]" * 70, "64 levels"),
        ("#" * (MAX_BYTES + 1), "too many"),
    ],
)
def test_what_is_wrong_is_named(text: str, complaint: str) -> None:
    with pytest.raises(Invalid) as raised:
        load(text, "t.yaml")
    assert complaint in str(raised.value)


def test_aliases_of_aliases_cannot_stand_for_everything() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(Invalid, match="aliases expand to more than"):
        load("\n".join(lines), "t.yaml")
