"""Bandwidth limits of an endpoint, in both directions, as kernel objects; for every driver with veth pairs.

Only what a device sends can be queued. What goes to the container the host's side of its pair sends, so
a token bucket (TBF) stands there. What comes from the container is led to an IFB device, which sends it
on to where it was going, and that device has the bucket. Both are on the host: inside its own namespace
a container with CAP_NET_ADMIN could take them away.

A bucket may be emptied at once, and whatever is behind it meets that burst. Runtimes ask for gigabytes
(k8s #90838, plugins #609), which no limit survives: the first seconds of every transfer would not be
limited at all. So a burst is never more than 20 ms of the rate, and never less than two frames, or
nothing would pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from netd import names
from netd.errors import Invalid
from netd.model import Endpoint, Network
from netd.objects import Ifb, KernelObject, Redirect, Shaper

TO, FROM = "bandwidth.ingress", "bandwidth.egress"
"""Options of an endpoint, named as it sees them: "RATE" or "RATE/BURST", bits a second and bits."""

LONGEST = 50
"""A burst is at most this part of what passes in a second: a fiftieth, 20 ms."""
FRAMES = 2
HEADER = 18
"""Bytes of a frame that the MTU does not count: Ethernet, and a VLAN tag."""
LEAST, MOST = 1000, 5 * 10**11
"""Bits a second that can be asked for. The kernel counts what waits in 32 bits."""
_VALUE = re.compile(r"(?P<rate>\d{1,15})(?:/(?P<burst>\d{1,15}))?")


def check(options: Mapping[str, str]) -> None:
    """Raise `Invalid` for a limit that is none."""
    for option in (TO, FROM):
        text = options.get(option, "")
        if not text:
            continue
        found = _VALUE.fullmatch(text)
        if not found or not LEAST <= int(found["rate"]) <= MOST:
            raise Invalid(
                f"{option} {text!r} is no limit: write RATE or RATE/BURST, bits a second and bits, the rate "
                f"between {LEAST} and {MOST}"
            )


def endpoint(net: Network, endpoint: Endpoint, alias: str, altname: str) -> Iterator[KernelObject]:
    """What the limits of `endpoint` need; nothing for none. `alias` and `altname` are for a device made."""
    host = names.host_ifname(endpoint)
    yield from towards(net, endpoint)
    if limit := _bucket(net, endpoint.options.get(FROM, "")):
        ifb = names.ifb_name(endpoint)
        yield Ifb(ifb, alias=alias, altname=altname, mtu=net.mtu)
        yield Shaper(ifb, *limit)
        yield Redirect(host, ifb)


def towards(net: Network, endpoint: Endpoint) -> Iterator[Shaper]:
    """The limit of what goes to the container alone."""
    if limit := _bucket(net, endpoint.options.get(TO, "")):
        yield Shaper(names.host_ifname(endpoint), *limit)


def _bucket(net: Network, text: str) -> tuple[int, int] | None:
    """Rate and burst of a limit, in bytes a second and bytes."""
    found = _VALUE.fullmatch(text)
    if not found:
        return None
    rate = int(found["rate"]) // 8
    wished = int(found["burst"] or 0) // 8 or rate
    return rate, max(min(wished, rate // LONGEST), FRAMES * (net.mtu + HEADER))
