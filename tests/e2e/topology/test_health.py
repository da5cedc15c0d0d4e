from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from netd.api.client import Client, connect
from netd.errors import Unavailable
from netd.topology.health import execute, wait_until_healthy
from netd.topology.services import Health
from tests.e2e.host import Host


@pytest.fixture
def client(host: Host) -> Iterator[Client]:
    """A client of the host's daemon, from outside its namespaces."""
    client = connect(f"/proc/{host.lab.pid}/root/run/netd/netd.sock")
    host.netd("run", "-d", "--name", "web", "--", "sleep", "100")
    yield client
    client.close()


def health(command: str, **given: float) -> Health:
    times: dict[str, float] = {"interval": 0.1, "timeout": 5.0, "start_period": 0.0, "start_interval": 0.01}
    return Health(command=("/bin/sh", "-c", command), retries=3, **(times | given))


def test_a_command_answers_with_its_code_and_output(client: Client) -> None:
    assert execute(client, "web", ("/bin/sh", "-c", "echo out; echo err >&2; exit 3"), 10) == (
        3,
        "out\nerr\n",
    )


def test_a_command_that_takes_too_long_is_killed(client: Client) -> None:
    began = time.monotonic()
    code, _ = execute(client, "web", ("sleep", "60"), 0.2)
    assert code == 137
    assert time.monotonic() - began < 10


def test_it_is_asked_until_it_succeeds(client: Client) -> None:
    wait_until_healthy(client, "web", health("echo x >>/tmp/n; test $(wc -l </tmp/n) -ge 4", interval=1))
    assert execute(client, "web", ("cat", "/tmp/n"), 10) == (0, "x\n" * 4)


def test_one_that_never_succeeds_is_told_with_its_last_answer(client: Client) -> None:
    with pytest.raises(
        Unavailable, match=r"'web' is not healthy after 0\.3 s: 'echo ill; exit 7' answered ill"
    ):
        wait_until_healthy(client, "web", health("echo ill; exit 7"))


def test_one_that_has_ended_is_not_waited_for(client: Client, host: Host) -> None:
    host.netd("kill", "web")
    with pytest.raises(Unavailable, match="it has ended with exit code 137"):
        wait_until_healthy(client, "web", health("false", interval=100))
