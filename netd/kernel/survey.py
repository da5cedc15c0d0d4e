"""What `netd doctor` wants to know of the host. Nothing is changed; what must be tried out is tried in a
network namespace of its own that ends with the thread that made it.

Everything here is a fact; `netd.doctor` says what is wrong with it. The largest part is other people's
nftables: in the kernel an `accept` ends only the chain that says it, every other base chain of the
same hook still decides for itself, so a foreign table with a drop policy eats netd's traffic whatever
netd's own rules say.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from netd import firewall
from netd.errors import NetdError
from netd.kernel import fastnl, holder, latch, netns
from netd.kernel.libnft import check_descriptors, command, library
from netd.kernel.ports import Chain, Survey
from netd.model import Proto
from netd.names import BRIDGE_PREFIX

OWN_TABLE = "netd"
CAPABILITIES = {1: "DAC_OVERRIDE", 12: "NET_ADMIN", 13: "NET_RAW", 18: "SYS_CHROOT", 21: "SYS_ADMIN"}
"""Those that netd cannot do without, by bit (include/uapi/linux/capability.h)."""

SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv6/neigh/default/gc_thresh3",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-arptables",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
    "user/max_net_namespaces",
)
NETWORKD = Path("/etc/systemd/networkd.conf")


async def survey() -> Survey:
    """Look at everything, on threads of their own."""
    tried = await netns.on_thread(_try, "probe")
    found = await netns.on_thread(lambda: _survey(tried), "survey")
    # libnftables took 17 MB to read two rule sets, and glibc keeps them for a next time that never comes.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl has no need of it
    if trim is not None:
        await netns.on_thread(lambda: trim(0), "trim")
    return found


def _survey(tried: Mapping[str, str]) -> Survey:
    return Survey(
        lacking=lacking(_text("/proc/thread-self/status")),
        filesystems=frozenset(line.split()[-1] for line in _text("/proc/filesystems").splitlines()),
        namespaces=frozenset(entry.name for entry in os.scandir("/proc/thread-self/ns")),
        controllers=controllers(_text("/proc/self/mountinfo"), Path("/")),
        tried=tried,
        libraries=_libraries(),
        sysctls={name: value for name in SYSCTLS if (value := _text(f"/proc/sys/{name}").strip())},
        chains=tuple(foreign_chains(_listed())),
        xtables=tuple(
            f"{program} -t {table}"
            for program, file in (("iptables-legacy", "ip_tables"), ("ip6tables-legacy", "ip6_tables"))
            for table in _text(f"/proc/thread-self/net/{file}_names").split()
        ),
        services=frozenset(_services()),
        networkd=_networkd(),
        resolvers=tuple(sorted(set(_resolvers()))),
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def lacking(status: str) -> frozenset[str]:
    """Those of `CAPABILITIES` that a /proc/PID/status does not call effective."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    mask = int(found[1], 16) if found else 0
    return frozenset(f"CAP_{name}" for bit, name in CAPABILITIES.items() if not mask >> bit & 1)


def controllers(mountinfo: str, root: Path) -> Mapping[str, int]:
    """cgroup controllers that can be used, and under which version: a mounted v1 hierarchy has taken its
    controller away from v2 (cgroups(7))."""
    found: dict[str, int] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            mounted = root / before.split()[4].lstrip("/") / "cgroup.controllers"
            found |= dict.fromkeys(mounted.read_text().split() if mounted.exists() else (), 2)
        elif kind == "cgroup":
            found |= dict.fromkeys(options.split(","), 1)
    return {name: found[name] for name in ("cpu", "freezer", "memory", "pids") if name in found}


# --- tried out ------------------------------------------------------------------------------------


