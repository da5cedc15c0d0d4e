"""The life of a node's key, on paper; what it does to packets is in tests/e2e/test_wireguard.py."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from netd import keys
from netd.cluster.ports import Status
from netd.encryption import Encryption
from netd.errors import Unavailable, Unsupported
from netd.kernel.fake import FakeKernel
from netd.keys import KeyFile
from tests.unit.cluster_double import PaperCluster, fabric

SECRET = fabric(name="secret", options={"encrypted": "wireguard"})


@dataclass
class Offline(PaperCluster):
    def status(self) -> Status:
        return Status(connected=False, problem="etcd does not answer")


class Subject:
    """An `Encryption` and what is around it. `order` is what happened, as it happened."""

    def __init__(self, directory: Path, cluster: PaperCluster | None = None, max_age: float = 0.0) -> None:
        self.kernel = FakeKernel()
        self.cluster = cluster or PaperCluster()
        self.file = KeyFile(directory / "key")
        self.order = self.cluster.said
        self.encryption = Encryption(self.kernel, self.cluster, self.file, max_age, self._changed)

    async def _changed(self) -> None:
        assert self.cluster.node.wireguard_key == self.file.public(), "kept before the device is given it"
        self.order.append("device")

    @property
    def key(self) -> str:
        return self.cluster.node.wireguard_key


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(story())


def test_the_first_encrypted_network_makes_the_key_and_later_ones_use_it(tmp_path: Path) -> None:
    async def story() -> None:
        subject = Subject(tmp_path)
        await subject.encryption.recall(needed=False)
        await subject.encryption.ready(fabric())
        assert not subject.key
        assert not subject.file.path.exists()
        for _ in range(2):
            await subject.encryption.ready(SECRET)
            assert subject.key == subject.file.public() != ""
        assert subject.order == ["device", "identity"]
        again = Subject(tmp_path)
        await again.encryption.recall(needed=True)
        assert again.key == subject.key
        assert again.order == []

    run(story)


def test_a_host_that_cannot_have_wireguard_refuses_with_the_reason(tmp_path: Path) -> None:
    async def story() -> None:
        subject = Subject(tmp_path)
        subject.kernel.lacks_wireguard = "this kernel has none: load its module"
        with pytest.raises(
            Unsupported, match=r"'secret' is encrypted, and this kernel has none: load .* clear"
        ):
            await subject.encryption.ready(SECRET)
        assert not subject.key
        await subject.encryption.ready(fabric())

    run(story)


def test_the_device_has_the_new_key_before_anybody_hears_of_it(tmp_path: Path) -> None:
    async def story() -> None:
        subject = Subject(tmp_path)
        await subject.encryption.ready(SECRET)
        old = subject.key
        subject.order.clear()
        await subject.encryption.rotate()
        assert subject.key == subject.file.public() != old
        assert subject.order == ["device", "identity"]

    run(story)


def test_a_key_is_not_replaced_where_there_is_none_or_nobody_would_hear_of_it(tmp_path: Path) -> None:
    async def story() -> None:
        subject = Subject(tmp_path, Offline())
        with pytest.raises(Unsupported, match="no WireGuard key"):
            await subject.encryption.rotate()
        await subject.encryption.ready(SECRET)
        key = subject.key
        with pytest.raises(Unavailable, match="etcd does not answer"):
            await subject.encryption.rotate()
        assert subject.key == subject.file.public() == key

    run(story)


@pytest.mark.parametrize("damage", ["readable", "nonsense", "gone"])
def test_a_key_that_cannot_be_trusted_is_replaced(tmp_path: Path, damage: str) -> None:
    async def story() -> None:
        subject = Subject(tmp_path)
        before = keys.new()
        subject.file.keep(before)
        if damage == "readable":
            subject.file.path.chmod(0o644)
        elif damage == "nonsense":
            subject.file.path.write_text("x")
        else:
            subject.file.path.unlink()
        await subject.encryption.recall(needed=True)
        assert subject.key == subject.file.public()
        assert subject.key not in ("", keys.public_of(before))

    run(story)


def test_an_old_key_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        subject = Subject(tmp_path, max_age=0.02)
        subject.file.keep(keys.new())
        os.utime(subject.file.path, (0, 0))
        asked = asyncio.Event()
        times = 0

        async def rotate() -> None:
            nonlocal times
            times += 1
            if times == 1:
                raise Unavailable("not now")
            asked.set()

        task = asyncio.get_running_loop().create_task(subject.encryption.keep_fresh(rotate))
        await asyncio.wait_for(asked.wait(), 10)
        task.cancel()
        await asyncio.wait([task])
        assert "the WireGuard key is old: not now" in caplog.text
        await asyncio.wait_for(Subject(tmp_path).encryption.keep_fresh(rotate), 10)  # never: returns at once

    run(story)


def test_an_objection_is_said_once_and_so_is_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    subject = Subject(tmp_path)
    for objection in ("", "node 'h2' has none", "node 'h2' has none", "", ""):
        subject.encryption.object("h2", objection)
    assert [record.getMessage() for record in caplog.records] == [
        "node 'h2' has none; its containers are not reached in encrypted networks",
        "node 'h2' is reached in encrypted networks again",
    ]
