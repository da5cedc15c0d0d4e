"""Whether a container is healthy, by the command that its file gives.

The daemon knows nothing of health: the command is executed by whoever brings a topology up. It is
asked after 50 ms first (`start_interval`) and then less and less often, up to `interval`, so that a
service that is quick costs no waiting; the last word is spoken when `start_period` and `retries` times
`interval` have passed, which is when Docker would call it unhealthy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from netd.api import netd_pb2 as pb
from netd.errors import InUse, NetdError, NotFound, Unavailable
from netd.topology.daemon import Daemon
from netd.topology.services import Health

GROWTH = 1.5
"""By how much the pause between two attempts grows."""

OUTPUT = 400
"""Characters of the last attempt's output that a failure shows."""


def execute(client: Daemon, container: str, command: tuple[str, ...], seconds: float) -> tuple[int, str]:
    """Run a command in a container; its exit code and what it wrote. After `seconds` it is killed (137)."""
    request = pb.StreamInput(exec=pb.ExecRequest(container=container, command=command))
    over = threading.Event()

    def inputs() -> Iterator[pb.StreamInput]:
        yield request
        if not over.wait(seconds):
            yield pb.StreamInput(signal="SIGKILL")

    wrote = b""
    code = 137
    try:
        for output in client.exec(inputs()):
            match output.WhichOneof("output"):
                case "stdout":
                    wrote += output.stdout
                case "stderr":
                    wrote += output.stderr
                case "exit":
                    code = output.exit.code
    finally:
        over.set()
    return code, wrote.decode(errors="replace")


def wait_until_healthy(
    client: Daemon, container: str, health: Health, *, stop: Callable[[], bool] = lambda: False
) -> None:
    """Return when `container` is healthy. Raises `Unavailable` saying what the last attempt answered."""
    patience = health.start_period + health.retries * health.interval
    deadline, pause = time.monotonic() + patience, health.start_interval
    while not stop():
        try:
            code, wrote = execute(client, container, health.command, health.timeout)
        except (InUse, NotFound) as error:
            raise Unavailable(
                f"container {container!r} is not healthy: {_why_gone(client, container, error)}"
            ) from None
        if code == 0:
            return
        if time.monotonic() + pause > deadline:
            answer = " ".join(wrote.split())[:OUTPUT] or "nothing"
            raise Unavailable(
                f"container {container!r} is not healthy after {patience:g} s: "
                f"{health.command[-1]!r} answered {answer} and exit code {code}"
            )
        time.sleep(pause)
        pause = min(pause * GROWTH, max(health.interval, health.start_interval))


def _why_gone(client: Daemon, container: str, error: NetdError) -> str:
    try:
        found = client.container(container)
    except NetdError:
        return str(error)
    if found.state != "exited":
        return str(error)
    return f"it has ended with exit code {found.exit_code}{last_words(client, container)}"


def last_words(client: Daemon, container: str) -> str:
    """The last line that a container wrote, fit to be put at the end of a message."""
    try:
        lines = [line.data for line in client.logs(container, follow=False, tail=1, timestamps=False)]
    except NetdError:
        return ""
    return f": {b''.join(lines).decode(errors='replace').strip()[:OUTPUT]}" if lines else ""
