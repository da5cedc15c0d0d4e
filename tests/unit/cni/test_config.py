from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd.cni import config, results, spec, wishes
from netd.cni.spec import CniError
from netd.model import Netns
from tests.unit.cni.test_results import NETWORK

BASE = {"cniVersion": "1.0.0", "name": "front", "type": "netd"}


def parse(command: Any = "ADD", **keys: Any) -> config.Config:
    return config.parse(json.dumps({**BASE, **keys}).encode(), command)


def refused(command: Any = "ADD", **keys: Any) -> CniError:
    with pytest.raises(CniError) as caught:
        parse(command, **keys)
    return caught.value


def test_the_reference_bridge_plugins_configuration() -> None:
    found = parse(
        bridge="cni0",
        isGateway=True,
        isDefaultGateway=True,
        forceAddress=False,
        ipMasq=True,
        ipMasqBackend="nftables",
        mtu=1400,
        hairpinMode=True,
        promiscMode=False,
        vlan=0,
        vlanTrunk=[],
        preserveDefaultVlan=False,
        macspoofchk=True,
        portIsolation=True,
        dns={"nameservers": ["10.0.0.1"]},
        ipam={
            "type": "host-local",
            "ranges": [[{"subnet": "10.1.0.0/16", "rangeStart": "10.1.0.9", "gateway": "10.1.0.1"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": "/x",
        },
        capabilities={"portMappings": True},
        runtimeConfig={
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "::1"}],
            "mac": "02:00:00:00:00:01",
            "cgroupPath": "/x",
        },
    )
    assert (found.bridge, found.is_default_gateway, found.ip_masq, found.port_isolation) == (
        "cni0",
        True,
        True,
        True,
    )
    assert not found.ipam.own
    assert found.ipam.all_ranges()[0].range_start == "10.1.0.9"
    assert found.runtime_config.port_mappings[0].host_ip == "::1"


def test_host_locals_older_form_is_a_range_too() -> None:
    ipam = parse(ipam={"type": "netd", "subnet": "10.1.0.0/16", "rangeEnd": "10.1.0.9"}).ipam
    assert ipam.own
    assert [(each.subnet, each.range_end) for each in ipam.all_ranges()] == [("10.1.0.0/16", "10.1.0.9")]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'"x"', b'{"cniVersion": 1}', b"[" * 100_000])
def test_what_is_no_object_has_code_6(text: bytes) -> None:
    with pytest.raises(CniError) as caught:
        config.parse(text, "ADD")
    assert caught.value.cni == 6


@pytest.mark.parametrize(
    ("version", "command"),
    [("9.9.9", "ADD"), ("1.0", "ADD"), ("0.3.1", "CHECK"), ("1.0.0", "GC"), ("1.0.0", "STATUS")],
)
def test_versions_that_do_not_fit_have_code_1(version: str, command: str) -> None:
    error = refused(command, cniVersion=version)
    assert error.cni == 1
    assert version in str(error)


def test_a_missing_version_is_the_first() -> None:
    assert parse(cniVersion="").cni_version == "0.1.0"
    assert config.version_of(b"{}") == "0.1.0"
    assert config.version_of(b'{"cniVersion": "0.4.0", "mtu": "x"}') == "0.4.0"
    assert config.version_of(b"nonsense") == "1.1.0"
    assert config.version_of(b'{"cniVersion": "9"}') == "1.1.0"


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", ".x"])
def test_wrong_names_have_code_7(name: str) -> None:
    error = refused(name=name)
    assert error.cni == 7
    assert repr(name) in str(error)


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("mtu", "x", "$.mtu"),
        ("ipam", {"ranges": [{}]}, "$.ipam.ranges[0]"),
        ("dns", [], "$.dns"),
        ("runtimeConfig", {"portMappings": [{"hostPort": "x"}]}, "$.runtimeConfig.portMappings[0].hostPort"),
    ],
)
def test_wrong_types_have_code_7_and_say_where(key: str, value: Any, where: str) -> None:
    error = refused(**{key: value})
    assert error.cni == 7
    assert where in str(error)


