"""Programs in containers, run over the API and read like those of `subprocess`."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from netd.api import netd_pb2 as pb
from netd.errors import NetdError, Unavailable
from netd.topology.daemon import Daemon

TIMEOUT = 30.0
"""Seconds that a program has, where the test does not say."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program left behind: `code` as shells report it, and all that it wrote."""

    code: int
    stdout: str
    stderr: str


class Process:
    """A program that runs in a container until it ends or is killed."""

    def __init__(self, client: Daemon, container: str, command: Sequence[str], **options: Any) -> None:
        """`options` are fields of the API's ExecRequest (env, workdir, user). It may not have begun yet when
        this returns; `expect` and `wait` raise what the daemon refuses."""
        self._words = " ".join(command)
        self._inputs: queue.SimpleQueue[pb.StreamInput | None] = queue.SimpleQueue()
        self._outputs = {"stdout": b"", "stderr": b""}
        self._news = threading.Condition()
        self._code: int | None = None
        self._error: NetdError | None = None
        request = pb.ExecRequest(container=container, command=command, interactive=True, **options)
        self._inputs.put(pb.StreamInput(exec=request))
        stream = client.exec(self._typed())
        threading.Thread(target=self._read, args=(stream,), name=f"exec {self._words}", daemon=True).start()

    def _typed(self) -> Iterator[pb.StreamInput]:
        while (typed := self._inputs.get()) is not None:
            yield typed

    def _read(self, stream: Iterator[pb.StreamOutput]) -> None:
        try:
            for output in stream:
                with self._news:
                    match output.WhichOneof("output"):
                        case "stdout" | "stderr" as name:
                            self._outputs[name] += getattr(output, name)
                        case "exit":
                            self._code = output.exit.code
                    self._news.notify_all()
            problem: NetdError | None = None
            if self._code is None:
                problem = Unavailable(f"{self._words}: its end was not told")
        except NetdError as error:
            problem = error
        with self._news:
            self._error = problem
            self._inputs.put(None)
            self._news.notify_all()

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self._outputs["stdout"].decode(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has complained so far."""
        return self._outputs["stderr"].decode(errors="replace")

    def write(self, text: str) -> None:
        """Type on its standard input."""
        self._inputs.put(pb.StreamInput(stdin=text.encode()))

    def close_stdin(self) -> None:
        """End its standard input."""
        self._inputs.put(pb.StreamInput(stdin_closed=True))

    def expect(self, text: str, timeout: float = TIMEOUT) -> str:
        """Wait until it has written `text`; answer all that it wrote. Fails if it ends before or is late."""
        __tracebackhide__ = True
        with self._news:
            self._news.wait_for(lambda: text in self.stdout or self._code is not None or self._error, timeout)
        if self._error:
            raise self._error
        if text not in self.stdout:
            raise AssertionError(f"{self._words}: {text!r} not within {timeout:g} s; {self._so_far()}")
        return self.stdout

    def wait(self, timeout: float = TIMEOUT) -> Completed:
        """Its end. Fails, and kills it, when it takes longer."""
        __tracebackhide__ = True
        with self._news:
            self._news.wait_for(lambda: self._code is not None or self._error, timeout)
        if self._error:
            raise self._error
        if self._code is None:
            self.kill()
            raise AssertionError(f"{self._words}: no end within {timeout:g} s; {self._so_far()}")
        return Completed(self._code, self.stdout, self.stderr)

    def kill(self, signal: str = "SIGKILL") -> None:
        """Send it a signal, unless it has ended."""
        if self._code is None:
            self._inputs.put(pb.StreamInput(signal=signal))

    def _so_far(self) -> str:
        return f"it wrote {self.stdout!r} and {self.stderr!r}"
