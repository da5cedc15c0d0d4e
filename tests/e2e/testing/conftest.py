"""The fixture that runs pytest with the plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.host import Host
from tests.e2e.testing.runs import Runs


@pytest.fixture
def runs(host: Host, tmp_path: Path) -> Runs:
    """A directory to write tests into, and a daemon to run them on."""
    return Runs(host, tmp_path)
