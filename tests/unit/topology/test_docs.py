"""docs/topologies.md names every key that a file may hold, and every shipped file."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from netd.topology import compose

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "topologies.md").read_text()
ROWS: dict[str, type[msgspec.Struct]] = {
    "the file": compose.File,
    "a service": compose.Service,
    "a service's network": compose.AttachmentFile,
    "a network": compose.NetworkFile,
    "a volume": compose.VolumeDefinition,
    "`x-netd` of the file": compose.Extra,
    "`x-netd` of a service": compose.ServiceExtra,
    "`x-netd` of a service's network": compose.AttachmentExtra,
    "`x-netd` of a network": compose.NetworkExtra,
}


@pytest.mark.parametrize("where", ROWS)
def test_every_key_is_told_and_no_other(where: str) -> None:
    [row] = re.findall(rf"^\| {re.escape(where)} \| (.*) \|$", TEXT, re.MULTILINE)
    told = set(re.findall(r"`([^`]+)`", re.sub(r"\([^)]*\)", "", row)))
    assert told == {field.encode_name for field in msgspec.structs.fields(ROWS[where])}


def test_every_shipped_file_is_told() -> None:
    told = set(re.findall(r"\(\.\./topologies/([^)]+)\)", TEXT))
    assert told == {path.name for path in (ROOT / "topologies").glob("*.yaml")}
