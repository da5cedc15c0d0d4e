"""Published ports: what a person types, and who holds what."""

from __future__ import annotations

from netd.model import PortMapping


def parse_publish(spec: str) -> tuple[PortMapping, ...]:
    """Read docker's `-p` grammar, `[IP:][HOST[-END]:]CTR[-END][/tcp|udp]`, into one mapping a port.

    A host port that is left out is 0, "choose one". Raises `Invalid` naming `spec` and what is wrong.
    """
    raise NotImplementedError
