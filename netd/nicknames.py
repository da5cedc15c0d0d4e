"""Names for containers that were given none: an adjective and somebody to whom networks owe something."""

from __future__ import annotations

import secrets
from collections.abc import Container

# Split from text: as lists they would be a hundred lines of one word each.
ADJECTIVES = (  # noqa: SIM905
    "able amber brave brisk calm candid clever cosmic daring eager fair fluent gentle glad golden happy "
    "honest humble jolly keen kind lively lucid mellow merry modest noble patient placid polite proud "
    "quick quiet ready serene sharp smart steady sunny swift tidy true upbeat vivid warm wise witty zesty"
).split()

PEOPLE = (  # noqa: SIM905
    "abramson baran bellovin berners_lee cerf cheswick clark codd cohen crocker davies deering diffie "
    "dijkstra engelbart estrin feinler floyd gerla hamming hellman hopper hinden jacobson kahn kleinrock "
    "knuth lamarr lamport licklider liskov lovelace metcalfe merkle mockapetris nagle nyquist partridge "
    "perlman postel pouzin radia rekhter reynolds roberts shannon shenker sollins taylor tomlinson turing "
    "varghese walden zhang zimmermann"
).split()


def generate(taken: Container[str]) -> str:
    """A name that is not in `taken`. After ten collisions it gets a number, so it always ends."""
    for attempt in range(1000):
        name = f"{secrets.choice(ADJECTIVES)}_{secrets.choice(PEOPLE)}"
        if attempt >= 10:
            name += str(secrets.randbelow(10 ** min(attempt // 10, 6)))
        if name not in taken:
            return name
    return f"container_{secrets.token_hex(8)}"
