"""Elements written by hand: the transactions of every attachment, without libnftables.

Before libnftables changes anything it reads all tables and sets anew, since the transaction before was
one. That takes it five times as long as the kernel needs for a dozen elements, and an attachment
is two transactions. What goes wrong here is not explained: nothing has been changed then, and the library,
asked for the same, finds its words (`netd.kernel.nft`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from netd import firewall
from netd.kernel import fastnl
from netd.kernel.fastnl import NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, attribute
from netd.kernel.nftget import DATA, ELEMENTS, FAMILIES, KEY, LIST_ELEMENT, NFT, SET, TABLE, VALUE, packed
from netd.objects import Add, Change, Element, Op, Remove

# include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h
BATCH_BEGIN, BATCH_END = 0x10, 0x11  # NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END
NEW_ELEMENT, DELETE_ELEMENT = NFT | 12, NFT | 14  # NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM
MOST = 256
"""Operations in one message: it must fit the buffer of a socket, and more are seldom and need no haste."""
_OF_NFTABLES = struct.pack("!BBH", 0, 0, NFT >> 8)


def transaction(ops: Sequence[Op], sequence: int) -> bytes | None:
    """What makes the kernel do `ops` together or not at all, and answer once: to the last of them, or to
    whichever it refuses. None for what is the library's: very many, and elements that count."""
    steps = [step for op in ops for step in _steps(op)]
    counting = any(firewall.SETS[item.family, item.set].value == firewall.COUNT for _, item in steps)
    if not steps or len(steps) > MOST or counting:
        return None
    last = len(steps) - 1
    messages = [_message(*step, acknowledged=number == last) for number, step in enumerate(steps)]
    whole = (
        fastnl.message(BATCH_BEGIN, 0, _OF_NFTABLES),
        *messages,
        fastnl.message(BATCH_END, 0, _OF_NFTABLES),
    )
    return b"".join(fastnl.numbered(each, sequence) for each in whole)


def _steps(op: Op) -> list[tuple[int, Element]]:
    match op:
        case Add(Element() as wanted):
            return [(NEW_ELEMENT, wanted)]
        case Change(Element() as old, Element() as new):
            return [(DELETE_ELEMENT, old), (NEW_ELEMENT, new)]
        case Remove(Element() as unwanted):
            return [(DELETE_ELEMENT, unwanted)]
    raise TypeError(f"{op} is not about an nft element")


def _message(kind: int, element: Element, *, acknowledged: bool) -> bytes:
    types = firewall.SETS[element.family, element.set]
    parts = _nested(KEY, attribute(VALUE, packed(types.key, element.item)))
    if types.value and kind == NEW_ELEMENT:
        parts += _nested(DATA, attribute(VALUE, packed(types.value, element.value)))
    body = struct.pack("=BBH", FAMILIES[element.family], 0, 0)
    body += fastnl.text(TABLE, "netd") + fastnl.text(SET, element.set)
    body += _nested(ELEMENTS, _nested(LIST_ELEMENT, parts))
    flags = NLM_F_CREATE if kind == NEW_ELEMENT else 0
    return fastnl.message(kind, flags | (NLM_F_ACK if acknowledged else 0), body)


def _nested(kind: int, payload: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, payload)
