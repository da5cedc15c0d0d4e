"""The CNI entrypoint and its compiled twin: the same cases against both, with a daemon that is played."""

from __future__ import annotations

import array
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CNI = Path(__file__).parents[3] / "cni"
CONFIG = {"cniVersion": "1.0.0", "name": "front", "type": "netd"}
POD = {"CNI_CONTAINERID": "pod-1.a_b", "CNI_NETNS": "/proc/self/ns/net", "CNI_IFNAME": "eth0"}
FULL = {**POD, "CNI_PATH": "/opt/cni/bin", "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web"}


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled twin, with every warning an error."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    program = tmp_path_factory.mktemp("shim") / "netd"
    flags = ["-O2", "-static", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", program, CNI / "shim.c"], check=True)
    return program


@pytest.fixture(params=["python", "c"])
def plugin(request: pytest.FixtureRequest) -> list[str]:
    """How the plugin is executed."""
    if request.param == "c":
        return [str(request.getfixturevalue("shim"))]
    return ["/usr/bin/env", "python3", "-I", "-S", str(CNI / "netd_cni" / "main.py")]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)  # type: ignore[no-any-return]


Call = Callable[..., Outcome]


@pytest.fixture
def call(plugin: list[str], tmp_path: Path) -> Call:
    """One execution, with a run and a state directory below the test's own."""
    (tmp_path / "run").mkdir()

    def run(command: str, config: Any = CONFIG, **variables: str) -> Outcome:
        environment = {"NETD_RUN_DIR": f"{tmp_path}/run", "NETD_STATE_DIR": f"{tmp_path}/state", **variables}
        if command:
            environment["CNI_COMMAND"] = command
        text = config if isinstance(config, bytes) else json.dumps(config).encode()
        done = subprocess.run(plugin, input=text, env=environment, capture_output=True, timeout=30)
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


class FakeDaemon:
    """Reads one frame a connection, and answers as it was told; closes without an answer if told None."""

    def __init__(self, path: Path, answer: bytes | None) -> None:
        self.frames: list[tuple[dict[str, str], bytes]] = []
        self.namespaces: list[os.stat_result] = []
        self.answer = answer
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            with peer:
                self._read(peer)
                if self.answer is not None:
                    peer.sendall(self.answer)

    def _read(self, peer: socket.socket) -> None:
        data, descriptors, _, _ = socket.recv_fds(peer, 65536, 4)
        for descriptor in descriptors:
            self.namespaces.append(os.fstat(descriptor))
            os.close(descriptor)
        assert data[:4] == b"NCN1"
        length = struct.unpack("!I", data[4:8])[0]
        while len(data) < 8 + length:
            data += peer.recv(65536)
        assert len(data) == 8 + length
        variables, config = data[8:].split(b"\0\0", 1)
        pairs = (each.decode().split("=", 1) for each in variables.split(b"\0"))
        self.frames.append((dict(pairs), config))

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()


def answer(status: int, output: bytes) -> bytes:
    return b"NCN1" + struct.pack("!II", status, len(output)) + output


@pytest.fixture
def daemon(tmp_path: Path, call: Call) -> Iterator[Callable[[bytes | None], FakeDaemon]]:
    started = []

    def start(reply: bytes | None) -> FakeDaemon:
        started.append(FakeDaemon(tmp_path / "run" / "cni.sock", reply))
        return started[-1]

    yield start
    for each in started:
        each.close()


def spooled(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "state" / "cni-spool").iterdir())


# --- with the daemon ---------------------------------------------------------------------------------


def test_the_frame_carries_variables_configuration_and_namespace(call: Call, daemon: Any) -> None:
    it = daemon(answer(0, b'{"cniVersion": "1.0.0"}\n'))
    trace = {"TRACEPARENT": "00-1-2-3", "PATH": "/bin"}
    outcome = call("ADD", **FULL, **trace)
    assert (outcome.code, outcome.out, outcome.err) == (0, '{"cniVersion": "1.0.0"}\n', "")
    [(variables, config)] = it.frames
    assert variables == {"CNI_COMMAND": "ADD", **FULL, "TRACEPARENT": "00-1-2-3"}
    assert json.loads(config) == CONFIG
    own = Path("/proc/self/ns/net").stat()
    assert [(each.st_dev, each.st_ino) for each in it.namespaces] == [(own.st_dev, own.st_ino)]


def test_status_and_output_are_handed_on_exactly(call: Call, daemon: Any) -> None:
    output = bytes(range(1, 128)) * 5000
    daemon(answer(7, output))
    outcome = call("CHECK", **FULL)
    assert (outcome.code, outcome.out) == (7, output.decode())


