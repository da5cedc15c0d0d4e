"""Between netd's values and the messages of the API; nothing here decides anything.

Texts are handed on as they came: whoever owns a value (the engine, `netd.launch`) parses it and
refuses it in one place, so that the CLI, the API and CNI give the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from netd import ipam, launch, names
from netd.api import netd_pb2 as pb
from netd.cluster.ports import NodeStatus, Status
from netd.dns_lookup import Lookup, Metric, Row
from netd.doctor import Check
from netd.errors import Invalid
from netd.events import Event
from netd.kernel.ports import TraceStep
from netd.launch import Attachment, Request
from netd.model import Endpoint, Network, NetworkRequest, PortMapping, Subnet
from netd.registry import Record
from netd.runtime.spec import Process
from netd.tracing import Traced
from netd.view import View


def network_request(message: pb.CreateNetworkRequest) -> NetworkRequest:
    """What the engine is asked for."""
    return NetworkRequest(
        name=message.name,
        driver=message.driver or "bridge",
        subnets=tuple(message.subnets),
        gateways=tuple(message.gateways),
        ip_ranges=tuple(message.ip_ranges),
        aux_addresses=dict(message.aux_addresses),
        ipv6=message.ipv6,
        ipv4=not message.no_ipv4,
        internal=message.internal,
        icc=not message.no_icc,
        gateway_mode=message.gateway_mode or "nat",
        mtu=message.mtu,
        dns=tuple(message.dns),
        labels=dict(message.labels),
        options=dict(message.options),
    )


def network(net: Network, view: View) -> pb.Network:
    """A network with its endpoints, in an order that a restart does not change, and how much of each
    subnet is used."""
    endpoints = sorted(view.endpoints_in(net.id), key=lambda e: (view.sandboxes[e.sandbox].name, e.order))
    return pb.Network(
        id=net.id,
        name=net.name,
        driver=net.driver,
        subnets=[_subnet(subnet, endpoints) for subnet in net.subnets],
        internal=net.internal,
        icc=net.icc,
        gateway_mode=net.gateway_mode,
        mtu=net.mtu,
        dns=map(str, net.dns),
        labels=net.labels,
        options=net.options,
        created=net.created,
        bridge=names.bridge_name(net) if net.bridged else "",
        endpoints=[endpoint(each, view) for each in endpoints],
        status=f"degraded: {view.degraded[net.id]}" if net.id in view.degraded else "ready",
    )


def _subnet(subnet: Subnet, endpoints: Iterable[Endpoint]) -> pb.Subnet:
    used = sum(address.ip in subnet.cidr for each in endpoints for address in each.addresses)
    return pb.Subnet(
        cidr=str(subnet.cidr),
        gateway=str(subnet.gateway or ""),
        ip_range=ipam.show_range(subnet),
        aux_addresses={label: str(address) for label, address in subnet.reserved.items()},
        used=used,
        capacity=str(ipam.Pool("", subnet).capacity),
    )


def endpoint(value: Endpoint, view: View) -> pb.Endpoint:
    """An endpoint with what is computed from its network and its sandbox."""
    net = view.networks[value.network]
    sandbox = view.sandboxes[value.sandbox]
    return pb.Endpoint(
        id=value.id,
        network=net.name,
        network_id=net.id,
        container=sandbox.name,
        container_id=sandbox.id,
        ifname=value.ifname,
        mac=value.mac,
        addresses=map(str, value.addresses),
        gateways=[str(s.gateway) for s in net.subnets if s.gateway and value.of_family(s.family)],
        aliases=value.aliases,
        gw_priority=value.gateway_priority or 0,
        default_route=view.default_routes(value),
        host_ifname=names.host_ifname(value),
        labels=sandbox.labels,
        options=value.options,
    )


def port(mapping: PortMapping) -> pb.PublishedPort:
    """One published port; an empty host address stands for all."""
    return pb.PublishedPort(
        host_ip=str(mapping.host_ip or ""),
        host_port=mapping.host_port,
        container_port=mapping.container_port,
        proto=mapping.proto,
    )


def attachment(message: pb.Attachment) -> Attachment:
    """One --network."""
    return Attachment(
        network=message.network,
        ip=message.ip,
        ip6=message.ip6,
        mac=message.mac,
        aliases=tuple(message.aliases),
        ifname=message.ifname,
        gw_priority=message.gw_priority,
        routes=tuple(message.routes),
        options=dict(message.options),
        avoid=tuple(message.avoid),
    )


def run_request(message: pb.RunRequest) -> Request:
    """What the containers are asked for."""
    return Request(
        name=message.name,
        command=tuple(message.command),
        detach=message.detach,
        remove=message.remove,
        interactive=message.interactive,
        tty=message.tty,
        rows=message.window.rows,
        columns=message.window.columns,
        networks=tuple(map(attachment, message.networks)),
        publish=tuple(message.publish),
        expose=tuple(message.expose),
        hostname=message.hostname,
        dns=tuple(message.dns),
        dns_search=tuple(message.dns_search),
        dns_options=tuple(message.dns_options),
        hosts=dict(message.hosts),
        env=dict(message.env),
        volumes=tuple(message.volumes),
        workdir=message.workdir,
        user=message.user,
        memory=message.memory,
        cpus=message.cpus,
        pids=message.pids,
        cap_add=tuple(message.cap_add),
        cap_drop=tuple(message.cap_drop),
        sysctls=dict(message.sysctls),
        read_only=message.read_only,
        rootfs=message.rootfs,
        labels=dict(message.labels),
    )


def asked(request: Request) -> pb.RunRequest:
    """The way back of `run_request`, for InspectContainer."""
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    window = pb.WindowSize(rows=fields.pop("rows"), columns=fields.pop("columns"))
    networks = [
        pb.Attachment(**{name: getattr(each, name) for name in each.__struct_fields__})
        for each in fields.pop("networks")
    ]
    return pb.RunRequest(**fields, window=window, networks=networks)


def process(message: pb.ExecRequest, record: Record) -> Process:
    """A further process for a container; what is left out is as for its first one."""
    return launch.process(
        record.request,
        record.hostname,
        command=tuple(message.command),
        env=dict(message.env),
        workdir=message.workdir,
        user=message.user,
        tty=message.tty,
        interactive=message.interactive,
        rows=message.window.rows,
        columns=message.window.columns,
    )


def container(record: Record, view: View, directory: Path) -> pb.Container:
    """A container with its endpoints and ports, which it has only while it runs."""
    sandbox = view.sandboxes.get(record.id)
    owner = view.sandboxes.get(record.shares) if record.state == "running" else None
    netns = record.netns or (owner.netns if owner else None)
    return pb.Container(
        id=record.id,
        name=record.name,
        command=record.request.command,
        state=record.state,
        exit_code=record.exit_code,
        oom_killed=record.oom_killed,
        created=record.created,
        started=record.started,
        finished=record.finished,
        pid=record.pid,
        endpoints=[endpoint(each, view) for each in view.endpoints_of(record.id)],
        ports=map(port, sandbox.ports) if sandbox else (),
        hostname=record.hostname,
        rootfs=record.request.rootfs or "host",
        labels=record.request.labels,
        netns=netns.path if netns else "",
        log_path=str(directory / "log"),
    )


def event(value: Event) -> pb.Event:
    """An event as `Watch` streams it."""
    return pb.Event(
        time=value.time,
        type=value.type,
        action=value.action,
        id=value.id,
        name=value.name,
        attributes=value.attributes,
    )


def check(value: Check) -> pb.Check:
    """One finding of the doctor; its levels have the numbers of the API's."""
    level = pb.Check.Level.Name(int(value.level))
    return pb.Check(name=value.name, level=level, detail=value.detail, remedy=value.remedy)


