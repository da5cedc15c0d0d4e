"""The daemon's log: one line an entry on standard error, as text for people or JSON for machines.

The standard library does all of it; a logging library would add 160 ms to each start for what two
formatters give. Where an entry concerns an object, its name is in the message.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from netd.errors import Invalid

LEVELS = ("debug", "info", "warning", "error")


class TextLines(logging.Formatter):
    """`2026-01-31T12:00:00.123Z info  netd.engine: message`, tracebacks indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        head = f"{_moment(record)} {record.levelname.lower():<7} {record.name}: "
        message = record.getMessage().replace("\n", "\\n")
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return head + message.replace("\n", "\n    ")


class JsonLines(logging.Formatter):
    """One JSON object a line with `time`, `level`, `logger`, `message` and, on failure, `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _moment(record: logging.LogRecord) -> str:
    text = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def configure(format: str, level: str, stream: TextIO | None = None) -> None:
    """Send all logging of this process to `stream` (standard error). `Invalid` names a wrong level."""
    if level not in LEVELS:
        raise Invalid(f"log level {level!r} is not known: use one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # asyncio reports every slow callback and selector at debug, pyroute2 every message.
    for chatty in ("asyncio", "pyroute2"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
