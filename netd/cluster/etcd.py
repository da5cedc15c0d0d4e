"""A client of etcd, as small as its use: range, transaction, watch, lease.

It speaks to one member at a time. A call that is not answered in time, or whose member is of no use
(no leader, gone, cut off), closes the connection and goes on with the next member; the watch, which
runs over the same connection, ends with it and its owner lists again. So one deadline, that of the
calls that keep the lease alive, notices also what a silent network would hide from a watch for ever.

A connection is thrown away rather than waited for. gRPC would retry by itself, but over a TCP connection
that sends again after ever longer pauses, so that a healed network would be noticed late; and it would
share one broken connection among all channels of the process (hence the local pool below).

A transaction whose answer was lost may have happened. The caller must be able to ask for it again,
which is why there is no bare put here: every write is a transaction that says what it expects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc

from netd.cluster import etcd_pb2 as pb
from netd.errors import Invalid, NetdError, Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

DEADLINE = 2.0
"""Seconds for one member to answer one call."""
PAGE = 1000
"""Keys in one answer, so that no answer comes near the limit below."""
LARGEST_MESSAGE = 64 * 1024 * 1024
DEFAULT_PORT = 2379

_LEADER = (("hasleader", "true"),)
"""Asks a member to end a stream when it loses the leader; it would be silent otherwise."""
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # http_proxy in the environment is about the web, not about this
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
]


class Compacted(NetdError):
    """The watch asked for a past that etcd has forgotten: list again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where etcd is, and who we are to it. Without `ca` the connection is plain text."""

    endpoints: tuple[str, ...]
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys with a prefix as of one revision."""

    revision: int
    kvs: list[pb.KeyValue]


@dataclass(frozen=True, slots=True)
class Batch:
    """What changed, up to and including one revision; 0 where nothing did."""

    revision: int
    events: Sequence[pb.Event]


