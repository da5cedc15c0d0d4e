"""Stand-ins of paper for the rooms below: they remember, they answer, and they fail where told to.

Not mocks: each keeps the contract of what it stands for, so a test says what must be true afterwards
and not which calls were made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, ip_address
from pathlib import Path

from netd import names
from netd.errors import AlreadyExists, InUse, Invalid, NetdError, NotFound
from netd.kernel.ports import Survey
from netd.model import Endpoint, Netns, Network, NetworkRequest, PortMapping, Sandbox, Subnet, Want
from netd.runtime.spec import ContainerSpec, Frame, LogEntry, Process, Status
from netd.store.base import Attached, Put, Write
from netd.view import View


async def no_survey() -> Survey:
    """A host of which nothing is known."""
    return Survey()


class Faults:
    """Makes the next call of a method fail, or wait until it is let go."""

    def __init__(self) -> None:
        self.failing: dict[str, BaseException] = {}
        self.holding: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = {}

    def hold(self, name: str) -> None:
        self.holding[name] = asyncio.Event()
        self.reached[name] = asyncio.Event()

    async def pass_(self, name: str) -> None:
        if name in self.holding:
            self.reached[name].set()
            await self.holding[name].wait()
        await asyncio.sleep(0)  # everything real yields somewhere
        if name in self.failing:
            raise self.failing.pop(name)


class PaperKernel(Faults):
    """Makes network namespaces and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.namespaces: dict[str, Netns] = {}
        self._inode = 100

    async def netns_create(self, label: str) -> Netns:
        await self.pass_("netns_create")
        if label in self.namespaces:
            raise AlreadyExists(f"network namespace {label!r} exists already")
        self._inode += 1
        self.namespaces[label] = Netns(
            label=label, path=f"/run/netd/netns/{label}", device=4, inode=self._inode
        )
        return self.namespaces[label]

    async def netns_delete(self, netns: Netns) -> None:
        await self.pass_("netns_delete")
        self.namespaces.pop(netns.label, None)


class PaperEngine(Faults):
    """Networks, attachments and published ports in a `View`."""

    def __init__(self) -> None:
        super().__init__()
        self.view = View()
        self.store: PaperStore | None = None
        self._address = 1

    async def create_network(self, request: NetworkRequest) -> Network:
        await self.pass_("create_network")
        names.check_name("network", request.name)
        if request.name in {network.name for network in self.view.networks.values()}:
            raise AlreadyExists(f"network {request.name!r} exists")
        id = names.digest(request.name, 32)
        cidr = IPv4Network(f"10.9.{len(self.view.networks)}.0/24")
        network = Network(
            id=id,
            name=request.name,
            driver=request.driver,
            subnets=(Subnet(cidr=cidr, gateway=ip_address(cidr[1])),),
            mtu=1500,
            internal=request.internal,
        )
        self.view = self.view.with_network(network)
        return network

    async def remove_network(self, ref: str) -> Network:
        network = self.view.network(ref)
        if self.view.endpoints_in(network.id):
            raise InUse(f"network {network.name!r} is in use")
        self.view = self.view.without_network(network.id)
        return network

    async def prune_networks(self) -> list[Network]:
        unused = [n for n in self.view.networks.values() if not self.view.endpoints_in(n.id)]
        for network in unused:
            self.view = self.view.without_network(network.id)
        return unused

    def network(self, ref: str) -> Network:
        return self.view.network(ref)

    async def attach(self, sandbox: Sandbox, wants: Sequence[Want]) -> tuple[Sandbox, tuple[Endpoint, ...]]:
        await self.pass_("attach")
        endpoints = tuple(self._endpoint(sandbox, want, order) for order, want in enumerate(wants))
        self._put(sandbox, endpoints)
        return sandbox, endpoints

    async def detach(self, sandbox_id: str) -> None:
        await self.pass_("detach")
        self.view = self.view.with_sandbox(sandbox_id, None)

    async def connect(self, sandbox_id: str, want: Want) -> Endpoint:
        await self.pass_("connect")
        sandbox, endpoints = self.view.sandboxes[sandbox_id], self.view.endpoints_of(sandbox_id)
        endpoint = self._endpoint(sandbox, want, len(endpoints))
        self._put(sandbox, (*endpoints, endpoint))
        return endpoint

    async def disconnect(self, sandbox_id: str, network_ref: str) -> None:
        network = self.network(network_ref)
        endpoints = self.view.endpoints_of(sandbox_id)
        self._put(self.view.sandboxes[sandbox_id], tuple(e for e in endpoints if e.network != network.id))

    async def publish(self, sandbox_id: str, ports: Sequence[PortMapping]) -> Sandbox:
        sandbox = self.view.sandboxes[sandbox_id]
        return self._put(replace(sandbox, ports=(*sandbox.ports, *ports)), self.view.endpoints_of(sandbox_id))

    async def unpublish(self, sandbox_id: str, ports: Sequence[PortMapping]) -> Sandbox:
        sandbox = self.view.sandboxes[sandbox_id]
        left = tuple(port for port in sandbox.ports if port not in ports)
        return self._put(replace(sandbox, ports=left), self.view.endpoints_of(sandbox_id))

    async def rename(self, sandbox_id: str, name: str, also: Sequence[Write] = ()) -> Sandbox:
        await self.pass_("rename")
        assert self.store is not None
        await self.store.live(*also)
        return self._put(
            replace(self.view.sandboxes[sandbox_id], name=name), self.view.endpoints_of(sandbox_id)
        )

    def _put(self, sandbox: Sandbox, endpoints: tuple[Endpoint, ...]) -> Sandbox:
        self.view = self.view.with_sandbox(sandbox.id, Attached(sandbox, endpoints))
        return sandbox

    def _endpoint(self, sandbox: Sandbox, want: Want, order: int) -> Endpoint:
        network = self.network(want.network)
        self._address += 1
        address = want.ip or network.subnets[0].cidr[self._address]
        return Endpoint(
            id=names.digest(f"{sandbox.id} {network.id}", 32),
            network=network.id,
            sandbox=sandbox.id,
            ifname=f"eth{order}",
            mac=names.mac_of(sandbox.id),
            addresses=(IPv4Interface(f"{address}/24"),),
            order=order,
            aliases=want.aliases,
        )


