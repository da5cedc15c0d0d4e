from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from netd.topology import yaml12
from netd.topology.schema import schema, text

TOPOLOGIES = Path(__file__).parents[3] / "topologies"
FIRST_LINE = "# yaml-language-server: $schema=netd-topology.schema.json"


def complaints(value: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(schema()).iter_errors(value)]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema())


def test_the_one_beside_the_topologies_is_fresh() -> None:
    kept = (TOPOLOGIES / "netd-topology.schema.json").read_text()
    assert kept == text(), "run `netd topology schema` and commit the result"


@pytest.mark.parametrize("path", sorted(TOPOLOGIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_topologies_name_it_and_follow_it(path: Path) -> None:
    content = path.read_text()
    assert content.splitlines()[0] == FIRST_LINE
    assert complaints(yaml12.load(content, path.name)) == []


def test_short_and_long_forms_are_both_known() -> None:
    web = {"ports": ["80:80", 90, {"target": 1}], "networks": ["a"], "depends_on": {"b": {}}, "x-mine": 1}
    assert complaints({"services": {"web": web}, "networks": {"a": None}, "x-common": []}) == []


@pytest.mark.parametrize(
    "value",
    [
        {"services": {"web": {"privileged": True}}},
        {"services": {"web": {"scale": "many"}}},
        {"services": {"web": {"ports": [{"published": "80"}]}}},
        {"services": {}, "x-netd": {"check": []}},
        {"networks": {}},
    ],
)
def test_what_netd_would_refuse_an_editor_marks(value: Any) -> None:
    assert complaints(value)


def test_it_is_plain_json() -> None:
    assert json.loads(text()) == schema()
