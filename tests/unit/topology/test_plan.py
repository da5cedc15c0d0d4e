from __future__ import annotations

from collections.abc import Iterable

import pytest

from netd.api import netd_pb2 as pb
from netd.errors import NotFound
from netd.topology.plan import Plan, existing, plan, removal
from netd.topology.project import Project
from tests.unit.topology.paper import project

SHOP = """\
name: shop
services:
  web: {networks: {front: {aliases: [www]}, back: }, ports: ["8080:80"], depends_on: [db]}
  db: {networks: [back]}
networks: {front: , back: {internal: true}}
"""


def networks_of(whole: Project) -> list[pb.Network]:
    """What the daemon answers once `whole` is up."""
    made = [each.request for each in whole.networks.values() if each.request]
    return [pb.Network(name=each.name, labels=each.labels) for each in made]


def containers_of(whole: Project, **given: object) -> list[pb.Container]:
    return [
        pb.Container(
            name=each.name,
            labels=each.request.labels,
            endpoints=[
                pb.Endpoint(
                    network=wanted.network,
                    addresses=[f"{wanted.ip or f'10.0.{n}.2'}/24"],
                    aliases=wanted.aliases,
                    ifname=wanted.ifname or f"eth{n}",
                    gw_priority=wanted.gw_priority,
                )
                for n, wanted in enumerate(each.request.networks)
            ],
            ports=[
                pb.PublishedPort(host_port=p.host or 32768, container_port=p.container, proto=p.proto)
                for p in each.ports
            ],
            **{"state": "running", **given},  # type: ignore[arg-type]
        )
        for each in whole.containers
    ]


def change(before: str, after: str) -> list[str]:
    """The steps from the topology `before`, up, to `after`."""
    old, new = project(before), project(after)
    return list(plan(new, existing("shop", networks_of(old), containers_of(old))).steps())


def test_an_option_is_changed_in_place_and_a_guest_follows_whose_network_it_shares() -> None:
    slow = SHOP.replace("back: }, ports", "back: {x-netd: {netem: {rate: 1mbit}}}}, ports")
    assert change(SHOP, slow) == ["adjust container shop-web-1 in shop_back"]
    [(_, _, options)] = plan(
        project(SHOP), existing("shop", networks_of(project(SHOP)), with_options(project(SHOP), {"x": "1"}))
    ).adjust[:1]
    assert options == {"x": ""}
    guest = SHOP.replace(
        "  db: {networks: [back]}", "  db: {networks: [back]}\n  log: {network_mode: service:db}"
    )
    assert change(SHOP, guest) == ["start container shop-log-1"]
    edited = guest.replace("db: {networks: [back]}", "db: {networks: [back], user: '7'}")
    assert change(guest, edited) == ["replace container shop-db-1", "replace container shop-log-1"]


def with_options(whole: Project, options: dict[str, str]) -> list[pb.Container]:
    made = containers_of(whole)
    for each in made:
        for endpoint in each.endpoints:
            endpoint.options.update(options)
    return made


def from_nothing(text: str, networks: Iterable[pb.Network] = ()) -> Plan:
    return plan(project(text), existing("shop", networks, ()))


def test_from_nothing() -> None:
    assert list(from_nothing(SHOP).steps()) == [
        "create network shop_front",
        "create network shop_back",
        "start container shop-db-1",
        "start container shop-web-1",
    ]


def test_the_same_again_is_nothing() -> None:
    assert change(SHOP, SHOP) == []
    assert not from_nothing("services: {}\nname: shop")


@pytest.mark.parametrize(
    ("old", "new", "steps"),
    [
        (
            "8080:80",
            "9090:80",
            [
                "withdraw port 8080:80/tcp of container shop-web-1",
                "publish port 9090:80/tcp of container shop-web-1",
            ],
        ),
        (
            ", back: }, ports",
            "}, ports",
            ["disconnect container shop-web-1 from shop_back"],
        ),
        (
            "networks: [back]}",
            "networks: [front, back]}",
            ["connect container shop-db-1 to shop_front"],
        ),
        (
            "aliases: [www]",
            "ipv4_address: 10.0.0.9",
            [
                "disconnect container shop-web-1 from shop_front",
                "connect container shop-web-1 to shop_front",
            ],
        ),
        ("db: {networks", "db: {hostname: x, networks", ["replace container shop-db-1"]),
        ("db: {networks", "db: {scale: 2, networks", ["start container shop-db-2"]),
        (
            "front: , back",
            "front: {internal: true}, back",
            [
                "disconnect container shop-web-1 from shop_front",
                "remove network shop_front",
                "create network shop_front",
                "connect container shop-web-1 to shop_front",
            ],
        ),
    ],
)
def test_an_edit_touches_only_what_it_is_about(old: str, new: str, steps: list[str]) -> None:
    assert old in SHOP
    assert change(SHOP, SHOP.replace(old, new)) == steps


