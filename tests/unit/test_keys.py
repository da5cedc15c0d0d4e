from __future__ import annotations

import os
from pathlib import Path

import pytest

from netd import keys
from netd.errors import Denied, Invalid, KernelError
from netd.keys import KeyFile


@pytest.mark.parametrize(
    ("scalar", "point", "result"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_the_vectors_of_rfc_7748(scalar: str, point: str, result: str) -> None:
    assert keys.x25519(bytes.fromhex(scalar), bytes.fromhex(point)).hex() == result


def test_the_iterated_vector_of_rfc_7748() -> None:
    k = u = (9).to_bytes(32, "little")
    for turn in range(1000):
        k, u = keys.x25519(k, u), k
        if turn == 0:
            assert k.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_keys_are_as_wg_writes_them() -> None:
    """Bob's pair of RFC 7748, 6.1, in the form of `wg genkey` and `wg pubkey`."""
    private = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    public = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    assert keys.public_of(keys.text_of(private)) == keys.text_of(public)
    assert keys.KEY.fullmatch(keys.text_of(public))
    assert keys.KEY.fullmatch(keys.new())
    assert keys.new() != keys.new()
    raw = keys.raw_of(keys.new())
    assert raw == keys.clamped(raw)


@pytest.mark.parametrize("text", ["", "short", "A" * 44, "A" * 42 + "==", "A" * 43 + "=A"])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        keys.raw_of(text)
    assert not text or text not in str(refused.value), "it may be a secret"


def test_a_file_for_root_alone(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "key")
    assert (file.private(), file.public(), file.age()) == ("", "", 0.0)
    for _ in range(2):  # the second takes the place of the first
        private = keys.new()
        file.keep(private)
        assert file.private() == private
        assert file.public() == keys.public_of(private)
        assert file.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert 0 <= file.age() < 3600
    os.utime(file.path, (0, 0))
    assert file.age() > 3600


def test_a_file_that_cannot_be_trusted(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "key")
    file.keep(keys.new())
    file.path.chmod(0o640)
    with pytest.raises(Denied, match="others than root"):
        file.private()
    file.path.chmod(0o600)
    file.path.write_text("no key\n")
    with pytest.raises(Invalid, match="44 characters") as refused:
        file.public()
    assert "no key" not in str(refused.value)
    file.path.rename(tmp_path / "elsewhere")
    file.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Denied, match="cannot be read"):
        file.private()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="nowhere/key"):
        KeyFile(tmp_path / "nowhere" / "key").keep(keys.new())
