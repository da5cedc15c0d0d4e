"""Every test that the list of past mistakes names exists, and every mistake has one or a reason."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "docs" / "mistakes.md"
ROW = re.compile(r"\| (?P<what>[^|]+) \| (?P<guard>[^|]+) \|")
NAMED = re.compile(r"`([a-z0-9_/]+\.py)::(test_\w+)`")
ROWS = [found for line in LIST.read_text().splitlines() if (found := ROW.fullmatch(line))]
ROWS = [row for row in ROWS if row["what"] != "Mistake"]


@cache
def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}


def test_the_list_is_read() -> None:
    assert len(ROWS) >= 70
    assert len({row["what"] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["what"])
def test_each_past_mistake_is_guarded_against(row: re.Match[str]) -> None:
    """One that cannot be made here says why."""
    named = NAMED.findall(row["guard"])
    reason = re.fullmatch(r"none needed: \S.{10,}", row["guard"])
    assert bool(named) != bool(reason), "neither a test nor a reason, or both"
    assert NAMED.sub("", row["guard"]).strip(" ,") == ("" if named else row["guard"])
    for path, name in named:
        assert name in functions_of(ROOT / "tests" / path), f"{path} has no {name}"
