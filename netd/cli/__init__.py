"""The command line; one file a command group, imported only when its command runs.

click is imported here, before any of them, without `inspect`: 6 ms of a start, for which click tidies
help texts that are one line each.
"""

from __future__ import annotations

from typing import cast

from netd.later import later, real


def _cleandoc(text: str) -> str:
    """`inspect.cleandoc`, without `inspect` where there is nothing to do."""
    return cast(str, real("inspect").cleandoc(text)) if "\n" in text else text.lstrip()


with later("inspect") as stand_ins:
    import click  # noqa: F401  (for those who import it next)
if "inspect" in stand_ins:
    stand_ins["inspect"].cleandoc = _cleandoc  # type: ignore[attr-defined]
