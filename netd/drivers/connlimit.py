"""How many connections each endpoint may have begun at a time; for every driver whose traffic is tracked.

The host has one connection tracking table. A container that opens connections without end fills it, and
then nobody opens any: with a limit it is its own connections that fail. What others begin with it is not
counted, or they could keep it from opening any.
"""

from __future__ import annotations

from collections.abc import Mapping

from netd.errors import Invalid
from netd.model import Endpoint, Network

OPTION = "connlimit"
"""Of an endpoint: how many, for each of its addresses. Of a network: for each endpoint that has none."""

MOST = 1_000_000


def check(options: Mapping[str, str]) -> None:
    """Raise `Invalid` for a limit that is none."""
    text = options.get(OPTION, "")
    if text and not _is_limit(text):
        raise Invalid(
            f"{OPTION} {text!r} is no number of connections: write one between 1 and {MOST}, or leave it out"
        )


def _is_limit(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 8 and 1 <= int(text) <= MOST


def of(net: Network, endpoint: Endpoint) -> int:
    """How many the endpoint may have; 0 for any number."""
    text = endpoint.options.get(OPTION) or net.options.get(OPTION, "")
    return int(text) if _is_limit(text) else 0
