"""Deleting links: only netd's own, several of them together, and gone already is success."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from netd.errors import Denied, KernelError
from netd.kernel import dumps, fastnl
from netd.kernel.dumps import Link
from netd.kernel.fastnl import Refused, Socket

GONE = {errno.ENODEV, errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENOENT}
"""What the kernel answers when what should be removed is not there."""


def foreign(link: Link) -> Denied:
    """What to raise instead of touching a link that netd did not make."""
    return Denied(
        f"interface {link.name!r} was not made by netd (its alias is {link.alias!r}) and is left alone"
    )


def deletable(socket: Socket, names: Sequence[str]) -> list[int]:
    """The indexes of those of `names` that exist. Raises `Denied` if one of them is not netd's."""
    indexes = []
    for name in names:
        body = socket.get(fastnl.link_get(name))
        if body is None:
            continue
        link = dumps.link(body)
        if link.name != name:
            continue  # somebody's altname; the link itself is gone
        if not link.ours:
            raise foreign(link)
        indexes.append(link.index)
    return indexes


def delete(indexes: Sequence[int], wrote: Callable[[], None]) -> None:
    """Delete links of the calling thread's namespace, several of them together.

    Returns when the kernel has freed them, tens of milliseconds after they have left the namespace,
    because it waits for RCU; deleting many as one group waits once. The group's number is random,
    so that no link of anybody else can be in it.
    """
    messages = [fastnl.link_delete(index) for index in indexes]
    if len(indexes) > 1:
        group = int.from_bytes(os.urandom(4), "big") | 1 << 31
        messages = [fastnl.link_change(index, group=group) for index in indexes]
        messages.append(fastnl.group_delete(group))
    with Socket() as socket:
        for message in messages:
            wrote()
            try:
                socket.request(message)
            except Refused as error:
                if error.errno not in GONE:
                    raise KernelError(error.errno or 0, "delete links", error.hint) from error
