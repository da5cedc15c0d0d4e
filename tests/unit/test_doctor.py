from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from netd.doctor import Check, Circumstances, Level, examine
from netd.kernel.ports import Chain, Survey
from netd.model import Network, Subnet
from netd.settings import Settings

HEALTHY = Survey(
    filesystems=frozenset({"overlay", "tmpfs"}),
    namespaces=frozenset({"cgroup", "ipc", "mnt", "net", "pid", "uts", "user"}),
    controllers={"cpu": 2, "memory": 2, "pids": 2},
    tried={"network namespace": "", "bridge": "", "veth": "", "nftables rules": "", "latch": ""},
    libraries={"libnftables": "libnftables.so.1.1.0", "libseccomp": "2.5.4"},
    sysctls={
        "net/ipv4/ip_forward": "0",
        "net/ipv6/conf/all/forwarding": "0",
        "net/ipv6/conf/all/disable_ipv6": "0",
        "net/ipv4/conf/all/rp_filter": "2",
        "net/ipv4/neigh/default/gc_thresh3": "1024",
        "net/bridge/bridge-nf-call-iptables": "1",
        "net/netfilter/nf_conntrack_count": "10",
        "net/netfilter/nf_conntrack_max": "1000",
    },
)


def network(*subnets: str, internal: bool = False) -> Network:
    return Network(
        id="n",
        name="n",
        driver="bridge",
        subnets=tuple(Subnet(cidr=ip_network(s), gateway=ip_network(s)[1]) for s in subnets),
        mtu=1500,
        internal=internal,
    )


