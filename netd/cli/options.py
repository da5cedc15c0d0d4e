"""What the client commands share: the socket, `--json`, several names at once, completion.

A command that is given several names tries them all; the first that fails decides the exit code.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from netd.cli.render import as_dict, print_json
from netd.errors import NetdError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from google.protobuf.message import Message

    from netd.api.client import Client

DEFAULT_SOCKET = "/run/netd/netd.sock"
"""`Settings().socket`, told here once more because importing msgspec for it costs 8 ms."""

PARALLEL = 32
"""How many requests for several names are under way at once."""

COMPLETION_LIMIT = 200
"""Names that a shell is offered at most."""

Command = TypeVar("Command", bound=Callable[..., Any])


def _remember(context: click.Context, param: click.Parameter, value: str | None) -> None:
    # Given before or after the subcommand; `meta` is one for all nested contexts, and the last wins.
    if value is not None:
        context.meta["netd.socket"] = value


def socket_option(command: Command) -> Command:
    """`--socket PATH`."""
    return click.option(
        "--socket",
        metavar="PATH",
        expose_value=False,
        callback=_remember,
        help=f"Where the daemon listens.  [else NETD_SOCKET, else {DEFAULT_SOCKET}]",
    )(command)


def json_option(command: Command) -> Command:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def connected(context: click.Context | None = None) -> Client:
    """A client of the daemon that the caller named. Raises `netd.errors.Unreachable`.

    `context` is that of the command line, by default the one that is being executed. The import is here
    because it takes longer than everything else: help and usage errors do without.
    """
    from netd.api.client import connect

    context = context or click.get_current_context()
    chosen = context.meta.get("netd.socket") or os.environ.get("NETD_SOCKET")
    client = connect(chosen or DEFAULT_SOCKET)
    context.call_on_close(client.close)
    return client


def complain(error: Exception | str) -> None:
    """One line on standard error."""
    print(f"netd: {' '.join(str(error).split())}", file=sys.stderr)


def each(refs: Sequence[str], act: Callable[[str], str]) -> int:
    """Do `act` for every name at once and print its answers in the order of the names.

    Answers the exit code: that of the first name that failed, in the order given.
    """
    gate = threading.Semaphore(PARALLEL)
    code = 0
    for future in [_begin(ref, act, gate) for ref in dict.fromkeys(refs)]:
        try:
            click.echo(future.result())
        except NetdError as error:
            complain(error)
            code = code or error.exit_code
    return code


def inspect_all(refs: Sequence[str], find: Callable[[str], Message]) -> int:
    """Print what `find` answers for every name as one JSON array, as docker's inspect does."""
    code, found = 0, []
    for ref in refs:
        try:
            found.append(as_dict(find(ref)))
        except NetdError as error:
            complain(error)
            code = code or error.exit_code
    print_json(found)
    return code


def _begin(ref: str, act: Callable[[str], str], gate: threading.Semaphore) -> Future[str]:
    from concurrent.futures import Future  # by now grpc has paid for the import

    future: Future[str] = Future()

    def run() -> None:
        with gate:
            try:
                future.set_result(act(ref))
            except BaseException as error:
                future.set_exception(error)

    # Daemonic, unlike an executor's threads: Ctrl-C must not wait for answers nobody wants any more.
    threading.Thread(target=run, daemon=True).start()
    return future


def container_names(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion: names of containers, running or not."""
    return _offer(context, incomplete, lambda client: [each.name for each in client.containers(all=True)])


def network_names(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion: names of networks."""
    return _offer(context, incomplete, lambda client: [each.name for each in client.networks()])


def _offer(context: click.Context, incomplete: str, names: Callable[[Client], list[str]]) -> list[str]:
    # A command line that is being completed is not being executed, so the context is no current one.
    try:
        found = names(connected(context))
    except NetdError:  # a completion that fails stays silent: it would print over the prompt
        return []
    return [name for name in found if name.startswith(incomplete)][:COMPLETION_LIMIT]
