"""The open descriptors of this process, for tests that say what they opened is closed again."""

from __future__ import annotations

import gc
import os


def descriptors() -> list[str]:
    """Their numbers, without those that only wait in garbage of earlier tests to be closed at any moment."""
    gc.collect()
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