@pytest.fixture
def here(tmp_path: Path) -> Circumstances:
    for name, mode in (("run", 0o750), ("state", 0o700)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    return Circumstances(settings=Settings(run_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state")))


def complaints(host: Survey, here: Circumstances) -> list[Check]:
    return [check for check in examine(host, here) if check.level > Level.OK]


def only(host: Survey, here: Circumstances) -> Check:
    [check] = complaints(host, here)
    assert check.remedy
    return check


def with_sysctl(**values: str) -> Survey:
    return replace(
        HEALTHY, sysctls={**HEALTHY.sysctls, **{k.replace("__", "/"): v for k, v in values.items()}}
    )


def test_a_healthy_host_has_no_complaints_and_no_remedies(here: Circumstances) -> None:
    checks = examine(HEALTHY, here)
    assert [check for check in checks if check.level is not Level.OK or check.remedy] == []
    assert {"permissions", "bridge", "cgroups", "libnftables", "port 53"} <= {check.name for check in checks}


@pytest.mark.parametrize(
    ("host", "level", "detail", "remedy"),
    [
        (replace(HEALTHY, lacking=frozenset({"CAP_NET_ADMIN"})), 2, "CAP_NET_ADMIN", "as root"),
        (
            replace(HEALTHY, tried={"bridge": "Operation not supported"}),
            2,
            "Operation not supported",
            "modprobe -a bridge",
        ),
        (
            replace(HEALTHY, tried={"network namespace": "No space left on device"}),
            2,
            "No space left",
            "sysctl -w user.max_net_namespaces=",
        ),
        (replace(HEALTHY, tried={"nftables rules": "no fib"}), 2, "no fib", "nft_fib_inet"),
        (replace(HEALTHY, tried={"latch": "no such"}), 1, "everybody reaches everybody", "cls_bpf"),
        (replace(HEALTHY, namespaces=HEALTHY.namespaces - {"cgroup"}), 2, "no cgroup", "CONFIG_NAMESPACES"),
        (replace(HEALTHY, filesystems=frozenset({"tmpfs"})), 1, "not loaded", "modprobe overlay"),
        (replace(HEALTHY, controllers={"cpu": 1}), 1, "memory, pids; found: cpu (v1)", "cgroup_enable"),
        (
            replace(HEALTHY, libraries={"libseccomp": "", "libnftables": "x"}),
            2,
            "cannot be loaded",
            "apt install libseccomp2",
        ),
        (with_sysctl(net__ipv4__conf__all__rp_filter="1"), 1, "strict", "rp_filter=2"),
        (with_sysctl(net__ipv6__conf__all__disable_ipv6="1"), 1, "IPv6", "disable_ipv6=0"),
        (
            with_sysctl(net__netfilter__nf_conntrack_count="800"),
            1,
            "800 of 1000",
            "nf_conntrack_max=4000",
        ),
        (
            replace(HEALTHY, xtables=("iptables-legacy -t filter",)),
            1,
            "cannot read",
            "`iptables-legacy -t filter -S`",
        ),
        (
            replace(HEALTHY, resolvers=("dnsmasq (pid 7) on 0.0.0.0 port 53/udp",)),
            2,
            "dnsmasq (pid 7)",
            "bind-interfaces",
        ),
        (
            replace(HEALTHY, services=frozenset({"systemd-networkd"})),
            1,
            "removes routes",
            "`ManageForeignRoutes=no`, `ManageForeignRoutingPolicyRules=no`",
        ),
    ],
)
def test_each_fault_is_named_with_its_remedy(
    here: Circumstances, host: Survey, level: int, detail: str, remedy: str
) -> None:
    check = only(host, here)
    assert check.level == level
    assert detail in check.detail
    assert remedy in check.remedy


def test_networkd_that_was_told_is_fine(here: Circumstances) -> None:
    told = {"ManageForeignRoutes": "no", "ManageForeignRoutingPolicyRules": "false"}
    assert not complaints(replace(HEALTHY, services=frozenset({"systemd-networkd"}), networkd=told), here)


def test_forwarding_is_netds_business_until_somebody_else_turns_it_off(here: Circumstances) -> None:
    def found(host: Survey, here: Circumstances) -> Check:
        return next(c for c in examine(host, here) if c.name == "sysctl net.ipv4.ip_forward")

    assert "turns it on with the first" in found(HEALTHY, here).detail
    on = with_sysctl(net__ipv4__ip_forward="1")
    assert found(on, here).detail == "1"
    assert "turns it off with the last" in found(on, replace(here, switched=["net/ipv4/ip_forward"])).detail
    assert found(HEALTHY, replace(here, networks=[network("10.0.0.0/24", internal=True)])).level is Level.OK
    broken = found(HEALTHY, replace(here, networks=[network("10.0.0.0/24")]))
    assert (broken.level, broken.remedy) == (Level.FAILURE, "sysctl -w net.ipv4.ip_forward=1")
    # Also where netd had turned it on: somebody turned it off again.
    switched = replace(here, networks=[network("10.0.0.0/24")], switched=["net/ipv4/ip_forward"])
    assert found(HEALTHY, switched).level is Level.FAILURE


def test_a_full_neighbour_table_is_seen_before_it_is_full(here: Circumstances) -> None:
    assert not complaints(HEALTHY, replace(here, endpoints=800))
    check = only(HEALTHY, replace(here, endpoints=900))
    assert check.remedy == "sysctl -w net.ipv4.neigh.default.gc_thresh3=4096"


@pytest.mark.parametrize(
    ("chain", "remedy"),
    [
        (
            Chain(family="inet", table="fw", name="fwd", hook="forward", policy="drop"),
            'nft insert rule inet fw fwd iifname "nd-*" accept; '
            'nft insert rule inet fw fwd oifname "nd-*" accept',
        ),
        (
            Chain(family="inet", table="fw", name="in", hook="input", policy="drop"),
            'nft insert rule inet fw in iifname "nd-*" meta l4proto { tcp, udp } th dport 53 accept',
        ),
        (
            Chain(family="bridge", table="l2", name="f", hook="forward", policy="drop"),
            'nft insert rule bridge l2 f iifname "ve-*" accept; '
            'nft insert rule bridge l2 f oifname "ve-*" accept',
        ),
        (
            Chain(family="ip", table="filter", name="FORWARD", hook="forward", policy="drop"),
            "iptables -I FORWARD -i nd-+ -j ACCEPT; iptables -I FORWARD -o nd-+ -j ACCEPT",
        ),
        (
            Chain(
                family="ip6",
                table="filter",
                name="FORWARD",
                hook="forward",
                policy="drop",
                drops=("DOCKER handle 4",),
            ),
            "ip6tables -I DOCKER-USER -i nd-+ -j ACCEPT; ip6tables -I DOCKER-USER -o nd-+ -j ACCEPT",
        ),
        (
            Chain(family="inet", table="firewalld", name="filter_FORWARD", hook="forward", policy="drop"),
            "firewall-cmd --permanent --zone=trusted --add-source=SUBNET for each network; then --reload",
        ),
    ],
)
def test_a_drop_policy_is_a_failure_that_names_table_and_chain(
    here: Circumstances, chain: Chain, remedy: str
) -> None:
    check = only(replace(HEALTHY, chains=(chain,)), here)
    assert check.level is Level.FAILURE
    assert check.name == f"nftables table {chain.family} {chain.table}, chain {chain.name}"
    assert check.remedy == remedy


def test_rules_that_drop_are_a_warning_that_names_them(here: Circumstances) -> None:
    chain = Chain(
        family="inet", table="fw", name="fwd", hook="forward", drops=("fwd handle 3", "bad handle 9")
    )
    check = only(replace(HEALTHY, chains=(chain,)), here)
    assert check.level is Level.WARNING
    assert "fwd handle 3, bad handle 9" in check.detail


def test_a_chain_with_an_exception_for_netd_is_fine(here: Circumstances) -> None:
    chain = Chain(family="inet", table="fw", name="fwd", hook="forward", policy="drop", spares=True)
    assert not complaints(replace(HEALTHY, chains=(chain,)), here)


def test_directories_that_others_can_read_or_that_are_gone(here: Circumstances) -> None:
    here.settings.state.chmod(0o755)
    assert only(HEALTHY, here).remedy == f"chmod 0700 {here.settings.state}"
    here.settings.state.rmdir()
    assert "is gone" in only(HEALTHY, here).detail


def test_every_line_is_one_line(here: Circumstances) -> None:
    for check in examine(Survey(resolvers=("a\nb",)), here):
        assert "\n" not in check.name + check.remedy


def test_records_that_make_no_sense_are_named(here: Circumstances) -> None:
    aside = replace(here, aside=["endpoint e1: its network n does not exist"])
    assert only(HEALTHY, aside) == Check(
        "records",
        Level.FAILURE,
        "1 cannot be understood and is set aside",
        "start the netd that wrote them, or remove them from its files: "
        "endpoint e1: its network n does not exist",
    )


def test_a_network_that_cannot_be_repaired_is_named(here: Circumstances) -> None:
    check = only(
        HEALTHY, replace(here, degraded={"front": "link nd-1 bridge cannot be repaired: in the way"})
    )
    assert (check.name, check.level) == ("network front", Level.FAILURE)
    assert check.detail == "link nd-1 bridge cannot be repaired: in the way"


def test_what_keeps_the_cluster_from_being_whole(here: Circumstances) -> None:
    check = only(HEALTHY, replace(here, problems=["node 'h2' has told no WireGuard key"]))
    assert (check.name, check.level) == ("cluster", Level.FAILURE)
    assert check.detail == "node 'h2' has told no WireGuard key"


def test_without_a_daemon_nothing_is_said_that_only_it_knows(here: Circumstances, tmp_path: Path) -> None:
    settings = Settings(run_dir=str(tmp_path / "not yet"), state_dir=str(tmp_path / "state"))
    alone = replace(here, settings=settings, daemon=False)
    assert complaints(HEALTHY, alone) == []
    found = {check.name for check in examine(HEALTHY, alone)}
    assert found == {check.name for check in examine(HEALTHY, replace(alone, daemon=True))} - {"records"}
    assert only(HEALTHY, replace(alone, daemon=True)).detail == "is gone"


def test_what_may_not_be_tried_says_nothing_of_the_kernel(here: Circumstances) -> None:
    user = replace(
        HEALTHY, lacking=frozenset({"CAP_SYS_ADMIN"}), tried={"network namespace": "Operation not permitted"}
    )
    found = only(user, replace(here, daemon=False))
    assert (found.name, found.detail) == ("permissions", "you lack CAP_SYS_ADMIN")
