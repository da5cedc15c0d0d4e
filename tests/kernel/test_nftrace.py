"""Events of a real kernel about packets on its loopback; that nothing stays; and damaged events."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address

import pytest

from netd.errors import KernelError
from netd.kernel import nftrace
from netd.kernel.host import HostKernel
from netd.kernel.ports import Flow
from netd.model import IPAddress
from netd.tasks import spawn

Shell = Callable[[str], str]
WALL = """
ip link set lo up
nft -f - <<END
table inet wall {
    chain input {
        type filter hook input priority 0; policy accept;
        udp dport 9 jump inner
        udp dport 7 accept comment "the seventh"
    }
    chain inner {
        counter drop
    }
}
END
"""


def flow(address: IPAddress, port: int) -> Flow:
    return Flow(source=address, destination=address, proto=17, source_port=5000, destination_port=port)


def sender(address: IPAddress, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    opened.bind((str(address), 5000))
    opened.connect((str(address), port))
    return opened


@pytest.mark.parametrize("text", ["127.0.0.1", "::1"])
async def test_each_rule_in_order(host_kernel: HostKernel, sh: Shell, text: str) -> None:
    sh(WALL)
    address = ip_address(text)
    with sender(address, 9) as out:

        async def send() -> None:
            out.send(b"?")

        steps = await host_kernel.trace(flow(address, 9), send)
    ours = [step for step in steps if step.table == "wall"]
    assert [(step.chain, step.kind, step.verdict) for step in ours] == [
        ("input", "rule", "jump inner"),
        ("inner", "rule", "drop"),
    ]
    assert ours[0].rule == "udp dport 9 jump inner"
    assert ours[1].rule.startswith("counter packets 1 ")
    assert (ours[0].family, ours[0].iif) == ("inet", "lo")
    where = f"[{text}]" if address.version == 6 else text
    assert (ours[0].source, ours[0].destination) == (f"{where}:5000", f"{where}:9")
    assert not any(step.table.startswith("netd_trace") for step in steps)
    sh("nft delete table inet wall")


async def test_only_the_flow_is_told_of_and_nothing_stays(host_kernel: HostKernel, sh: Shell) -> None:
    sh(WALL)
    before = sh("nft list ruleset")
    address = ip_address("127.0.0.1")
    during = ""
    with sender(address, 7) as out, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as seven:
        seven.bind((str(address), 7))

        async def send() -> None:
            nonlocal during
            during = sh("nft list tables")
            out.send(b"?")

        assert await host_kernel.trace(flow(address, 9), send) == []
        steps = await host_kernel.trace(flow(address, 7), send)
    (seventh,) = (step for step in steps if step.table == "wall")
    assert (seventh.verdict, seventh.rule) == ("accept", 'udp dport 7 accept comment "the seventh"')
    assert during.count("netd_trace_") == 2
    assert sh("nft list ruleset") == before
    sh("nft delete table inet wall")


async def test_a_flow_that_goes_on_is_not_listened_to_for_ever(host_kernel: HostKernel, sh: Shell) -> None:
    sh(WALL)
    address = ip_address("127.0.0.1")
    with sender(address, 9) as out:

        async def chatter() -> None:
            while True:
                with suppress(ConnectionRefusedError):
                    out.send(b"?")
                await asyncio.sleep(0.01)

        talking: list[asyncio.Task[None]] = []

        async def send() -> None:
            talking.append(spawn(chatter(), name="chatter"))

        try:
            async with asyncio.timeout(15):
                steps = await host_kernel.trace(flow(address, 9), send, within=10)
            assert not talking[0].done()
        finally:
            talking[0].cancel()
    assert len({step.packet for step in steps}) > 1
    sh("nft delete table inet wall")


async def test_a_failure_to_send_takes_the_tables_away_too(host_kernel: HostKernel, sh: Shell) -> None:
    async def send() -> None:
        assert "netd_trace_" in sh("nft list tables")
        raise KernelError(101, "send")

    with pytest.raises(KernelError, match="send"):
        await host_kernel.trace(flow(ip_address("127.0.0.1"), 9), send)
    assert "netd_trace_" not in sh("nft list tables")


@pytest.mark.parametrize(
    "body", [bytes(4), b"\x01\0\0\0\xff\xff", b"\x01\0\0\0\x08\0\x06\0\0\0\0\1", b"\x63" * 60]
)
def test_an_event_that_makes_little_sense_is_still_a_step(body: bytes) -> None:
    step = nftrace.decode(body, {}, {})
    assert (step.rule, step.iif) == ("", "")


def test_a_port_that_is_not_said_may_be_any() -> None:
    address = ip_address("127.0.0.1")
    assert nftrace.match(flow(address, 9)).endswith("th sport 5000 th dport 9")
    assert nftrace.match(replace(flow(address, 9), source_port=0)).endswith("l4proto 17 th dport 9")
