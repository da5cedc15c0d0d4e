"""ADD, DEL, CHECK, GC and STATUS: each a short story about one attachment.

An attachment is a sandbox of the engine's with the id CONTAINERID/IFNAME, so it lives and dies by
itself, and all that the engine promises holds for it: whole or nothing, found again after a restart,
let go when its namespace is gone. What is added here is what the specification wants beyond that:
other people's IPAM plugins, networks that come to be on first use, results.

The verbs of one container take turns; those of different ones do not wait for each other.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from netd import compile, dns_lookup, wanted
from netd.cni import config as configs
from netd.cni import judge, results, spec, wishes
from netd.cni.config import Config
from netd.cni.delegate import Delegates
from netd.cni.results import Result
from netd.cni.spec import Call, CniError
from netd.dns_lookup import Names
from netd.engine import Engine
from netd.errors import AlreadyExists, InUse, Invalid, NetdError, NotFound, Unavailable
from netd.kernel.ports import Kernel
from netd.locks import Locks
from netd.model import Netns, Network, Owner
from netd.objects import Sysctl
from netd.store.base import Attached

log = logging.getLogger(__name__)

IPAM = "cni.ipam"
"""The option of an endpoint that says whose IPAM gave its addresses: what is needed to give them back."""

NOTHING = b""


class Verbs:
    """Answers calls. Raises `NetdError`, whose `cni` is the code to answer with.

    `names` is the DNS that CHECK asks; without one it does not.
    """

    def __init__(self, engine: Engine, kernel: Kernel, names: Names | None = None) -> None:
        self._engine = engine
        self._kernel = kernel
        self._names = names
        self._delegates = Delegates()
        self._locks = Locks()
        self._using: Counter[str] = Counter()
        self._lent = {
            endpoint.sandbox: record
            for endpoint in (
                *engine.view.endpoints.values(),
                *(e for each in engine.ended for e in each.endpoints),
            )
            if (record := endpoint.options.get(IPAM))
        }
        """What other plugins' IPAM gave and has not got back, by sandbox."""
        self._interfaces: defaultdict[str, set[str]] = defaultdict(set)
        """The sandboxes of each container. Some may be gone: the view knows."""
        for sandbox in engine.view.sandboxes.values():
            if sandbox.owner is Owner.CNI:
                self._interfaces[_container(sandbox.id)].add(sandbox.id)

    async def answer(self, call: Call) -> bytes:
        """What the plugin writes to standard output when it succeeds."""
        config = configs.parse(call.config, call.command)
        match call.command:
            case "ADD":
                async with self._locks.hold(call.container):
                    return await self._add(call, config)
            case "DEL":
                async with self._locks.hold(call.container):
                    return await self._delete(call, config)
            case "CHECK":
                async with self._locks.hold(call.container):
                    return await self._check(call, config)
            case "GC":
                return await self._collect(call, config)
            case _:
                return await self._status(call, config)

    # --- ADD --------------------------------------------------------------------------------------

    async def _add(self, call: Call, config: Config) -> bytes:
        netns = await self._namespace(call)
        previous = results.parse(config.prev_result or {})
        await self._refuse_second(call)
        given = await self._ask_ipam("ADD", call, config)
        try:
            async with self._network(config, given) as network:
                wish = wishes.want(config, call, network, given)
                if self._has_default_route(call):
                    wish = replace(wish, gateway_priority=None)
                if given is not None:
                    wish = replace(wish, options={**wish.options, IPAM: _record(call)})
                    self._lent[call.sandbox] = wish.options[IPAM]
                sandbox, [endpoint] = await self._engine.attach(wishes.sandbox(config, call, netns), [wish])
        except Exception:  # not when cancelled: the engine carries on, and the addresses are in use
            self._lent.pop(call.sandbox, None)
            await self._undo_ipam(call, config, given)
            raise
        self._interfaces[call.container].add(call.sandbox)
        carried = self._engine.view.default_routes(endpoint)
        found = results.of(network, sandbox, endpoint, carried, _dns(config, given, network))
        return results.render(found.after(previous), config.cni_version)

    async def _namespace(self, call: Call) -> Netns:
        own = Path("/proc/self/ns/net").stat()
        if call.namespace == (own.st_dev, own.st_ino):
            raise CniError(spec.HOST_NAMESPACE, f"CNI_NETNS {call.netns} is the host's own network namespace")
        try:
            netns = await self._kernel.netns_open(call.netns, call.container[:12])
        except (Invalid, NotFound) as error:
            raise CniError(spec.INVALID_ENVIRONMENT, f"CNI_NETNS: {error}") from error
        if call.namespace is not None and call.namespace != (netns.device, netns.inode):
            raise CniError(
                spec.INVALID_ENVIRONMENT,
                f"CNI_NETNS {call.netns} is another namespace for the daemon than for the runtime",
            )
        return netns

    def _has_default_route(self, call: Call) -> bool:
        """Whether another interface of the same container carries it: of the first that asks, it is."""
        view = self._engine.view
        return any(
            view.default_routes(endpoint)
            for sandbox in self._interfaces.get(call.container, ())
            for endpoint in view.endpoints_of(sandbox)
        )

    async def _refuse_second(self, call: Call) -> None:
        """A runtime must not add twice; but what is left of a namespace that is gone is in nobody's way."""
        before = self._engine.view.sandboxes.get(call.sandbox)
        if before is None:
            return
        if await self._kernel.netns_alive(before.netns):
            raise AlreadyExists(
                f"interface {call.ifname} of container {call.container} is attached already; DEL it first"
            )
        await self._engine.detach(call.sandbox)

    @asynccontextmanager
    async def _network(self, config: Config, given: Result | None) -> AsyncIterator[Network]:
        """The configuration's network, made if need be, and kept while the block runs."""
        if config.network:
            yield self._engine.network(config.network)
            return
        async with self._locks.hold(("network", config.name)):
            before = self._engine.view.networks
            network = await self._defined(config, given)
            self._using[network.id] += 1
        try:
            yield network
        except Exception:
            self._using[network.id] -= 1
            if network.id not in before:  # made for this attachment, which failed
                await self._drop_unused(config.name)
            raise
        else:
            self._using[network.id] -= 1

    async def _defined(self, config: Config, given: Result | None) -> Network:
        try:
            network = self._engine.network(config.name)
        except NotFound:
            return await self._engine.create_network(wishes.network_request(config, given))
        if network.name != config.name or wishes.DEFINED_BY not in network.labels:
            raise CniError(
                spec.INVALID_CONFIG,
                f"network {config.name!r} was not defined by a CNI configuration: attach to it with "
                f'"network": "{config.name}", or choose another name',
            )
        if network.labels[wishes.DEFINED_BY] == wishes.digest(config):
            return network
        if self._using[network.id] or self._engine.view.endpoints_in(network.id):
            users = len(self._engine.view.endpoints_in(network.id))
            raise CniError(
                spec.INVALID_CONFIG,
                f"network {config.name!r} was defined by another configuration and has {users} attachments: "
                "remove them first, or give the network another name",
            )
        await self._engine.remove_network(network.id)
        return await self._engine.create_network(wishes.network_request(config, given))

    # --- IPAM of others ---------------------------------------------------------------------------

    async def _ask_ipam(self, command: str, call: Call, config: Config) -> Result | None:
        """What another plugin's IPAM says to a verb; None where netd gives the addresses itself."""
        if config.ipam.own:
            return None
        whole = configs.decode(call.config)
        found = await self._delegates.run(command, config.ipam.type, call.path, call.variables, whole)
        if command != "ADD":
            return None
        given = results.parse(found)
        if not given.ips:
            await self._undo_ipam(call, config, given)
            raise CniError(spec.INVALID_CONFIG, f"ipam plugin {config.ipam.type!r} gave no address")
        return given

    async def _undo_ipam(self, call: Call, config: Config, given: Result | None) -> None:
        if given is None:
            return
        try:
            await self._ask_ipam("DEL", call, config)
        except NetdError as error:
            log.warning("%s: addresses could not be given back: %s", call.sandbox, error)

    # --- DEL, GC ----------------------------------------------------------------------------------

    async def _delete(self, call: Call, config: Config) -> bytes:
        """Nothing left to do is success: the namespace gone, the attachment unknown, DEL repeated."""
        await self._engine.detach(call.sandbox)
        await self._ask_ipam("DEL", call, config)
        self._lent.pop(call.sandbox, None)
        self._forget_gone(call.container)
        return NOTHING

    def _forget_gone(self, container: str) -> None:
        self._interfaces[container] &= self._engine.view.sandboxes.keys()
        if not self._interfaces[container]:
            del self._interfaces[container]

    async def _collect(self, call: Call, config: Config) -> bytes:
        """Let everything of this network go that is not in the list; go on after errors, report all."""
        if config.valid_attachments is None:
            raise CniError(
                spec.INVALID_CONFIG, "cni.dev/valid-attachments is missing: GC would remove everything"
            )
        valid = {f"{each.container_id}/{each.ifname}" for each in config.valid_attachments}
        stale = [
            each
            for each in self._engine.view.sandboxes.values()
            if each.owner is Owner.CNI
            and each.labels.get(wishes.NETWORK) == config.name
            and each.id not in valid
        ]
        failures = []
        for sandbox in stale:
            try:
                await self.release(sandbox.id)
            except NetdError as error:
                failures.append(f"{sandbox.id}: {error}")
        try:
            await self._ask_ipam("GC", call, config)
        except NetdError as error:
            failures.append(str(error))
        await self._drop_unused(config.name)
        if failures:
            raise CniError(
                100, f"{len(failures)} of {len(stale)} could not be collected", "; ".join(failures)
            )
        return NOTHING

    async def release(self, sandbox_id: str) -> None:
        """Take an attachment out without its configuration; other plugins' addresses are given back."""
        async with self._locks.hold(_container(sandbox_id)):
            await self._engine.detach(sandbox_id)
            self._forget_gone(_container(sandbox_id))
            if record := self._lent.get(sandbox_id):
                found = json.loads(record)
                variables, config = found["variables"], found["config"]
                path = tuple(filter(None, variables.get("CNI_PATH", "").split(":")))
                await self._delegates.run("DEL", config["ipam"]["type"], path, variables, config)
                del self._lent[sandbox_id]

    async def sweep(self) -> None:
        """Give back the addresses of attachments that the engine let go because their namespace was gone.

        Nothing of netd's own is left of those; but a runtime that lost a DEL never says it again, and
        containerd never calls GC (go-cni #131).
        """
        for container in list(self._interfaces):
            self._forget_gone(container)
        for sandbox_id in [each for each in self._lent if each not in self._engine.view.sandboxes]:
            try:
                await self._release_if_gone(sandbox_id)
            except NetdError as error:
                log.warning("%s: addresses could not be given back: %s", sandbox_id, error)

    async def _release_if_gone(self, sandbox_id: str) -> None:
        # ADD takes from the other plugin first, and only then is there a sandbox: wait for it.
        async with self._locks.hold(_container(sandbox_id)):
            gone = sandbox_id not in self._engine.view.sandboxes
        if gone:
            await self.release(sandbox_id)

    async def _drop_unused(self, name: str) -> None:
        """Remove a network that a configuration defined, if nothing uses it any more."""
        async with self._locks.hold(("network", name)):
            try:
                network = self._engine.network(name)
                if wishes.DEFINED_BY in network.labels and not self._using[network.id]:
                    await self._engine.remove_network(network.id)
            except (NotFound, InUse):
                return

    # --- CHECK ------------------------------------------------------------------------------------

    async def _check(self, call: Call, config: Config) -> bytes:
        if config.prev_result is None:
            raise CniError(spec.INVALID_CONFIG, "CHECK needs the result of ADD as prevResult")
        told = results.parse(config.prev_result)
        attached = self._engine.view.attached(call.sandbox)
        if attached is None:
            raise NotFound(f"interface {call.ifname} of container {call.container} is not attached")
        complaints = [
            *await self._compare_kernel(attached),
            *await self._compare_names(attached),
            *judge.told_wrongly(call, told, attached.endpoints[0]),
        ]
        if complaints:
            raise CniError(100, f"{call.sandbox} is not as it was added", "; ".join(complaints))
        await self._ask_ipam("CHECK", call, config)
        return NOTHING

    async def _compare_kernel(self, attached: Attached) -> list[str]:
        """What the kernel lacks of this attachment: links, addresses, routes, elements, sysctls."""
        sandbox, [endpoint] = attached.sandbox, attached.endpoints
        needed = compile.sandbox(sandbox, attached.endpoints, self._engine.view.networks)
        inside = wanted.inside(attached, self._engine.view)
        sysctls = [item.path for item in inside if isinstance(item, Sysctl)]
        there = set(await self._kernel.observe_some(needed - inside))
        there |= await self._kernel.observe_sandbox(sandbox.netns, [endpoint.ifname], sysctls)
        missing = [f"missing: {item}" for item in sorted(needed - there, key=str)]
        link = await self._kernel.interface(sandbox.netns, endpoint.ifname)
        network = self._engine.view.networks[endpoint.network]
        if link is not None and link != (endpoint.mac, network.mtu):
            missing.append(
                f"{endpoint.ifname} has mac {link[0]} mtu {link[1]}, not {endpoint.mac} {network.mtu}"
            )
        return missing

    async def _compare_names(self, attached: Attached) -> list[str]:
        """What the DNS does not say as it should of this attachment's names."""
        if self._names is None:
            return []
        sandbox, [endpoint] = attached.sandbox, attached.endpoints
        complaints = []
        for name in (sandbox.name, *(alias for alias in endpoint.aliases if not alias.startswith("*"))):
            found = await dns_lookup.lookup(self._names, sandbox.id, name)
            complaints += judge.unresolved(name, endpoint, found.answers)
        return complaints

    # --- STATUS -----------------------------------------------------------------------------------

    async def _status(self, call: Call, config: Config) -> bytes:
        """Whether ADD could be served. Asked every few seconds, so it looks at what is known already, and
        of the kernel only whether the rule set is there: without it nobody may be let in."""
        try:
            network = self._engine.network(config.network or config.name)
        except NotFound:
            if config.network:
                raise CniError(spec.NOT_AVAILABLE, f"network {config.network!r} does not exist") from None
            network = None
        if network is not None:
            if reason := self._engine.view.degraded.get(network.id):
                raise CniError(spec.NOT_AVAILABLE, f"network {network.name!r} is degraded", reason)
            own = config.ipam.own
            left = (
                self._engine.exhausted(network)
                if own
                else judge.exhausted(config, network, self._engine.view)
            )
            judge.refuse_exhausted(network, left)
        try:
            await self._kernel.restore_rules()
            await self._ask_ipam("STATUS", call, config)
        except Unavailable:
            raise
        except NetdError as error:
            raise CniError(spec.NOT_AVAILABLE, str(error)) from error
        return NOTHING


def _container(sandbox_id: str) -> str:
    return sandbox_id.partition("/")[0]


def _record(call: Call) -> str:
    """What `release` needs when nobody brings the configuration any more."""
    whole = configs.decode(call.config)
    kept = {key: whole[key] for key in ("cniVersion", "name", "type", "ipam") if key in whole}
    variables = {
        key: value for key, value in call.variables.items() if key not in ("CNI_COMMAND", "CNI_NETNS")
    }
    return json.dumps({"variables": {**variables, "CNI_NETNS": ""}, "config": kept})


def _dns(config: Config, given: Result | None, network: Network) -> Mapping[str, Any]:
    """The runtime's choice, else the configuration's, else the IPAM plugin's, else netd's own server."""
    runtime = config.runtime_config.dns
    if runtime.servers or runtime.searches or runtime.options:
        found = {"nameservers": runtime.servers, "search": runtime.searches, "options": runtime.options}
        return {key: value for key, value in found.items() if value}
    found = msgspec.to_builtins(config.dns)
    if any(found.values()):
        return {key: value for key, value in found.items() if value}
    if given is not None:
        return given.dns
    return {"nameservers": [str(subnet.gateway) for subnet in network.subnets]}
