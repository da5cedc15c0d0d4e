"""YAML as Compose files mean it: version 1.2, core schema.

PyYAML implements YAML 1.1, in which the unquoted port mapping `22:22` is the number 1342 (base
60), `off` is false and `0x10`-like dates become objects. Compose's own reader follows 1.2, where
all of these are text, so files in the wild rely on it. This loader keeps PyYAML's parser and
replaces the rules by which a plain scalar gets its type (YAML 1.2.2, section 10.3.2).

A file is untrusted input: its size, depth and the expansion of its aliases are bounded (a few
hundred bytes of aliases of aliases can stand for gigabytes), and a key given twice is an error,
where PyYAML silently keeps the last.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from netd.errors import Invalid

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
MAX_DEPTH = 64

_CORE = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)


class _Loader(yaml.SafeLoader):
    """The safe loader with the core schema of YAML 1.2 and no repeated keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's own)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise Invalid(f"line {key.start_mark.line + 1}: key {key.value!r} is given twice; remove one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        if text.startswith("0o"):
            return int(text[2:], 8)
        return int(text, 16) if text.startswith("0x") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
for _tag, _pattern, _first in _CORE:
    # An empty plain scalar is null; PyYAML files it under the empty first character.
    _Loader.add_implicit_resolver(
        _tag, re.compile(rf"(?:{_pattern})\Z"), ["" if c == "\0" else c for c in _first]
    )
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<\Z"), ["<"])


def load(text: str, name: str) -> Any:
    """The plain values of one YAML document. Raises `Invalid` naming the file `name` and the line."""
    if len(text) > MAX_BYTES:
        raise Invalid(f"{name}: {len(text)} bytes are too many for a topology file; the limit is {MAX_BYTES}")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise Invalid("the file is empty; it needs at least `services:`")
        _measure(node, 0, {})
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise Invalid(f"{name}: {line}{error.problem or error}") from error
    except yaml.YAMLError as error:
        raise Invalid(f"{name}: {error}") from error
    except Invalid as error:
        raise Invalid(f"{name}: {error}") from error
    finally:
        loader.dispose()


def _measure(node: yaml.Node, depth: int, sizes: dict[int, int]) -> int:
    """How many nodes `node` stands for once its aliases are expanded; `Invalid` where that is too much."""
    known = sizes.get(id(node))
    if known is not None:
        if known < 0:
            raise Invalid(f"line {node.start_mark.line + 1}: an alias contains itself")
        return known
    if depth > MAX_DEPTH:
        raise Invalid(f"line {node.start_mark.line + 1}: nested more than {MAX_DEPTH} levels deep")
    sizes[id(node)] = -1
    size = 1
    if isinstance(node, yaml.SequenceNode):
        size += sum(_measure(item, depth + 1, sizes) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        size += sum(_measure(part, depth + 1, sizes) for pair in node.value for part in pair)
    if size > MAX_NODES:
        raise Invalid(f"line {node.start_mark.line + 1}: aliases expand to more than {MAX_NODES} values")
    sizes[id(node)] = size
    return size
