"""Keeps the DNS process supplied with names.

The feed holds the whole truth (networks, sandboxes, sockets) and one `Link` to the server. A change
is recorded here first and then told. When the link breaks, a new server is started with the sockets
that were open all the time, and told everything; so a change that comes meanwhile needs no memory of
its own, and no question ever meets a closed port.

A snapshot is put into the link's queue in one piece, without awaiting in between: whatever is told
after it is newer, and messages are never reordered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

from netd import dns_filter, dns_process, names
from netd.dns_process import Answer, ControlSocket, Link, Listen
from netd.errors import NetdError, Unavailable
from netd.model import Endpoint, Network, RemoteEndpoint, Sandbox
from netd.settings import Settings
from netd.tasks import spawn
from netd_dns import control, wire
from netd_dns.control import Message

log = logging.getLogger(__name__)

PING_EVERY = 2.0
RETRY_MOST = 1.0
"""Seconds, at most, between attempts to start a server that does not come up."""


class NameFeed(Protocol):
    """What the engine tells the DNS. Each call returns when the DNS answers accordingly (or, while
    the DNS process is being restarted, when the change is sure to be in its first snapshot)."""

    async def start(
        self, networks: Sequence[Network], sandboxes: Sequence[tuple[Sandbox, Sequence[Endpoint]]]
    ) -> None:
        """Adopt the server that is running, or start one, and give it the whole truth."""

    async def network_added(self, network: Network) -> None:
        """Listen on the gateways of a network whose bridge exists now."""

    async def network_removed(self, network: Network) -> None:
        """Stop listening there and forget the network."""

    async def sandbox_changed(self, sandbox: Sandbox, endpoints: Sequence[Endpoint]) -> None:
        """The whole truth of one sandbox; no endpoints means that its names are gone."""

    async def remotes_changed(
        self, known: Collection[RemoteEndpoint], gone: Collection[RemoteEndpoint] = ()
    ) -> None:
        """Endpoints on other nodes: `known` resolve from now on, new or changed, and `gone` do not.

        Before `start` this only takes note of them for the first snapshot. An endpoint of a network that
        was not added resolves once it is.
        """

    async def close(self) -> None:
        """Let go of the server, which goes on answering with what it knows; without networks it ends."""


class DnsFeed:
    """The `NameFeed` of a host: supervises a `netd_dns` process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._control = ControlSocket(settings.run)
        self._networks: dict[str, Network] = {}
        self._sockets: dict[str, dict[Listen, socket.socket]] = {}
        self._sandboxes: dict[str, tuple[Sandbox, tuple[Endpoint, ...]]] = {}
        self._remotes: dict[str, dict[str, RemoteEndpoint]] = {}
        self._code = dns_process.code_version()
        self._allowed: bytes | None = None
        """The filter of the server's system calls, once one was needed."""
        self._link: Link | None = None
        self._without: set[str] = set()
        """Networks whose ports somebody else has, as far as that was logged."""
        self._supervising = False
        self._watching: asyncio.Task[None] | None = None
        self._restarting: asyncio.Task[None] | None = None
        self.restarts = 0
        """How often the server had to be started again."""

    async def start(
        self, networks: Sequence[Network], sandboxes: Sequence[tuple[Sandbox, Sequence[Endpoint]]]
    ) -> None:
        """Adopt the server that is running, or start one, and give it the whole truth.

        Where another program has port 53 of a gateway, that network is without names until the port is
        free, which is tried again and again: it is no reason for a daemon not to start. Raises
        `Unavailable` where no server can be started.
        """
        _raise_descriptor_limit()
        self._networks = {network.id: network for network in networks}
        self._sandboxes = {sandbox.id: (sandbox, tuple(endpoints)) for sandbox, endpoints in sandboxes}
        old = await self._find()
        for network in networks:
            if set(self._sockets.get(network.id, {})) != set(dns_process.listens(network)):
                self._drop_sockets(network.id)
                self._open(network)
        if old is None or self._link is None:
            await self._begin()
            if old is not None:
                with contextlib.suppress(Unavailable):
                    await old.call({"op": "stop"})
                old.close()
        else:
            await self._told(self._link, self._tell_everything(self._link))
        self._supervising = True
        self._watching = spawn(self._watch(), name="dns-watch")

    async def network_added(self, network: Network) -> None:
        """Listen on the gateways of a network whose bridge exists now. Raises `AlreadyExists`."""
        self._drop_sockets(network.id)
        self._sockets[network.id] = dns_process.open_sockets(network)
        self._networks[network.id] = network
        await self._tell(*self._network(network))

    async def network_removed(self, network: Network) -> None:
        """Stop listening there and forget the network."""
        self._networks.pop(network.id, None)
        self._drop_sockets(network.id)
        await self._tell({"op": "network_removed", "id": network.id})

    async def sandbox_changed(self, sandbox: Sandbox, endpoints: Sequence[Endpoint]) -> None:
        """The whole truth of one sandbox; no endpoints means that its names are gone."""
        if endpoints:
            self._sandboxes[sandbox.id] = (sandbox, tuple(endpoints))
        else:
            self._sandboxes.pop(sandbox.id, None)
        await self._tell({"op": "sandboxes", "sandboxes": [describe(sandbox, endpoints, self._networks)]})

    async def remotes_changed(
        self, known: Collection[RemoteEndpoint], gone: Collection[RemoteEndpoint] = ()
    ) -> None:
        """Endpoints on other nodes that resolve from now on, and those that do not any more."""
        for remote in known:
            self._remotes.setdefault(remote.network, {})[remote.id] = remote
        for remote in gone:
            self._remotes.get(remote.network, {}).pop(remote.id, None)
        changed = [self._remote(each) for each in known]
        changed += [self._remote(each, gone=True) for each in gone]
        for sandboxes in _in_batches(changed):
            await self._tell({"op": "sandboxes", "sandboxes": sandboxes})

    async def close(self) -> None:
        """Let go of the server, which goes on answering with what it knows; without networks it ends.

        Nobody could ask it then, and if no daemon came any more nobody would ever end it.
        """
        self._supervising = False
        tasks = [task for task in (self._watching, self._restarting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._link is not None and not self._networks:
            await self._control.end_server(self._link)
        if self._link is not None:
            self._link.close()
        for id in list(self._sockets):
            self._drop_sockets(id)
        self._control.close()

    async def stop_server(self) -> None:
        """End the server too, whatever it is asked: for tests."""
        self._networks.clear()
        await self.close()

    # --- what people ask ----------------------------------------------------------------------------

    async def ask(self, message: Message) -> Message:
        """A question about the server's own state. Raises `Unavailable` while there is no server."""
        if self._link is None:
            raise Unavailable("the DNS server is being restarted; try again in a second")
        return await self._link.call(message)

    # --- the server ---------------------------------------------------------------------------------

    async def _find(self) -> Link | None:
        """Connect to a running server and take its sockets; it becomes ours if it runs our code."""
        link = self._control.connect(self._lost)
        if link is None:
            return None
        try:
            hello, descriptors = await link.call_for_descriptors({"op": "hello"})
            self._control.hold(descriptors[0])
            pending = [link.request({"op": "sockets", "place": n}) for n in range(hello["networks"])]
            for answer, descriptors in await self._told(link, pending):
                self._sockets[answer["id"]] = dict(dns_process.adopt_sockets(answer["listen"], descriptors))
        except Unavailable as error:
            log.warning(
                "the DNS server found at %s is of no use (%s): replacing it", self._control.path, error
            )
            link.close()
            await self._control.kill_server()
            return None
        for id in self._sockets.keys() - self._networks.keys():
            self._drop_sockets(id)
        if hello["version"] == control.VERSION and hello["code"] == self._code:
            self._link = link
        return link

    async def _begin(self) -> None:
        """Start a server and tell it everything."""
        if self._allowed is None:
            self._allowed = await asyncio.to_thread(dns_filter.program)
        link = self._control.start_server(self._code, self._allowed, self._lost)
        pending = self._tell_everything(link)
        self._link = link  # from here on changes are told, behind the snapshot in the same queue
        await self._told(link, pending)

    def _tell_everything(self, link: Link) -> list[Answer]:
        return [link.request(message, descriptors) for message, descriptors in self._snapshot()]

    async def _told(self, link: Link, pending: list[Answer]) -> list[tuple[Message, list[int]]]:
        """The answers to requests that are on their way. Raises `Unavailable` when they do not come."""
        try:
            async with asyncio.timeout(dns_process.ANSWER_TIME + len(pending) * 0.01):
                return [await future for future in pending]
        except TimeoutError as error:
            link.close()
            raise Unavailable("the DNS server does not answer") from error

    def _lost(self, link: Link) -> None:
        if link is not self._link:
            return
        self._link = None
        if self._supervising and (self._restarting is None or self._restarting.done()):
            self._restarting = spawn(self._again(), name="dns-restart")

    async def _again(self) -> None:
        """Bring the server back, however often it takes."""
        wait = 0.05
        while True:
            self.restarts += 1
            await self._control.kill_server()
            try:
                await self._begin()
                log.warning("the DNS server was started again")
                return
            except (NetdError, OSError) as error:
                log.error("the DNS server does not come up: %s; next attempt in %.1f s", error, wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, RETRY_MOST)

    async def _watch(self) -> None:
        """A server that hangs is worse than one that is dead: its clients wait. Find out.

        Also try again to listen where a port was taken.
        """
        while True:
            await asyncio.sleep(PING_EVERY)
            with contextlib.suppress(Unavailable):
                for network in [net for net in self._networks.values() if net.id not in self._sockets]:
                    if self._open(network):
                        log.info("network %s has names again", network.name)
                        await self._tell(*self._network(network))
                if self._link is not None:
                    await self._link.call({"op": "ping"})

    def _open(self, network: Network) -> bool:
        """Listen on a network's gateways if that is possible."""
        try:
            self._sockets[network.id] = dns_process.open_sockets(network)
        except NetdError as error:
            if network.id not in self._without:
                log.error("%s; its containers have no names meanwhile", error)
            self._without.add(network.id)
            return False
        self._without.discard(network.id)
        return True

    # --- what it is told ----------------------------------------------------------------------------

    async def _tell(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        link = self._link
        if link is None:
            return  # the next server's snapshot has it
        try:
            await link.call(message, descriptors)
        except Unavailable as error:
            if not link.closed:
                raise
            log.warning("the DNS server went away during a change (%s); its successor will know", error)

    def _network(self, network: Network) -> tuple[Message, list[int]]:
        sockets = self._sockets.get(network.id, {})
        message: Message = {
            "op": "network",
            "id": network.id,
            "name": network.name,
            "internal": network.internal,
            "subnets": [str(subnet.cidr) for subnet in network.subnets],
            "dns": [str(server) for server in network.dns],
            "listen": [list(listen) for listen in sockets],
        }
        return message, [sock.fileno() for sock in sockets.values()]

    def _snapshot(self) -> Iterator[tuple[Message, list[int]]]:
        yield {"op": "begin"}, []
        yield {"op": "configure", "upstreams": list(self._settings.upstreams)}, []
        for network in self._networks.values():
            yield self._network(network)
        for sandboxes in _in_batches(
            chain(
                (describe(*each, self._networks) for each in self._sandboxes.values()),
                (self._remote(each) for known in self._remotes.values() for each in known.values()),
            )
        ):
            yield {"op": "sandboxes", "sandboxes": sandboxes}, []
        yield {"op": "end"}, []

    def _remote(self, remote: RemoteEndpoint, *, gone: bool = False) -> dict[str, Any]:
        return describe_remote(remote, None if gone else self._networks.get(remote.network))

    def _drop_sockets(self, network: str) -> None:
        for sock in self._sockets.pop(network, {}).values():
            sock.close()


def describe(
    sandbox: Sandbox, endpoints: Sequence[Endpoint], networks: Mapping[str, Network]
) -> dict[str, Any]:
    """A sandbox as the server is told of it. Names that DNS cannot carry are left out."""
    short = sandbox.id.partition("/")[0][:12]
    own = [name for name in (sandbox.name, short, sandbox.hostname) if _is_name(name)]
    services = [(mapping.proto.value, mapping.container_port) for mapping in sandbox.ports]
    services += [(proto.value, port) for proto, port in sandbox.exposed]
    return {
        "id": sandbox.id,
        "name": sandbox.name,
        "endpoints": [
            _endpoint(endpoint, own, networks[endpoint.network])
            for endpoint in endpoints
            if endpoint.network in networks
        ],
        "hosts": [(name, str(address)) for name, address in sandbox.hosts if _is_name(name)],
        "dns": [str(server) for server in sandbox.dns],
        "services": sorted(set(services)),
    }


def describe_remote(remote: RemoteEndpoint, network: Network | None) -> dict[str, Any]:
    """An endpoint on another node, as the server is told of it: a sandbox that never asks anything itself.

    Without a network its names are gone.
    """
    own = [name for name in (remote.name, remote.sandbox[:12], remote.hostname) if _is_name(name)]
    return {
        "id": f"remote/{remote.network}/{remote.id}",
        "name": remote.name,
        "endpoints": [_endpoint(remote, own, network)] if network else [],
        "hosts": [],
        "dns": [],
        "services": sorted({(proto.value, port) for proto, port in remote.services}),
    }


def _in_batches(described: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """As many at once as one message should carry."""
    batch: list[dict[str, Any]] = []
    size = 0
    for value in described:
        batch.append(value)
        size += len(control.encode(value))
        if size > control.BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _endpoint(endpoint: Endpoint | RemoteEndpoint, own: Sequence[str], network: Network) -> dict[str, Any]:
    aliases = [alias for alias in endpoint.aliases if _is_name(alias)]
    found = list(dict.fromkeys([*own, *aliases]))
    plain = [name for name in found if not name.startswith("*.")]
    return {
        "network": endpoint.network,
        "canonical": f"{plain[0]}.{network.name}" if plain else network.name,
        "addresses": [str(interface.ip) for interface in endpoint.addresses],
        "names": plain,
        "wildcards": [name.removeprefix("*.") for name in found if name.startswith("*.")],
        "silent": [str(names.link_local(endpoint.mac))] if endpoint.mac else [],
    }


def _is_name(name: str) -> bool:
    if not name:
        return False
    try:
        wire.encode_name(name)
    except ValueError:
        return False
    return True


def _raise_descriptor_limit() -> None:
    """Four sockets a network, here and in the server, who inherits the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
