"""The use cases: create a network, attach a sandbox, publish a port, and the ways back.

Every method is one story: validate everything, write the intent, compile, apply, commit, tell the
readers. It ends with the whole of what was asked, or with a typed error and nothing. The steps of
the law are in `netd.changes`; here is who may ask for what, and who must wait for whom:

- Operations on one network name, or on one sandbox, take turns. Others run side by side.
- What a request needs and must not share (an address, a port, a network that must not go away) is
  reserved in one go, without an `await` in between, and given back if the request fails.
- A caller may vanish at any time. What has begun is carried through (`netd.operations`).
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

from netd import compile, names, news, recovery, requests, wanted
from netd.addresses import Addresses
from netd.changes import Changes
from netd.cluster.ports import Cluster
from netd.dns_feed import NameFeed
from netd.errors import AlreadyExists, InUse, NetdError, NotFound
from netd.events import Events
from netd.forwarding import Forwarding, families
from netd.kernel.ports import Kernel
from netd.locks import Gate, Locks
from netd.model import LINK, Endpoint, Network, NetworkRequest, PortMapping, Sandbox, Want
from netd.objects import KernelObject
from netd.operations import Operations
from netd.overlay import Overlay
from netd.ports import show
from netd.promises import Promises
from netd.publishing import Publishing
from netd.reconcile import Reconciler
from netd.relay import Bind, bind
from netd.settings import Settings
from netd.store.base import Attached, Store, Write
from netd.view import View

log = logging.getLogger(__name__)


class Engine:
    """The owner of all networks and attachments of this host.

    `view` may be read at any time by anybody in the event loop. Cancelling a caller never leaves
    half a change: what has begun is carried through.
    """

    def __init__(
        self,
        *,
        kernel: Kernel,
        store: Store,
        feed: NameFeed,
        settings: Settings,
        events: Events,
        cluster: Cluster | None = None,
        bind: Bind = bind,
    ) -> None:
        self.view = View()
        self.ended: tuple[Attached, ...] = ()
        """Attachments that ended while no daemon looked, for whoever has something to tidy up after them."""
        self._kernel = kernel
        self._store = store
        self._feed = feed
        self._settings = settings
        self._events = events
        self._addresses = Addresses()
        self._publishing = Publishing(kernel, bind)
        self._forwarding = Forwarding(kernel, store, self._kept_off)
        self._locks = Locks()
        self._gate = Gate()
        self._making: dict[str, Network] = {}
        self._leaving: set[str] = set()
        self._operations = Operations(self._gate, lambda: self._overlay.announce())
        self._reconciler = Reconciler(self, kernel, self._gate, self._locks, self._forwarding, events)
        self._changes = Changes(kernel, store, feed, self._publishing, self._reconciler.request)
        self._overlay = Overlay(
            self,
            kernel=kernel,
            store=store,
            feed=feed,
            operations=self._operations,
            locks=self._locks,
            addresses=self._addresses,
            cluster=cluster,
            settings=settings,
        )
        self.rotate_key = self._overlay.rotate_key
        self.problems = self._overlay.problems
        self._promises = Promises(self, self._addresses, self._overlay.holdings)

    # --- life -------------------------------------------------------------------------------------

    async def start(self, *, look_inside: bool = True) -> None:
        """Open the store and the kernel port, recover, reconcile the host, start the feed.

        Ready when it returns. Raises what the store and the kernel raise on opening. With `look_inside`
        False the caller says when (`look_inside`).
        """
        await self._store.open()
        await self._kernel.start()
        found = await recovery.recover(self._store, self._kernel)
        self.view, self.ended = found.view, tuple(found.dropped)
        self._forwarding.recall(found.facts)
        history = self._remember_addresses(found)
        await self._overlay.recall()
        await self._reconciler.begin(found.suspects)
        await found.settle(self._store, *history)
        attached = [each for id in self.view.sandboxes if (each := self.view.attached(id))]
        await self._feed.start(
            list(self.view.networks.values()), [(each.sandbox, each.endpoints) for each in attached]
        )
        await self._publishing.adopt(attached, self.view.networks)
        await self._publishing.flush(found.unpublished)
        self._reconciler.watch()
        if look_inside:
            self.look_inside()
        await self._overlay.begin()

    def look_inside(self) -> None:
        """Look once, in the background, whether the inside of each sandbox is as the last daemon left it."""
        self._reconciler.look_inside()

    def _remember_addresses(self, found: recovery.Recovered) -> list[Write]:
        """Know who has which address; returns the writes that free those of attachments that ended."""
        holders = found.holders()
        for network in self.view.networks.values():
            freed = [freed for freed in found.freed if freed.network == network.id]
            self._addresses.add(network, holders.get(network.id, []), freed)
        ended = [endpoint for each in found.dropped for endpoint in each.endpoints]
        return [write for endpoint in ended for write in self._addresses.give_back(endpoint)]

    async def close(self) -> None:
        """Finish what is under way, refuse what is new, close feed, kernel port and store.
        The data path stays as it is."""
        await self._operations.finish()
        await self._overlay.close()
        await self._reconciler.close()
        self._publishing.close()
        await self._feed.close()
        await self._kernel.close()
        await self._store.close()

    @property
    def leaving(self) -> Collection[str]:
        """Ids of networks and sandboxes whose removal has begun, and may have failed."""
        return self._leaving

    def families(self) -> set[int]:
        """The families in which the host must forward, for the networks that are and those to come."""
        return families(self._all_networks())

    def _all_networks(self) -> list[Network]:
        """The networks that are, and those that are being made."""
        return [*self.view.networks.values(), *self._making.values()]

    def _kept_off(self) -> set[tuple[str, ...]]:
        making = (item for network in self._making.values() for item in compile.network(network))
        return wanted.kept_off([*wanted.everything(self.view, self._leaving), *making])

    def elsewhere(self) -> frozenset[KernelObject]:
        """What must exist in the kernel to reach the rest of the cluster."""
        return self._overlay.objects()

    def damaged(self) -> None:
        """The kernel may not be what it should be: look soon."""
        self._reconciler.request()

    def _tell(self, before: Attached | None, after: Attached | None) -> None:
        news.tell(self._events, self.view, before, after)
        self._overlay.tell(before, after)

    def switched(self) -> list[str]:
        """The sysctls that netd has changed on this host, by path, and will change back."""
        return self._forwarding.switched()

    # --- networks ---------------------------------------------------------------------------------

    def network(self, ref: str) -> Network:
        """See `View.network`."""
        return self.view.network(ref)

    def exhausted(self, network: Network) -> Mapping[int, int]:
        """The families of `network` of which no address is left, and how many it can give at all."""
        return self._addresses.exhausted(network)

    async def create_network(self, request: NetworkRequest) -> Network:
        """Make a network. Raises `Invalid`, `AlreadyExists` (its name or an overlap), `Exhausted`."""
        names.check_name("network", request.name)
        return await self._operations.through(self._create_network(request), f"create network {request.name}")

    async def _create_network(self, request: NetworkRequest) -> Network:
        async with self._locks.hold(("network", request.name)):
            uplink = await self._kernel.uplink()
            host = await self._kernel.host_networks()
            with self._resolved(request, host, uplink.mtu if uplink else 0) as resolved:
                network = await self._overlay.enter(resolved)
                try:
                    await self._make(network)
                except Exception:
                    del self._making[network.id]
                    await self._relax()
                    await self._overlay.take_back(network)
                    raise
                await self._overlay.made(network)
        return self.view.networks[network.id]

    async def take_in(self, network: Network) -> None:
        """Make a network that is resolved; its lock is held. Raises as `create_network`."""
        host = await self._kernel.host_networks()
        networks = self._all_networks()
        bridges = {names.bridge_name(other) for other in networks}
        requests.check_place(network, networks, [each for each in host if each[0] not in bridges])
        self._making[network.id] = network
        try:
            await self._make(network)
        finally:
            del self._making[network.id]

    async def _make(self, network: Network) -> None:
        await self._forwarding.ensure(families([network]))
        await self._changes.make_network(network)
        self._addresses.add(network)
        self.view = self.view.with_network(network)
        subnets = " ".join(str(subnet.cidr) for subnet in network.subnets)
        self._events.emit("network", "create", network.id, network.name, subnets=subnets)

    @contextmanager
    def _resolved(self, request: NetworkRequest, host: Any, mtu: int) -> Iterator[Network]:
        """What `request` means, with its name, subnets and bridge reserved while the block runs."""
        if any(network.name == request.name for network in self.view.networks.values()):
            raise AlreadyExists(f"network {request.name!r} exists already; choose another name or remove it")
        networks = self._all_networks()
        bridges = {names.bridge_name(network) for network in networks}
        network = requests.network(
            request,
            id=secrets.token_hex(16),
            created=time.time(),
            settings=self._settings,
            networks=networks,
            host=[each for each in host if each[0] not in bridges],
            mtu=mtu,
            clustered=self._overlay.clustered,
        )
        self._making[network.id] = network
        try:
            yield network
        finally:
            self._making.pop(network.id, None)

    async def remove_network(self, ref: str) -> Network:
        """Remove a network. Raises `NotFound`, or `InUse` naming whose endpoints it still has."""
        return await self._operations.through(self._remove_network(ref), f"remove network {ref}")

    async def _remove_network(self, ref: str) -> Network:
        async with self._locks.hold(("network", self.view.network(ref).name)):
            network = self.view.network(ref)
            self._check_unused(network)
            await self._overlay.leave(network)
            await self.let_go(network)
        return network

    async def let_go(self, network: Network) -> None:
        """Unmake a network; its lock is held. Raises `InUse`."""
        self._check_unused(network)
        self._leaving.add(network.id)
        await self._changes.remove_network(network, self._overlay.of_network(network))
        self.view = self.view.without_network(network.id)
        self._leaving.discard(network.id)
        await self._overlay.unmade(network)
        await self._note(self._addresses.drop(network))
        await self._relax()
        self._events.emit("network", "remove", network.id, network.name)

    def _check_unused(self, network: Network) -> None:
        users = {self.view.sandboxes[e.sandbox].name for e in self.view.endpoints_in(network.id)}
        users |= self._promises.users(network)
        if users:
            names = ", ".join(repr(user) for user in sorted(users))
            raise InUse(f"network {network.name!r} is in use by {names}; disconnect or remove that first")

    async def _relax(self) -> None:
        """Turn forwarding off again where no network needs it any more."""
        if self.view.quarantined:
            return  # one that cannot be read may need it
        try:
            await self._forwarding.release(self.families)
        except NetdError as error:
            log.warning("forwarding could not be turned off again: %s", error)
            self._reconciler.request()

    async def prune_networks(self) -> list[Network]:
        """Remove every network without endpoints; return those removed."""
        removed = []
        for network in list(self.view.networks.values()):
            if not self.view.endpoints_in(network.id):
                try:
                    removed.append(await self.remove_network(network.id))
                except (InUse, NotFound):
                    continue  # somebody was faster
        return removed

    # --- attachments ------------------------------------------------------------------------------

    async def attach(self, sandbox: Sandbox, wants: Sequence[Want]) -> tuple[Sandbox, tuple[Endpoint, ...]]:
        """Put a new sandbox into all the networks it wants, and publish its ports: whole or nothing.

        Returns the sandbox with the host ports that were chosen, and its endpoints in order. Raises
        `Invalid`, `NotFound`, `AlreadyExists`, `Exhausted` or `KernelError`.
        """
        return await self._operations.through(self._attach(sandbox, tuple(wants)), f"attach {sandbox.name}")

    async def _attach(
        self, sandbox: Sandbox, wants: tuple[Want, ...]
    ) -> tuple[Sandbox, tuple[Endpoint, ...]]:
        async with self._locks.hold(("sandbox", sandbox.id)):
            if sandbox.id in self.view.sandboxes:
                raise AlreadyExists(f"container {sandbox.name!r} is attached already; detach it first")
            await self._overlay.make_room(wants)
            async with self._links(want.network for want in wants):
                with self._promises.made(sandbox, wants, ()) as (endpoints, writes):
                    requests.check_sysctls(sandbox, endpoints)
                    requests.check_can_publish(sandbox, endpoints, self.view.networks, sandbox.ports)
                    async with self._taken(sandbox, sandbox.ports) as ports:
                        after = Attached(replace(sandbox, ports=ports), endpoints)
                        await self._changes.make(None, after, self.view, writes)
                        self.view = self.view.with_sandbox(sandbox.id, after)
        self._tell(None, after)
        return after.sandbox, endpoints

    async def detach(self, sandbox_id: str) -> None:
        """Take a sandbox out of everything. Idempotent; its namespace may be gone."""
        await self._operations.through(self._detach(sandbox_id), f"detach {sandbox_id}")

    async def _detach(self, sandbox_id: str) -> None:
        async with self._locks.hold(("sandbox", sandbox_id)):
            before = self.view.attached(sandbox_id)
            if before is None:
                return
            self._leaving.add(sandbox_id)
            async with self._links(e.network for e in before.endpoints):
                await self._changes.remove(before, self.view)
                self.view = self.view.with_sandbox(sandbox_id, None)
            self._leaving.discard(sandbox_id)
            await self._note([write for e in before.endpoints for write in self._addresses.give_back(e)])
        self._tell(before, None)

    async def connect(self, sandbox_id: str, want: Want) -> Endpoint:
        """Put an attached sandbox into one more network. Raises as `attach` does."""
        return await self._operations.through(self._connect(sandbox_id, want), f"connect {sandbox_id}")

    async def _connect(self, sandbox_id: str, want: Want) -> Endpoint:
        async with self._locks.hold(("sandbox", sandbox_id)):
            before = self._attached(sandbox_id)
            await self._overlay.make_room((want,))
            async with self._links([want.network]):
                with self._promises.made(before.sandbox, (want,), before.endpoints) as ([endpoint], writes):
                    after = replace(before, endpoints=(*before.endpoints, endpoint))
                    await self._changes.make(before, after, self.view, writes)
                    self.view = self.view.with_sandbox(sandbox_id, after)
        self._tell(before, after)
        return endpoint

    async def disconnect(self, sandbox_id: str, network_ref: str) -> None:
        """Take a sandbox out of one network. Raises `NotFound` where it is not in it."""
        await self._operations.through(self._disconnect(sandbox_id, network_ref), f"disconnect {sandbox_id}")

    async def _disconnect(self, sandbox_id: str, network_ref: str) -> None:
        async with self._locks.hold(("sandbox", sandbox_id)):
            before = self._attached(sandbox_id)
            gone = self._endpoint(before, network_ref)
            after = replace(before, endpoints=tuple(e for e in before.endpoints if e != gone))
            async with self._links([gone.network]):
                await self._changes.make(before, after, self.view)
                self.view = self.view.with_sandbox(sandbox_id, after)
            await self._note(self._addresses.give_back(gone))
        self._tell(before, after)

    async def update(self, sandbox_id: str, network_ref: str, options: Mapping[str, str]) -> Endpoint:
        """Change options of an attachment in place: those named, an empty text takes one away.

        Raises `Invalid` for a limit that is none, and `NotFound` where the sandbox is not in the network.
        """
        return await self._operations.through(
            self._update(sandbox_id, network_ref, dict(options)), f"update {sandbox_id}"
        )

    async def _update(self, sandbox_id: str, network_ref: str, options: Mapping[str, str]) -> Endpoint:
        async with self._locks.hold(("sandbox", sandbox_id)):
            before = self._attached(sandbox_id)
            old = self._endpoint(before, network_ref)
            new = requests.updated(old, self.view.networks[old.network], options)
            after = replace(before, endpoints=tuple(new if e == old else e for e in before.endpoints))
            await self._changes.make(before, after, self.view)
            self.view = self.view.with_sandbox(sandbox_id, after)
        self._tell(before, after)
        return new

    async def publish(self, sandbox_id: str, ports: Sequence[PortMapping]) -> Sandbox:
        """Publish further ports; returns the sandbox with the host ports chosen. Raises as `attach`."""
        operation = self._publish(sandbox_id, tuple(ports))
        return await self._operations.through(operation, f"publish {sandbox_id}")

    async def _publish(self, sandbox_id: str, ports: tuple[PortMapping, ...]) -> Sandbox:
        async with self._locks.hold(("sandbox", sandbox_id)):
            before = self._attached(sandbox_id)
            requests.check_can_publish(before.sandbox, before.endpoints, self.view.networks, ports)
            async with self._taken(before.sandbox, ports) as taken:
                sandbox = replace(before.sandbox, ports=(*before.sandbox.ports, *taken))
                after = replace(before, sandbox=sandbox)
                await self._changes.make(before, after, self.view)
                self.view = self.view.with_sandbox(sandbox_id, after)
        self._tell(before, after)
        return sandbox

    async def unpublish(self, sandbox_id: str, ports: Sequence[PortMapping]) -> Sandbox:
        """Withdraw published ports. Raises `NotFound` for one that is not published."""
        operation = self._unpublish(sandbox_id, tuple(ports))
        return await self._operations.through(operation, f"unpublish {sandbox_id}")

    async def _unpublish(self, sandbox_id: str, ports: tuple[PortMapping, ...]) -> Sandbox:
        async with self._locks.hold(("sandbox", sandbox_id)):
            before = self._attached(sandbox_id)
            for port in ports:
                if port not in before.sandbox.ports:
                    raise NotFound(f"port {show(port)} of container {before.sandbox.name!r} is not published")
            kept = tuple(port for port in before.sandbox.ports if port not in ports)
            after = replace(before, sandbox=replace(before.sandbox, ports=kept))
            await self._changes.make(before, after, self.view)
            self.view = self.view.with_sandbox(sandbox_id, after)
        self._tell(before, after)
        return after.sandbox

    async def rename(self, sandbox_id: str, name: str, also: Sequence[Write] = ()) -> Sandbox:
        """Call an attached sandbox `name` from now on. `also` commits with it. Raises `NotFound`."""
        operation = self._rename(sandbox_id, name, tuple(also))
        return await self._operations.through(operation, f"rename {sandbox_id}")

    async def _rename(self, sandbox_id: str, name: str, also: tuple[Write, ...]) -> Sandbox:
        async with self._locks.hold(("sandbox", sandbox_id)):
            before = self._attached(sandbox_id)
            after = replace(before, sandbox=replace(before.sandbox, name=name))
            await self._changes.make(before, after, self.view, also)
            self.view = self.view.with_sandbox(sandbox_id, after)
            self._addresses.rename(after)
            self._publishing.rename(after.sandbox)
        self._tell(before, after)
        return after.sandbox

    # --- what the stories share -------------------------------------------------------------------

    def _attached(self, sandbox_id: str) -> Attached:
        attached = self.view.attached(sandbox_id)
        if attached is None or sandbox_id in self._leaving:
            raise NotFound(f"container {sandbox_id[:12]!r} has no attachment; is it running?")
        return attached

    @asynccontextmanager
    async def _links(self, refs: Iterable[str]) -> AsyncIterator[None]:
        """Have to oneself those of the networks that are links: what makes one is between its two ends."""
        networks = [self.view.network(ref) for ref in refs]
        async with AsyncExitStack() as held:
            for id in sorted(network.id for network in networks if network.driver == LINK):
                await held.enter_async_context(self._locks.hold(("link", id)))
            yield

    def _endpoint(self, attached: Attached, network_ref: str) -> Endpoint:
        network = self.view.network(network_ref)
        for endpoint in attached.endpoints:
            if endpoint.network == network.id:
                return endpoint
        raise NotFound(f"container {attached.sandbox.name!r} is not in network {network.name!r}")

    @asynccontextmanager
    async def _taken(
        self, sandbox: Sandbox, ports: Sequence[PortMapping]
    ) -> AsyncIterator[tuple[PortMapping, ...]]:
        """`ports` chosen and reserved while the block runs and, if it ends well, for good."""
        taken = await self._publishing.take(sandbox, ports)
        try:
            yield taken
        except BaseException:
            self._publishing.release(sandbox, taken)
            raise

    async def _note(self, history: Sequence[Write]) -> None:
        """Keep the history of freed addresses. It is a courtesy: without it nothing is wrong."""
        try:
            await self._store.live(*history)
        except NetdError as error:
            log.warning("the history of freed addresses has a gap: %s", error)
