"""Unary calls that wait. They do it piece by piece: after each it is looked again at who calls, as in a watch.

They stay open as watches do, and take their places among them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message

from longshore_server.clock import SECOND
from longshore_server.contract.types import OperationType
from longshore_server.engine.engine import Engine
from longshore_server.engine.live import Live
from longshore_server.engine.requests import Started
from longshore_server.engine.starts import Terms
from longshore_server.engine.watch import HEARTBEAT
from longshore_server.rpc.boundary import Context, check_expiry
from longshore_server.store.record import OperationRecord

T = TypeVar("T")


def _until(context: Context, now: int, wait: int | None) -> int | None:
    """When a waiting call has to answer: after `wait` microseconds, or a little before its own deadline."""
    remaining = context.time_remaining()
    if remaining is not None:
        # The answer needs time on its way back: without the margin the caller would see DEADLINE_EXCEEDED instead.
        own = int(max(0.0, remaining - min(0.5, remaining / 10)) * SECOND)
        wait = own if wait is None else min(wait, own)
    return None if wait is None else now + wait


def _piece(context: Context, now: int, until: int | None) -> int:
    """When a call that may wait until `until` has to look again at who makes it."""
    due, expires = now + HEARTBEAT, context.caller.expires
    if until is not None and until < due:
        due = until
    return due if expires is None or due < expires else expires


async def attended(
    context: Context, engine: Engine, wait: int | None, ask: Callable[[int | None], Awaitable[T]],
    done: Callable[[T], bool],
) -> T:  # fmt: skip
    """What `ask(end of the piece)` gives once it is `done`, or after `wait` microseconds; None: as long as the call.

    Raises `ServiceError`: TOO_MANY_WATCHES before anything is asked, UNAUTHENTICATED when the caller is no longer who
    it was, and what `ask` raises.
    """
    clock = engine.clock
    now = clock.now()
    until = _until(context, now, wait)
    with engine.watches.place(context.caller.name):
        if context.caller.unrestricted:
            return await ask(until)  # it stays who it is: one piece
        while True:
            found = await ask(_piece(context, now, until))
            if not context.holds:
                check_expiry(context, clock)
                await context.still()
            if done(found):
                return found
            now = clock.now()
            if until is not None and now >= until:
                return found


async def end_of(context: Context, engine: Engine, live: Live, wait: int | None) -> OperationRecord:
    """The operation's snapshot once it has ended, or after `wait`. Raises as `attended` and `Engine.wait` do."""
    return await attended(context, engine, wait, lambda due: engine.wait(live, due), lambda record: record.terminal)


async def start_and_wait(
    context: Context, engine: Engine, type: OperationType, input: Message, terms: Terms, wait: int | None
) -> tuple[Started, OperationRecord]:
    """`Engine.start_and_wait`, attended. Raises as both do."""
    started: Started | None = None

    async def ask(due: int | None) -> OperationRecord:
        nonlocal started
        if started is None:
            started, record = await engine.start_and_wait(type, input, terms, due)
            return record
        return await engine.wait(started.live, due)

    record = await attended(context, engine, wait, ask, lambda record: record.terminal)
    assert started is not None
    return started, record
