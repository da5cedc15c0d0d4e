"""Too many clients, too much in one request, too few descriptors: a clean refusal, and then all is well."""

from __future__ import annotations

import os
import resource

import pytest

from tests.e2e.host import HOST, NETD, PYTHON, Host, end, eventually

SOCKETS = ("/run/netd/netd.sock", "/run/netd/cni.sock")
IDLE = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
held = []
try:
    while len(held) < 5000:
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(2)
        one.connect(sys.argv[1])
        held.append(one)
except OSError:
    pass  # the queue of those that nobody has accepted yet is full
print(len(held), flush=True)
sys.stdin.read()
"""
HUGE = """
import socket, sys
with socket.socket(socket.AF_UNIX) as one:
    one.settimeout(20)
    one.connect(sys.argv[1])
    try:
        one.sendall(bytes.fromhex(sys.argv[2]) + b"{" * 10_000_000)
        one.shutdown(socket.SHUT_WR)
        while one.recv(65536):
            pass
    except OSError:
        pass  # hung up on, which is as good as an answer
"""


@pytest.mark.parametrize("path", SOCKETS)
def test_thousands_of_idle_clients_keep_nobody_out(shared_host: Host, path: str) -> None:
    host = shared_host
    idle = host.spawn(PYTHON, "-IS", "-c", IDLE, path)
    assert idle.stdout is not None
    held = int(idle.stdout.readline())
    print(f"{held} idle clients on {path}")
    assert held > 1000
    host.netd("network", "create", "front")
    end(idle)
    host.netd("network", "rm", "front")


@pytest.mark.parametrize("path", SOCKETS)
@pytest.mark.parametrize(
    "head",
    [
        "4e434e31ffffffff",  # the frame of a CNI call of 4 GiB
        "505249202a20485454502f322e300d0a0d0a534d0d0a0d0affffff0004000000ff",  # HTTP/2, a frame of 16 MiB
        "00",
    ],
    ids=["cni", "http2", "neither"],
)
def test_a_huge_request_is_cut_short(shared_host: Host, path: str, head: str) -> None:
    host = shared_host
    before = memory(host)
    host.output(PYTHON, "-IS", "-c", HUGE, path, head)
    assert host.json("network", "ls") == []
    assert memory(host) < before + 8_000, "what is refused is not kept"


def memory(host: Host) -> int:
    """Resident kibibytes of the daemon."""
    with open(f"/proc/{host.daemon_pid}/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_with_64_descriptors_containers_are_refused_whole_and_come_later(host: Host) -> None:
    host.netd("network", "create", "front", "--ipv6")
    _, most = resource.prlimit(host.daemon_pid, resource.RLIMIT_NOFILE)
    resource.prlimit(host.daemon_pid, resource.RLIMIT_NOFILE, (64, most))
    made = []
    for number in range(40):
        name = f"c{number}"
        done = host.run(
            NETD,
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "front",
            "-p",
            f"{9000 + number}:80",
            "sleep",
            "600",
        )
        if done.returncode:
            break
        made.append(name)
    assert "Too many open files" in done.stderr
    assert "\n" not in done.stderr.strip()
    assert sorted(each["name"] for each in host.json("ps", "-a")) == sorted(made)
    assert host.network("front")["subnets"][0]["used"] == len(made)
    resource.prlimit(host.daemon_pid, resource.RLIMIT_NOFILE, (most, most))
    host.serve("later", "--network", "front", "-p", "8080:80")
    assert host.lab.client.answer(f"tcp,{HOST[0]},8080").startswith("later")
    host.netd("rm", "-f", *made)
    eventually("descriptors are given back", lambda: len(os.listdir(f"/proc/{host.daemon_pid}/fd")) < 60)  # noqa: PTH208
