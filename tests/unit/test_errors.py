from __future__ import annotations

import errno

import grpc
import pytest

from netd import errors
from netd.errors import BY_GRPC, KernelError, NetdError


def descendants(cls: type[NetdError]) -> list[type[NetdError]]:
    return [cls, *(below for child in cls.__subclasses__() for below in descendants(child))]


@pytest.mark.parametrize("cls", descendants(NetdError))
def test_every_error_is_a_grpc_status_and_a_cni_code(cls: type[NetdError]) -> None:
    assert cls.grpc in grpc.StatusCode.__members__
    assert cls.cni in (7, 11) or cls.cni >= 100  # CNI SPEC.md: below 100 only the codes it defines
    assert cls.exit_code == (125 if cls is errors.Unreachable else 1)


def test_a_status_leads_back_to_the_class_that_was_raised() -> None:
    assert all(BY_GRPC[cls.grpc] is cls for cls in BY_GRPC.values())
    assert BY_GRPC["NOT_FOUND"] is errors.NotFound
    assert "INTERNAL" not in BY_GRPC


def test_kernel_error_names_the_object_the_errno_and_the_kernels_words() -> None:
    error = KernelError(errno.EEXIST, "link   nd-1 bridge", "Link already there")
    assert str(error) == "link   nd-1 bridge: File exists (EEXIST): Link already there"
    assert (error.errno, error.hint) == (errno.EEXIST, "Link already there")
    assert str(KernelError(errno.ENODEV, "up     eth0")) == "up     eth0: No such device (ENODEV)"
