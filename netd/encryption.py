"""This node's key for encrypted networks: made when the first one comes, told to the others, replaced.

What a key is for is in `netd.drivers.overlay` and `netd.tunnels`; here is its life. An encrypted network
is only made, or adopted, on a host that can have WireGuard: else it is refused with the reason, and
never becomes another network with the same name and less protection.

Replacing a key. The device takes the new one first, then the others are told, all at once by the cluster's
memory. In between nobody is deaf: what the others send arrives in the sessions that stand, and what this
node sends waits, because its hand is not shaken under a name that is not known yet. Whoever hears of the
new key puts it in place of the old one and begins the conversation anew. So each direction stands still
for as long as the news travels and one handshake takes, and up to what WireGuard keeps for a peer
meanwhile (128 packets) nothing is lost. Whatever the daemon dies at, the key in the file is the one that
the next start gives to the device and tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from netd import keys
from netd.cluster.ports import Cluster
from netd.drivers import overlay
from netd.errors import NetdError, Unavailable, Unsupported
from netd.kernel.ports import Kernel
from netd.keys import KeyFile
from netd.model import Network

log = logging.getLogger(__name__)

LOOK_EVERY = 3600.0
"""Seconds between looks at the age of the key."""


class Encryption:
    """The key in `key_file`, replaced after `max_age` seconds (0: never). `changed` is awaited when the
    cluster's node has another key, before others know of it."""

    def __init__(
        self,
        kernel: Kernel,
        cluster: Cluster,
        key_file: KeyFile,
        max_age: float,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._kernel = kernel
        self._cluster = cluster
        self._key_file = key_file
        self._max_age = max_age
        self._changed = changed
        self._turn = asyncio.Lock()
        self._objections: dict[str, str] = {}

    async def recall(self, needed: bool) -> None:
        """Have the key that there was, before anybody is told anything; another one where that cannot be
        trusted, or is `needed` and gone."""
        try:
            public = await asyncio.to_thread(self._key_file.public)
        except NetdError as error:
            log.error("the WireGuard key is replaced: %s", error)
            public, needed = "", True
        if not public and needed:
            private = keys.new()
            await asyncio.to_thread(self._key_file.keep, private)
            public = keys.public_of(private)
        self._cluster.identify(public)

    async def ready(self, network: Network) -> None:
        """See that an encrypted network can be here. Raises `Unsupported` with the reason."""
        if not overlay.is_encrypted(network):
            return
        lack = await self._kernel.wireguard_lack()
        if lack:
            raise Unsupported(
                f"network {network.name!r} is encrypted, and {lack}. It is refused here: its frames would "
                "travel in clear"
            )
        async with self._turn:
            if not self._cluster.node.wireguard_key:
                await self._take(keys.new())
                log.info("this node has a WireGuard key now: %s", self._cluster.node.wireguard_key)

    async def rotate(self) -> None:
        """Replace the key. Raises `Unsupported` where there is none, `Unavailable` while the others could
        not be told."""
        async with self._turn:
            old = self._cluster.node.wireguard_key
            if not old:
                raise Unsupported("this node has no WireGuard key: it is in no encrypted network")
            problem = self._cluster.status().problem
            if not self._cluster.status().connected:
                raise Unavailable(f"the key is not replaced, for the others could not be told: {problem}")
            await self._take(keys.new())
            log.info("the WireGuard key %s was replaced by %s", old, self._cluster.node.wireguard_key)

    async def _take(self, private: str) -> None:
        """Keep a key, give it to the device, tell it: if not now, then as soon as that can be."""
        await asyncio.to_thread(self._key_file.keep, private)
        self._cluster.identify(keys.public_of(private))
        await self._changed()
        await self._cluster.tell_identity()

    async def keep_fresh(self, rotate: Callable[[], Awaitable[None]]) -> None:
        """Call `rotate` whenever the key is too old. Until cancelled."""
        while self._max_age:
            await asyncio.sleep(min(LOOK_EVERY, self._max_age))
            if self._key_file.age() < self._max_age:
                continue
            try:
                await rotate()
            except NetdError as error:
                log.warning("the WireGuard key is old: %s", error)

    def object(self, name: str, objection: str) -> None:
        """Say, once, why a node cannot be reached in encrypted networks; or that it can be again."""
        before = self._objections.pop(name, "")
        if objection:
            self._objections[name] = objection
            if objection != before:
                log.warning("%s; its containers are not reached in encrypted networks", objection)
        elif before:
            log.info("node %r is reached in encrypted networks again", name)