def required(what: str, text: str) -> str:
    """`text`, or `Invalid` where a request leaves out the name of what it is about."""
    if not text:
        raise Invalid(f"the request names no {what}: give its name or id")
    if len(text) > 256 or not text.isprintable():
        raise Invalid(f"{what} {text[:64]!r} is not a name or an id")
    return text


def lookup(found: Lookup, view: View) -> pb.DnsLookupReply:
    """What a container would be told."""
    holders = []
    for id, network in found.holders:
        sandbox = view.sandboxes.get(id)
        holders.append(f"{sandbox.name if sandbox else id[:12]} on network {network}")
    why = f"{found.name} {found.why}" + (f": {', '.join(holders)}" if holders else "")
    return pb.DnsLookupReply(
        answers=[
            pb.DnsAnswer(
                type=answer.type,
                rcode=answer.rcode,
                records=[
                    pb.DnsRecord(name=record.name, ttl=record.ttl, type=record.type, data=record.data)
                    for record in answer.records
                ],
            )
            for answer in found.answers
        ],
        why=why,
        networks=found.networks,
        upstreams=found.upstreams,
    )


def dns_name(row: Row, view: View) -> pb.DnsName:
    """One name of the DNS."""
    sandbox = view.sandboxes.get(row.sandbox)
    return pb.DnsName(
        network=row.network,
        name=row.name,
        address=row.address,
        container=sandbox.name if sandbox else "",
        container_id=row.sandbox,
    )


def metric(value: Metric) -> pb.Metric:
    """One counter or gauge."""
    return pb.Metric(
        name=value.name, labels=value.labels, value=value.value, help=value.help, type=value.type
    )


def nodes(found: Iterable[NodeStatus], status: Status) -> pb.NodeList:
    """The nodes of a cluster, and how this one stands with its memory."""
    return pb.NodeList(
        nodes=map(node, found),
        connected=status.connected,
        endpoint=status.endpoint,
        revision=status.revision,
        problem=status.problem,
        quarantined=status.quarantined,
    )


def node(value: NodeStatus) -> pb.Node:
    """One node of a cluster."""
    return pb.Node(
        name=value.name,
        state=value.state,
        address=str(value.node.address) if value.node else "",
        endpoints=value.endpoints,
        blocks=[
            pb.NodeBlock(network=network, block=str(block))
            for network, owned in sorted(value.blocks.items())
            for block in owned
        ],
        capabilities=value.node.capabilities if value.node else (),
        labels=value.node.labels if value.node else {},
        self=value.self,
        wireguard_key=value.node.wireguard_key if value.node else "",
    )


def traced(found: Traced) -> pb.TraceReply:
    """What became of a traced packet."""
    decision = _step(found.decision) if found.decision else None
    return pb.TraceReply(
        verdict=found.verdict, decision=decision, route=found.route, steps=map(_step, found.steps)
    )


def _step(step: TraceStep) -> pb.TraceStep:
    return pb.TraceStep(**{field.name: getattr(step, field.name) for field in pb.TraceStep.DESCRIPTOR.fields})
