"""A topology that is up, for a test: its containers, its addresses, its packets.

The test process stays where it is. Commands run through the API, and packets are seen and sent through
sockets that the daemon opened inside the container's namespace (`netd.packets`).
"""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from netd.api import netd_pb2 as pb
from netd.capture import points
from netd.capture.recorder import Recorder
from netd.capture.ring import Frame
from netd.errors import Invalid
from netd.kernel import inner
from netd.testing import dissect
from netd.testing.capture import Capture
from netd.testing.processes import TIMEOUT, Completed, Process
from netd.testing.trace import Trace
from netd.topology import Project, links
from netd.topology import points as places
from netd.topology.compose import Netem
from netd.topology.daemon import Daemon
from netd.topology.namespaces import door, listening, lose, slow

Destination = IPv4Address | IPv6Address

AGAIN = 0.2
"""Seconds between two packets of somebody from whom one is waited for."""

ANSWERED_WITHIN = 3.0
"""Seconds for an answer. Whose question for the neighbour is lost asks twice more, a second apart."""

RECORDER_BLOCKS = 8
"""Room of each point of a recorder that runs beside a whole test: 2 MB."""

RECORDER_FRAMES = 100_000
"""How many of the latest frames it keeps."""


class Node:
    """One container of the lab."""

    def __init__(self, lab: Lab, service: str, name: str) -> None:
        """`service` is what the test calls it, `name` what the daemon does."""
        self.lab = lab
        self.service = service
        self.name = name

    def exec(self, *command: str, check: bool = True, timeout: float = TIMEOUT, **options: Any) -> Completed:
        """Run a program to its end; with `check` it must exit with 0."""
        __tracebackhide__ = True
        process = Process(self.lab.client, self.name, command, **options)
        process.close_stdin()
        done = process.wait(timeout)
        if check and done.code:
            raise AssertionError(
                f"{self.service}: {' '.join(command)}: exit {done.code}\n{done.stderr}{done.stdout}"
            )
        return done

    def popen(self, *command: str, **options: Any) -> Process:
        """Start a program, which ends with the lab at the latest."""
        process = Process(self.lab.client, self.name, command, **options)
        self.lab.processes.append(process)
        return process

    @property
    def _packets(self) -> Path:
        """Where its daemon hands out sockets."""
        return points.beside(Path(self.lab.client.at(self.name).path))

    @property
    def endpoints(self) -> list[pb.Endpoint]:
        """Its interfaces, as the daemon tells of them now."""
        return list(self.lab.client.container(self.name).endpoints)

    def ready(self, packet: Packet) -> Packet:
        """A copy of the packet with the sender's addresses and an identification, where it names none.

        Raises ValueError for a frame to a destination whose MAC is neither given nor known in the lab.
        """
        packet = packet.copy()
        if IP in packet and "id" not in packet[IP].fields:
            packet[IP].id = secrets.randbelow(65535) + 1  # scapy's is always 1, and nobody could be followed
        for kind, version in ((IP, 4), (IPv6, 6)):
            if kind in packet and "src" not in packet[kind].fields and "dst" in packet[kind].fields:
                endpoint = self._towards(ip_address(str(packet[kind].dst).split("%")[0]))
                packet[kind].src = _address(endpoint, version)
        if isinstance(packet, Ether):
            if "src" not in packet.fields:
                packet.src = self.endpoints[0].mac
            if "dst" not in packet.fields:
                packet.dst = self.lab.mac_of(dissect.addresses(packet)[1])
        return packet

    def _towards(self, destination: Destination) -> pb.Endpoint:
        """The endpoint whose subnet holds `destination`, else that with the default route."""
        endpoints = self.endpoints
        for endpoint in endpoints:
            if any(destination in ip_interface(address).network for address in endpoint.addresses):
                return endpoint
        for endpoint in endpoints:
            if destination.version in endpoint.default_route:
                return endpoint
        for endpoint in endpoints:
            if _address(endpoint, destination.version):
                return endpoint
        raise ValueError(f"{self.service} has no IPv{destination.version} address to send from")

    def send(self, packet: Packet, *, iface: str = "", count: int = 1) -> Packet:
        """Send a packet from inside the container; answers it as it was sent.

        One that begins with IP is routed by the container's kernel like its own. One that begins with
        `Ether` leaves through `iface`, else through the first interface, exactly as it is.
        """
        return self._send(self.ready(packet), iface, count)

    def _send(self, packet: Packet, iface: str, count: int) -> Packet:
        data = bytes(packet)
        if isinstance(packet, IP | IPv6):
            kind = "ipv4" if isinstance(packet, IP) else "ipv6"
            where: tuple[str, int] = (str(packet.dst).split("%")[0], 0)
        else:
            kind, where = "frames", (iface or self.endpoints[0].ifname, 0)
        target = self.name if kind != "frames" else f"{self.name}:{where[0]}"
        (point,) = points.ask(self._packets, target, kind)
        with point.ear:
            for _ in range(count):
                point.ear.sendto(data, where)
        return packet

    def sr1(self, packet: Packet, *, timeout: float = ANSWERED_WITHIN, iface: str = "") -> Packet | None:
        """Send a packet, and the first answer that comes back within `timeout` seconds, else None.

        The answer begins with the layer that the question began with.
        """
        question = self.ready(packet)
        answers: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        recorder = Recorder(points.listening(self._packets, [self.name]), answers.put)
        try:
            sent = type(question)(bytes(self._send(question, iface, 1)))
            return _first_answer(sent, answers, timeout)
        finally:
            recorder.close()


