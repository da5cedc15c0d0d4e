"""`python -m netd_dns`: run the server with what it inherited; started by `netd.dns_feed` only.

Arguments: four descriptor numbers (the listening control socket, the run directory, a control connection
on which the daemon speaks already, a file with the filter of system calls) and the identity of this code.
"""

from __future__ import annotations

import os
import socket
import sys

from netd_dns import confine, logs
from netd_dns.server import Server


def main(arguments: list[str]) -> int:
    """Serve until told to stop; never returns while anybody may still ask."""
    listening, home, connection, program = descriptors = [int(argument) for argument in arguments[:4]]
    os.closerange(max(descriptors) + 1, 2**31 - 1)  # what a library of the daemon left open for children
    logs.configure(os.environ.get("NETD_LOG_FORMAT", "text"))
    with open(program, "rb") as file:  # noqa: PTH123  (a descriptor, not a path)
        allowed = file.read()
    server = Server(socket.socket(fileno=listening), home, arguments[4])
    confine.drop_privileges()
    confine.filter_calls(allowed)
    server.adopt(socket.socket(fileno=connection))
    server.loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
