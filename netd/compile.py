"""From what netd knows to what must exist: the driver's objects and the firewall's, put together.

One function for each thing the engine makes. Attaching adds what `sandbox` returns, detaching
removes it, a restart compares it with what is there; so all three speak of the same objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from netd import firewall, model
from netd.drivers import driver, link
from netd.model import LINK, Endpoint, Network, PortMapping, Sandbox, Scope
from netd.objects import Element, KernelObject
from netd.view import View

FAMILIES = (4, 6)


def network(net: Network) -> frozenset[KernelObject]:
    """All that a network needs on the host, before any endpoint."""
    clamped = [firewall.clamped(net)] if net.scope is Scope.CLUSTER else []
    return frozenset([*driver(net.driver).network(net), *firewall.network(net), *clamped])


def sandbox(
    sandbox: Sandbox, endpoints: Sequence[Endpoint], networks: Mapping[str, Network]
) -> frozenset[KernelObject]:
    """All that a sandbox needs: its endpoints, default routes and published ports.

    `endpoints` are those of this sandbox, `networks` holds theirs by id.
    """
    return frozenset(
        [
            *_endpoints(sandbox, endpoints, networks),
            *_published(endpoints, networks, sandbox.ports),
        ]
    )


def wires(endpoints: Sequence[Endpoint], view: View) -> frozenset[KernelObject]:
    """What joins those of `endpoints` that are ends of links to the other ends, where these are in `view`."""
    return frozenset(
        item
        for endpoint in endpoints
        if view.networks[endpoint.network].driver == LINK
        for other in view.endpoints_in(endpoint.network)
        if other.sandbox != endpoint.sandbox
        for item in link.wire(endpoint, other)
    )


def publish(
    endpoints: Sequence[Endpoint], networks: Mapping[str, Network], ports: Sequence[PortMapping]
) -> frozenset[KernelObject]:
    """What `ports` alone need, for a sandbox with these endpoints."""
    return frozenset(_published(endpoints, networks, ports))


def _endpoints(
    sandbox: Sandbox, endpoints: Sequence[Endpoint], networks: Mapping[str, Network]
) -> Iterator[KernelObject]:
    carriers = {family: model.default_route_of(tuple(endpoints), networks, family) for family in FAMILIES}
    for endpoint in endpoints:
        net = networks[endpoint.network]
        families = [family for family, carrier in carriers.items() if carrier == endpoint]
        yield from driver(net.driver).endpoint(net, sandbox, endpoint, families)
        yield from firewall.endpoint(net, endpoint)
    for family, carrier in carriers.items():
        if carrier is not None:
            others = [networks[endpoint.network] for endpoint in endpoints if endpoint != carrier]
            yield from firewall.detours(carrier, others, family)


def _published(
    endpoints: Sequence[Endpoint], networks: Mapping[str, Network], ports: Sequence[PortMapping]
) -> Iterator[Element]:
    # Answers leave by the default route, so that is where the question has to come in.
    for family in FAMILIES:
        carrier = model.default_route_of(tuple(endpoints), networks, family)
        if carrier is None:
            continue
        for mapping in ports:
            yield from firewall.published(networks[carrier.network], carrier, mapping, family)
