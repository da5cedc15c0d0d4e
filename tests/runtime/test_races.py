"""What a container is mounted on changes while it is mounted: each component of each path, at any moment."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLOW = [pytest.mark.slow, pytest.mark.timeout(3600)]
SWAPPED = ("s/a", "s/a/b", "s/a/b/c", "v", "v/w", "v/w/x", "etc", "proc", "sys", "dev")
"""Of the volume `s` and the root file system: every component of which something is mounted or made."""


def links(outside: Path) -> list[str]:
    """Ways out that a link may point to."""
    return [
        str(outside),
        "/proc/self/root/../../../.." + str(outside),
        "../" * 20 + str(outside)[1:],
        "/",
        "..",
    ]


def contents(path: Path) -> dict[str, int]:
    return {str(entry): entry.lstat().st_mode for entry in sorted(path.rglob("*"))}


@pytest.mark.parametrize("rounds", [150, pytest.param(10_000, marks=SLOW)])
def test_every_component_swapped_for_a_link_while_mounting(
    busybox: Path, tmp_path: Path, rounds: int
) -> None:
    """CVE-2021-30465, CVE-2026-41579: nothing is ever made or mounted outside of the container's root."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    rootfs = Path(shutil.copytree(busybox, tmp_path / "rootfs", symlinks=True))
    shared, mine, outside, own = (tmp_path / name for name in ("shared", "mine", "outside", "own"))
    for path in (shared / "a/b/c", rootfs / "v/w/x", mine, own / "root"):
        path.mkdir(parents=True)
    for name in ("proc", "sys", "dev", "s"):
        (rootfs / name).mkdir(exist_ok=True)
    for name in ("hosts", "hostname", "resolv.conf"):
        (own / name).write_text("")
    for below in ("a/b/c", "b/c", "c", "w/x", "x", "new/er", "mine", "etc", "bin"):  # they would do
        (outside / below).mkdir(parents=True, exist_ok=True)
    swapped = [shared / name[2:] if name.startswith("s/") else rootfs / name for name in SWAPPED]
    for path in swapped:
        Path(f"{path}-link").symlink_to(chance.choice(links(outside)))
    before = contents(outside)
    command = [sys.executable, str(Path(__file__).with_name("racer.py"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    swapper = subprocess.Popen(
        [*command, "swap", *map(str, swapped)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert swapper.stdout is not None
    try:
        assert swapper.stdout.readline() == "swapping\n"
        made = subprocess.run(
            [*command, "make", str(rootfs), str(shared), str(mine), str(own), str(rounds), str(seed)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        swapper.kill()
        swapper.wait()
        swapper.stdout.close()
    assert made.returncode == 0, made.stderr
    assert contents(outside) == before
    whole, refused = map(int, made.stdout.split())
    print(f"{rounds} rounds: {whole} made, {refused} refused, 0 escaped")
    assert whole > rounds // 20