@pytest.mark.parametrize(
    ("key", "value"), [("vlan", 7), ("promiscMode", True), ("enabledad", True), ("mode", "macvlan")]
)
def test_what_cannot_be_done_has_code_2_with_key_and_value(key: str, value: Any) -> None:
    error = refused(**{key: value})
    assert error.cni == 2
    assert key in str(error)
    assert json.dumps(value) in str(error)


def test_a_mode_without_a_bridge() -> None:
    assert parse(mode="ptp").mode == "ptp"
    error = refused(mode="ptp", bridge="cni0")
    assert error.cni == 7
    assert "cni0" in str(error)
    assert refused(mode="ptp", network="front").cni == 7
    assert parse(mode="bridge", network="front").network == "front"


@pytest.mark.parametrize(
    "limits", [{"ingressBurst": 8}, {"egressRate": -1}, {"egressRate": 8, "egressBurst": -1}]
)
def test_bandwidth_that_is_no_limit_is_refused(limits: dict[str, int]) -> None:
    assert refused(runtimeConfig={"bandwidth": limits}).cni == 7
    assert parse(runtimeConfig={"bandwidth": {}}).runtime_config.bandwidth.ingress_rate == 0


@pytest.mark.parametrize(
    ("key", "meant"),
    [("isDefaultGatway", "isDefaultGateway"), ("intenal", "internal"), ("subnet", "subnets"), ("MTU", None)],
)
def test_misspellings_are_refused_and_corrected(key: str, meant: str | None) -> None:
    if meant is None:  # too far from ours to be sure
        assert parse(**{key: 1}).mtu == 0
        return
    error = refused(**{key: True})
    assert error.cni == 7
    assert f"did you mean {meant}?" in str(error)


def test_other_keys_are_somebody_elses() -> None:
    parse(conditionsV4=[], sysctl={}, snat=True, **{"cni.dev/something": 1, "io.example/netd": 2})


@pytest.mark.parametrize("key", ["bridge", "mtu", "internal", "subnets", "gateway", "ipMasq"])
def test_a_named_network_is_not_defined_again(key: str) -> None:
    values = {"bridge": "x", "mtu": 1400, "internal": True, "subnets": ["10.0.0.0/8"], "gateway": "10.0.0.1"}
    error = refused(network="front", **{key: values.get(key, False)})
    assert error.cni == 7
    assert key in str(error)
    assert parse(network="front", isGateway=True, dns={"domain": "x"}).network == "front"


def test_valid_attachments_may_be_absent_or_empty() -> None:
    versioned = {"cniVersion": "1.1.0"}
    assert parse("GC", **versioned).valid_attachments is None
    assert parse("GC", **versioned, **{"cni.dev/valid-attachments": []}).valid_attachments == []
    entries = [{"containerID": "a", "ifname": "eth0"}]
    [found] = parse("GC", **versioned, **{"cni.dev/valid-attachments": entries}).valid_attachments or []
    assert (found.container_id, found.ifname) == ("a", "eth0")


