"""Which UDP flows are forgotten: those first sent to a published port, whatever port the container has."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from ipaddress import ip_address

import pytest

from netd.kernel.host import HostKernel

Shell = Callable[[str], str]


def send(target: str, port: int) -> None:
    """Start a flow through conntrack, to whoever may listen."""
    with socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (target, port))


def flows(sh: Shell) -> set[tuple[str, str, int]]:
    """(protocol, original destination, original destination port) of all entries."""
    found = set()
    for family in ("ipv4", "ipv6"):
        for line in sh(f"conntrack -L -f {family} 2>/dev/null || true").splitlines():
            words = line.split()
            fields = dict(word.split("=", 1) for word in reversed(words) if "=" in word)
            found.add((words[0], str(ip_address(fields["dst"])), int(fields["dport"])))
    return found


@pytest.fixture
def tracked(sh: Shell) -> Callable[[], None]:
    """Make conntrack watch this host, and start flows of every kind."""

    def start() -> None:
        sh(
            "nft 'table inet t { chain out { type filter hook output priority 0; ct state new accept; };"
            " chain nat { type nat hook output priority -100;"
            " ip daddr 127.0.0.9 udp dport 5353 dnat ip to 127.0.0.10:53; }; }'"
        )
        for target in ("127.0.0.1", "127.0.0.2", "::1"):
            for port in (5353, 5354):
                send(target, port)
        send("127.0.0.9", 5353)
        with socket.create_server(("127.0.0.1", 5353)):
            socket.create_connection(("127.0.0.1", 5353)).close()

    return start


ALL = {
    ("udp", "127.0.0.1", 5353),
    ("udp", "127.0.0.2", 5353),
    ("udp", "::1", 5353),
    ("udp", "127.0.0.9", 5353),
    ("udp", "127.0.0.1", 5354),
    ("udp", "127.0.0.2", 5354),
    ("udp", "::1", 5354),
    ("tcp", "127.0.0.1", 5353),
}


@pytest.mark.parametrize(
    ("asked", "gone"),
    [
        ([], set()),
        ([("127.0.0.1", 5353)], {("udp", "127.0.0.1", 5353)}),
        ([("::1", 5354)], {("udp", "::1", 5354)}),
        ([("127.0.0.9", 5353)], {("udp", "127.0.0.9", 5353)}),
        ([("127.0.0.10", 53)], set()),
        ([(None, 5353)], {flow for flow in ALL if flow[0] == "udp" and flow[2] == 5353}),
        (
            [(None, 5353), ("::1", 5354), (None, 99)],
            {f for f in ALL if f[0] == "udp" and f[2] == 5353} | {("udp", "::1", 5354)},
        ),
        ([(None, 53)], set()),
    ],
    ids=["nothing", "v4", "v6", "translated", "container side", "any address", "several", "unused"],
)
async def test_flows_are_forgotten_by_where_they_were_sent(
    host_kernel: HostKernel,
    sh: Shell,
    tracked: Callable[[], None],
    asked: Collection[tuple[str | None, int]],
    gone: set[tuple[str, str, int]],
) -> None:
    tracked()
    assert flows(sh) == ALL
    before = host_kernel.writes
    ports = [(ip_address(address) if address else None, port) for address, port in asked]
    await host_kernel.flush_udp(ports)
    assert flows(sh) == ALL - gone
    assert host_kernel.writes - before == len(gone)
    await host_kernel.flush_udp(ports)
    assert flows(sh) == ALL - gone
    sh("nft delete table inet t")


async def test_untranslated_flows_of_an_address_are_forgotten_whichever_end_it_is(
    host_kernel: HostKernel, sh: Shell, tracked: Callable[[], None]
) -> None:
    """127.0.0.1 is the source of every flow over IPv4, also of the one that is translated."""
    tracked()
    await host_kernel.forget_untranslated([ip_address("127.0.0.99")])
    await host_kernel.forget_untranslated([])
    assert flows(sh) == ALL
    await host_kernel.forget_untranslated([ip_address("127.0.0.2")])
    assert flows(sh) == ALL - {("udp", "127.0.0.2", 5353), ("udp", "127.0.0.2", 5354)}
    await host_kernel.forget_untranslated([ip_address("127.0.0.1"), ip_address("::1")])
    assert flows(sh) == {("udp", "127.0.0.9", 5353)}
    sh("nft delete table inet t")
