"""Run and Exec: the two calls that carry a terminal in both directions.

The client's messages are pumped to the process by one task while the handler itself writes the
process's output; gRPC's flow control holds back whoever is too fast. The stream ends when the
process does, whether or not the client still has something to say. A client that goes away leaves
the process running, as with docker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc.aio

from netd import launch
from netd.api import convert
from netd.api import netd_pb2 as pb
from netd.containers import LOST, Containers
from netd.errors import Invalid, NetdError
from netd.runtime.spec import Attached, Frame
from netd.view import View

log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]


async def run(containers: Containers, view: Callable[[], View], context: Context) -> None:
    """The Run call; with `detach` it ends as soon as the container runs."""
    first = await _first(context, "run")
    request = convert.run_request(first.run)
    started = await containers.run(request, attach=not first.run.detach)
    message = convert.container(started.record, view(), containers.directory(started.record))
    if started.attached is None:
        await context.write(pb.StreamOutput(started=message))
        return
    try:
        await context.write(pb.StreamOutput(started=message))
        code = await _converse(context, started.attached, interactive=request.interactive)
    finally:
        await started.attached.close()
    # The end is told when it is complete: name free, ports free, with --rm nothing left.
    record = await started.end()
    await context.write(pb.StreamOutput(exit=pb.Exit(code=code, oom_killed=record.oom_killed)))


async def exec(containers: Containers, context: Context) -> None:
    """The Exec call; with `detach` it ends as soon as the process runs."""
    message = (await _first(context, "exec")).exec
    record = containers.find(convert.required("container", message.container))
    process = convert.process(message, record)
    attached = await containers.exec(record.id, process)
    try:
        if not message.detach:
            code = await _converse(context, attached, interactive=message.interactive)
            await context.write(pb.StreamOutput(exit=pb.Exit(code=code)))
    finally:
        await attached.close()


async def _first(context: Context, kind: str) -> pb.StreamInput:
    message = await context.read()
    if message is grpc.aio.EOF or message.WhichOneof("input") != kind:
        raise Invalid(f"the first message of this call must be `{kind}`")
    return message  # type: ignore[no-any-return]


async def _converse(context: Context, attached: Attached, *, interactive: bool) -> int:
    """Carry both directions until the process has ended; returns its exit code."""
    async with asyncio.TaskGroup() as group:
        pump = group.create_task(_pump(context, attached, interactive))
        code = LOST
        async for frame in attached:
            if frame.kind == "exit":
                code = frame.code
                break
            if frame.kind == "stderr":
                await context.write(pb.StreamOutput(stderr=frame.data))
            else:
                await context.write(pb.StreamOutput(stdout=frame.data))
        pump.cancel()
    return code


async def _pump(context: Context, attached: Attached, interactive: bool) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        try:
            if frame := _frame(message, interactive):
                await attached.send(frame)
        except NetdError as error:  # one bad message must not end a terminal
            log.info("message to a process ignored: %s", error)
    if interactive:
        await attached.send(Frame("eof"))


def _frame(message: pb.StreamInput, interactive: bool) -> Frame | None:
    """What the client's message means for the process; None where it means nothing."""
    match message.WhichOneof("input"):
        case "stdin" if interactive:
            return Frame("stdin", data=message.stdin)
        case "stdin_closed" if interactive:
            return Frame("eof")
        case "resize":
            rows, columns = min(message.resize.rows, 0xFFFF), min(message.resize.columns, 0xFFFF)
            return Frame("resize", code=rows << 16 | columns)
        case "signal":
            return Frame("signal", code=launch.signal_number(message.signal))
        case _:
            return None
