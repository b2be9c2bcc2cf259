"""What a server refuses a call with that sends a stream, where the client's own failure to send would hide it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc


@contextlib.asynccontextmanager
async def refusals(call: Any) -> AsyncIterator[None]:
    """Whatever is done with a call in here raises what the server has refused it with, if it had not ended before.

    Who is refused before all is sent may be told of that by grpc.aio instead, before or after the refusal (grpc#36066).
    """
    refusal: asyncio.Future[grpc.aio.AioRpcError] = asyncio.get_running_loop().create_future()

    def ended(call: Any) -> None:
        code, details, trailing = map(_known, (call.code(), call.details(), call.trailing_metadata()))
        error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details)
        if not _lost(error) and not refusal.done():
            refusal.set_result(error)

    too_late = call.done()
    call.add_done_callback(ended)
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if not _lost(error) or (too_late and not refusal.done()):
            raise
        raise await refusal from None


async def answered(call: Any) -> Any:
    """The answer to a call that gets one message, or its refusal."""
    async with refusals(call):
        return await call


def _lost(error: grpc.aio.AioRpcError) -> bool:
    return error.details() == "Internal error from Core"


def _known(asked: Any) -> Any:
    """What a coroutine returns that has nothing to wait for."""
    try:
        asked.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a call that has ended does not say how")
