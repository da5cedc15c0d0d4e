from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from netd import logs
from netd.errors import Invalid


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


def test_text_is_one_line_an_entry_whatever_the_message_holds() -> None:
    out = io.StringIO()
    logs.configure("text", "info", out)
    logging.getLogger("netd.engine").info("made %s", "front\n2026 error forged")
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().endswith("Z info    netd.engine: made front\\n2026 error forged\n")


def test_json_carries_the_traceback() -> None:
    out = io.StringIO()
    logs.configure("json", "info", out)
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logging.getLogger("netd.api").exception("Version failed")
    entry = json.loads(out.getvalue())
    assert entry["level"] == "error"
    assert entry["message"] == "Version failed"
    assert "RuntimeError: boom" in entry["traceback"]


def test_entries_below_the_level_are_left_out() -> None:
    out = io.StringIO()
    logs.configure("text", "warning", out)
    logging.getLogger("netd").info("hello")
    assert out.getvalue() == ""


def test_an_unknown_level_is_refused_by_name() -> None:
    with pytest.raises(Invalid, match="'loud'"):
        logs.configure("text", "loud")
