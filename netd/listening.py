"""Who connects to a listening socket, one after the other, also through a time without descriptors.

A task that accepts and dies of the first EMFILE leaves a socket that takes connections and answers
none, for as long as the daemon runs. Here it waits: clients are in the kernel's queue meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

from netd.errors import USED_UP

log = logging.getLogger(__name__)

PAUSE = 0.1
"""Seconds between attempts while there are no descriptors."""


async def peers(listener: socket.socket) -> AsyncIterator[socket.socket]:
    """Connections as they come; whoever iterates closes them. Raises `OSError` if the socket is of no use."""
    loop = asyncio.get_running_loop()
    lacking = False
    while True:
        try:
            peer, _ = await loop.sock_accept(listener)
        except ConnectionAbortedError:
            continue
        except OSError as error:
            if error.errno not in USED_UP:
                raise
            if not lacking:
                log.warning("clients have to wait: %s", error)
            lacking = True
            await asyncio.sleep(PAUSE)
        else:
            lacking = False
            yield peer
