"""The hand-packed messages against pyroute2's encoder, byte for byte; dumps put back together."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from pyroute2.netlink.generic.wireguard import wgmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from netd import keys
from netd.errors import Invalid
from netd.kernel import fastnl, uapi, wireguard
from netd.kernel.wireguard import GENL, Configuration
from netd.objects import WireGuard, WireGuardPeer

FAMILY = 30
PRIVATE = keys.new()
PUBLIC = keys.public_of(PRIVATE)
INSIDE = IPv6Address("fdb4:8a1c:e95d::2")
FOUR = WireGuardPeer("wg0", keys.public_of(keys.new()), INSIDE, IPv4Address("192.0.2.2"), 51820)
SIX = WireGuardPeer("wg0", keys.public_of(keys.new()), INSIDE + 1, IPv6Address("2001:db8::2"), 4000)


def encoded(command: int, attributes: list[Any], flags: int) -> bytes:
    message = wgmsg()
    message["cmd"], message["version"] = command, 1
    message["attrs"] = [["WGDEVICE_A_IFNAME", "wg0"], *attributes]
    message["header"] = {
        "type": FAMILY,
        "flags": fastnl.NLM_F_REQUEST | flags,
        "sequence_number": 0,
        "pid": 0,
    }
    message.encode()
    return bytes(message.data)


def peer(value: WireGuardPeer, *addresses: str) -> dict[str, Any]:
    """A peer as pyroute2 encodes it, with further addresses."""
    allowed = [
        {
            "attrs": [
                ["WGALLOWEDIP_A_FAMILY", 2 if address.version == 4 else 10],
                ["WGALLOWEDIP_A_IPADDR", address.packed],
                ["WGALLOWEDIP_A_CIDR_MASK", address.max_prefixlen],
            ]
        }
        for address in map(ip_address, (str(value.address), *addresses))
    ]
    return {
        "attrs": [
            ["WGPEER_A_PUBLIC_KEY", value.public_key],
            ["WGPEER_A_FLAGS", 2],
            ["WGPEER_A_ENDPOINT", {"addr": str(value.endpoint), "port": value.port}],
            ["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", 25],
            ["WGPEER_A_ALLOWEDIPS", allowed],
        ]
    }


def test_create() -> None:
    message = ifinfmsg()
    message.update({"family": 0, "ifi_type": 0, "index": 0, "flags": 0, "change": 0})
    message["attrs"] = [
        ["IFLA_IFNAME", "wg0"],
        ["IFLA_MTU", 1440],
        ["IFLA_GROUP", 5],
        ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "wireguard"]]}],
    ]
    message["header"] = {"type": 16, "flags": 0x605, "sequence_number": 0, "pid": 0}
    message.encode()
    wanted = WireGuard("wg0", "netd:wireguard", "", 1440, 51820, PUBLIC)
    assert wireguard.create(wanted, 5) == bytes(message.data)


def test_the_device() -> None:
    assert wireguard.device_get(FAMILY, "wg0") == encoded(0, [], fastnl.NLM_F_DUMP)
    told = [["WGDEVICE_A_PRIVATE_KEY", PRIVATE], ["WGDEVICE_A_LISTEN_PORT", 51820]]
    assert wireguard.device_set(FAMILY, "wg0", PRIVATE, 51820) == encoded(1, told, fastnl.NLM_F_ACK)


@pytest.mark.parametrize("value", [FOUR, SIX], ids=["IPv4", "IPv6"])
def test_a_peer(value: WireGuardPeer) -> None:
    added = wireguard.peer_set(FAMILY, "wg0", wireguard.peer_add(value, 25))
    assert added == encoded(1, [["WGDEVICE_A_PEERS", [peer(value)]]], fastnl.NLM_F_ACK)
    gone = {"attrs": [["WGPEER_A_PUBLIC_KEY", value.public_key], ["WGPEER_A_FLAGS", 1]]}
    removed = wireguard.peer_set(FAMILY, "wg0", wireguard.peer_remove(value.public_key))
    assert removed == encoded(1, [["WGDEVICE_A_PEERS", [gone]]], fastnl.NLM_F_ACK)


def test_a_peer_without_an_address_is_not_made() -> None:
    with pytest.raises(Invalid, match="no address"):
        wireguard.peer_add(WireGuardPeer("wg0", PUBLIC, None, None, 0), 25)


def body(*attributes: Any) -> bytes:
    """What an answer holds behind its netlink header."""
    return encoded(0, list(attributes), 0)[fastnl.HEADER.size :]


def test_a_dump_comes_in_pieces() -> None:
    """The device first, then peer after peer; one with many addresses goes on in the next message."""
    first = body(
        ["WGDEVICE_A_PUBLIC_KEY", PUBLIC],
        ["WGDEVICE_A_LISTEN_PORT", 51820],
        ["WGDEVICE_A_PEERS", [peer(FOUR)]],
    )
    second = body(["WGDEVICE_A_PEERS", [peer(SIX)]])
    assert wireguard.configuration("wg0", [first, second]) == Configuration(PUBLIC, 51820, (FOUR, SIX))


def test_a_peer_that_may_speak_for_others_has_no_address_of_its_own() -> None:
    told = body(["WGDEVICE_A_PEERS", [peer(FOUR, "10.0.0.1")]])
    [found] = wireguard.configuration("wg0", [told]).peers
    assert found == WireGuardPeer("wg0", FOUR.public_key, None, FOUR.endpoint, FOUR.port)
    assert found.key != FOUR.key


def test_a_device_without_anything() -> None:
    assert wireguard.configuration("wg0", [GENL.pack(0, 1)]) == Configuration()


def test_who_has_a_new_key_may_shake_hands_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or both begin at once, and neither is understood for five seconds."""
    told: list[str] = []
    monkeypatch.setattr(uapi, "alive", lambda name: True)
    monkeypatch.setattr(
        uapi, "ask", lambda name, lines: told.extend(f"{key} {value}" for key, value in lines)
    )
    monkeypatch.setattr("netd.kernel.wireguard.time.sleep", lambda seconds: told.append("wait"))
    old, new = keys.public_of(keys.new()), WireGuardPeer("wg0", PUBLIC, IPv6Address("fd00::2"), None, 0)
    devices = wireguard.Devices(None, "", lambda: None)
    devices.add(new, instead=old)
    steps = ("persistent_keepalive_interval", "remove", "wait")
    beginnings = [each for each in told if each.split()[0] in steps]
    patient = f"persistent_keepalive_interval {wireguard.KEEPALIVE}"
    assert beginnings == ["persistent_keepalive_interval 0", "remove true", "wait", patient]
    told.clear()
    devices.add(new, instead=PUBLIC)
    devices.add(new)
    assert [each for each in told if "keepalive" in each or each == "wait"] == [patient] * 2
