"""What people ask about the DNS, asked of a real one."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from netd import dns_lookup
from netd.dns_lookup import Answer, Record, Row
from netd.errors import Invalid
from netd.model import Proto
from tests.kernel.dnslab import feeding, network, sandbox

FRONT = network("front", 1)
CAGE = network("cage", 3, internal=True)


async def test_says_what_a_container_would_be_told_and_why(tmp_path: Path) -> None:
    web = sandbox("web", (FRONT, 2), hosts=(("oracle", ip_address("192.0.2.1")),))
    db = sandbox("db", (FRONT, 3), exposed=((Proto.TCP, 5432),))
    hermit = sandbox("hermit", (CAGE, 2))
    async with feeding(tmp_path, FRONT, CAGE, upstreams=("127.0.0.1#1",)) as feed:
        await feed.start([FRONT, CAGE], [web, db, hermit])
        id = web[0].id
        found = await dns_lookup.lookup(feed, id, "DB")
        assert found.answers == (
            Answer("A", "NOERROR", (Record("DB", 5, "A", "10.99.1.3"),)),
            Answer("AAAA", "NOERROR", (Record("DB", 5, "AAAA", "fd99:1::3"),)),
        )
        assert (found.why, found.holders) == ("is a container", ((db[0].id, "front"),))
        assert (found.networks, found.upstreams) == (("front",), ())
        found = await dns_lookup.lookup(feed, id, "_5432._tcp.db", ["srv"])
        assert found.answers[0].records[0].data == "0 0 5432 db.front."
        found = await dns_lookup.lookup(feed, id, "oracle", ["A"])
        assert "--add-host" in found.why
        found = await dns_lookup.lookup(feed, id, "nobody", ["MX"])
        assert (found.answers, found.why) == (
            (Answer("MX", "NXDOMAIN", ()),),
            "would be netd's, and does not exist",
        )
        found = await dns_lookup.lookup(feed, id, "hermit.cage", ["A"])
        assert found.answers[0].rcode == "NXDOMAIN"
        assert found.why == "is below the name of a network that the asking container is not on"
        found = await dns_lookup.lookup(feed, id, "example.com", ["A"])
        assert found.answers[0].rcode == "SERVFAIL"
        assert found.why == "is not netd's: forwarded to 127.0.0.1#1"
        assert found.upstreams == ("127.0.0.1#1",)
        found = await dns_lookup.lookup(feed, hermit[0].id, "example.com", ["A"])
        assert (found.answers[0].rcode, found.upstreams) == ("REFUSED", ())
        assert "internal" in found.why


@pytest.mark.parametrize(
    ("name", "types", "message"),
    [
        ("a..b", [], "not a DNS name"),
        ("web", ["BOGUS"], "'BOGUS' is not known"),
        ("web", [], "on no network"),
    ],
)
async def test_refuses_with_a_reason(tmp_path: Path, name: str, types: list[str], message: str) -> None:
    async with feeding(tmp_path) as feed:
        await feed.start([], [])
        with pytest.raises(Invalid, match=message):
            await dns_lookup.lookup(feed, "nobody", name, types)


async def test_dumps_everything(tmp_path: Path) -> None:
    many = [sandbox(f"c{number}", (FRONT, number), aliases=("*.all",)) for number in range(2, 202)]
    async with feeding(tmp_path, FRONT) as feed:
        await feed.start([FRONT], many)
        rows = [row async for row in dns_lookup.dump(feed)]
        assert len(rows) == 200 * 2 * 2 * 3  # addresses; with and without network; name, id, wildcard
        assert Row("front", "c77.front", "10.99.1.77", many[75][0].id) in rows
        assert Row("front", "*.all", "fd99:1::4d", many[75][0].id) in rows


async def test_metrics_have_names_that_prometheus_takes(tmp_path: Path) -> None:
    web = sandbox("web", (FRONT, 2))
    async with feeding(tmp_path, FRONT, upstreams=("127.0.0.1#1",)) as feed:
        await feed.start([FRONT], [web])
        await dns_lookup.lookup(feed, web[0].id, "example.com", ["A"])
        found = await dns_lookup.metrics(feed)
        values = {(metric.name, *sorted(metric.labels.values())): metric.value for metric in found}
        assert values["netd_dns_answers_total", "SERVFAIL"] == 1
        assert values["netd_dns_forwarded_total",] == 1
        assert values["netd_dns_upstream_failures_total", "127.0.0.1#1"] >= 1
        assert values["netd_dns_upstream_seconds_bucket", "+Inf", "127.0.0.1#1"] == 0
        assert len(values) == len(found), "a name with its labels comes once"
        assert all(metric.help and metric.name.startswith("netd_dns_") for metric in found)