def _first_answer(sent: Packet, frames: queue.SimpleQueue[Frame], timeout: float) -> Packet | None:

    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        try:
            frame = frames.get(timeout=left)
        except queue.Empty:
            break
        if frame.outgoing:
            continue
        packet = dissect.dissected(frame)
        candidate = packet if isinstance(sent, Ether) else packet.getlayer(type(sent))
        if candidate is not None and candidate.answers(sent):
            return candidate
    return None


def _address(endpoint: pb.Endpoint, version: int) -> str:
    for address in endpoint.addresses:
        interface = ip_interface(address)
        if interface.version == version:
            return str(interface.ip)
    return ""


class Lab:
    """A project that is up. `lab["web"]` is the first container of service `web`, "web-2" the second."""

    def __init__(self, client: Daemon, project: Project) -> None:
        self.client = client
        self.project = project
        self.processes: list[Process] = []
        self.captures: list[Capture] = []
        self.traces: list[Trace] = []
        self.recorder: Capture | None = None
        self.golden_in = Path("golden")
        self.update_golden = False

    def __getitem__(self, ref: str) -> Node:
        try:
            return Node(self, ref, self.project.container(ref).name)
        except Invalid as error:
            raise KeyError(str(error)) from None

    def ip(self, ref: str, network: str = "", *, version: int = 4) -> str:
        """An address of a container, in `network` if it is named. Raises KeyError if it has none."""
        return self._endpoint(ref, network, version)[1]

    def mac(self, ref: str, network: str = "") -> str:
        """The MAC address of a container's interface, in `network` if it is named."""
        return self._endpoint(ref, network, 0)[0].mac

    def interface(self, ref: str, network: str = "") -> str:
        """The name, inside the container, of its interface, in `network` if it is named."""
        return self._endpoint(ref, network, 0)[0].ifname

    def gateway(self, network: str, *, version: int = 4) -> str:
        """The address of the host in a network."""
        for subnet in self.client.network(self.network(network)).subnets:
            if ip_address(subnet.gateway).version == version:
                return subnet.gateway
        raise KeyError(f"network {network!r} has no IPv{version} gateway")

    def network(self, key: str) -> str:
        """What the daemon calls a network of the file."""
        if key not in self.project.networks:
            raise KeyError(f"there is no network {key!r}; there are: {', '.join(self.project.networks)}")
        return self.project.networks[key].name

    def _endpoint(self, ref: str, network: str, version: int) -> tuple[pb.Endpoint, str]:
        wanted = self.network(network) if network else ""
        for endpoint in self[ref].endpoints:
            if wanted in ("", endpoint.network):
                address = _address(endpoint, version) if version else "-"
                if address:
                    return endpoint, address
        what = f"no IPv{version} address" if version else "no interface"
        raise KeyError(f"{ref} has {what} in {network or 'any network'}")

    def mac_of(self, address: str) -> str:
        """The MAC address of the container that has an address. Raises ValueError if none has."""
        for container in self.project.containers:
            for endpoint in self.client.container(container.name).endpoints:
                if any(str(ip_interface(each).ip) == address for each in endpoint.addresses):
                    return endpoint.mac
        raise ValueError(f"nobody in the lab has the address {address!r}: give the frame a dst")

    def short(self, name: str) -> str:
        """What the test calls a point of the daemon's: "web:eth0" for "lab-web-1:eth0"."""
        return places.short(self.project, name)

    # Packets --------------------------------------------------------------------------------------

    def sniff(self, *targets: str, filter: str = "") -> Capture:
        """Record packets from now on, until the `with` block ends; see `Capture`.

        A target is "web:eth0", "web:*" or "web" (all its interfaces), "network:front" or "host:eth0";
        without any, all interfaces of all containers. `filter` is of tcpdump's syntax. Raises `Invalid`
        for what the file does not have.
        """
        capture = self._capture(places.targets(self.project, targets) or self._interfaces(), filter)
        self.captures.append(capture)
        return capture

    def record(self) -> None:
        """Record at every point there is, until `close`, for the report of a failure."""
        bridges = [f"network:{each.name}" for each in self._networks().values()]
        self.recorder = self._capture(
            [*self._interfaces(), *bridges], blocks=RECORDER_BLOCKS, latest=RECORDER_FRAMES
        )

    def _capture(self, wanted: Sequence[str], filter: str = "", **room: int) -> Capture:
        found = listening(self.client, wanted)
        names = {point.name: self.short(point.name) for point in found}
        capture = Capture(found, names, filter, **room)
        capture.golden_in, capture.update_golden = self.golden_in, self.update_golden
        return capture

    def _interfaces(self) -> list[str]:
        """All interfaces of all containers that run and have any."""
        return [
            f"{each.name}:*" for each in self.project.containers if self.client.container(each.name).endpoints
        ]

    def _networks(self) -> dict[str, pb.Network]:
        """Those of the file that exist: not the default one, if nobody is in it."""
        present = {each.name: each for each in self.client.networks()}
        wanted = self.project.networks.items()
        return {key: present[each.name] for key, each in wanted if each.name in present}

    def elements(self) -> list[str]:
        """The elements of netd's nft sets and maps on the daemon's host, one on a line; of several hosts each
        with its host. Needs root."""
        found = []
        for client, at in self.client.seeing("host"):
            with door(client.path, "host") as way:
                found += [f"{each} {at}".rstrip() for each in inner.elements(way, "host")]
        return sorted(found)

    def host_interfaces(self) -> dict[str, str]:
        """What the interfaces on the host's side are, in the test's words: "ve-3f9a1c" is "web:eth0"."""
        found = {
            endpoint.host_ifname: self.short(f"{each.name}:{endpoint.ifname}")
            for each in self.project.containers
            for endpoint in self.client.container(each.name).endpoints
        }
        return found | {each.bridge: f"network:{key}" for key, each in self._networks().items()}

    def trace(self, packet: Packet, src: str, *, send: Callable[[], object] | None = None) -> Trace:
        """Send `packet` from a container, or from "host", and tell what the host's rules did to it.

        The packet begins with its IP header. With "host:eth0" it comes in there, and `send` lets another
        machine send it: it is called again and again until the packet has come. A source port of 0
        stands for any.
        """
        if src.partition(":")[0] == "host":
            name, packet = src, packet.copy()
        else:
            name, packet = self[src].name, self[src].ready(packet)
        if send is None:
            reply = self.client.trace(name, bytes(packet))
        else:
            with ThreadPoolExecutor(1) as pool:
                coming = pool.submit(self.client.trace, name, bytes(packet))
                while not wait([coming], AGAIN).done:
                    send()
                reply = coming.result()
        trace = Trace(reply, self.short)
        self.traces.append(trace)
        return trace

    # Changes --------------------------------------------------------------------------------------

    @contextmanager
    def publish(self, ref: str, spec: str) -> Iterator[int]:
        """Publish a port ("8080:80/tcp"; "80" lets the daemon choose) for as long as the block runs; gives
        the port of the host."""
        name = self[ref].name
        before = {_port(each) for each in self.client.container(name).ports}
        (made, *more) = [each for each in self.client.add_port(name, spec) if _port(each) not in before]
        try:
            yield made.host_port
        finally:
            for each in (made, *more):
                host = f"{each.host_ip}:" if ":" not in each.host_ip else f"[{each.host_ip}]:"
                where = host if each.host_ip else ""
                self.client.remove_port(name, f"{where}{each.host_port}:{each.container_port}/{each.proto}")

    @contextmanager
    def netem(
        self, ref: str, network: str = "", *, loss: float | str | None = None, **queue: Any
    ) -> Iterator[None]:
        """Let the link of a container to a network lose packets, each way, while the block runs: "10%".

        `queue` is `delay`, `jitter`, `duplicate` and `seed` as in a file. Afterwards the file's word counts
        again. Needs root. Raises `Unsupported` for these four where the kernel has no netem.
        """
        share = links.share(loss, "loss") if isinstance(loss, str) else loss
        wanted = links.queued(Netem(**queue), "netem")
        endpoint, _ = self._endpoint(ref, network, 0)
        container = self.client.container(self[ref].name)
        api = str(self.client.at(container.name).path)
        with ExitStack() as stack:
            if wanted:
                stack.callback(slow, api, container, endpoint, endpoint.options.get(links.NETEM, ""))
                slow(api, container, endpoint, wanted)
            if share is not None:
                stack.enter_context(self._lossy(ref, network, share))
            yield

    @contextmanager
    def link_down(self, ref: str, network: str = "") -> Iterator[None]:
        """Let no packet pass on the link of a container to a network while the block runs; see `netem`."""
        with self._lossy(ref, network, 100.0):
            yield

    @contextmanager
    def _lossy(self, ref: str, network: str, percent: float) -> Iterator[None]:
        endpoint, _ = self._endpoint(ref, network, 0)
        container = self.client.container(self[ref].name)
        api = str(self.client.at(container.name).path)
        lose(api, container, endpoint.ifname, percent)
        try:
            yield
        finally:
            lose(api, container, endpoint.ifname, float(endpoint.options.get(links.LOSS, 0)))

    def close(self) -> None:
        """End what tests have left running."""
        for capture in (*self.captures, *filter(None, [self.recorder])):
            capture.close()
        for process in self.processes:
            process.kill()
        self.captures.clear()
        self.traces.clear()
        self.recorder = None
        self.processes.clear()


def _port(port: pb.PublishedPort) -> tuple[str, int, int, str]:
    return port.host_ip, port.host_port, port.container_port, port.proto