def _try() -> dict[str, str]:
    """What the kernel says to a bridge, a veth pair, netd's rules and a latch, in a namespace of its own.

    For a thread that ends afterwards: it stays in that namespace.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(netns.CLONE_NEWNET) < 0:
        return {"network namespace": os.strerror(ctypes.get_errno())}
    bridge = fastnl.bridge_create("probe0", "02:00:00:00:00:01", 1500, 0)
    own = os.open(netns.OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        veth = fastnl.veth_create("probe1", 1500, 0, "probe2", "02:00:00:00:00:02", own)
        with fastnl.Socket() as link:
            return {
                "network namespace": "",
                "bridge": _refusal(link, bridge),
                "veth": _refusal(link, veth),
                "nftables rules": _rules_refused(),
                "latch": latch.refusal(),
            }
    finally:
        os.close(own)


def _refusal(link: fastnl.Socket, message: bytes) -> str:
    try:
        link.request(message)
    except (OSError, NetdError) as error:
        return str(error)
    return ""


def _rules_refused() -> str:
    try:
        code, _, problem = command(library(), firewall.RULESET)
    except OSError as error:
        return str(error)
    return " ".join(problem.split())[:200] if code else ""


def _libraries() -> dict[str, str]:
    found = {"libnftables": "", "libseccomp": ""}
    try:
        library()
        # The library does not tell its version; the file that its name leads to carries one.
        found["libnftables"] = _mapped("libnftables.so")
        seccomp = ctypes.CDLL("libseccomp.so.2").seccomp_version
        seccomp.restype = ctypes.POINTER(ctypes.c_uint * 3)
        found["libseccomp"] = ".".join(map(str, seccomp().contents))
    except OSError:
        pass
    return found


def _mapped(name: str) -> str:
    found = re.search(rf"/(\S*{re.escape(name)}\S*)$", _text("/proc/self/maps"), re.MULTILINE)
    return found[1].rpartition("/")[2] if found else ""


# --- other people's rules -------------------------------------------------------------------------


def _listed() -> str:
    try:
        listing = library()
    except OSError:
        return ""
    listing.set_json_output(True)
    listing.set_terse_output(True)  # without the elements of sets, which can be millions
    check_descriptors()
    code, listed, _ = command(listing, "list ruleset")
    return listed if code == 0 else ""


def foreign_chains(listed: str) -> Iterator[Chain]:
    """The base chains of all tables but netd's, from a JSON listing of the rule set."""
    items = json.loads(listed)["nftables"] if listed else []
    rules: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for rule in (item["rule"] for item in items if "rule" in item):
        chains = rules.setdefault((rule["family"], rule["table"]), {})
        chains.setdefault(rule["chain"], []).append(rule)
    for chain in (item["chain"] for item in items if "chain" in item):
        if chain["table"] == OWN_TABLE or "hook" not in chain or chain.get("type") != "filter":
            continue
        reached = list(_reached(chain["name"], rules.get((chain["family"], chain["table"]), {})))
        yield Chain(
            family=chain["family"],
            table=chain["table"],
            name=chain["name"],
            hook=chain["hook"],
            policy=chain.get("policy", "accept"),
            drops=tuple(f"{r['chain']} handle {r['handle']}" for r in reached if _drops(r["expr"])),
            spares=any(_spares(rule["expr"]) for rule in reached),
        )


def _reached(start: str, chains: Mapping[str, list[Any]]) -> Iterator[Any]:
    """The rules of a chain and of those it jumps to, each chain once."""
    seen, waiting = {start}, [start]
    while waiting:
        for rule in chains.get(waiting.pop(), ()):
            yield rule
            for key, value in _walk(rule["expr"]):
                if key in ("jump", "goto") and value["target"] not in seen:
                    seen.add(value["target"])
                    waiting.append(value["target"])


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield key, below
            yield from _walk(below)
    elif isinstance(value, list):
        for each in value:
            yield from _walk(each)


def _drops(expressions: list[Any]) -> bool:
    """Whether a rule drops or rejects something that netd's traffic could be. What only concerns invalid
    packets does not count: nearly every firewall has it."""
    found = list(_walk(expressions))
    if any(key == "right" and value == "invalid" for key, value in found):
        return False
    return any(
        key in ("drop", "reject") or (key == "xt" and value.get("name") in ("DROP", "REJECT"))
        for key, value in found
    )


def _spares(expressions: list[Any]) -> bool:
    return any("accept" in each for each in expressions if isinstance(each, dict)) and (
        f'"{BRIDGE_PREFIX}' in json.dumps(expressions)
    )


# --- other people's services ----------------------------------------------------------------------


def _services() -> Iterator[str]:
    signs = {"docker": "/run/docker.sock", "systemd-networkd": "/run/systemd/netif/state"}
    yield from (name for name, path in signs.items() if Path(path).exists())
    if re.search(r"^ENABLED=yes", _text("/etc/ufw/ufw.conf"), re.MULTILINE | re.IGNORECASE):
        yield "ufw"
    if any(_text(f"/proc/{pid}/comm").startswith("firewalld") for pid in _processes()):
        yield "firewalld"


def _processes() -> Iterator[str]:
    return (entry.name for entry in os.scandir("/proc") if entry.name.isdecimal())


def _networkd() -> dict[str, str]:
    """The last value of each key in networkd.conf and its drop-ins."""
    files = [NETWORKD, *sorted(NETWORKD.with_name("networkd.conf.d").glob("*.conf"))]
    pairs = re.findall(r"^\s*(\w+)\s*=\s*(\S*)", "\n".join(_text(str(file)) for file in files), re.MULTILINE)
    return dict(pairs)


def _resolvers() -> Iterator[str]:
    """Who has port 53 of all addresses, so that the DNS could not have that of a gateway."""
    for proto in Proto:
        for address, inode in holder.sockets(proto, 53):
            if address.is_unspecified:
                yield f"{holder.owner(inode)} on {address} port 53/{proto}"
