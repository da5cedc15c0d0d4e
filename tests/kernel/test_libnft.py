"""libnftables under several threads, as the daemon has them: one writes, one lists, and one may trace."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from netd.kernel.host import HostKernel

CHILD = """
import threading
from netd.kernel.libnft import Context

def work():
    context = Context("one")
    for _ in range(150):
        context.json("list table inet types")
        context.listing("inet", "other")

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


async def test_contexts_on_several_threads_do_not_end_the_process(
    host_kernel: HostKernel, sh: Callable[[str], str], tmp_path: Path
) -> None:
    """In a process of its own, since what goes wrong is an assertion or a write to memory long freed."""
    kinds = "ifname . ether_addr . ipv4_addr . inet_proto . inet_service"
    sets = " ".join(f"set s{number} {{ type {kinds}; }};" for number in range(40))
    rules = "iif lo accept; " * 20
    sh(f"nft 'table inet types {{ {sets} }}; table inet other {{ chain c {{ {rules} }}; }}'")
    (tmp_path / "child.py").write_text(CHILD)
    sh(f"{sys.executable} {tmp_path}/child.py")
    sh("nft delete table inet types; nft delete table inet other")


STARVED = """
import resource
from netd.errors import KernelError
from netd.kernel.libnft import Context, library

context = Context("one")
context.listing("inet", "other")
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
assert "inet" in context.tables()
for ask in (lambda: context.listing("inet", "other"), library):
    try:
        ask()
    except KernelError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print("iif" in context.listing("inet", "other"))
"""


async def test_without_descriptors_it_refuses_and_does_not_end_the_process(
    host_kernel: HostKernel, sh: Callable[[str], str], tmp_path: Path
) -> None:
    """As libnftables would: it cannot look up the interface of `iif` then, and calls exit(3)."""
    sh("nft 'table inet other { chain c { iif lo accept; }; }'")
    (tmp_path / "child.py").write_text(STARVED)
    said = sh(f"{sys.executable} {tmp_path}/child.py").splitlines()
    assert said == ["use nftables: Too many open files (EMFILE)"] * 2 + ["True"]
    sh("nft delete table inet other")
