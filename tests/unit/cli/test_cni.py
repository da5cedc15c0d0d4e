from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from netd.cli import cni, main
from netd.cni import config


class Machine:
    """Directories to install into."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.bin, self.conf = directory / "opt" / "cni" / "bin", directory / "etc" / "cni" / "net.d"
        self._capsys = capsys

    def run(self, command: str, *options: str) -> tuple[int, str, str]:
        code = main.run(["cni", command, "--bin-dir", str(self.bin), "--conf-dir", str(self.conf), *options])
        out, err = self._capsys.readouterr()
        return code, out, err

    def files(self) -> list[str]:
        return sorted(path.name for root in (self.bin, self.conf) for path in root.glob("*"))


@pytest.fixture
def machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Machine:
    return Machine(tmp_path, capsys)


def plugin(machine: Machine, name: str = "10-netd.conflist") -> dict[str, object]:
    found = json.loads((machine.conf / name).read_text())
    [only] = found["plugins"]
    # What a runtime would hand to the plugin is what the plugin accepts.
    text = json.dumps({**only, "cniVersion": found["cniVersion"], "name": found["name"]})
    config.parse(text.encode(), "ADD")
    return only  # type: ignore[no-any-return]


@pytest.mark.parametrize("flags", [[], ["--python"]])
def test_install_places_an_executable_that_works(machine: Machine, flags: list[str]) -> None:
    code, out, err = machine.run("install", *flags)
    assert (code, err) == (0, "")
    assert out.splitlines() == [f"{machine.bin}/netd", f"{machine.conf}/10-netd.conflist"]
    assert plugin(machine) == {"type": "netd", "capabilities": dict.fromkeys(cni.CAPABILITIES, True)}
    question = {"input": b'{"cniVersion": "1.0.0"}', "env": {**os.environ, "CNI_COMMAND": "VERSION"}}
    done = subprocess.run([machine.bin / "netd"], capture_output=True, check=True, **question)  # type: ignore[call-overload]
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"]


def test_network_subnets_name_and_priority(machine: Machine) -> None:
    machine.run("install", "--network", "front", "--name", "a", "--priority", "5")
    assert plugin(machine, "05-a.conflist")["network"] == "front"
    machine.run("install", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64", "--name", "b")
    assert plugin(machine, "10-b.conflist")["subnets"] == ["10.1.0.0/16", "fd00:1::/64"]


def test_install_again_replaces(machine: Machine) -> None:
    machine.run("install")
    assert machine.run("install", "--network", "front")[0] == 0
    assert plugin(machine)["network"] == "front"
    assert machine.files() == ["10-netd.conflist", "netd"]


def test_the_same_name_under_another_number_is_refused(machine: Machine) -> None:
    machine.run("install")
    code, _, err = machine.run("install", "--priority", "20")
    assert (code, machine.files()) == (1, ["10-netd.conflist", "netd"])
    assert "10-netd.conflist" in err


def test_files_of_others_are_left_alone(machine: Machine) -> None:
    machine.conf.mkdir(parents=True)
    other = machine.conf / "10-netd.conflist"
    other.write_text('{"name": "x", "plugins": [{"type": "bridge"}]}')
    code, _, err = machine.run("install")
    assert (code, machine.files()) == (1, ["10-netd.conflist"])
    assert "is not netd's" in err
    other.unlink()
    machine.bin.mkdir(parents=True)
    (machine.bin / "netd").write_text("#!/bin/sh\n")
    code, _, err = machine.run("install")
    assert (code, machine.files()) == (1, ["netd"])
    assert "is not netd's" in err
    assert machine.run("uninstall")[0] == 1
    assert machine.files() == ["netd"]


def test_a_configuration_that_comes_first_is_told(machine: Machine) -> None:
    machine.conf.mkdir(parents=True)
    (machine.conf / "05-other.conf").write_text("{}")
    code, _, err = machine.run("install")
    assert code == 0
    assert "05-other.conf comes before 10-netd.conflist" in err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--network", "a", "--subnet", "10.0.0.0/8"], 2),
        (["--subnet", "10.0.0.1/8"], 1),
        (["--name", "a/b"], 2),
        (["--priority", "100"], 2),
    ],
)
def test_wrong_options_install_nothing(machine: Machine, options: list[str], code: int) -> None:
    answer = machine.run("install", *options)
    assert (answer[0], machine.files()) == (code, [])
    assert options[-2] in answer[2]


def test_uninstall_keeps_what_another_configuration_needs(machine: Machine) -> None:
    machine.run("install", "--name", "a")
    machine.run("install", "--name", "b")
    assert machine.run("uninstall", "--name", "a")[1].splitlines() == [f"{machine.conf}/10-a.conflist"]
    assert machine.files() == ["10-b.conflist", "netd"]
    assert machine.run("uninstall", "--name", "b")[0] == 0
    assert machine.files() == []
    code, _, err = machine.run("uninstall", "--name", "b")
    assert (code, err.count("\n")) == (1, 1)


def test_a_directory_that_cannot_be_written_is_one_line(machine: Machine) -> None:
    machine.bin.parent.mkdir(parents=True)
    machine.bin.write_text("")
    code, _, err = machine.run("install")
    assert (code, err.count("\n")) == (1, 1)
    assert str(machine.bin) in err


def test_both_builds_carry_the_mark() -> None:
    assert cni.MARK in cni.source(python=True).read_bytes()
    assert cni.MARK in (cni.source(python=True).parents[1] / "shim.c").read_bytes()