class PaperAttached:
    """Streams of a process: what it says comes from `say`, what it is told lands in `told`."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[Frame] = asyncio.Queue()
        self.told: list[Frame] = []
        self.news = asyncio.Event()
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while True:
            frame = await self.said.get()
            yield frame
            if frame.kind == "exit":
                return

    async def send(self, frame: Frame) -> None:
        self.told.append(frame)
        self.news.set()

    async def close(self) -> None:
        self.closed = True


class PaperRuntime(Faults):
    """Containers whose processes do nothing until `finish` ends them; SIGKILL ends them too."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.specs: dict[str, ContainerSpec] = {}
        self.statuses: dict[str, Status] = {}
        self.ends: dict[str, asyncio.Event] = {}
        self.signals: list[int] = []
        self.streams: dict[str, PaperAttached] = {}
        self.executed: list[Process] = []
        self.deaf = False

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def directory(self, id: str) -> Path:
        return self.path / id

    async def create(self, spec: ContainerSpec) -> None:
        await self.pass_("create")
        if spec.rootfs == "/nowhere":
            raise Invalid("rootfs '/nowhere' does not exist")
        self.directory(spec.id).mkdir(parents=True)
        self.specs[spec.id] = spec
        self.ends[spec.id] = asyncio.Event()
        self.statuses[spec.id] = Status(state="created")

    async def run(self, id: str) -> Status:
        await self.pass_("run")
        self.statuses[id] = Status(state="running", pid=4711, started=100.0)
        return self.statuses[id]

    def finish(self, id: str, code: int, *, oom: bool = False) -> None:
        self.statuses[id] = Status(
            state="exited", exit_code=code, oom_killed=oom, started=100.0, finished=200.0
        )
        self.ends[id].set()
        if id in self.streams:
            self.streams[id].said.put_nowait(Frame("exit", code=code))

    async def exec(self, id: str, process: Process) -> PaperAttached:
        self.executed.append(process)
        self.streams[f"{id} exec"] = PaperAttached()
        return self.streams[f"{id} exec"]

    async def attach(self, id: str) -> PaperAttached:
        await self.pass_("attach")
        self.streams[id] = PaperAttached()
        return self.streams[id]

    async def status(self, id: str) -> Status:
        if id not in self.statuses:
            raise NotFound(f"no container {id}")
        return self.statuses[id]

    async def wait(self, id: str) -> Status:
        if id not in self.ends:
            raise NotFound(f"no container {id}")
        await self.ends[id].wait()
        return self.statuses[id]

    async def kill(self, id: str, signal: int) -> None:
        await self.pass_("kill")
        if self.statuses[id].state != "running":
            raise InUse(f"container {id} does not run")
        self.signals.append(signal)
        if signal == 9 or not self.deaf:
            self.finish(id, 128 + signal)

    async def remove(self, id: str) -> None:
        await self.pass_("remove")
        if id in self.specs:
            if not self.ends[id].is_set():
                self.finish(id, 137)
            for file in self.directory(id).iterdir():
                file.unlink()
            self.directory(id).rmdir()
            del self.specs[id], self.statuses[id]

    async def logs(self, id: str, *, follow: bool, tail: int) -> AsyncGenerator[LogEntry, None]:
        yield LogEntry(1.0, "stdout", b"hello\n")
        if follow:
            await self.ends[id].wait()
            yield LogEntry(2.0, "stderr", b"bye\n")

    async def containers(self) -> list[str]:
        return list(self.specs)


class PaperStore:
    """Live records in a dict that can be given to the next daemon."""

    def __init__(self, records: dict[str, bytes] | None = None) -> None:
        self.records = {} if records is None else records
        self.full = False

    async def containers(self) -> dict[str, bytes]:
        return dict(self.records)

    async def live(self, *writes: Write) -> None:
        await asyncio.sleep(0)
        if self.full:
            raise NetdError("disk is full")
        for write in writes:
            if isinstance(write, Put):
                self.records[write.key] = write.value
            else:
                self.records.pop(write.key, None)
