"""One armed packet socket. The kernel writes frames into memory shared with us (TPACKET_V3).

With a ring the kernel loses a frame only when the ring is full, however slowly Python reads, and it
counts what it loses. Each frame carries the kernel's own time of arrival, and whether it was on its way
out of the interface.

Arming takes four steps whose order matters: filter, ring, then binding, which is what makes the
socket hear. Documentation/networking/packet_mmap.rst describes blocks and headers.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl

from netd.capture import bpf
from netd.capture.points import Point
from netd.errors import KernelError, NetdError

# linux/if_packet.h, linux/if_ether.h
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION = 1, 5, 6, 10
PACKET_MR_PROMISC, PACKET_OUTGOING, TPACKET_V3 = 1, 4, 2
TP_STATUS_KERNEL, TP_STATUS_USER = 0, 1
TP_STATUS_CSUMNOTREADY, TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID = 1 << 3, 1 << 4, 1 << 6
ETH_P_ALL, ETH_P_8021Q = 3, 0x8100
ETH_P_MARKER = 0x88B5
"""Local experimental ethertype 1 (IEEE 802, 9.2.4): what marker frames bear."""

BLOCK = 1 << 18
BLOCKS = 32
RETIRE = 10
"""Milliseconds after which the kernel hands over a block that is not full."""

_HEADER = struct.Struct("=IIIIIIHH")  # struct tpacket3_hdr up to tp_net
_VLAN = struct.Struct("=IIH")  # its hv1
_ADDRESS_AT = 48  # sizeof(struct tpacket3_hdr), aligned: there the sockaddr_ll begins
_STATUS = struct.Struct("=I")
_BLOCK = struct.Struct("=III")  # block_status, num_pkts, offset_to_first_pkt behind version and offset


@dataclass(frozen=True)
class Frame:
    """One frame at one point. `time` is the kernel's, in nanoseconds since the epoch; `length` that on
    the wire, should `data` be cut. With `checksum_ready` false its checksum would have been filled in by
    the hardware, which a veth pair never has: a wrong one means nothing."""

    point: str
    time: int
    outgoing: bool
    data: bytes
    length: int = 0
    checksum_ready: bool = True


class Ring:
    """A point that listens from construction on, until `close`.

    `seen` counts the frames that were read, `taken` markers too.
    """

    def __init__(self, point: Point, filter: str = "", blocks: int = BLOCKS) -> None:
        """`filter` is of tcpdump's syntax. Raises `Invalid` if it is wrong, `KernelError`."""
        self.point = point
        self._blocks = blocks
        self.socket = point.ear
        self.dropped = 0
        self.heard = 0
        self.taken = 0
        self.seen = 0
        self._next = 0
        try:
            if filter.strip():
                bpf.compiled(filter)  # first by itself: whatever is wrong is said of what the caller wrote
                bpf.attach(self.socket, bpf.compiled(f"({filter}) or ether proto {ETH_P_MARKER}"))
            self._arm()
        except OSError as error:
            point.close()
            raise KernelError(error.errno or 0, f"capture at {point.name}") from error
        except NetdError:
            point.close()
            raise

    def _arm(self) -> None:
        self.socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        layout = struct.pack("=7I", BLOCK, self._blocks, 2048, BLOCK // 2048 * self._blocks, RETIRE, 0, 0)
        self.socket.setsockopt(SOL_PACKET, PACKET_RX_RING, layout)
        self._memory = mmap.mmap(self.socket.fileno(), BLOCK * self._blocks)
        self.socket.bind((self.point.ifname, ETH_P_ALL))
        self.mac: bytes = self.socket.getsockname()[4]
        if self.point.name.startswith(("network:", "host:")):
            self._listen_to_all()

    def _listen_to_all(self) -> None:
        """A bridge shows what it forwards between its ports only to those who want everything. The kernel
        takes this back when the socket is closed."""
        index = socket_index(self.socket, self.point.ifname)
        wanted = struct.pack("=iHH8s", index, PACKET_MR_PROMISC, 0, b"")
        self.socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, wanted)

    def fileno(self) -> int:
        """For `select`: readable when a block can be read."""
        return self.socket.fileno()

    def read(self) -> Iterator[tuple[Frame, int]]:
        """Every frame that is there, with its ethertype; gives the blocks back to the kernel."""
        while True:
            start = self._next * BLOCK
            status, count, offset = _BLOCK.unpack_from(self._memory, start + 8)
            if not status & TP_STATUS_USER:
                # An interface that goes down leaves an error, which would keep the socket readable.
                self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                return
            at = start + offset
            for _ in range(count):
                following, *_ = _HEADER.unpack_from(self._memory, at)
                yield self._frame(at)
                at += following
            _STATUS.pack_into(self._memory, start + 8, TP_STATUS_KERNEL)
            self._next = (self._next + 1) % self._blocks

    def _frame(self, at: int) -> tuple[Frame, int]:
        _, seconds, nanoseconds, taken, length, status, mac, _ = _HEADER.unpack_from(self._memory, at)
        data = self._memory[at + mac : at + mac + taken]
        if status & TP_STATUS_VLAN_VALID:
            _, tag, kind = _VLAN.unpack_from(self._memory, at + _HEADER.size)
            protocol = kind if status & TP_STATUS_VLAN_TPID_VALID else ETH_P_8021Q
            data = data[:12] + struct.pack("!HH", protocol, tag & 0xFFFF) + data[12:]
            length += 4
        frame = Frame(
            self.point.name,
            seconds * 1_000_000_000 + nanoseconds,
            self._memory[at + _ADDRESS_AT + 10] == PACKET_OUTGOING,  # sll_pkttype
            data,
            length,
            not status & TP_STATUS_CSUMNOTREADY,
        )
        kind = int.from_bytes(data[12:14], "big")
        self.taken += 1
        self.seen += kind != ETH_P_MARKER
        return frame, kind

    def mark(self, text: bytes) -> None:
        """Send a frame that goes no further than to the other end of this interface."""
        assert self.point.speaker is not None, "an interface of the host is not marked"
        frame = self.mac + self.mac + ETH_P_MARKER.to_bytes(2, "big") + text.ljust(46, b"\0")
        self.point.speaker.sendto(frame, (self.point.ifname, 0))

    def deafen(self) -> None:
        """Hear nothing from now on; when this returns, whatever was heard is in the ring."""
        self.socket.bind(("lo", ETH_P_MARKER))

    def count(self) -> None:
        """Bring `dropped`, what the kernel lost for want of space, and `heard`, what is or was in the ring,
        up to date. The kernel forgets its counts as they are read."""
        arrived, lost, _ = struct.unpack("=III", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12))
        self.dropped += lost
        self.heard += arrived - lost

    def close(self) -> None:
        """Let go of memory and socket."""
        with suppress(BufferError):
            self._memory.close()
        self.point.close()


def socket_index(where: socket.socket, ifname: str) -> int:
    """The index of an interface in the socket's own namespace, not in ours."""
    request = struct.pack("16s16x", ifname.encode())
    answer = ioctl(where.fileno(), 0x8933, request)  # SIOCGIFINDEX
    return int(struct.unpack_from("=i", answer, 16)[0])
