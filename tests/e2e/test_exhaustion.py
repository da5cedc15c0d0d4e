"""Too many clients, too much in one request, too few descriptors or processes, clients that hang: a clean
refusal, and then all is well.

Each fault ends with `recovers`: how long it takes until an ordinary request is answered correctly. The
promise is a second; figures are printed, and what is asserted is a deadline that a busy machine keeps, too.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.host import HOST, NETD, PYTHON, Host, end, eventually, eventually_equal, unified

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
HUNG = """
import socket, sys, time
import grpc
from netd.api import netd_pb2 as pb, netd_pb2_grpc

def first(**request):
    yield pb.StreamInput(**request)
    time.sleep(600)

kept = []
for _ in range(10):
    channel = grpc.insecure_channel("unix:/run/netd/netd.sock", [("grpc.use_local_subchannel_pool", 1)])
    stub = netd_pb2_grpc.NetdStub(channel)
    words = pb.ExecRequest(container="noisy", command=["yes"])
    streams = [
        stub.Watch(pb.WatchRequest()),
        stub.Logs(pb.LogsRequest(container="noisy", follow=True)),
        stub.DnsDump(pb.DnsDumpRequest()),
        stub.Exec(first(exec=words)),
    ]
    for each in streams:
        each.initial_metadata()  # it has begun; nothing of it is ever read
    kept += [channel, *streams]
for path, part in (word.split("=") for word in sys.argv[1:]):
    for _ in range(20):
        kept.append(socket.socket(socket.AF_UNIX))
        kept[-1].connect(path)
        kept[-1].sendall(bytes.fromhex(part))
