from __future__ import annotations

import json
import logging
import sys

from netd import logs as daemon
from netd_dns.logs import Lines


def record(message: str, *, failed: bool = False) -> logging.LogRecord:
    trouble = None
    if failed:
        try:
            raise ValueError("broken")
        except ValueError:
            trouble = sys.exc_info()
    return logging.LogRecord("netd_dns.server", logging.INFO, "", 0, message, None, trouble)


def test_both_processes_write_the_same_lines() -> None:
    for entry in (record("the daemon is gone"), record("a\nb"), record("oh", failed=True)):
        assert Lines(as_json=False).format(entry) == daemon.TextLines().format(entry)
        assert json.loads(Lines(as_json=True).format(entry)) == json.loads(daemon.JsonLines().format(entry))
