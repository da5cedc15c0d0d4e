"""`netd daemon`: the daemon in the foreground, for systemd, a container or a terminal.

Help lists this command too, so what takes long to import is imported when the daemon really runs.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import click

from netd import logs

OFTEN = (700, 10, 10)
"""Python's own thresholds for the collection of garbage, which a command raises: a daemon lives long."""


@click.command()
@click.option("--state-dir", metavar="DIR", help="Definitions that survive a reboot.  [/var/lib/netd]")
@click.option("--run-dir", metavar="DIR", help="Socket, lock and live state.  [/run/netd]")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Settings in TOML.  [/etc/netd/netd.toml, where it exists]",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Form of the log on stderr.  [text]")
@click.option("--log-level", type=click.Choice(logs.LEVELS), help="Least level that is logged.  [info]")
@click.option("--cluster", metavar="etcd://HOST:PORT,...", help="Join the cluster that this etcd remembers.")
@click.option("--cluster-ca", metavar="FILE", help="Who signs etcd's certificate: TLS.")
@click.option("--cluster-cert", metavar="FILE", help="This host's certificate for etcd.")
@click.option("--cluster-key", metavar="FILE", help="The key of --cluster-cert.")
@click.option(
    "--cluster-insecure", is_flag=True, default=None, help="Plain text to etcd on other hosts, too."
)
@click.option("--node-name", metavar="NAME", help="This host in the cluster.  [its host name]")
@click.option("--advertise", metavar="IP", help="Where other hosts reach this one.  [as it reaches etcd]")
@click.option("--wireguard-go", metavar="FILE", help="Does WireGuard where the kernel has none.")
def daemon(config: Path | None, **flags: str | bool | None) -> None:
    """Run the daemon in the foreground; it logs to standard error.

    SIGTERM, SIGINT and SIGHUP end it. Containers, networks and published ports go on without it, and
    the next start takes them over.
    """
    # Read by grpc when it is imported; its fork handlers can deadlock (grpc #22624) and netd never forks.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    from netd.settings import load

    settings = load(config, flags)
    logs.configure(settings.log_format, settings.log_level)
    os.environ["NETD_LOG_FORMAT"] = settings.log_format  # the DNS server logs to the same standard error
    import asyncio

    from netd.app import serve

    gc.set_threshold(*OFTEN)
    asyncio.run(serve(settings))
