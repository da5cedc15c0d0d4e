"""The command `netd`: finds the subcommand, and turns whatever goes wrong into one line and a code.

    0    done                          2    usage
    1    refused or failed             125  the daemon cannot be reached
    126, 127  the container's command cannot be executed, or is not there (run, exec)
    130  interrupted by Ctrl-C         141  the reader of our output went away

A subcommand's module is imported when it runs, or when help lists it; what takes long to import (gRPC,
rich) only when a request is sent or a table printed. `docs/cli.md` says what that saves.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

import netd
from netd.cli.options import complain, socket_option
from netd.errors import NetdError

COMMANDS = {
    "network": "netd.cli.network:network",
    "run": "netd.cli.run:run",
    "exec": "netd.cli.exec:exec_",
    "ps": "netd.cli.containers:ps",
    "inspect": "netd.cli.containers:inspect",
    "logs": "netd.cli.logs:logs",
    "port": "netd.cli.port:port",
    "stop": "netd.cli.containers:stop",
    "kill": "netd.cli.containers:kill",
    "wait": "netd.cli.containers:wait",
    "rename": "netd.cli.containers:rename",
    "rm": "netd.cli.containers:rm",
    "topology": "netd.cli.topology:topology",
    "capture": "netd.cli.capture:capture",
    "trace": "netd.cli.trace:trace",
    "node": "netd.cli.node:node",
    "dns": "netd.cli.dns:dns",
    "cni": "netd.cli.cni:cni",
    "events": "netd.cli.events:events",
    "daemon": "netd.cli.daemon:daemon",
    "doctor": "netd.cli.doctor:doctor",
    "version": "netd.cli.version:version",
}
"""Every subcommand: where it lives. Help lists them in this order."""

UNCOLLECTED = 100_000
"""Objects made before garbage is looked for: more than a request makes, for which it took 7 % of the time."""

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""How writing output fails that is no mistake of ours: the disk is full, or broken."""

REFUSED = 1
INTERRUPTED = 130
OUTPUT_CLOSED = 141


class LazyGroup(click.Group):
    """A group whose commands are imported one by one, when they are asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command called `name`."""
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, context: click.Context) -> object:
        """Run the subcommand. Click itself would answer a closed output with 1, as if we had failed."""
        try:
            return super().invoke(context)
        except BrokenPipeError:
            context.exit(OUTPUT_CLOSED)


@click.group(cls=LazyGroup)
@socket_option
@click.version_option(netd.__version__, message="netd %(version)s")
def cli() -> None:
    """Container networks: bridges, published ports, names; and a minimal runtime to try them with.

    Give --socket before or after the subcommand.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; answer the exit code."""
    try:
        answer = cli.main(args=arguments, prog_name="netd", standalone_mode=False)
        sys.stdout.flush()
        sys.stderr.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.UsageError as error:
        return _usage(error)
    except click.ClickException as error:
        complain(error.format_message())
        return error.exit_code
    except NetdError as error:
        complain(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        return OUTPUT_CLOSED
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        complain(f"cannot write: {error.strerror}; what has been printed is incomplete")
        with contextlib.suppress(OSError):
            sys.stdout.close()  # or the interpreter tries once more, and complains at length
        return REFUSED
    return answer if isinstance(answer, int) else 0


def _usage(error: click.UsageError) -> int:
    complain(error.format_message())
    if error.ctx is not None:
        print(f"Try '{error.ctx.command_path} --help' for help.", file=sys.stderr)
    return error.exit_code


def _occupy_standard_streams() -> None:
    """Let standard streams that the caller closed (`>&-`) lead to /dev/null.

    Otherwise the next file that is opened, such as the connection to the daemon, would be taken for them.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, and those below are taken
            stream = open(descriptor, "w" if descriptor else "r", closefd=False)  # noqa: SIM115  (as long as we run)
            setattr(sys, name, stream)


def main() -> NoReturn:
    """The console script.

    A client leaves with `os._exit`: ending the interpreter in good order takes 8 ms, most of them for
    gRPC's threads, and nothing needs it: output has been flushed and the terminal restored.
    """
    gc.set_threshold(UNCOLLECTED)
    _occupy_standard_streams()
    code = run()
    if code == OUTPUT_CLOSED or "netd.api.client" in sys.modules:
        os._exit(code)  # also keeps the interpreter from flushing into a closed pipe once more
    sys.exit(code)
