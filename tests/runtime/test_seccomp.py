"""System calls that a container may not make, tried from inside."""

from __future__ import annotations

import os

import pytest

from tests.runtime.box import Box

_CALL = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "ok"
"""
X86_64 = os.uname().machine == "x86_64"

pytestmark = pytest.mark.skipif(not X86_64, reason="call numbers of x86_64")


@pytest.mark.parametrize(
    ("what", "call", "wanted"),
    [
        ("unshare(NEWUSER)", "call(272, 0x10000000)", "EPERM"),
        ("unshare(NEWNS)", "call(272, 0x20000)", "EPERM"),
        ("setns", "call(308, 0, 0)", "EPERM"),
        ("clone(NEWUSER)", "call(56, 0x10000000 | 17, 0, 0, 0, 0)", "EPERM"),
        ("clone3", "call(435, 0, 0)", "ENOSYS"),
        ("mount", "call(165, b'none', b'/tmp', b'tmpfs', 0, None)", "EPERM"),
        ("umount2", "call(166, b'/proc', 2)", "EPERM"),
        ("pivot_root", "call(155, b'/', b'/')", "EPERM"),
        ("open_tree", "call(428, -100, b'/', 1)", "EPERM"),
        ("mount_setattr", "call(442, -100, b'/', 0, None, 0)", "EPERM"),
        ("keyctl", "call(250, 0, -3, 0)", "EPERM"),
        ("add_key", "call(248, b'user', b'a', b'b', 1, -3)", "EPERM"),
        ("bpf", "call(321, 0, None, 0)", "EPERM"),
        ("userfaultfd", "call(323, 0)", "EPERM"),
        ("io_uring_setup", "call(425, 1, None)", "EPERM"),
        ("perf_event_open", "call(298, None, 0, -1, -1, 0)", "EPERM"),
        ("open_by_handle_at", "call(304, -1, None, 0)", "EPERM"),
        ("kexec_load", "call(246, 0, 0, None, 0)", "EPERM"),
        ("finit_module", "call(313, -1, b'', 0)", "EPERM"),
        ("reboot", "call(169, 0, 0, 0, None)", "EPERM"),
        ("settimeofday", "call(164, None, None)", "EPERM"),
        ("syslog", "call(103, 3, None, 0)", "EPERM"),
        ("personality(ADDR_NO_RANDOMIZE)", "call(135, 0x0040000)", "EPERM"),
        ("personality query", "call(135, 0xffffffff)", "ok"),
        ("socket AF_ALG", "call(41, 38, 5, 0)", "EPERM"),
        ("socket AF_VSOCK", "call(41, 40, 1, 0)", "EPERM"),
        ("socket AF_ALG in the low word", "call(41, ctypes.c_ulong(1 << 32 | 38), 5, 0)", "EPERM"),
        ("socket AF_INET6", "call(41, 10, 1, 0)", "ok"),
        ("socket AF_NETLINK", "call(41, 16, 3, 0)", "ok"),
        ("a call of the future", "call(590)", "ENOSYS"),
    ],
)
def test_calls(box: Box, what: str, call: str, wanted: str) -> None:
    result = box.python(f"{_CALL}\nprint({call})")
    assert result.stdout == wanted + "\n", (what, result.stderr)


def test_the_filter_is_there_and_seals_itself(box: Box) -> None:
    """A second filter may only be added, and the first stays."""
    result = box.python(
        _CALL + "print(call(317, 1, 0, None), call(272, 0x20000))\n"
        "print([l for l in open('/proc/self/status') if l.startswith('Seccomp:')])"
    )
    assert result.stdout == "EFAULT EPERM\n['Seccomp:\\t2\\n']\n"


def test_a_capability_lifts_its_part_of_the_filter(box: Box) -> None:
    mount = "print(call(165, b'none', b'/tmp', b'tmpfs', 0, None), call(272, 0x20000), call(250, 0, -3, 0))"
    assert box.python(_CALL + mount, cap_add=("SYS_ADMIN",)).stdout == "ok ok EPERM\n"


def test_raw_sockets_need_the_capability_and_ping_does_not(box: Box) -> None:
    code = """
import socket
def attempt(*arguments):
    try:
        socket.socket(*arguments).close()
    except OSError as error:
        return error.strerror
    return "ok"
print(attempt(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
print(attempt(socket.AF_PACKET, socket.SOCK_RAW, 0))
print(attempt(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))
print(attempt(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6))
"""
    refused = "Operation not permitted"
    assert box.python(code).stdout.splitlines() == [refused, refused, "ok", "ok"]
    assert box.python(code, user="1000").stdout.splitlines() == [refused, refused, "ok", "ok"]
    assert box.python(code, cap_add=("NET_RAW",)).stdout.splitlines() == ["ok"] * 4
