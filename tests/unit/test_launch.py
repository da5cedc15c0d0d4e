from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from netd import launch
from netd.errors import Invalid
from netd.launch import Attachment, Mode, Request
from netd.model import Netns, Network, Owner, Proto, Subnet, Want
from netd.runtime.spec import Volume

RUN = Request(command=("sh", "-c", "true"))
NETNS = Netns(label="web", path="/run/netd/netns/web", device=4, inode=5)


def asked(**fields: Any) -> Request:
    return Request(**{"command": ("true",), **fields})


def network(name: str, *subnets: str, internal: bool = False) -> Network:
    return Network(
        id=name,
        name=name,
        driver="bridge",
        subnets=tuple(Subnet(cidr=ip_network(s), gateway=ip_network(s)[1]) for s in subnets),
        mtu=1500,
        internal=internal,
    )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"command": ()}, "no command"),
        ({"command": ("",)}, "no command"),
        ({"command": ("a\0b",)}, "NUL"),
        ({"name": "-web"}, "'-web'"),
        ({"env": {"A=B": "c"}}, "'A=B'"),
        ({"env": {"": "c"}}, "--env ''"),
        ({"env": {"A": "b\0"}}, "--env 'A'"),
        ({"hostname": "a b"}, "'a b'"),
        ({"hostname": "a" * 64}, "--hostname"),
        ({"hostname": ("a" * 32 + ".") * 2 + "b"}, "--hostname"),
        ({"workdir": "tmp"}, "'tmp'"),
        ({"rootfs": "../x"}, "'../x'"),
        ({"memory": 1000}, "--memory 1000"),
        ({"cpus": 0.001}, "--cpus 0.001"),
        ({"cpus": float("nan")}, "--cpus nan"),
        ({"cpus": -1.0}, "--cpus -1.0"),
        ({"rows": 70000}, "70000"),
        ({"dns": ("dns.example",)}, "--dns 'dns.example'"),
        ({"dns": ("fe80::1%eth0",)}, "zone"),
        ({"dns_search": ("corp example",)}, "--dns-search 'corp example'"),
        ({"dns_options": ("timeout:1\nnameserver",)}, "--dns-option"),
        ({"hosts": {"db": "10.0.0.300"}}, "--add-host db '10.0.0.300'"),
        ({"hosts": {"d b": "10.0.0.3"}}, "'d b'"),
        ({"hosts": {"db": "10.0.0.3,"}}, "--add-host db ''"),
        ({"expose": ("http",)}, "'http'"),
        ({"expose": ("80/sctp",)}, "'80/sctp'"),
        ({"expose": ("0",)}, "--expose '0'"),
        ({"volumes": ("/data",)}, "'/data'"),
        ({"volumes": ("data:/data",)}, "'data'"),
        ({"volumes": ("/data:/x/../etc",)}, "'/x/../etc'"),
        ({"volumes": ("/data:/data:rx",)}, "'/data:/data:rx'"),
        ({"volumes": ("/data:/",)}, "'/data:/'"),
        ({"publish": ("http:80",)}, "http:80"),
        ({"networks": (Attachment(network=""),)}, "names no network"),
        ({"networks": (Attachment(network="none"), Attachment(network="front"))}, "stands alone"),
        ({"networks": (Attachment(network="host", ip="10.0.0.2"),)}, "takes no address"),
        ({"networks": (Attachment(network="host"),), "publish": ("80:80",)}, "--publish '80:80'"),
        ({"networks": (Attachment(network="front", ip="fd00::2"),)}, "give it as ip6"),
        ({"networks": (Attachment(network="front", ip6="10.0.0.2"),)}, "give it as ip"),
        ({"networks": (Attachment(network="front", ifname="a/b"),)}, "'a/b'"),
        ({"networks": (Attachment(network="front", aliases=("a b",)),)}, "'a b'"),
        ({"networks": (Attachment(network="front", aliases=("*app",)),)}, "'*app'"),
        ({"networks": (Attachment(network="front", aliases=("a.*.b",)),)}, "'a.*.b'"),
    ],
)
def test_what_can_never_work_is_refused_by_option_and_value(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(Invalid) as caught:
        launch.check(asked(**fields))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_request_is_read() -> None:
    checked = launch.check(
        asked(
            networks=(Attachment(network="front", ip="10.0.0.2", ip6="fd00::2", gw_priority=-3),),
            publish=("127.0.0.1:8080:80", "53:53/udp"),
            expose=("80", "53/udp"),
            hosts={"db": "10.1.1.1,fd00::1", "me": "host-gateway"},
            dns=("9.9.9.9",),
            volumes=("/srv:/data:ro", "/x:/y"),
        )
    )
    assert checked.mode is Mode.NETWORKS
    assert checked.wants == (
        Want(
            network="front",
            ip=ip_address("10.0.0.2"),  # type: ignore[arg-type]
            ip6=ip_address("fd00::2"),  # type: ignore[arg-type]
            gateway_priority=-3,
        ),
    )
    assert [(p.proto, p.host_port, p.container_port) for p in checked.ports] == [
        (Proto.TCP, 8080, 80),
        (Proto.UDP, 53, 53),
    ]
    assert checked.exposed == ((Proto.TCP, 80), (Proto.UDP, 53))
    assert checked.hosts == (("db", ip_address("10.1.1.1")), ("db", ip_address("fd00::1")), ("me", None))
    assert checked.volumes == (
        Volume(source="/srv", target="/data", read_only=True),
        Volume(source="/x", target="/y"),
    )


@pytest.mark.parametrize("mode", ["none", "host"])
def test_none_and_host_are_no_networks(mode: str) -> None:
    checked = launch.check(asked(networks=(Attachment(network=mode),)))
    assert (checked.mode, checked.wants) == (mode, ())


def test_the_environment_has_defaults_that_are_overridden() -> None:
    env = launch.environment(asked(tty=True, env={"PATH": "/bin", "X": "1"}), "web")
    assert env == {"PATH": "/bin", "HOSTNAME": "web", "TERM": "xterm", "X": "1"}
    assert "TERM" not in launch.environment(asked(), "web")


def test_the_runtime_is_told_everything() -> None:
    checked = launch.check(
        asked(user="1:2", workdir="/srv", memory=2**26, cpus=0.5, pids=9, cap_drop=("ALL",), read_only=True)
    )
    spec = launch.container(
        checked, id="ab", hostname="web", netns=NETNS, log_bytes=5, hide=("/var/lib/netd",)
    )
    assert (spec.netns, spec.netns_device, spec.netns_inode) == (NETNS.path, 4, 5)
    assert (spec.limits.memory, spec.limits.cpus, spec.limits.pids) == (2**26, 0.5, 9)
    assert (spec.process.user, spec.process.workdir, spec.process.argv) == ("1:2", "/srv", ("true",))
    assert (spec.rootfs, spec.read_only, spec.cap_drop) == ("host", True, ("ALL",))
    assert (spec.log_bytes, spec.hide) == (5, ("/var/lib/netd",))
    without = launch.container(checked, id="ab", hostname="web", netns=None, log_bytes=5, hide=())
    assert without.netns == ""


def test_the_engine_is_told_who_it_is_with_the_host_in_place() -> None:
    checked = launch.check(asked(hosts={"me": "host-gateway", "db": "10.1.1.1"}, labels={"a": "b"}))
    gateways = (ip_address("10.0.0.1"), ip_address("fd00::1"))
    sandbox = launch.sandbox(checked, id="ab", name="web", hostname="w", netns=NETNS, gateways=gateways)
    assert (sandbox.owner, sandbox.name, sandbox.hostname) == (Owner.CONTAINER, "web", "w")
    assert sandbox.hosts == (("me", gateways[0]), ("me", gateways[1]), ("db", ip_address("10.1.1.1")))
    assert sandbox.labels == {"a": "b"}


def test_whoever_makes_an_interface_sets_what_was_asked_of_it() -> None:
    given = {
        "net.ipv4.ip_forward": "1",
        "net.ipv4.conf.lo.forwarding": "1",
        "net.ipv6.conf.all.disable_ipv6": "0",
        "net.ipv4.conf.eth0/100.rp_filter": "2",
        "net.ipv6.conf.eth0.accept_ra": "2",
    }

    def told(mode: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
        networks = () if mode == "networks" else (Attachment(network=mode),)
        checked = launch.check(asked(sysctls=given, networks=networks))
        spec = launch.container(checked, id="ab", hostname="w", netns=NETNS, log_bytes=5, hide=())
        sandbox = launch.sandbox(checked, id="ab", name="w", hostname="w", netns=NETNS, gateways=())
        return spec.sysctls, sandbox.sysctls

    runtime, engine = told("networks")
    assert list(runtime) == list(given)[:3]
    assert engine == {
        "net/ipv6/conf/all/disable_ipv6": "0",
        "net/ipv4/conf/eth0.100/rp_filter": "2",
        "net/ipv6/conf/eth0/accept_ra": "2",
    }
    assert told("none")[0] == given, "without the engine's interfaces the runtime says that there is none"


def test_the_host_is_the_gateway_of_the_network_with_the_default_route() -> None:
    front = network("front", "10.0.0.0/24", "fd00::/64")
    back = network("back", "10.1.0.0/24")
    inner = network("inner", "10.2.0.0/24", internal=True)
    wants = (Want(network="inner"), Want(network="back"), Want(network="front", gateway_priority=5))
    assert launch.host_gateways(Mode.NETWORKS, wants, (inner, back, front)) == (
        ip_address("10.0.0.1"),
        ip_address("fd00::1"),
    )
    assert launch.host_gateways(Mode.NETWORKS, wants[:2], (inner, back)) == (ip_address("10.1.0.1"),)
    assert launch.host_gateways(Mode.NETWORKS, wants[:1], (inner,)) == (ip_address("10.2.0.1"),)
    assert ip_address("127.0.0.1") in launch.host_gateways(Mode.HOST, (), ())
    with pytest.raises(Invalid, match="reaches no host"):
        launch.host_gateways(Mode.NONE, (), ())


def test_a_further_process_inherits_from_the_first() -> None:
    first = asked(env={"A": "1", "B": "1"}, workdir="/srv", user="web")
    process = launch.process(
        first,
        "host",
        command=("ls",),
        env={"B": "2"},
        workdir="",
        user="",
        tty=True,
        interactive=True,
        rows=0,
        columns=132,
    )
    assert (process.workdir, process.user, process.rows, process.columns) == ("/srv", "web", 24, 132)
    assert process.env == {"PATH": launch.PATH, "HOSTNAME": "host", "TERM": "xterm", "A": "1", "B": "2"}


@pytest.mark.parametrize(("text", "number"), [("SIGTERM", 15), ("term", 15), ("9", 9), ("usr1", 10)])
def test_signals_are_known_by_name_and_number(text: str, number: int) -> None:
    assert launch.signal_number(text) == number


@pytest.mark.parametrize("text", ["", "SIGNOPE", "0", "1000", "-9", "9.0"])
def test_other_signals_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        launch.signal_number(text)


def test_an_alias_may_stand_for_everything_below_a_name() -> None:
    assert launch.want(Attachment(network="front", aliases=("www", "*.app"))).aliases == ("www", "*.app")


def test_routes_beside_the_default_one() -> None:
    wanted = launch.want(Attachment(network="front", routes=("10.0.0.0/8 via 10.89.0.2", "fd00:9::/64")))
    assert [(str(route.destination), str(route.via)) for route in wanted.routes] == [
        ("10.0.0.0/8", "10.89.0.2"),
        ("fd00:9::/64", "None"),
    ]


@pytest.mark.parametrize("text", ["10.0.0.0/8 via", "10.0.0.1/8 via 10.89.0.2", "via 10.89.0.2", "x"])
def test_a_route_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="route"):
        launch.want(Attachment(network="front", routes=(text,)))
