"""The server's log, in the form that the daemon's has, because both go to one standard error."""

from __future__ import annotations

import json
import logging
import time


class Lines(logging.Formatter):
    """One line an entry: text for people, or a JSON object with the keys of `netd.logs.JsonLines`."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The entry as one line; a traceback, if there is one, is part of it or indented below it."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        moment = f"{seconds}.{int(record.msecs):03}Z"
        level, message = record.levelname.lower(), record.getMessage()
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._as_json:
            entry = {"time": moment, "level": level, "logger": record.name, "message": message}
            return json.dumps({**entry, "traceback": trace} if trace else entry, ensure_ascii=False)
        text = message.replace("\n", "\\n") + ("\n" + trace if trace else "")
        return f"{moment} {level:<7} {record.name}: " + text.replace("\n", "\n    ")


def configure(format: str) -> None:
    """Log to standard error as "text" or "json". Standard error may go away with the daemon: that is no
    reason to fail, nor to say so."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(format == "json"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.raiseExceptions = False
