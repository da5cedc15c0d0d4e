"""What exists and who sees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd_dns import wire
from netd_dns.zone import Kind, Segment, View, Zone
from tests.unit.netd_dns.world import BACK, endpoint, packed, sandbox, view, world


def find(seen: View, name: str) -> Kind:
    return seen.find(wire.encode_name(name)).kind


def addresses(seen: View, name: str) -> set[bytes]:
    match = seen.find(wire.encode_name(name))
    return {a for host in match.hosts for a in (*host.a, *host.aaaa)} | set(match.addresses)


def test_a_client_sees_all_its_networks_and_no_other() -> None:
    zone = world()
    web, api, db = (view(zone, name) for name in ("web", "api", "db"))
    assert addresses(web, "api") == set(packed("10.0.0.3"))
    assert addresses(api, "api") == set(packed("10.0.0.3", "10.0.1.3"))
    assert addresses(api, "web") == set(packed("10.0.0.2", "fd00::2"))
    assert addresses(api, "db") == set(packed("10.0.1.4"))
    assert find(web, "db") is Kind.ABSENT
    assert find(db, "web") is Kind.ABSENT
    # A domain outside may be called "back", too; but who asks for db.back means ours, and must not be
    # answered by a stranger.
    assert find(web, "db.back") is Kind.APART
    assert find(web, "nobody.back") is Kind.APART
    assert find(web, "back") is Kind.ABSENT
    assert find(db, "db.back") is Kind.HOST


def test_a_networks_name_is_free_again_when_the_last_network_of_that_name_is_gone() -> None:
    zone = world()
    web = view(zone, "web")
    for id in ("lan-1", "lan-2"):
        zone.put_segment(Segment(id, "corp.lan", False, (), ()))
    for id in ("lan-1", "lan-2"):
        assert [find(web, name) for name in ("corp.lan", "x.corp.lan")] == [Kind.APART] * 2
        assert find(web, "x.lan") is Kind.FOREIGN
        zone.drop_segment(id)
    assert find(web, "x.corp.lan") is Kind.FOREIGN


def test_an_alias_of_several_answers_with_all() -> None:
    zone = world()
    assert addresses(view(zone, "db"), "backend") == set(packed("10.0.1.3", "10.0.1.4"))
    assert addresses(view(zone, "web"), "backend") == set(packed("10.0.0.3"))
    assert addresses(view(zone, "api"), "backend.back") == set(packed("10.0.1.3", "10.0.1.4"))


@pytest.mark.parametrize("name", ["web", "web.front", "www", "www.front", "a.b", "a.b.front"])
def test_every_name_with_and_without_its_network(name: str) -> None:
    assert addresses(view(world(), "web"), name) == set(packed("10.0.0.2", "fd00::2"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.app", Kind.HOST),
        ("x.y.app", Kind.HOST),  # moby #19533
        ("x.app.front", Kind.HOST),
        ("app", Kind.EMPTY),
        ("app.front", Kind.EMPTY),
        ("b", Kind.EMPTY),  # because of a.b
        ("b.front", Kind.EMPTY),
        ("front", Kind.EMPTY),
        ("nobody", Kind.ABSENT),
        ("nobody.front", Kind.ABSENT),
        ("x.web.front", Kind.ABSENT),
        ("x.web", Kind.FOREIGN),
        ("example.com", Kind.FOREIGN),
        ("front.example.com", Kind.FOREIGN),
        ("xfront", Kind.ABSENT),
        ("x.xfront", Kind.FOREIGN),
        ("localhost", Kind.EXTRA),
        ("x.localhost", Kind.EXTRA),
        ("2.0.0.10.in-addr.arpa", Kind.ADDRESS),
        ("200.0.0.10.in-addr.arpa", Kind.ABSENT),  # in our subnet, nobody's
        ("4.1.0.10.in-addr.arpa", Kind.ABSENT),  # another network's container
        ("1.2.0.192.in-addr.arpa", Kind.FOREIGN),
        ("0.0.10.in-addr.arpa", Kind.FOREIGN),
        ("2.0.0.010.in-addr.arpa", Kind.FOREIGN),
        ("x.2.0.0.10.in-addr.arpa", Kind.FOREIGN),
        ("2." + "0." * 27 + "0.0.d.f.ip6.arpa", Kind.ADDRESS),
        ("3." + "0." * 27 + "0.0.d.f.ip6.arpa", Kind.ABSENT),
        ("g." + "0." * 27 + "0.0.d.f.ip6.arpa", Kind.FOREIGN),
        ("_80._tcp.web", Kind.ABSENT),
        ("_80._tcp.example.com", Kind.FOREIGN),
        ("_tcp.web", Kind.EMPTY),
        ("_dmarc.example.com", Kind.FOREIGN),
    ],
)
def test_what_a_name_is(name: str, kind: Kind) -> None:
    assert find(view(world(), "web"), name) is kind


def test_services_are_what_a_container_publishes_or_exposes() -> None:
    zone = world()
    db = view(zone, "db")
    match = db.find(wire.encode_name("_5432._tcp.backend"))
    assert match.kind is Kind.SERVICE
    assert [host.sandbox for host in match.hosts] == ["db"]
    assert find(db, "_5432._tcp.db.back") is Kind.SERVICE
    assert find(db, "_5432._udp.db") is Kind.ABSENT
    assert find(db, "_5433._tcp.db") is Kind.ABSENT
    assert find(db, "_x._tcp.db") is Kind.ABSENT
    assert find(view(zone, "web"), "_5432._tcp.db") is Kind.ABSENT  # db is nothing to web, and one label
    assert find(view(zone, "web"), "_5432._tcp.db.back") is Kind.APART
    assert find(db, "_80._tcp") is Kind.FOREIGN


def test_services_of_a_wildcard_are_its_containers() -> None:
    zone = world()
    shop = endpoint("front-id", "shop", "10.0.0.50", wildcards=["market", "stall.market"])
    zone.put_sandbox(sandbox("shop", shop, services=[("tcp", 80)]))
    api = view(zone, "api")
    for target in ("x.market", "x.y.market", "x.market.front", "x.stall.market"):
        match = api.find(wire.encode_name(f"_80._tcp.{target}"))
        assert (match.kind, [host.sandbox for host in match.hosts]) == (Kind.SERVICE, ["shop"]), target
    assert find(api, "_81._tcp.x.market") is Kind.ABSENT
    assert find(view(zone, "db"), "_80._tcp.x.market") is Kind.FOREIGN


def test_extra_names_are_their_owners_alone_and_win() -> None:
    zone = world()
    assert addresses(view(zone, "dave"), "oracle") == set(packed("192.0.2.1", "2001:db8::1"))
    assert addresses(view(zone, "dave"), "web") == set(packed("192.0.2.2"))
    assert find(view(zone, "web"), "oracle") is Kind.ABSENT


def test_clients_that_see_the_same_share_a_view() -> None:
    zone = world()
    zone.put_sandbox(sandbox("web2", endpoint("front-id", "web2", "10.0.0.20")))
    assert view(zone, "web") is view(zone, "web2") is zone.shared("front-id")
    assert view(zone, "api") is not view(zone, "web")
    assert view(zone, "dave") is not view(zone, "web")


def test_the_way_out() -> None:
    zone = world()
    assert view(zone, "web").outside
    assert view(zone, "web").upstreams == ()
    assert view(zone, "db").upstreams == ("192.0.2.53",)  # of the network
    assert view(zone, "api").upstreams == ("192.0.2.53",)
    assert view(zone, "dave").upstreams == ("192.0.2.99",)  # of the container
    assert not view(zone, "hermit").outside


def test_an_internal_network_may_use_a_server_inside_it_only() -> None:
    zone = world()
    zone.put_sandbox(
        sandbox("hermit", endpoint("cage-id", "hermit", "10.0.2.2"), dns=["192.0.2.1", "10.0.2.9"])
    )
    assert view(zone, "hermit").outside
    assert view(zone, "hermit").upstreams == ("10.0.2.9",)
    zone.put_sandbox(
        sandbox(
            "hermit", endpoint("cage-id", "hermit", "10.0.2.2"), endpoint("front-id", "hermit", "10.0.0.8")
        )
    )
    assert view(zone, "hermit").outside
    assert view(zone, "hermit").upstreams == ()


@pytest.mark.parametrize(
    ("segment", "source", "who"),
    [
        ("front-id", "10.0.0.2", "web"),
        ("front-id", "fd00::2", "web"),
        ("front-id", "10.0.0.3", "api"),
        ("back-id", "10.0.1.3", "api"),
        ("front-id", "fe80::3%nd-0123", "api"),
        ("front-id", "10.0.0.9", "dave"),
        ("front-id", "10.0.0.1", "front-id"),  # the host, from the gateway's address
        ("front-id", "203.0.113.2", "front-id"),  # the host, from another of its addresses
        ("front-id", "10.0.1.4", None),  # db, which is not on front
        ("front-id", "10.0.1.200", None),  # somebody on back
        ("front-id", "10.0.2.2", None),
        ("front-id", "fe80::4%nd-0123", None),
        ("front-id", "198.51.100.7", None),  # a stranger whose packets somebody routes here
        ("gone", "10.0.0.2", None),
    ],
)
def test_who_is_asking(segment: str, source: str, who: str | None) -> None:
    zone = world()
    seen = zone.client(segment, source)
    if who is None:
        assert seen is None
    else:
        assert seen is (zone.shared(who) if who.endswith("-id") else view(zone, who))


def test_a_change_drops_the_answers_of_all_who_could_see_it_and_of_nobody_else() -> None:
    zone = world()
    views = {name: view(zone, name) for name in ("web", "api", "db", "hermit", "dave")}
    for seen in views.values():
        seen.ready.keep(b"question", b"answer")
    touched = zone.put_sandbox(sandbox("new", endpoint("back-id", "new", "10.0.1.9")))
    assert touched == {"back-id"}
    assert {name for name, seen in views.items() if not seen.ready} == {"api", "db"}


def test_a_sandbox_that_moves_is_found_where_it_is() -> None:
    zone = world()
    touched = zone.put_sandbox(sandbox("db", endpoint("front-id", "db", "10.0.0.44")))
    assert touched == {"front-id", "back-id"}
    assert addresses(view(zone, "web"), "db") == set(packed("10.0.0.44"))
    assert addresses(view(zone, "api"), "backend.back") == set(packed("10.0.1.3"))
    assert zone.client("back-id", "10.0.1.4") is zone.shared("back-id")
    assert zone.client("front-id", "10.0.0.44") is view(zone, "db")


def test_an_address_that_passed_on_is_not_lost_when_its_old_owner_goes() -> None:
    zone = world()
    zone.put_sandbox(sandbox("heir", endpoint("front-id", "heir", "10.0.0.2")))
    zone.put_sandbox(sandbox("web"))
    match = view(zone, "heir").find(wire.encode_name("2.0.0.10.in-addr.arpa"))
    assert [host.sandbox for host in match.hosts] == ["heir"]
    assert zone.client("front-id", "10.0.0.2") is view(zone, "heir")


def test_a_network_that_comes_later_takes_the_endpoints_that_wait_for_it() -> None:
    zone = world()
    zone.drop_segment("back-id")
    assert find(view(zone, "api"), "db") is Kind.ABSENT
    assert zone.client("back-id", "10.0.1.4") is None
    zone.put_segment(Segment(BACK.id, BACK.name, False, BACK.subnets, BACK.upstreams))
    assert addresses(view(zone, "api"), "db") == set(packed("10.0.1.4"))
    assert view(zone, "db").upstreams == ("192.0.2.53",)


def test_a_network_with_a_long_name_still_works() -> None:
    zone = Zone()
    zone.put_segment(Segment("n", ".".join(["n" * 60] * 4), False, ("10.0.0.0/24",), ()))
    zone.put_sandbox(sandbox("web", {**endpoint("n", "w" * 30, "10.0.0.2"), "canonical": "web.n"}))
    assert find(view(zone, "web"), "w" * 30) is Kind.HOST


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["web", "api", "db", "new"]),
        st.lists(st.sampled_from(["front-id", "back-id", "cage-id"]), unique=True),
        st.lists(st.sampled_from(["x", "y", "x.y", "a.b"]), unique=True),
    ),
    max_size=12,
)


@given(CHANGES)
def test_after_any_changes_it_is_as_if_only_the_last_had_been(
    changes: list[tuple[str, list[str], list[str]]],
) -> None:
    subnets = {"front-id": "10.0.0", "back-id": "10.0.1", "cage-id": "10.0.2"}
    number = {"web": 32, "api": 33, "db": 34, "new": 35}

    def tell(zone: Zone, who: str, networks: list[str], aliases: list[str]) -> None:
        ends = [
            endpoint(n, who, f"{subnets[n]}.{number[who]}", aliases=aliases, wildcards=aliases)
            for n in networks
        ]
        zone.put_sandbox(sandbox(who, *ends))

    lived, fresh = world(), world()
    for who, networks, aliases in changes:
        tell(lived, who, networks, aliases)
    for who, (networks, aliases) in {who: (n, a) for who, n, a in changes}.items():
        tell(fresh, who, networks, aliases)
    for id, segment in lived.segments.items():
        other = fresh.segments[id]
        for table in ("names", "wildcards"):
            mine, theirs = getattr(segment, table), getattr(other, table)
            assert {k: {h.sandbox for h in v} for k, v in mine.items()} == {
                k: {h.sandbox for h in v} for k, v in theirs.items()
            }
        assert segment.empty == other.empty
        assert segment.clients == other.clients
        assert {a: h.sandbox for a, h in segment.addresses.items()} == {
            a: h.sandbox for a, h in other.addresses.items()
        }
    assert lived.sandboxes.keys() == fresh.sandboxes.keys()
    assert {who: view(lived, who).key for who in lived.sandboxes} == {
        who: view(fresh, who).key for who in fresh.sandboxes
    }
    assert len(lived._views) == len({view(lived, who).key for who in lived.sandboxes})
