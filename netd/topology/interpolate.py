"""`${VAR}` in the values of a topology file, by Compose's rules (compose-spec, 12-interpolation).

    $VAR ${VAR}            the variable; unset is empty text, with a warning
    ${VAR:-d} ${VAR-d}     `d` where unset or empty; where unset
    ${VAR:?e} ${VAR?e}     an error with text `e` in these cases
    ${VAR:+r} ${VAR+r}     `r` where set and not empty; where set
    $$                     one dollar sign

Defaults may contain further references. Keys of mappings are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from netd.errors import Invalid

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def interpolate(
    value: Any, variables: Mapping[str, str], unset: Callable[[str], None], path: str = ""
) -> Any:
    """`value` with every reference in its texts replaced; `unset` is told of each empty one.

    `path` says where in the file the value stands. Raises `Invalid` for a malformed reference and
    for a required variable that is missing.
    """
    if isinstance(value, str):
        return _text(value, variables, unset, path) if "$" in value else value
    if isinstance(value, list):
        return [interpolate(item, variables, unset, f"{path}[{n}]") for n, item in enumerate(value)]
    if isinstance(value, dict):
        return {
            key: interpolate(item, variables, unset, f"{path}.{key}" if path else str(key))
            for key, item in value.items()
        }
    return value


def _text(text: str, variables: Mapping[str, str], unset: Callable[[str], None], path: str) -> str:
    pieces: list[str] = []
    at = 0
    while (dollar := text.find("$", at)) >= 0:
        pieces.append(text[at:dollar])
        following = text[dollar + 1 : dollar + 2]
        if following == "$":
            pieces.append("$")
            at = dollar + 2
        elif following == "{":
            end = _closing(text, dollar + 2, path)
            pieces.append(_braced(text[dollar + 2 : end], variables, unset, path))
            at = end + 1
        elif name := _NAME.match(text, dollar + 1):
            pieces.append(_plain(name.group(), variables, unset))
            at = name.end()
        else:
            raise Invalid(f"{path}: {text!r} has a lone '$'; write '$$' for a dollar sign")
    return "".join([*pieces, text[at:]])


def _closing(text: str, start: int, path: str) -> int:
    depth = 1
    for position in range(start, len(text)):
        if text.startswith("${", position):
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return position
    raise Invalid(f"{path}: {text!r} has a '${{' without its '}}'")


def _plain(name: str, variables: Mapping[str, str], unset: Callable[[str], None]) -> str:
    if name not in variables:
        unset(name)
    return variables.get(name, "")


def _braced(inside: str, variables: Mapping[str, str], unset: Callable[[str], None], path: str) -> str:
    name = _NAME.match(inside)
    if name is None:
        raise Invalid(f"{path}: '${{{inside}}}' does not begin with the name of a variable")
    rest = inside[name.end() :]
    if not rest:
        return _plain(name.group(), variables, unset)
    value = variables.get(name.group())
    empty_counts = rest.startswith(":")
    operator, word = rest.removeprefix(":")[:1], rest.removeprefix(":")[1:]
    there = bool(value) if empty_counts else value is not None
    if operator == "-":
        return (value or "") if there else _text(word, variables, unset, path)
    if operator == "+":
        return _text(word, variables, unset, path) if there else ""
    if operator == "?":
        if there:
            return value or ""
        reason = _text(word, variables, unset, path) or "it must be set"
        raise Invalid(f"{path}: variable {name.group()} is required: {reason}")
    raise Invalid(f"{path}: '${{{inside}}}' is not understood; after the name comes one of :- - :? ? :+ +")