def test_empty_answer(call: Call, daemon: Any) -> None:
    daemon(answer(0, b""))
    outcome = call("CHECK", **FULL)
    assert (outcome.code, outcome.out) == (0, "")


def test_large_configuration_arrives_whole(call: Call, daemon: Any) -> None:
    attachments = [{"containerID": f"{number:064x}", "ifname": "eth0"} for number in range(20_000)]
    it = daemon(answer(0, b""))
    assert call("GC", {**CONFIG, "cni.dev/valid-attachments": attachments}, **FULL).code == 0
    assert json.loads(it.frames[0][1])["cni.dev/valid-attachments"] == attachments


def test_configuration_above_4_mib_is_refused(call: Call, daemon: Any) -> None:
    it = daemon(answer(0, b""))
    outcome = call("GC", b" " * (4 << 20), **FULL)
    assert (outcome.code, outcome.json["code"]) == (1, 5)
    assert not it.frames


def test_del_without_a_namespace_sends_none(call: Call, daemon: Any) -> None:
    it = daemon(answer(0, b""))
    assert call("DEL", **{**POD, "CNI_NETNS": ""}).code == 0
    assert call("DEL", **{**POD, "CNI_NETNS": "/nowhere"}).code == 0
    assert [frame[0].get("CNI_NETNS") for frame in it.frames] == ["", "/nowhere"]
    assert not it.namespaces


def test_configuration_is_the_daemons_to_judge(call: Call, daemon: Any) -> None:
    it = daemon(answer(1, b"judged"))
    assert call("ADD", b"{no json", **FULL).out == "judged"
    assert it.frames[0][1] == b"{no json"


# --- what is answered here in any case ---------------------------------------------------------------


def test_without_a_command_it_says_what_it_is(call: Call) -> None:
    outcome = call("")
    assert (outcome.code, outcome.out) == (0, "")
    assert "CNI plugin" in outcome.err


@pytest.mark.parametrize("version", ["0.1.0", "0.4.0", "1.1.0", "99.0.0"])
def test_version_echoes_the_configurations(call: Call, version: str) -> None:
    outcome = call("VERSION", {"cniVersion": version}, CNI_IFNAME="dummy", CNI_NETNS="dummy")
    assert outcome.code == 0
    supported = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert outcome.json == {"cniVersion": version, "supportedVersions": supported}


@pytest.mark.parametrize(
    ("config", "version"),
    [
        (b"", "1.1.0"),
        (b" \n", "1.1.0"),
        (b"{}", "0.1.0"),
        (b'{"cniVersion": ""}', "0.1.0"),
        (b'{"x": {"cniVersion": "9"}, "y": [{"cniVersion": "8"}], "cniVersion" : "1.0.0"}', "1.0.0"),
        (
            b'{"s": "\\"cniVersion\\": \\\\", "n": [1, -2.5e3, true, null, {}, []], "cniVersion":\n"0.4.0"}',
            "0.4.0",
        ),
    ],
)
def test_version_finds_it_among_other_things(call: Call, config: bytes, version: str) -> None:
    assert call("VERSION", config).json["cniVersion"] == version


@pytest.mark.parametrize(
    "config",
    [
        b"{",
        b"[]",
        b"nonsense",
        b'{"cniVersion": 1}',
        b'{"cniVersion" "1"}',
        b'{"a": }',
        b'{"a": "b',
        b"{} {}",
        b'{"cniVersion": "1.0.0",}',
        b'{"a": [1, }',
        b'"text"',
        b'{"a": "\n"}',
        b"{a: 1}",
        b"[" * 100_000,
    ],
)
def test_what_is_no_json_object_has_code_6(call: Call, config: bytes) -> None:
    outcome = call("VERSION", config)
    assert (outcome.code, outcome.json["code"], outcome.err) == (1, 6, "")


