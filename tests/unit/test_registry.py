from __future__ import annotations

import asyncio

import msgspec
import pytest

from netd.errors import AlreadyExists, InUse, Invalid, NotFound
from netd.launch import Mode, Request
from netd.registry import Record, Registry
from tests.unit.paper import PaperStore


def registry(store: PaperStore | None = None) -> Registry:
    return Registry(store or PaperStore())  # type: ignore[arg-type]


def test_a_name_is_given_once_until_it_is_forgotten() -> None:
    async def story() -> None:
        it = registry()
        life = it.claim(Request(name="web"), Mode.NETWORKS)
        with pytest.raises(AlreadyExists, match="'web' is taken"):
            it.claim(Request(name="web"), Mode.NETWORKS)
        await it.forget(life)
        assert it.claim(Request(name="web"), Mode.NETWORKS).record.id != life.record.id

    asyncio.run(story())


def test_the_hostname_is_the_short_id_or_the_hosts() -> None:
    it = registry()
    record = it.claim(Request(), Mode.NETWORKS).record
    assert record.hostname == record.id[:12]
    assert it.claim(Request(hostname="w"), Mode.NONE).record.hostname == "w"
    assert it.claim(Request(), Mode.HOST).record.hostname != ""


def test_a_container_is_found_by_name_id_and_prefix() -> None:
    it = registry()
    life = it.claim(Request(name="web"), Mode.NETWORKS)
    for ref in ("web", life.record.id, life.record.id[:6]):
        assert it.life(ref) is life
    for ref in ("", "we", "zz"):
        with pytest.raises(NotFound):
            it.life(ref)


def test_an_ambiguous_prefix_names_the_candidates() -> None:
    it = registry()
    for number in range(17):  # of 17 ids two begin with the same digit
        it.claim(Request(name=f"c{number}"), Mode.NETWORKS)
    firsts = [life.record.id[0] for life in it]
    with pytest.raises(Invalid, match="ambiguous"):
        it.life(max(firsts, key=firsts.count))


def test_what_does_not_run_is_no_running_container() -> None:
    it = registry()
    it.claim(Request(name="web"), Mode.NETWORKS)
    with pytest.raises(InUse, match="'web' is not running, it is created"):
        it.running("web")


def test_records_come_back_and_a_broken_one_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        store = PaperStore()
        it = registry(store)
        life = it.claim(Request(name="web", env={"A": "b"}), Mode.NETWORKS)
        await it.save(life, msgspec.structs.replace(life.record, state="exited", exit_code=3))
        store.records["ff"] = b"nonsense"

        again = registry(store)
        await again.load()
        assert [each.record for each in again] == [life.record]
        assert again.life("web").record.exit_code == 3
        assert store.records["ff"] == b"nonsense"
        assert again.unreadable == {"ff"}

    asyncio.run(story())
    assert "container record ff" in caplog.text


def test_a_record_is_not_the_truth_before_the_store_has_it() -> None:
    async def story() -> None:
        store = PaperStore()
        it = registry(store)
        life = it.claim(Request(name="web"), Mode.NETWORKS)
        store.full = True
        before: Record = life.record
        with pytest.raises(Exception, match="disk is full"):
            await it.save(life, msgspec.structs.replace(before, state="running"))
        assert life.record == before

    asyncio.run(story())