def parse(url: str) -> tuple[str, ...]:
    """The members in "etcd://h1:2379,h2:2379,[fd00::1]:2379", as gRPC wants them. Raises `Invalid`."""
    scheme, separator, rest = url.partition("://")
    if scheme != "etcd" or not separator:
        raise Invalid(f"cluster {url!r} is not valid: write it like etcd://h1:2379,h2:2379")
    found = []
    for text in rest.rstrip("/").split(","):
        try:
            parts = urlsplit(f"//{text}")
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError as error:
            raise Invalid(f"cluster member {text!r} is not valid: {error}") from None
        if not host or parts.path or parts.username is not None or parts.query:
            raise Invalid(f"cluster member {text!r} is not valid: write HOST:PORT or [IPV6]:PORT")
        found.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return tuple(found)


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`, which must not end in 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


class Etcd:
    """A connection that is made when it is first needed and made anew whenever it is of no use."""

    def __init__(self, target: Target, deadline: float = DEADLINE) -> None:
        self._endpoints = target.endpoints
        self._credentials = _credentials(target)
        self._deadline = deadline
        self._turn = 0
        self._channel: grpc.aio.Channel | None = None

    @property
    def endpoint(self) -> str:
        """The member that is spoken to, or will be next."""
        return self._endpoints[self._turn % len(self._endpoints)]

    async def close(self) -> None:
        """Let go of the connection; what runs over it ends with `Unavailable`."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def list(self, prefix: bytes) -> Listing:
        """All keys with `prefix`, as of one revision. Raises `Unavailable`."""
        key, end, revision = prefix, prefix_end(prefix), 0
        kvs: list[pb.KeyValue] = []
        while True:
            request = pb.RangeRequest(key=key, range_end=end, limit=PAGE, revision=revision)
            answer = await self._unary("KV/Range", request, pb.RangeResponse)
            revision = revision or answer.header.revision
            kvs.extend(answer.kvs)
            if not answer.more:
                return Listing(revision, kvs)
            key = answer.kvs[-1].key + b"\0"

    async def get(self, key: bytes) -> pb.KeyValue | None:
        """One key, None where there is none. Raises `Unavailable`."""
        answer = await self._unary("KV/Range", pb.RangeRequest(key=key), pb.RangeResponse)
        return answer.kvs[0] if answer.kvs else None

    async def transact(
        self, conditions: Sequence[pb.Compare], writes: Sequence[pb.RequestOp]
    ) -> pb.TxnResponse:
        """Do all of `writes` if all of `conditions` hold, else none. Raises `Unavailable`."""
        request = pb.TxnRequest(compare=conditions, success=writes)
        return await self._unary("KV/Txn", request, pb.TxnResponse)

    async def grant(self, ttl: int) -> int:
        """A new lease of `ttl` seconds (etcd may give more). Raises `Unavailable`."""
        answer = await self._unary("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=ttl), pb.LeaseGrantResponse)
        return int(answer.ID)

    async def revoke(self, lease: int) -> None:
        """End a lease and everything that hangs on it. One that is gone is success."""
        try:
            request = pb.LeaseRevokeRequest(ID=lease)
            await self._unary("Lease/LeaseRevoke", request, pb.LeaseRevokeResponse)
        except _Refused as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise

    async def keep_alive(self, lease: int) -> int:
        """Begin the lease's time anew; returns how many seconds it has, 0 if it is gone."""

        async def once(channel: grpc.aio.Channel) -> int:
            method = channel.stream_stream(
                "/etcdserverpb.Lease/LeaseKeepAlive",
                request_serializer=pb.LeaseKeepAliveRequest.SerializeToString,
                response_deserializer=pb.LeaseKeepAliveResponse.FromString,
            )
            call = method(timeout=self._deadline, metadata=_LEADER)
            try:
                await call.write(pb.LeaseKeepAliveRequest(ID=lease))
                answer: Any = await call.read()
                if answer is grpc.aio.EOF:
                    raise Unavailable("etcd ended the stream")
                return int(answer.TTL)
            finally:
                call.cancel()

        return int(await self._somewhere(once))

    async def watch(self, prefix: bytes, revision: int) -> AsyncGenerator[Batch, None]:
        """What changes beneath `prefix` from `revision` on. The first batch, of no events, comes when
        the watch stands. Ends only by raising: `Compacted`, or `Unavailable` when the connection breaks.
        """
        channel = self._connect()
        method = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )
        call = method(metadata=_LEADER)
        create = pb.WatchCreateRequest(key=prefix, range_end=prefix_end(prefix), start_revision=revision)
        try:
            try:
                async with asyncio.timeout(self._deadline):
                    await call.write(pb.WatchRequest(create_request=create))
                    answer: Any = await call.read()
                while answer is not grpc.aio.EOF:
                    if answer.compact_revision:
                        raise Compacted(f"etcd has forgotten all before revision {answer.compact_revision}")
                    if answer.canceled:
                        raise Unavailable(f"etcd ended the watch: {answer.cancel_reason}")
                    # Not the header's revision: that is etcd's own, and its events may be still to come.
                    revision = max((event.kv.mod_revision for event in answer.events), default=0)
                    yield Batch(revision, answer.events)
                    answer = await call.read()
            except (grpc.RpcError, asyncio.InvalidStateError, TimeoutError) as error:
                raise Unavailable(f"the watch of etcd broke: {_why(error)}") from error
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                raise Unavailable("the connection was given up") from None
            raise Unavailable("etcd ended the watch")
        except Unavailable:
            await self._turn_away(channel)
            raise
        finally:
            call.cancel()

    async def _unary(self, method: str, request: Any, kind: type[T]) -> T:
        async def once(channel: grpc.aio.Channel) -> T:
            call: Any = channel.unary_unary(
                f"/etcdserverpb.{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=kind.FromString,  # type: ignore[attr-defined]
            )
            answer: T = await call(request, timeout=self._deadline)
            return answer

        answer: T = await self._somewhere(once)
        return answer

    async def _somewhere(self, once: Callable[[grpc.aio.Channel], Any]) -> Any:
        """Try each member once. Raises `Unavailable` saying why the last one was of no use."""
        reason = ""
        for _ in self._endpoints:
            endpoint, channel = self.endpoint, self._connect()
            try:
                return await once(channel)
            except (grpc.RpcError, asyncio.InvalidStateError, Unavailable) as error:
                if isinstance(error, grpc.aio.AioRpcError) and error.code() in _FINAL:
                    raise _Refused(error) from error
                reason = f"{endpoint}: {_why(error)}"
                await self._turn_away(channel)
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                reason = f"{endpoint}: the connection was given up"
        raise Unavailable(f"etcd does not answer ({reason})")

    def _connect(self) -> grpc.aio.Channel:
        if self._channel is None:
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self.endpoint, options=_OPTIONS)
            else:
                self._channel = grpc.aio.secure_channel(self.endpoint, self._credentials, options=_OPTIONS)
        return self._channel

    async def _turn_away(self, channel: grpc.aio.Channel) -> None:
        """`channel` is of no use: the next call goes to the next member. Only the first to say so counts."""
        if self._channel is channel:
            self._channel = None
            self._turn += 1
            await channel.close()


_FINAL = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""Answers that another member would give just the same."""


class _Refused(Unavailable):
    """etcd answered, and the answer is no."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        super().__init__(f"etcd refuses: {error.details()}")


def _is_cancelled() -> bool:
    """Whether it is the caller that is cancelled. To close a channel cancels its calls, too, and looks
    the same to those who wait for them."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _why(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        text = error.details() or error.code().name
        return " ".join(text.split())
    return str(error) or type(error).__name__


def _credentials(target: Target) -> grpc.ChannelCredentials | None:
    """TLS by `ca`, with a client certificate where there is one. Raises `Invalid` naming the file."""
    if target.ca is None:
        return None
    contents = []
    for option, path in (("ca", target.ca), ("key", target.key), ("cert", target.cert)):
        try:
            contents.append(path.read_bytes() if path else None)
        except OSError as error:
            raise Invalid(f"--cluster-{option} {path}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(*contents)


# --- the parts of a transaction -----------------------------------------------------------------------


def absent(key: bytes) -> pb.Compare:
    """There is no such key."""
    return pb.Compare(key=key, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=0)


def none_below(prefix: bytes) -> pb.Compare:
    """There is no key with this prefix."""
    return pb.Compare(
        key=prefix,
        range_end=prefix_end(prefix),
        target=pb.Compare.CREATE,
        result=pb.Compare.EQUAL,
        create_revision=0,
    )


def unchanged(key: bytes, mod_revision: int) -> pb.Compare:
    """The key was last written at `mod_revision`; 0 for never, or not since it was deleted."""
    return pb.Compare(key=key, target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=mod_revision)


def none_newer(prefix: bytes, revision: int) -> pb.Compare:
    """No key with this prefix was written after `revision`."""
    return pb.Compare(
        key=prefix,
        range_end=prefix_end(prefix),
        target=pb.Compare.MOD,
        result=pb.Compare.LESS,
        mod_revision=revision + 1,
    )


def born(key: bytes, create_revision: int) -> pb.Compare:
    """The key is still the one that was made at `create_revision`."""
    return pb.Compare(
        key=key, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=create_revision
    )


def exists(key: bytes) -> pb.Compare:
    """There is such a key."""
    return pb.Compare(key=key, target=pb.Compare.CREATE, result=pb.Compare.GREATER, create_revision=0)


def put(key: bytes, value: bytes, lease: int = 0) -> pb.RequestOp:
    """Write a key; with a lease it vanishes when that ends."""
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))


def delete(key: bytes) -> pb.RequestOp:
    """Delete a key, if it is there."""
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))


def delete_below(prefix: bytes) -> pb.RequestOp:
    """Delete every key with this prefix."""
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=prefix, range_end=prefix_end(prefix)))
