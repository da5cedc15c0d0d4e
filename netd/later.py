"""Imports that wait until somebody uses them, for libraries that import more than we need of them.

A command line lives for a tenth of a second, and most of that was imports that nothing of a command
uses: click imports `inspect` to tidy help texts, grpc imports asyncio, protobuf its own implementation
in Python beside the one in C. While the block of `later` runs, importing a module that it names gives
a stand-in, which turns into the real module on first use. Whoever imports it after the block gets the
real one, from the start.

It leans on nothing but how `import` looks into `sys.modules`. A library that uses such a module at once
loads it at once, and only the saving is lost.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


class StandIn(ModuleType):
    """In `sys.modules` in the place of a module that nobody has used yet."""

    def __getattr__(self, name: str) -> Any:
        return getattr(real(self.__name__), name)


def real(name: str) -> ModuleType:
    """The module itself, imported now if a stand-in has its place."""
    if isinstance(sys.modules.get(name), StandIn):
        del sys.modules[name]
    return import_module(name)


@contextmanager
def later(*names: str) -> Iterator[Mapping[str, StandIn]]:
    """While the block runs, modules called so are imported when they are used. Those that are there
    already stay; gives the stand-ins of the others.

    The garbage collector rests meanwhile: what imports make is there to stay.
    """
    stand_ins = {name: StandIn(name) for name in names if name not in sys.modules}
    sys.modules.update(stand_ins)
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield stand_ins
    finally:
        if collecting:
            gc.enable()
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
