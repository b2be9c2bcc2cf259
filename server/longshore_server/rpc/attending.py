"""Who calls is looked at again while a call goes on: it may be silent, or wait, for as long as it likes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from longshore_server.clock import Clock, sleep_until
from longshore_server.engine.watch import HEARTBEAT
from longshore_server.errors import ServiceError
from longshore_server.rpc.boundary import Context, check_expiry


@contextlib.asynccontextmanager
async def attending(context: Context, clock: Clock, end: Callable[[ServiceError], None]) -> AsyncIterator[None]:
    """Look again at who calls, each heartbeat and when the credentials expire, until the block is left.

    `end` is called, once, when the caller is no longer who it was; with the error to tell, UNAUTHENTICATED.
    """

    async def attend() -> None:
        expires = context.caller.expires
        try:
            while True:
                due = clock.now() + HEARTBEAT
                await sleep_until(clock, due if expires is None else min(due, expires))
                check_expiry(context, clock)
                await context.still()
        except ServiceError as error:
            end(error)

    task = None if context.caller.unrestricted else asyncio.create_task(attend())
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
