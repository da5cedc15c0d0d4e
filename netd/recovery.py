"""What the last daemon left behind: which of it is true, which was under way, which is dead.

Pure but for two questions, what the store holds and which namespaces still live. The answer is a
`Recovered`: the view to begin with, and the writes that make the store agree with it. Those writes
come last, after the kernel agrees too (`Recovered.settle`), so that a start that is interrupted
leaves the next one the same question.

The rules, for each intent that was found:

    something being made      it was not committed, or the intent would be gone with the same commit:
                              it does not exist. (A network is committed to another file, so for one
                              the definition decides.)
    something being removed   it does not exist
    something being changed   it is what it was before

Nobody takes the kernel's part back step by step: the comparison of everything with everything at
start does it. Only what happened inside a namespace that lives on is looked at in particular.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from netd.kernel.ports import Kernel
from netd.model import Endpoint, Network, PortMapping, Sandbox
from netd.store.base import Attached, Delete, Freed, Loaded, Quarantined, Store, Table, Write
from netd.view import View

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Recovered:
    """What to begin with. `dropped` are attachments that ended while nobody looked, or whose removal was
    under way; `aside` endpoints that contradict the rest, whose addresses nobody should get; `suspects`
    sandboxes whose inside may hold half a change."""

    view: View
    facts: Mapping[str, str]
    freed: tuple[Freed, ...]
    dropped: list[Attached] = field(default_factory=list)
    aside: list[Endpoint] = field(default_factory=list)
    suspects: set[str] = field(default_factory=set)
    unpublished: list[PortMapping] = field(default_factory=list)
    definitions: list[Write] = field(default_factory=list)
    live: list[Write] = field(default_factory=list)

    def holders(self) -> Mapping[str, list[tuple[str, Endpoint]]]:
        """By network, whose every endpoint is that has addresses now, or had them when its life ended."""
        sandboxes = self.view.sandboxes
        known = [(sandboxes[e.sandbox].name, e) for e in self.view.endpoints.values()]
        known += [(each.sandbox.name, e) for each in self.dropped for e in each.endpoints]
        known += [(e.sandbox, e) for e in self.aside]
        found: dict[str, list[tuple[str, Endpoint]]] = {}
        for name, endpoint in known:
            found.setdefault(endpoint.network, []).append((name, endpoint))
        return found

    async def settle(self, store: Store, *also: Write) -> None:
        """Make the store agree. Definitions first: without them an intent is found again."""
        if self.definitions:
            await store.define(*self.definitions)
        if self.live or also:
            await store.live(*self.live, *also)


async def recover(store: Store, kernel: Kernel) -> Recovered:
    """Read the store and decide; changes nothing."""
    loaded = await store.load()
    found = Recovered(view=View(), facts=loaded.facts, freed=tuple(loaded.freed.values()))
    networks, sandboxes, endpoints = dict(loaded.networks), dict(loaded.sandboxes), dict(loaded.endpoints)
    _judge_intents(loaded, networks, sandboxes, endpoints, found)
    quarantined = list(loaded.quarantined)
    attached = _put_together(networks, sandboxes, endpoints, quarantined, found.aside)
    alive = await asyncio.gather(*(kernel.netns_alive(each.sandbox.netns) for each in attached))
    for each, lives in zip(attached, alive, strict=True):
        if not lives:
            log.info("the namespace of %r is gone: it is detached", each.sandbox.name)
            _drop(each, found)
    present = [each for each, lives in zip(attached, alive, strict=True) if lives]
    for complaint in quarantined:
        log.error("%s %s is set aside: %s", complaint.table, complaint.key, complaint.problem)
    found.view = View.of(networks.values(), present, tuple(quarantined))
    found.live += [
        Delete(Table.FREED, key) for key, freed in loaded.freed.items() if freed.network not in networks
    ]
    return found


def _judge_intents(
    loaded: Loaded,
    networks: dict[str, Network],
    sandboxes: dict[str, Sandbox],
    endpoints: dict[str, Endpoint],
    found: Recovered,
) -> None:
    for key, intent in loaded.intents.items():
        found.live.append(Delete(Table.INTENT, key))
        log.info("%s %s was interrupted", intent.phase, key)
        if intent.network_before and not intent.network_after:
            networks.pop(intent.network_before.id, None)
            found.definitions.append(Delete(Table.NETWORK, intent.network_before.id))
        if intent.after:
            found.unpublished += intent.after.sandbox.ports
            found.suspects.add(intent.after.sandbox.id)
        elif intent.before:
            sandboxes.pop(intent.before.sandbox.id, None)
            for endpoint in intent.before.endpoints:
                endpoints.pop(endpoint.id, None)
            _drop(intent.before, found)


def _drop(attached: Attached, found: Recovered) -> None:
    found.dropped.append(attached)
    found.unpublished += attached.sandbox.ports
    found.live.append(Delete(Table.SANDBOX, attached.sandbox.id))
    found.live += [Delete(Table.ENDPOINT, endpoint.id) for endpoint in attached.endpoints]


def _put_together(
    networks: Mapping[str, Network],
    sandboxes: Mapping[str, Sandbox],
    endpoints: Mapping[str, Endpoint],
    quarantined: list[Quarantined],
    aside: list[Endpoint],
) -> list[Attached]:
    """Sandboxes with their endpoints. An endpoint that contradicts the rest is set aside."""
    of: dict[str, list[Endpoint]] = {id: [] for id in sandboxes}
    holders: dict[tuple[str, object], Endpoint] = {}
    for id, endpoint in endpoints.items():
        if problem := _contradiction(endpoint, networks, sandboxes, holders):
            quarantined.append(Quarantined(Table.ENDPOINT, id, problem))
            aside.append(endpoint)
            continue
        for interface in endpoint.addresses:
            holders[endpoint.network, interface.ip] = endpoint
        of[endpoint.sandbox].append(endpoint)
    return [
        Attached(sandbox, tuple(sorted(of[id], key=lambda endpoint: endpoint.order)))
        for id, sandbox in sandboxes.items()
    ]


def _contradiction(
    endpoint: Endpoint,
    networks: Mapping[str, Network],
    sandboxes: Mapping[str, Sandbox],
    holders: Mapping[tuple[str, object], Endpoint],
) -> str:
    if endpoint.network not in networks:
        return f"its network {endpoint.network} does not exist"
    if endpoint.sandbox not in sandboxes:
        return f"its sandbox {endpoint.sandbox} does not exist"
    for interface in endpoint.addresses:
        if other := holders.get((endpoint.network, interface.ip)):
            return f"its address {interface.ip} is held by endpoint {other.id}, too"
    return ""
