"""Announcements as scapy reads them; the messages against pyroute2's encoder, byte for byte."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from netd.kernel import fastnl, proxies, vxlan
from netd.model import IPAddress

MAC = "02:42:0a:05:00:01"
FOUR, SIX = IPv4Address("10.5.0.9"), IPv6Address("fd05::9")


def test_a_gratuitous_arp_request() -> None:
    frame = Ether(proxies.announcement(MAC, FOUR))
    assert (frame.src, frame.dst) == (MAC, "ff:ff:ff:ff:ff:ff")
    arp = frame[ARP]
    assert (arp.op, arp.hwsrc, arp.psrc, arp.pdst) == (1, MAC, "10.5.0.9", "10.5.0.9")


def test_an_unsolicited_neighbour_advertisement() -> None:
    frame = Ether(proxies.announcement(MAC, SIX))
    assert (frame.src, frame.dst) == (MAC, "33:33:00:00:00:01")
    assert (frame[IPv6].src, frame[IPv6].dst, frame[IPv6].hlim) == ("fd05::9", "ff02::1", 255)
    told = frame[ICMPv6ND_NA]
    assert (told.tgt, told.R, told.S, told.O) == ("fd05::9", 1, 0, 1)
    assert told[ICMPv6NDOptDstLLAddr].lladdr == MAC
    again = Ether(bytes(frame))
    del again[ICMPv6ND_NA].cksum
    assert Ether(bytes(again))[ICMPv6ND_NA].cksum == told.cksum


@pytest.mark.parametrize("address", [FOUR, SIX])
def test_an_entry(address: IPAddress) -> None:
    message = ndmsg()
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    message.update(
        {"family": int(family), "ifindex": 7, "state": 0, "flags": proxies.NTF_PROXY, "ndm_type": 0}
    )
    message["attrs"] = [["NDA_DST", str(address)]]
    flags = fastnl.NLM_F_REQUEST | fastnl.NLM_F_ACK
    message["header"] = {"type": vxlan.RTM_DELNEIGH, "flags": flags, "sequence_number": 0, "pid": 0}
    message.encode()
    assert proxies.delete(7, address) == bytes(message.data)
