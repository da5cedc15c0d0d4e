"""The JSON schema of topology files, for editors; made from the types that parse them.

`topologies/netd-topology.schema.json` is what `text` gives. A file names it in its first line::

    # yaml-language-server: $schema=netd-topology.schema.json
"""

from __future__ import annotations

import inspect
import json
from typing import Any

import msgspec

from netd.topology import compose
from netd.topology.compose import File

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema as plain values (draft 2020-12)."""
    ((root,), parts) = msgspec.json.schema_components([File], ref_template="#/$defs/{name}")
    return {
        "$schema": DRAFT,
        "title": "netd topology",
        "description": "A Compose file, with what Compose cannot say under x-netd.",
        **root,
        "$defs": {name: _closed(name, part) for name, part in sorted(parts.items())},
    }


def _closed(name: str, part: dict[str, Any]) -> dict[str, Any]:
    """`part` refusing keys that nobody knows, but for the user's own; described by its docstring."""
    kind = getattr(compose, name)
    return {
        **part,
        "title": name,
        "description": " ".join((inspect.getdoc(kind) or "").split()),
        "additionalProperties": False,
        "patternProperties": {"^x-": {}},
    }


def text() -> str:
    """The schema as a file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
