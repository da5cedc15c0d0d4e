"""Transactions packed by hand: their messages in order, and what is left to the library."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from netd.kernel import fastnl, nftget, nftput
from netd.objects import Add, Change, Element, Op, Remove, Up

PORT = Element("bridge", "ports", ("ve-1",))
LED = Element("inet", "any4", ("tcp", 8080), (IPv4Address("10.89.0.2"), 80))
ELSEWHERE = Element("inet", "any4", ("tcp", 8080), (IPv4Address("10.89.0.3"), 81))
LIMIT = Element("inet", "connlimit4", (IPv4Address("10.89.0.2"),), (50,))


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence number, body) of each."""
    while data:
        length, kind, flags, sequence, _ = fastnl.HEADER.unpack_from(data)
        assert length % 4 == 0
        yield kind, flags, sequence, data[fastnl.HEADER.size : length]
        data = data[length:]


def test_a_transaction_is_one_batch_answered_once() -> None:
    made = nftput.transaction([Add(PORT), Change(LED, ELSEWHERE), Remove(PORT)], 7)
    assert made is not None
    found = list(messages(made))
    new, delete = nftput.NEW_ELEMENT, nftput.DELETE_ELEMENT
    kinds = [nftput.BATCH_BEGIN, new, delete, new, delete, nftput.BATCH_END]
    assert [kind for kind, _, _, _ in found] == kinds
    assert [bool(flags & fastnl.NLM_F_ACK) for _, flags, _, _ in found] == [False] * 4 + [True, False]
    assert [bool(flags & fastnl.NLM_F_CREATE) for kind, flags, _, _ in found if kind == new] == [True, True]
    assert {sequence for _, _, sequence, _ in found} == {7}
    assert found[0][3] == found[-1][3] == bytes([0, 0, 0, 10]), "for nf_tables (NFNL_SUBSYS_NFTABLES)"


def test_an_element_has_its_place_its_key_and_where_it_leads() -> None:
    made = nftput.transaction([Add(LED)], 1)
    assert made is not None
    [(_, _, _, body)] = [each for each in messages(made) if each[0] == nftput.NEW_ELEMENT]
    assert body[0] == 1, "NFPROTO_INET"
    place = dict(fastnl.attributes(body, 4))
    assert (place[nftget.TABLE], place[nftget.SET]) == (b"netd\0", b"any4\0")
    parts = dict(fastnl.attributes(dict(fastnl.attributes(place[nftget.ELEMENTS]))[nftget.LIST_ELEMENT]))
    key, value = (dict(fastnl.attributes(parts[each]))[nftget.VALUE] for each in (nftget.KEY, nftget.DATA))
    assert (key, value) == (b"\x06\0\0\0\x1f\x90\0\0", b"\x0a\x59\0\2\0\x50\0\0")


@pytest.mark.parametrize("ops", [[], [Add(PORT), Add(LIMIT)], [Add(PORT)] * (nftput.MOST + 1)])
def test_what_is_the_librarys(ops: list[Op]) -> None:
    assert nftput.transaction(ops, 1) is None


def test_only_elements_are_taken() -> None:
    with pytest.raises(TypeError):
        nftput.transaction([Add(Up("eth0"))], 1)
