"""What a change means to those who watch: an event for each endpoint and each port that came or went."""

from __future__ import annotations

from netd.events import Events
from netd.model import Endpoint, Sandbox
from netd.ports import show
from netd.store.base import Attached
from netd.view import View


def tell(events: Events, view: View, before: Attached | None, after: Attached | None) -> None:
    """Emit how `after` differs from `before`, either of which may be None; what went comes first."""
    _tell_those_of(before, after, "disconnect", "unpublish", events, view)
    _tell_those_of(after, before, "connect", "publish", events, view)
    if before and after:
        for endpoint in after.endpoints:
            if endpoint not in before.endpoints and endpoint.id in {each.id for each in before.endpoints}:
                _tell_endpoint(events, view, "update", after.sandbox, endpoint)


def _tell_those_of(
    one: Attached | None, other: Attached | None, of_endpoint: str, of_port: str, events: Events, view: View
) -> None:
    """Emit the actions for what `one` has and `other` has not."""
    if one is None:
        return
    for endpoint in one.endpoints:
        if other is None or endpoint.id not in {each.id for each in other.endpoints}:
            _tell_endpoint(events, view, of_endpoint, one.sandbox, endpoint)
    for port in one.sandbox.ports:
        if other is None or port not in other.sandbox.ports:
            target = f"{port.container_port}/{port.proto}"
            events.emit("port", of_port, one.sandbox.id, one.sandbox.name, host=show(port), container=target)


def _tell_endpoint(events: Events, view: View, action: str, sandbox: Sandbox, endpoint: Endpoint) -> None:
    network = view.networks.get(endpoint.network)
    events.emit(
        "endpoint",
        action,
        endpoint.id,
        sandbox.name,
        container=sandbox.id,
        network=network.name if network else endpoint.network,
        addresses=" ".join(map(str, endpoint.addresses)),
    )
