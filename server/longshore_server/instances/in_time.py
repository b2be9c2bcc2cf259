"""A handler's call, which comes to its end in time, whatever the handler does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from longshore_server.clock import SECOND, Clock

log = logging.getLogger(__name__)

GRACE = 10 * SECOND
"""How long a handler that was cancelled may take to clean up."""


class RunTimeoutError(Exception):
    """A handler took longer than its definition allows."""


async def in_time(
    handler: Callable[[], Awaitable[None]], timeout: int, clock: Clock, name: str, fields: Mapping[str, Any]
) -> None:
    """Call a handler, and return once it does.

    It is cancelled once `timeout` microseconds have passed, and where this is; what it does from then on counts for
    nothing. One that has not stopped after `GRACE` is left to itself. `name`, `fields`: of the run, for the log.

    Raises what the handler raises, and `RunTimeoutError`.
    """
    loop = asyncio.get_running_loop()
    call: asyncio.Future[BaseException | None] = loop.create_task(_caught(handler))
    late: asyncio.Future[Any] = loop.create_future()
    timer = clock.call_at(clock.now() + timeout, late.cancel)
    try:
        await asyncio.wait([call, late], return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await _stop(call, clock, name, fields)
        raise
    finally:
        timer.cancel()
    if not call.done():
        await _stop(call, clock, name, fields)
        raise RunTimeoutError
    error = call.result()
    if error is not None:
        raise error


async def _caught(handler: Callable[[], Awaitable[None]]) -> BaseException | None:
    """What the handler raises: asyncio would let a SystemExit end the server, and take a CancelledError for ours."""
    try:
        await handler()
    except BaseException as error:  # noqa: BLE001 - who awaits it raises it
        return error
    return None


async def _stop(call: asyncio.Future[Any], clock: Clock, name: str, fields: Mapping[str, Any]) -> None:
    call.cancel()
    over: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    timer = clock.call_at(clock.now() + GRACE, over.cancel)
    cancelled: asyncio.CancelledError | None = None
    while not (call.done() or over.done()):
        try:
            await asyncio.wait([call, over], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as error:
            cancelled = error  # it is ending already
    timer.cancel()
    if not call.done():
        log.error("%s: its handler does not stop though it was cancelled: the run ends without it", name, extra=fields)
    if cancelled is not None:
        raise cancelled
