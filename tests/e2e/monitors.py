"""What is written to a host's kernel, as its own monitors tell it."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.host import Host, end


def written_during(host: Host, act: Callable[[], object]) -> list[str]:
    """Changes of links, addresses, routes and nftables while `act` runs, as lines."""
    watchers = [host.spawn("ip", "monitor", "link", "address", "route", "rule"), host.spawn("nft", "monitor")]
    # A marker of our own at both ends shows that the monitors listen, and heard everything between.
    host.sh("ip route add 10.1.1.1/32 dev lo; ip route del 10.1.1.1/32 dev lo")
    for watcher, make in zip(
        watchers, ("ip route add 10.1.1.1/32 dev lo", "nft add table inet begun"), strict=True
    ):
        assert watcher.stdout is not None
        host.sh(make)
        line = watcher.stdout.readline()
        assert "10.1.1.1" in line or "begun" in line
    host.sh("ip route del 10.1.1.1/32 dev lo; nft delete table inet begun")
    act()
    host.sh("ip route add 10.2.2.2/32 dev lo; nft add table inet ended")
    heard: list[str] = []
    for watcher, last in zip(watchers, ("10.2.2.2", "inet ended"), strict=True):
        assert watcher.stdout is not None
        while last not in (line := watcher.stdout.readline()):
            heard.append(line)
        end(watcher)
    host.sh("ip route del 10.2.2.2/32 dev lo; nft delete table inet ended")
    noise = ("10.1.1.1", "inet begun", "new generation", "STALE", "REACHABLE")
    return [line for line in heard if not any(word in line for word in noise)]
