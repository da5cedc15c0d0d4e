from __future__ import annotations

from typing import Any

import pytest

from netd.errors import Invalid
from netd.topology.compose import PortFile, parse


def test_known_keys_become_typed_and_the_users_own_are_left_alone() -> None:
    file, unknown = parse(
        {
            "x-common": {"anything": 1},
            "services": {"web": {"x-mine": 1, "ports": ["8080:80", 90, {"target": 53, "protocol": "udp"}]}},
        },
        "t.yaml",
    )
    assert unknown == []
    assert file.services["web"].ports == ["8080:80", 90, PortFile(target=53, protocol="udp")]


def test_every_unknown_key_is_named_by_its_path() -> None:
    _, unknown = parse(
        {
            "configs": {},
            "services": {"web": {"privileged": True, "networks": {"a": {"link_local_ips": []}}}},
            "networks": {"a": {"ipam": {"config": [{"subnett": ""}]}}},
        },
        "t.yaml",
    )
    assert unknown == [
        "configs",
        "services.web.privileged",
        "services.web.networks.a.link_local_ips",
        "networks.a.ipam.config[0].subnett",
    ]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"services": {"web": {"tty": 3.5}}}, "services.web.tty"),
        ({"services": {"web": {"depends_on": {"db": {"condition": "ready"}}}}}, "ready"),
        ({"services": {"web": {"scale": "many"}}}, "services.web.scale"),
        ({"networks": {}}, "services"),
        ([], "t.yaml"),
    ],
)
def test_wrong_shapes_are_named(value: Any, complaint: str) -> None:
    with pytest.raises(Invalid) as raised:
        parse(value, "t.yaml")
    assert str(raised.value).startswith("t.yaml: ")
    assert complaint in str(raised.value)
