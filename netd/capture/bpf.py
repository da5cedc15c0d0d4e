"""Compiles a capture filter with libpcap, the one library that knows tcpdump's syntax.

Only two of its functions are needed, and no handle on any device, so it is called directly. The
result is a classic BPF program as SO_ATTACH_FILTER takes it (linux/filter.h).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import socket
import struct
from functools import cache

from netd.errors import Invalid, Unsupported

DLT_EN10MB = 1  # pcap/dlt.h
SNAPLEN = 0x40000
NETMASK_UNKNOWN = 0xFFFFFFFF
SO_ATTACH_FILTER = 26  # asm-generic/socket.h


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """`struct bpf_program`."""

    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Instruction)))


@cache
def _libpcap() -> ctypes.CDLL:
    for name in ("libpcap.so.0.8", "libpcap.so.1", ctypes.util.find_library("pcap")):
        try:
            library = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if library is not None:
            library.pcap_open_dead.restype = ctypes.c_void_p
            library.pcap_geterr.argtypes = [ctypes.c_void_p]
            library.pcap_geterr.restype = ctypes.c_char_p
            library.pcap_close.argtypes = [ctypes.c_void_p]
            library.pcap_compile.argtypes = [
                ctypes.c_void_p,
                ctypes.POINTER(_Program),
                ctypes.c_char_p,
                ctypes.c_int,
                ctypes.c_uint32,
            ]
            library.pcap_freecode.argtypes = [ctypes.POINTER(_Program)]
            return library
    raise Unsupported("a capture filter needs libpcap; install libpcap0.8, or capture without a filter")


def compiled(expression: str) -> bytes:
    """The instructions of a filter on Ethernet frames. Raises `Invalid` with libpcap's own words, and
    `Unsupported` where there is no libpcap."""
    library, program = _libpcap(), _Program()
    if "\0" in expression:
        raise Invalid(f"filter {expression!r} holds a NUL character")
    handle = library.pcap_open_dead(DLT_EN10MB, SNAPLEN)
    try:
        if library.pcap_compile(handle, program, expression.encode(), 1, NETMASK_UNKNOWN):
            raise Invalid(f"filter {expression!r}: {library.pcap_geterr(handle).decode(errors='replace')}")
        size = program.length * ctypes.sizeof(_Instruction)
        instructions = ctypes.string_at(program.instructions, size)
        library.pcap_freecode(program)
        return instructions
    finally:
        library.pcap_close(handle)


def attach(where: socket.socket, instructions: bytes) -> None:
    """Let only frames into `where` that the filter accepts."""
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    count = len(instructions) // ctypes.sizeof(_Instruction)
    program = struct.pack("@HP", count, ctypes.addressof(buffer))  # struct sock_fprog
    where.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
