"""Fixtures for tests that run the real daemon on a host of their own; `host.py` draws it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.host import Host, Lab, serving

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.root)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="makes namespaces: needs root"))


@pytest.fixture
def lab() -> Iterator[Lab]:
    """The machines, no daemon yet."""
    with Lab() as lab:
        try:
            yield lab
        finally:
            _show_log(lab)


@pytest.fixture
def host(lab: Lab) -> Iterator[Host]:
    """A host with a running daemon, which must be as clean afterwards as it was before."""
    with serving(lab) as host:
        yield host


@pytest.fixture(scope="module")
def shared_host() -> Iterator[Host]:
    """As `host`, for the tests of one module that only look and do not change anything."""
    with Lab() as lab:
        try:
            with serving(lab) as host:
                yield host
        finally:
            _show_log(lab)


def _show_log(lab: Lab) -> None:
    """pytest shows what is printed here only beneath a test that failed."""
    if lab.host.log.exists():
        print(lab.host.log.read_text())
