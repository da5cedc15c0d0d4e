from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from netd.errors import Invalid
from netd.settings import Settings, load


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "netd.toml"
    path.write_text(text)
    return path


def test_defaults_are_the_documented_paths() -> None:
    settings = Settings()
    assert settings.state == Path("/var/lib/netd")
    assert settings.socket == Path("/run/netd/netd.sock")
    assert settings.cni_socket == Path("/run/netd/cni.sock")


def test_the_file_that_the_documentation_shows_is_the_defaults(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "operations.md"
    [shown] = re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert msgspec.structs.asdict(load(toml(tmp_path, shown), {}, {})) == msgspec.structs.asdict(Settings())


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    config = toml(tmp_path, 'state_dir = "/file/state"\nrun_dir = "/file/run"\nlog_level = "debug"\n')
    environment = {"NETD_STATE_DIR": "/env/state", "NETD_RUN_DIR": "/env/run", "NETD_LOG_FORMAT": ""}
    settings = load(config, {"state_dir": "/flag/state", "log_format": None}, environment)
    assert settings.state_dir == "/flag/state"
    assert settings.run_dir == "/env/run"
    assert settings.log_level == "debug"
    assert settings.log_format == "text"


def test_pools_can_be_configured(tmp_path: Path) -> None:
    settings = load(toml(tmp_path, '[[pools]]\nbase = "10.200.0.0/16"\nsize = 26\n'), {}, {})
    assert [(pool.base, pool.size) for pool in settings.pools] == [("10.200.0.0/16", 26)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('colour = "red"', "unknown field `colour`"),
        ("run_dir = 7", r"Expected `str`, got `int` - at `\$.run_dir`"),
        ('run_dir = "run"', "run_dir 'run' must be an absolute path"),
        ('log_format = "xml"', "log_format 'xml' must be 'text' or 'json'"),
        ('[[pools]]\nbase = "10.0.0.1/8"\nsize = 24', "pool base '10.0.0.1/8'"),
        ('[[pools]]\nbase = "10.0.0.0/24"\nsize = 16', "cannot be cut into /16"),
        ("container_log_bytes = -1", "container_log_bytes -1 must be at least 1"),
        (
            'upstreams = ["192.0.2.53", "dns.example"]',
            "upstreams: 'dns.example' is not a DNS server's address",
        ),
        ('upstreams = ["192.0.2.53#dns"]', "upstreams: '192.0.2.53#dns' is not"),
        ("= nonsense", "configuration file"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_key(tmp_path: Path, text: str, message: str) -> None:
    config = toml(tmp_path, text)
    with pytest.raises(Invalid, match=message) as caught:
        load(config, {}, {})
    assert str(config) in str(caught.value)


@pytest.mark.parametrize("server", ["192.0.2.53", "2001:db8::53", "fe80::1%eth0", "127.0.0.1#5353"])
def test_upstream_servers_are_addresses(tmp_path: Path, server: str) -> None:
    assert load(toml(tmp_path, f"upstreams = ['{server}']"), {}, {}).upstreams == (server,)


def test_a_wrong_flag_or_variable_is_refused_by_its_own_name(tmp_path: Path) -> None:
    config = toml(tmp_path, 'run_dir = "/run/here"\n')
    with pytest.raises(Invalid, match=r"^--run-dir 'relative' must be an absolute path"):
        load(config, {"run_dir": "relative"}, {"NETD_RUN_DIR": "/run/there"})
    with pytest.raises(Invalid, match=r"^NETD_LOG_FORMAT 'xml' must be 'text' or 'json'"):
        load(config, {"run_dir": None}, {"NETD_LOG_FORMAT": "xml"})


def test_a_missing_file_is_an_error_only_if_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="No such file"):
        load(tmp_path / "absent.toml", {}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('cluster = "etcd://h1"\ncluster_cert = "/c.pem"\n', "cluster_key"),
        ('cluster = "etcd://h1"\ncluster_cert = "/c.pem"\ncluster_key = "/k.pem"\n', "cluster_ca"),
        ('cluster = "etcd://h1"\ncluster_ttl = 0\n', "cluster_ttl"),
        ('cluster = "etcd://h1"\ncluster_grace = -1.0\n', "cluster_grace"),
        ('node_name = "n1"\n', "cluster"),
        ('advertise = "192.0.2.1"\n', "cluster"),
    ],
)
def test_settings_of_a_cluster_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        load(toml(tmp_path, text), {}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wireguard_port = 0", "wireguard_port 0 must lie"),
        ("wireguard_port = 4790", "wireguard_port 4790 is where VXLAN is spoken"),
        ('wireguard_go = "wireguard-go"', "wireguard_go 'wireguard-go' must be an absolute path"),
        ("wireguard_days = -1.0", "wireguard_days -1 must be 0, for never"),
        ("vxlan_port = 65535", "between 1024 and 65534"),
    ],
)
def test_what_wireguard_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        load(toml(tmp_path, text), {}, {})


def test_the_private_key_is_where_only_root_looks() -> None:
    assert Settings().key_file == Path("/var/lib/netd/wireguard.key")
    assert load(None, {"wireguard_go": "/usr/bin/wireguard-go"}, {}).wireguard_go == "/usr/bin/wireguard-go"
