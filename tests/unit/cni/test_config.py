from __future__ import annotations

import json
from typing import Any

import pytest

from netd.cni import config
from netd.cni.spec import CniError

BASE = {"cniVersion": "1.0.0", "name": "front", "type": "netd"}


def parse(command: str = "ADD", **keys: Any) -> config.Config:
    return config.parse(json.dumps({**BASE, **keys}).encode(), command)


def refused(command: str = "ADD", **keys: Any) -> CniError:
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
    ("key", "value"), [("vlan", 7), ("promiscMode", True), ("enabledad", True), ("mode", "ptp")]
)
def test_what_cannot_be_done_has_code_2_with_key_and_value(key: str, value: Any) -> None:
    error = refused(**{key: value})
    assert error.cni == 2
    assert key in str(error)
    assert json.dumps(value) in str(error)


def test_bandwidth_is_refused_unless_it_is_nothing() -> None:
    limits = {"ingressRate": 1000, "ingressBurst": 100}
    assert refused(runtimeConfig={"bandwidth": limits}).cni == 2
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