ADDRESSES = ("10.1.0.5", "10.1.0.5/16", "10.1.0.9", "fd00:1::5", "ff02::1", "255.255.255.255", "fe80::1%eth0")
SUBNETS = ("10.1.0.0/16", "fd00:1::/64", "::/0", "0.0.0.0/0", "10.1.0.0/99", "10.1.0.0/255.255.0.0")
TEXT = st.sampled_from(["", "x", "1", " 10.1.0.1", "é", *ADDRESSES, *SUBNETS])
NUMBER = st.sampled_from([0, 1, -1, 80, 65535, 65536, 1 << 70])
TEXTS = st.lists(TEXT, max_size=3)
RANGE = st.fixed_dictionaries(
    {"subnet": TEXT}, optional={"rangeStart": TEXT, "rangeEnd": TEXT, "gateway": TEXT}
)
RANGES = st.lists(st.lists(RANGE, max_size=2), max_size=2)
ROUTES = st.lists(st.fixed_dictionaries({"dst": TEXT}, optional={"gw": TEXT}), max_size=2)
PORT = st.fixed_dictionaries(
    {"hostPort": NUMBER, "containerPort": NUMBER},
    optional={"protocol": st.sampled_from(["tcp", "UDP", "sctp", ""]), "hostIP": TEXT},
)
KEYS = st.fixed_dictionaries(
    {},
    optional={
        "subnets": st.lists(TEXT | RANGE, max_size=2),
        "ranges": RANGES,
        "gateway": TEXT | TEXTS,
        "routes": ROUTES,
        "mtu": NUMBER,
        "aliases": TEXTS,
        "ipam": st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["", "netd", "host-local"]),
                "ranges": RANGES,
                "routes": ROUTES,
            },
        ),
        "args": st.fixed_dictionaries(
            {"cni": st.fixed_dictionaries({}, optional={"ips": TEXTS, "mac": TEXT, "labels": st.just([{}])})}
        ),
        "runtimeConfig": st.fixed_dictionaries(
            {},
            optional={
                "portMappings": st.lists(PORT, max_size=2),
                "ips": TEXTS,
                "ipRanges": RANGES,
                "dns": st.fixed_dictionaries({"servers": TEXTS}),
                "aliases": TEXTS | st.dictionaries(TEXT, TEXTS, max_size=1),
            },
        ),
    },
)


def attempt(work: Callable[[], object]) -> CniError | None:
    """The refusal that something ends with; anything else that is raised is a defect."""
    try:
        work()
    except CniError as error:
        return error
    return None


@settings(max_examples=500, deadline=None)
@given(KEYS)
def test_whatever_the_values_are_they_are_understood_or_refused(keys: dict[str, Any]) -> None:
    """What is read makes a request, a place and an owner."""
    call = spec.Call(command="ADD", container="pod1", ifname="eth0", netns="/x")
    netns = Netns(label="x", path="/x", device=1, inode=2)
    text = json.dumps({**BASE, **keys}).encode()
    uses: tuple[Callable[[config.Config], object], ...] = (
        lambda found: wishes.network_request(found, None),
        lambda found: wishes.want(found, call, NETWORK, None),
        lambda found: wishes.sandbox(found, call, netns),
    )
    for use in uses:
        error = attempt(partial(lambda use: use(config.parse(text, "ADD")), use))
        assert error is None or (error.cni in (2, 7) and str(error))


@settings(max_examples=500, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "interfaces": st.lists(st.fixed_dictionaries({"name": TEXT}), max_size=2),
            "ips": st.lists(
                st.fixed_dictionaries({"address": TEXT}, optional={"gateway": TEXT, "interface": NUMBER}),
                max_size=2,
            ),
            "routes": ROUTES,
            "dns": st.fixed_dictionaries({}, optional={"nameservers": TEXTS}),
            "ip4": st.fixed_dictionaries({"ip": TEXT}, optional={"gateway": TEXT, "routes": ROUTES}),
        },
    )
)
def test_whatever_another_plugin_answers_it_is_understood_or_refused(found: dict[str, Any]) -> None:
    call = spec.Call(command="ADD", container="pod1", ifname="eth0", netns="/x")
    foreign = config.parse(json.dumps({**BASE, "ipam": {"type": "static"}}).encode(), "ADD")

    def use() -> None:
        result = results.parse(found)
        for version in spec.VERSIONS:
            results.render(result, version)
        wishes.network_request(foreign, result)
        wishes.want(foreign, call, NETWORK, result)

    error = attempt(use)
    assert error is None or error.cni == 7
