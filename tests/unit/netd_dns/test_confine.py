"""Rights are gone for good. Tried in a process of its own, since there is no way back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import netd_dns
from netd import dns_filter
from netd_dns import confine

TRY = """
import json, os, resource, sys
sys.path.append(sys.argv[1])
from netd_dns import confine
confine.drop_privileges()
def attempt(work):
    try:
        work()
    except OSError as error:
        return error.errno
    return 0
print(json.dumps({
    "uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(),
    "root again": attempt(lambda: os.setuid(0)),
    "child": attempt(os.fork) if len(sys.argv) > 2 else 0,
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "data": resource.getrlimit(resource.RLIMIT_DATA),
    "status": open("/proc/self/status").read(),
    "cwd": os.getcwd(),
}))
"""


def confined() -> Any:
    path = str(Path(netd_dns.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", TRY, path, "fork"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_root_becomes_nobody_for_good() -> None:
    seen = confined()
    assert seen["uids"] == seen["gids"] == [65534] * 3
    assert seen["groups"] == []
    assert seen["root again"] == 1  # EPERM
    assert seen["child"] == 11  # EAGAIN
    assert "CapEff:\t0000000000000000" in seen["status"]
    assert "CapPrm:\t0000000000000000" in seen["status"]


def test_limits_hold_for_everybody() -> None:
    seen = confined()
    assert "NoNewPrivs:\t1" in seen["status"]
    assert seen["core"] == [0, 0]
    assert seen["data"][1] == 512 * 1024 * 1024
    assert seen["cwd"] == "/"


BEHIND_THE_FILTER = """
import ctypes, errno, fcntl, json, mmap, os, socket, sys
sys.path.append(sys.argv[1])
from netd_dns import confine
confine.drop_privileges()
assert confine.filter_calls(bytes.fromhex(sys.argv[2]))
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
def executable():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)
def attempt(work):
    try:
        made = work()
        if isinstance(made, socket.socket):
            made.close()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
refused = {
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "ptrace": lambda: call("ptrace", 0, 0, 0, 0),
    "reading other memory": lambda: call("process_vm_readv", os.getpid(), 0, 0, 0, 0, 0),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "namespace": lambda: call("unshare", 0x10000000),
    "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "kill": lambda: os.kill(os.getppid(), 0),
    "writing a file": lambda: os.open("/tmp/x", os.O_WRONLY | os.O_CREAT),
    "truncating a file": lambda: os.open("/dev/null", os.O_RDONLY | os.O_TRUNC),
    "memory to execute": executable,
    "keys": lambda: call("syscall", 250, 0, 0, 0),
    "another filter": lambda: call("prctl", 22, 1, 0, 0, 0),
    "terminal input": lambda: fcntl.ioctl(0, 0x5412, b"x"),
}
allowed = {
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK),
    "udp6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
    "tcp": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "tcp6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM),
    "reading": lambda: open("/proc/self/status").read(),
    "an interface": lambda: socket.if_nametoindex("lo"),
    "memory": lambda: bytearray(64 << 20),
    "random": lambda: os.urandom(8),
}
print(json.dumps([{what: attempt(work) for what, work in group.items()} for group in (refused, allowed)]))
"""


def test_no_system_call_but_those_that_answering_needs() -> None:
    path = str(Path(netd_dns.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", BEHIND_THE_FILTER, path, dns_filter.compile().hex()],
        capture_output=True,
        text=True,
        check=True,
    )
    refused, allowed = json.loads(done.stdout)
    assert {what: how for what, how in refused.items() if how != "EPERM"} == {}
    assert {what: how for what, how in allowed.items() if how != "done"} == {}


def test_without_a_program_or_with_one_that_makes_no_sense_it_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert confine.filter_calls(b"") is False
    assert confine.filter_calls(b"\xff" * 16) is False
    assert "takes no filter of system calls" in caplog.text