print("ready", flush=True)
sys.stdin.read()
"""
PARTS = {
    "/run/netd/netd.sock": (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000 0000ff010400000001 82"),
        b"PRI * HT",
    ),
    "/run/netd/cni.sock": (b"NCN1\0\0\1\0CNI_COMMAND=ADD", b"NC"),
    "/run/netd/packet.sock": (b'{"target": "', b""),
}
"""How a request begins at each socket: an HTTP/2 stream whose headers do not end, a frame, a line."""


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
    recovers(host, f"{held} idle clients")
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
    recovers(host, "a huge request", networks=())
    assert memory(host) < before + 8_000, "what is refused is not kept"


def recovers(host: Host, after: str, networks: tuple[str, ...] = ("front",)) -> None:
    """An ordinary request is answered correctly, from the end of the fault on; prints how soon."""
    began = time.monotonic()
    done = eventually(
        "an answer", lambda: (it := host.run(NETD, "network", "ls", "--json")).returncode == 0 and it
    )
    print(f"{after}: an ordinary request answered {(time.monotonic() - began) * 1000:.0f} ms later")
    assert [each["name"] for each in json.loads(done.stdout)] == list(networks)


def plugin_status(host: Host, network: str) -> subprocess.Popen[str]:
    """CNI STATUS, as a container runtime asks for it."""
    bin, conf = host.lab.directory / "bin", host.lab.directory / "conf"
    if not bin.exists():
        host.output(NETD, "cni", "install", "--bin-dir", bin, "--conf-dir", conf)
    config = {"cniVersion": "1.1.0", "name": "pods", "type": "netd", "network": network}
    asking = host.spawn(bin / "netd", environment={"CNI_COMMAND": "STATUS", "CNI_PATH": str(bin)})
    assert asking.stdin is not None
    asking.stdin.write(json.dumps(config))
    asking.stdin.close()
    return asking


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
    # Not one is left: who comes now waits to be let in, and is.
    idle = host.spawn(PYTHON, "-IS", "-c", IDLE, "/run/netd/packet.sock")
    waiting = plugin_status(host, "front")
    eventually("no more are let in", lambda: host.log.read_text().count("clients have to wait") >= 2)
    end(idle)
    resource.prlimit(host.daemon_pid, resource.RLIMIT_NOFILE, (most, most))
    recovers(host, "descriptors")
    assert waiting.wait(15) in (0, 1)
    assert plugin_status(host, "front").wait(15) == 0
    host.sh("nft flush ruleset")
    eventually("what is damaged is repaired again", lambda: "table inet netd" in host.sh("nft list ruleset"))
    host.serve("later", "--network", "front", "-p", "8080:80")
    assert host.lab.client.answer(f"tcp,{HOST[0]},8080").startswith("later")
    host.netd("rm", "-f", *made)
    eventually("descriptors are given back", lambda: descriptors(host) < 60)


def test_clients_that_hang_in_the_middle_of_a_request_or_an_answer_hold_up_nobody(host: Host) -> None:
    host.netd("network", "create", "front")
    chatter = "while :; do echo a line that nobody reads; done"
    host.netd("run", "-d", "--name", "noisy", "--network", "front", "--", "sh", "-c", chatter)
    host.serve("web", "--network", "front", "-p", "8080:80")
    held, before = descriptors(host), memory(host)
    began = [f"{path}={part.hex()}" for path, parts in PARTS.items() for part in parts]
    hung = host.spawn(NETD.parent / "python", "-c", HUNG, *began)
    assert hung.stdout is not None
    assert hung.stdout.readline() == "ready\n"
    assert descriptors(host) >= held + 20 * len(began)
    for _ in range(3):
        host.netd("network", "create", "back")
        assert host.netd("run", "--rm", "--network", "back", "--", "echo", "hello") == "hello\n"
        assert host.netd("exec", "noisy", "--", "echo", "hello") == "hello\n"
        assert plugin_status(host, "back").wait(15) == 0
        host.netd("network", "rm", "back")
    assert host.lab.client.answer(f"tcp,{HOST[0]},8080").startswith("web")
    grown = memory(host) - before
    print(f"{grown} KiB for 40 answers that nobody reads")
    assert grown < 32_000, "what is not read is not kept"
    end(hung)
    recovers(host, f"{20 * len(began)} half requests and 40 answers that nobody reads")
    eventually("descriptors are given back", lambda: descriptors(host) <= held)


def descriptors(host: Host) -> int:
    """How many the daemon has open."""
    return len(os.listdir(f"/proc/{host.daemon_pid}/fd"))  # noqa: PTH208


LACKING = os.strerror(errno.EAGAIN)


@contextmanager
def limited(host: Host) -> Iterator[Callable[[int | None], None]]:
    """The daemon, its launcher and its DNS server in a group of their own; call what this gives with how
    many processes they may have beyond those that they have now, None for any number."""
    group = "/sys/fs/cgroup/few"
    if host.run("test", "-d", "/sys/fs/cgroup/pids").returncode == 0:
        group = "/sys/fs/cgroup/pids/few"
    elif "pids" not in host.sh("cat /sys/fs/cgroup/cgroup.subtree_control"):
        pytest.skip("this kernel cannot limit the number of processes of a group")
    daemon = host.sh("pgrep -x netd").strip()
    host.sh(
        f"mkdir {group}; for each in {daemon} $(pgrep -P {daemon}); do echo $each >{group}/cgroup.procs; done"
    )

    def limit(spare: int | None) -> None:
        most = "max" if spare is None else f"$(($(cat {group}/pids.current) + {spare}))"
        host.sh(f"echo {most} >{group}/pids.max")

    try:
        yield limit
    finally:
        limit(None)


def test_without_processes_what_needs_one_is_refused_whole_and_all_else_works(host: Host) -> None:
    """Threads are processes to the kernel: the daemon has taken those that it needs when it started."""
    for network in ("front", "back"):
        host.netd("network", "create", network, "--ipv6")
        host.netd("run", "-d", "--name", f"in-{network}", "--network", network, "sleep", "600")
    run = ("run", "-d", "--name", "c", "--network", "front", "-p", "9000:80", "sleep", "600")
    for each in ("in-front", "in-back"):  # with carrier, bridges have all the addresses that they will have
        host.netd("exec", each, "--", "true")
    host.netd(*run)
    host.netd("rm", "-f", "c")
    before = host.census()
    with limited(host) as limit:
        refusals = []
        for spare in range(8):
            limit(spare)
            done = host.run(NETD, *run)
            if done.returncode == 0:
                host.netd("rm", "-f", "c")
                break
            refusals.append(done.stderr.strip())
            assert json.loads(host.netd("ps", "-a", "--json"))[0]["name"] in ("in-front", "in-back")
            after = eventually_equal(before, host.census)
            assert after == before, "\n".join(unified(before, after))
        print("\n".join(refusals))
        assert refusals
        assert {each.partition(": ")[2] for each in refusals} == {"no process can be started: " + LACKING}
        limit(-3)  # so that there is none either once two have ended
        # What needs no further process is done.
        host.netd("network", "create", "more")
        host.netd("network", "connect", "back", "in-front")
        host.netd("port", "add", "in-front", "9001:81")
        host.netd("port", "rm", "in-front", "9001:81")
        host.netd("network", "disconnect", "back", "in-front")
        host.netd("network", "rm", "more")
        assert eventually_equal(before, host.census) == before
        for name in ("netd[_]dns", "netd[-]launcher"):  # not this shell, whose command line has the pattern
            host.sh(f"kill -9 $(pgrep -f {name})")
        assert "cannot be started" in host.refused(*run)
        assert "cannot be started" in host.refused(*run), "and again, after it could not be started once"
        limit(None)
        recovers(host, "processes", networks=("back", "front"))
        began = time.monotonic()
        host.netd(*run)
        eventually(
            "names are answered",
            lambda: host.run(NETD, "dns", "lookup", "c", "--from", "in-front").returncode == 0,
        )
        print(f"a container runs and names are answered {(time.monotonic() - began) * 1000:.0f} ms later")