def test_what_is_no_longer_in_the_file_goes_dependents_first() -> None:
    assert change(SHOP, "name: shop\nservices: {}") == [
        "remove container shop-web-1",
        "remove container shop-db-1",
        "remove network shop_back",
        "remove network shop_front",
    ]


def test_a_container_that_ended_is_made_again_unless_that_was_the_point() -> None:
    job = "name: shop\nservices: {job: {}, web: {depends_on: {job: {condition: %s}}}}"
    for condition, code, steps in (
        ("service_completed_successfully", 0, []),
        ("service_completed_successfully", 1, ["replace container shop-job-1"]),
        ("service_started", 0, ["replace container shop-job-1"]),
    ):
        whole = project(job % condition)
        done, web = containers_of(whole)
        done.state, done.exit_code = "exited", code
        assert list(plan(whole, existing("shop", networks_of(whole), [done, web])).steps()) == steps


def test_a_replaced_container_leaves_a_network_that_is_remade() -> None:
    steps = change(SHOP, SHOP.replace("db: {", "db: {user: x, ").replace("internal: true", "internal: false"))
    assert steps.index("disconnect container shop-db-1 from shop_back") < steps.index(
        "remove network shop_back"
    )
    assert steps[-1] == "replace container shop-db-1"


def test_who_has_by_chance_what_the_file_gives_to_another_now_gives_way() -> None:
    before = "name: shop\nservices: {a: {}, b: {user: '%s'}, c: {networks: {default: {%s}}}}"
    assert change(before % ("1", ""), before % ("1", "ipv4_address: 10.0.0.2")) == [
        "disconnect container shop-a-1 from shop_default",
        "disconnect container shop-b-1 from shop_default",
        "connect container shop-a-1 to shop_default",
        "connect container shop-b-1 to shop_default",
    ], "c has it already"
    assert change(before % ("1", ""), before % ("2", "ipv4_address: 10.0.0.3")) == [
        "disconnect container shop-c-1 from shop_default",
        "connect container shop-c-1 to shop_default",
        "replace container shop-b-1",
    ]
    moved = change(before % ("1", ""), before % ("2", "ipv4_address: 10.0.0.2"))
    assert "disconnect container shop-b-1 from shop_default" in moved, "though it is replaced later"
    assert moved[-1] == "replace container shop-b-1"


@pytest.mark.parametrize("written", ["ipv6_address: 'FD00:0::0009'", "mac_address: 02-00-00-00-00-0A"])
def test_an_address_may_be_written_as_one_likes(written: str) -> None:
    text = f"name: shop\nservices: {{a: {{networks: {{default: {{{written}}}}}}}}}"
    whole = project(text)
    [one] = containers_of(whole)
    one.endpoints[0].mac = "02:00:00:00:00:0a"
    one.endpoints[0].addresses[:] = ["10.0.0.2/24", "fd00::9/64"]
    assert not plan(whole, existing("shop", networks_of(whole), [one]))


def test_ports_chosen_by_the_daemon_and_from_ranges_fit() -> None:
    for port in ("80", "32000-33000:80"):
        text = SHOP.replace("8080:80", port)
        assert change(text, text) == []


def test_other_projects_are_not_looked_at() -> None:
    other = project(SHOP, project="other")
    found = existing("shop", networks_of(other), containers_of(other))
    assert not found.containers
    assert len(list(plan(project(SHOP), found).steps())) == 4
    assert not removal(found)


def test_an_external_network_must_be_there() -> None:
    text = "name: shop\nservices: {a: {networks: [lan]}}\nnetworks: {lan: {external: true}}"
    with pytest.raises(NotFound, match="external network 'lan'"):
        from_nothing(text)
    assert list(from_nothing(text, [pb.Network(name="lan")]).steps()) == ["start container shop-a-1"]
