"""What routers let through and what links do to packets: from the file's words to options and rules; pure.

A limit of the rate is the daemon's to keep (a token bucket at both ends of the pair, outside the
container's reach). Loss is an nft rule inside the container's namespace, for what comes and for what
goes. Delay, jitter and duplication are the kernel's netem queue, at both ends of the pair, the client's to
set up like loss. Where the kernel has none they are refused, because a test that believes in a delay that is
not there is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from netd import names
from netd.errors import Invalid
from netd.topology.compose import Forward, Netem
from netd.topology.values import seconds, unknown

LOSS = "topology.loss"
"""Option of an endpoint, which the daemon only keeps: the percentage that `loss` asked for."""
RATE = "topology.rate"
"""Likewise: the bits a second that `rate` asked for, to go back to when they were changed meanwhile."""
NETEM = "topology.netem"
"""Likewise: nanoseconds of delay and of jitter, the percentage that is duplicated, and the seed of chance."""
TO, FROM = "bandwidth.ingress", "bandwidth.egress"
"""Options of an endpoint that the daemon obeys; bits a second."""

ROUTER_TABLE = "netd_router"
STEPS = 100_000
"""In how many parts chance is divided: a thousandth of a percent."""

_RATES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:bit|bps)(?:/s)?", re.IGNORECASE)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")
_ALLOW = re.compile(
    r"(?P<source>\S+?)\s*->\s*(?P<target>\S+)"
    r"(?:\s+(?:(?P<proto>tcp|udp)/(?P<first>\d{1,5})(?:-(?P<last>\d{1,5}))?|(?P<icmp>icmp)))?"
)


def options(netem: Netem | None, path: str) -> dict[str, str]:
    """The endpoint's options for `netem`. Raises `Invalid` naming the path and the value."""
    if netem is None:
        return {}
    found = {}
    if netem.rate:
        found[RATE] = str(rate(netem.rate, f"{path}.rate"))
        found |= limits(found[RATE])
    if netem.loss:
        found[LOSS] = f"{share(netem.loss, f'{path}.loss'):g}"
    if queue := queued(netem, path):
        found[NETEM] = queue
    return found


def queued(netem: Netem, path: str) -> str:
    """What the kernel's netem queue is to do, as `NETEM` says it; "" for nothing. Raises `Invalid`."""
    delay, jitter = (
        round(seconds(text, f"{path}.{what}") * 10**9) if text else 0
        for what, text in (("delay", netem.delay), ("jitter", netem.jitter))
    )
    duplicate = share(netem.duplicate, f"{path}.duplicate") if netem.duplicate else 0.0
    if jitter and not delay:
        raise Invalid(f"{path}.jitter: {netem.jitter!r} is how much a delay varies: give the delay, too")
    if netem.seed < 0 or (netem.seed and not (jitter or duplicate)):
        raise Invalid(
            f"{path}.seed: {netem.seed} is where the chance of jitter and duplicate begins, at least 1: give "
            "one of them, or leave it out; loss has no seed"
        )
    return f"{delay} {jitter} {duplicate:g} {netem.seed}" if delay or duplicate else ""


def limits(bits: str) -> dict[str, str]:
    """The options that limit both directions to so many bits a second; "" for no limit."""
    return {TO: bits, FROM: bits}


def rate(text: str, path: str) -> int:
    """Bits a second: "10mbit", "512kbit"."""
    found = _RATE.fullmatch(text.strip())
    if not found:
        raise Invalid(f"{path}: {text!r} is not a rate: write it like 512kbit or 10mbit")
    return int(float(found[1]) * _RATES[found[2].lower()])


def share(text: str, path: str) -> float:
    """A percentage: "0.5%"."""
    found = _SHARE.fullmatch(text.strip())
    if not found or float(found[1]) > 100:
        raise Invalid(f"{path}: {text!r} is not a share of packets: write it like 0.5%")
    return float(found[1])


def loss_rules(ifname: str, percent: float) -> str:
    """nft commands that make an interface of the namespace lose so many percent, in each direction."""
    table = f"netdev netd_link_{names.digest(ifname, 8)}"
    commands = [f"add table {table}", f"delete table {table}"]
    if percent:
        chance = "" if percent >= 100 else f"numgen random mod {STEPS} < {round(percent * STEPS / 100)} "
        commands.append(f"add table {table}")
        for chain in ("ingress", "egress"):
            hook = (
                f'type filter hook {chain} device "{names.check_ifname(ifname)}" priority 0; policy accept;'
            )
            commands += [f"add chain {table} {chain} {{ {hook} }}", f"add rule {table} {chain} {chance}drop"]
    return "\n".join(commands)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One entry of `allow`; "*" stands for any network, an empty `proto` for any packet."""

    source: str
    target: str
    proto: str
    ports: str


def passes(forward: Forward, networks: Mapping[str, object], path: str) -> list[Pass]:
    """The entries of `forward.allow`, between `networks` of the router. Raises `Invalid`."""
    found = []
    for n, text in enumerate(forward.allow):
        where = f"{path}.allow[{n}]"
        match = _ALLOW.fullmatch(text.strip())
        if not match:
            raise Invalid(f"{where}: {text!r} must have the form FROM->TO, FROM->TO tcp/80 or FROM->TO icmp")
        for name in (match["source"], match["target"]):
            if name != "*" and name not in networks:
                raise unknown("network", name, networks, where)
        first, last = int(match["first"] or 0), int(match["last"] or match["first"] or 0)
        if match["proto"] and not 0 < first <= last < 65536:
            raise Invalid(f"{where}: {text!r} has no possible port")
        found.append(
            Pass(
                source=match["source"],
                target=match["target"],
                proto=match["icmp"] or match["proto"] or "",
                ports=f"{first}-{last}" if last > first else str(first or ""),
            )
        )
    return found


def router_rules(forward: Forward, interfaces: Mapping[str, str]) -> str:
    """nft commands for a router whose networks, by key, have these interfaces."""
    table = f"inet {ROUTER_TABLE}"
    commands = [
        f"add table {table}",
        f"delete table {table}",
        f"add table {table}",
        f"add chain {table} forward {{ type filter hook forward priority filter; policy {forward.policy}; }}",
        f"add rule {table} forward ct state established,related accept",
    ]
    for each in passes(forward, interfaces, "forward"):
        matches = [
            f'{direction} "{names.check_ifname(interfaces[key])}"'
            for direction, key in (("iifname", each.source), ("oifname", each.target))
            if key != "*"
        ]
        match each.proto:
            case "icmp":
                matches.append("meta l4proto { icmp, icmpv6 }")
            case "tcp" | "udp":
                matches.append(f"{each.proto} dport {each.ports}")
        commands.append(" ".join((f"add rule {table} forward", *matches, "accept")))
    return "\n".join(commands)
