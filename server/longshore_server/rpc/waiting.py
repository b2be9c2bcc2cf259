"""Unary calls that wait. They do it piece by piece: after each it is looked again at who calls, as in a watch.

They stay open as watches do, and take their places among them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message

from longshore_server.clock import Clock
from longshore_server.contract.types import OperationType
from longshore_server.engine.engine import Engine
from longshore_server.engine.live import Live
from longshore_server.engine.requests import Started
from longshore_server.engine.starts import Terms
from longshore_server.engine.watch import HEARTBEAT
from longshore_server.rpc.boundary import Context, check_expiry
from longshore_server.store.record import OperationRecord

T = TypeVar("T")


def _piece(context: Context, clock: Clock, until: int | None) -> int:
    """When a call that may wait until `until` has to look again at who makes it."""
    due, expires = clock.now() + HEARTBEAT, context.caller.expires
    if until is not None and until < due:
        due = until
    return due if expires is None or due < expires else expires


async def attended(
    context: Context, engine: Engine, until: int | None, ask: Callable[[int | None], Awaitable[T]],
    done: Callable[[T], bool],
) -> T:  # fmt: skip
    """What `ask(end of the piece)` gives once it is `done`, or at `until`.

    Raises `ServiceError`: TOO_MANY_WATCHES before anything is asked, UNAUTHENTICATED when the caller is no longer who
    it was, and what `ask` raises.
    """
    clock = engine.clock
    with engine.watches.place(context.caller.name):
        if context.caller.unrestricted:
            return await ask(until)  # it stays who it is: one piece
        while True:
            found = await ask(_piece(context, clock, until))
            if not context.holds:
                check_expiry(context, clock)
                await context.still()
            if done(found) or (until is not None and clock.now() >= until):
                return found


async def end_of(context: Context, engine: Engine, live: Live, until: int | None) -> OperationRecord:
    """The operation's snapshot once it has ended, or at `until`. Raises as `attended` and `Engine.wait` do."""
    return await attended(context, engine, until, lambda due: engine.wait(live, due), lambda record: record.terminal)


async def start_and_wait(
    context: Context, engine: Engine, type: OperationType, input: Message, terms: Terms, until: int | None
) -> tuple[Started, OperationRecord]:
    """`Engine.start_and_wait`, attended. Raises as both do."""
    started: Started | None = None

    async def ask(due: int | None) -> OperationRecord:
        nonlocal started
        if started is None:
            started, record = await engine.start_and_wait(type, input, terms, due)
            return record
        return await engine.wait(started.live, due)

    record = await attended(context, engine, until, ask, lambda record: record.terminal)
    assert started is not None
    return started, record
