from __future__ import annotations

import pytest

from netd.api import netd_pb2 as pb
from netd.errors import Invalid
from netd.topology.services import IDLE, Health
from tests.unit.topology.paper import project


def request(body: str, head: str = "", **given: object) -> pb.RunRequest:
    """What the daemon is asked for, for a service `web` with the keys of `body`."""
    text = f"name: shop\n{head}\nservices:\n  web:\n" + "".join(f"    {line}\n" for line in body.splitlines())
    return project(text, **given).container("web").request  # type: ignore[arg-type]


def test_a_service_that_says_nothing_idles_in_the_default_network() -> None:
    found = request("hostname: w")
    assert (found.name, tuple(found.command), found.rootfs, found.detach) == (
        "shop-web-1",
        IDLE,
        "host",
        True,
    )
    assert list(found.networks) == [pb.Attachment(network="shop_default", aliases=["web"])]
    assert found.labels["netd.topology.grace"] == "0"


def test_every_key_has_its_place() -> None:
    found = request(
        """\
image: base
entrypoint: env -i
command: [sh, -c, "sleep 1"]
environment: {A: 1, B: }
env_file: vars.env
expose: ["80-81", 53/udp]
hostname: w
dns: 9.9.9.9
dns_search: [corp.example, lab]
dns_opt: [timeout:1]
extra_hosts: ["db=10.0.0.9"]
volumes: [data:/data, ./conf:/conf:ro, ../x:/x]
working_dir: /srv
user: "1000:1000"
read_only: "true"
tty: true
stdin_open: true
sysctls: ["net.ipv4.ip_forward=1"]
cap_add: [NET_ADMIN]
cap_drop: [CAP_CHOWN]
cpus: "0.5"
mem_limit: 64m
deploy: {resources: {limits: {pids: 20}}}
labels: {a: b}
stop_grace_period: 2s
""",
        "volumes: {data: }",
        images={"base": "roots/base"},
        variables={"B": "caller"},
        files={"/lab/vars.env": "A=0\nC=3\n"},
    )
    assert list(found.command) == ["env", "-i", "sh", "-c", "sleep 1"]
    assert dict(found.env) == {"A": "1", "B": "caller", "C": "3"}
    assert list(found.expose) == ["80/tcp", "81/tcp", "53/udp"]
    assert (found.hostname, list(found.dns), dict(found.hosts)) == ("w", ["9.9.9.9"], {"db": "10.0.0.9"})
    assert (list(found.dns_search), list(found.dns_options)) == (["corp.example", "lab"], ["timeout:1"])
    assert list(found.volumes) == ["/state/volumes/shop_data:/data", "/lab/conf:/conf:ro", "/x:/x"]
    assert (found.workdir, found.user, found.rootfs) == ("/srv", "1000:1000", "/lab/roots/base")
    assert (found.read_only, found.tty, found.interactive) == (True, True, True)
    assert dict(found.sysctls) == {"net.ipv4.ip_forward": "1"}
    assert (list(found.cap_add), list(found.cap_drop)) == (["NET_ADMIN"], ["CHOWN"])
    assert (found.cpus, found.memory, found.pids) == (0.5, 64 << 20, 20)
    assert (found.labels["a"], found.labels["netd.topology.grace"]) == ("b", "2")


def test_what_can_be_changed_in_a_running_container_does_not_change_its_digest() -> None:
    head = "networks: {a: , b: }"
    digests = {
        request(body, head).labels["netd.topology.digest"]
        for body in (
            "networks: [a]",
            "networks: [a, b]",
            "networks: {a: {aliases: [x]}}",
            "ports: ['8080:80']",
        )
    }
    assert len(digests) == 1
    others = {
        request(body, head).labels["netd.topology.digest"]
        for body in ("network_mode: none", "environment: [A=1]", "command: ls", "labels: [a=b]", "user: 7")
    }
    assert len(others - digests) == 5


def test_replicas_differ_in_name_and_number_only() -> None:
    found = project("name: p\nservices: {web: {scale: 3, ports: ['8000-8010:80']}}").containers
    assert [each.name for each in found] == ["p-web-1", "p-web-2", "p-web-3"]
    assert len({each.digest for each in found}) == 1


def test_health() -> None:
    text = "services: {web: {healthcheck: {test: curl -f localhost, interval: 2s, retries: 5}}}"
    assert project(text).services["web"].health == Health(
        command=("/bin/sh", "-c", "curl -f localhost"),
        interval=2,
        timeout=30,
        retries=5,
        start_period=0,
        start_interval=0.05,
    )
    for off in ("{test: [NONE]}", "{test: x, disable: true}"):
        assert project(f"services: {{web: {{healthcheck: {off}}}}}").services["web"].health is None


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("image: nginx", "services.web.image: 'nginx'"),
        ("image: base", "services.web.command: "),
        ('command: "it\'s"', 'services.web.command: "it\'s"'),
        ("networks: [lan]", "services.web.networks.lan: network 'lan' is not defined"),
        ("network_mode: service:db", "services.web.network_mode: service 'db' is not defined"),
        ("network_mode: service:web", "'service:web' is the service itself"),
        ("network_mode: bridge", "services.web.network_mode: 'bridge'"),
        ("network_mode: 'container:'", "services.web.network_mode: 'container:'"),
        ("network_mode: container:x\nhostname: w", "'container:x' and hostname exclude each other"),
        ("network_mode: none\nmac_address: '02:00:00:00:00:01'", "'none' and mac_address exclude"),
        ("network_mode: none\nx-netd: {routes: ['10.0.0.0/8 via 10.1.1.1']}", "'none' and x-netd.routes"),
        ("network_mode: host\nnetworks: [default]", "exclude each other"),
        ("network_mode: none\nports: ['80']", "services.web.ports"),
        ("scale: 2\ncontainer_name: x", "services.web.container_name: 'x'"),
        ("scale: 2\nports: ['80:80']", "services.web.ports: '80:80/tcp'"),
        ("scale: 2\nnetworks: {default: {ipv4_address: 10.0.0.7}}", "services.web.networks.default"),
        ("scale: 1001", "services.web.scale: 1001"),
        ("volumes: [data:/data]", "services.web.volumes[0]: volume 'data' is not defined"),
        ("healthcheck: {test: [curl]}", "services.web.healthcheck.test"),
        ("healthcheck: {test: x, interval: often}", "services.web.healthcheck.interval: 'often'"),
    ],
)
def test_what_cannot_be_is_named_with_file_path_and_value(body: str, complaint: str) -> None:
    with pytest.raises(Invalid) as raised:
        request(body, images={"base": "host"})
    assert str(raised.value).startswith("t.yaml: ")
    assert complaint in str(raised.value)