@pytest.mark.parametrize(
    ("command", "given", "missing"),
    [
        ("ADD", {}, "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
        ("ADD", {**POD, "CNI_NETNS": ""}, "CNI_NETNS"),
        ("CHECK", {"CNI_IFNAME": "eth0"}, "CNI_CONTAINERID, CNI_NETNS"),
        ("DEL", {"CNI_NETNS": "/x"}, "CNI_CONTAINERID, CNI_IFNAME"),
        ("GC", POD, "CNI_PATH"),
    ],
)
def test_all_missing_variables_are_named(
    call: Call, command: str, given: dict[str, str], missing: str
) -> None:
    outcome = call(command, **given)
    assert (outcome.code, outcome.json["code"]) == (1, 4)
    assert outcome.json["msg"] == f"required env variables missing: {missing}"


@pytest.mark.parametrize(
    ("name", "value"),
    [("CNI_CONTAINERID", value) for value in ("-a", ".a", "_a", "a/b", "a b", "a\nb", "ä", "../x", "a;b")]
    + [("CNI_IFNAME", value) for value in ("x" * 16, ".", "..", "a/b", "a:b", "a b", "a\tb")],
)
def test_wrong_names_have_code_4(call: Call, name: str, value: str) -> None:
    outcome = call("ADD", **{**POD, name: value})
    assert (outcome.code, outcome.json["code"], outcome.err) == (1, 4, "")
    assert name in outcome.json["msg"]


def test_unknown_command_has_code_4(call: Call) -> None:
    outcome = call("add", **POD)
    assert (outcome.code, outcome.json["code"]) == (1, 4)
    assert '"' not in outcome.json["msg"]
    assert call('A"\\\x01', **POD).json["msg"] == 'unknown CNI_COMMAND: A"\\?'


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_namespace_that_cannot_be_opened_has_code_4(call: Call, command: str) -> None:
    outcome = call(command, **{**POD, "CNI_NETNS": "/nowhere/ns"})
    assert (outcome.code, outcome.json["code"]) == (1, 4)
    assert outcome.json["details"] == "/nowhere/ns: No such file or directory"


# --- without the daemon ------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)])
def test_daemon_absent(call: Call, command: str, code: int, tmp_path: Path) -> None:
    outcome = call(command, **FULL)
    assert (outcome.code, outcome.json["code"], outcome.json["cniVersion"]) == (1, code, "1.0.0")
    assert outcome.json["details"] == f"{tmp_path}/run/cni.sock: No such file or directory"
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("command", ["ADD", "DEL", "STATUS"])
def test_daemon_absent_and_no_json(call: Call, command: str, tmp_path: Path) -> None:
    assert call(command, b"{", **FULL).json["code"] == 6
    assert not (tmp_path / "state").exists()


def test_socket_that_a_killed_daemon_left(call: Call, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{tmp_path}/run/cni.sock")
    assert call("ADD", **FULL).json["code"] == 11
    assert "Connection refused" in call("STATUS", **FULL).json["details"]


def test_del_is_spooled_whole(call: Call, tmp_path: Path) -> None:
    assert call("DEL", **FULL) == Outcome(0, "", "")
    assert call("DEL", **{**FULL, "CNI_CONTAINERID": "pod-2"}) == Outcome(0, "", "")
    first, second = spooled(tmp_path)
    assert (first.suffix, first.stat().st_mode & 0o777) == (".del", 0o600)
    assert (tmp_path / "state" / "cni-spool").stat().st_mode & 0o777 == 0o700
    frame = first.read_bytes()
    assert frame[:8] == b"NCN1" + struct.pack("!I", len(frame) - 8)
    variables, config = frame[8:].split(b"\0\0", 1)
    assert b"CNI_CONTAINERID=pod-1.a_b" in variables.split(b"\0")
    assert json.loads(config) == CONFIG
    assert b"CNI_CONTAINERID=pod-2" in second.read_bytes()


def test_del_that_cannot_be_spooled_must_be_tried_again(call: Call, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")
    outcome = call("DEL", **FULL)
    assert (outcome.code, outcome.json["code"]) == (1, 11)


@pytest.mark.parametrize("reply", [None, b"NCN", b"XXXX" + bytes(8), answer(0, b"whole")[:-1]])
def test_daemon_that_goes_away_in_the_middle(
    call: Call, daemon: Any, reply: bytes | None, tmp_path: Path
) -> None:
    daemon(reply)
    assert call("ADD", **FULL).json["code"] == 11
    assert call("DEL", **FULL) == Outcome(0, "", "")
    assert len(spooled(tmp_path)) == 1


def test_default_directories_are_the_daemons() -> None:
    from netd.settings import Settings

    for source in ("netd_cni/main.py", "shim.c"):
        text = (CNI / source).read_text()
        assert f'"{Settings().run_dir}"' in text
        assert f'"{Settings().state_dir}"' in text


def test_entrypoint_is_executable_and_imports_next_to_nothing() -> None:
    main = CNI / "netd_cni" / "main.py"
    assert os.access(main, os.X_OK)
    assert main.read_text().startswith("#!/usr/bin/python3 -IS\n")
    code = f"import sys; sys.path.insert(0, {str(CNI)!r}); before = set(sys.modules); import netd_cni.main; "
    code += "print(sorted(set(sys.modules) - before))"
    done = subprocess.run(["python3", "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['_socket', 'netd_cni', 'netd_cni.main']"


def test_descriptor_size() -> None:
    """What `to_bytes(4)` in the entrypoint relies on."""
    assert array.array("i").itemsize == 4
