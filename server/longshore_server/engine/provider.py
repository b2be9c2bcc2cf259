"""`server.operations.control(name)`: the provider's side of one operation, for the service's own code."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Generic, TypeAlias, TypeVar, overload

from google.protobuf.message import Message

from longshore_server.contract.types import OperationType
from longshore_server.contract.validation import check_text
from longshore_server.engine.control import Control, waiting_after
from longshore_server.engine.engine import Engine
from longshore_server.engine.live import Live
from longshore_server.engine.outcome import raised, returned
from longshore_server.handler.deferral import Work, check_work, working
from longshore_server.handler.journal import NonDeterministicError
from longshore_server.handler.offers import Offer, Terms, number_of
from longshore_server.handler.operation import InputT, Operation, OutputT, ProgressT, ResultT
from longshore_server.handler.planned import Planned
from longshore_server.handler.signals import Signal, received
from longshore_server.ids import uid_text
from longshore_server.lifecycle import State
from longshore_server.store.record import OperationRecord

log = logging.getLogger(__name__)

T = TypeVar("T")

OperationT = TypeVar("OperationT", bound=Operation[Any, Any, Any, Any, Any])
OperationT_co = TypeVar("OperationT_co", bound=Operation[Any, Any, Any, Any, Any], covariant=True)
Handler: TypeAlias = Callable[[Any, InputT, OperationT], Coroutine[Any, Any, Any]]
"""A method of a generated base or of a class derived from it, for example `OrdersService.process`."""


class Wish:
    """Something that a caller may ask for: `if control.cancelled: ...` or `await control.cancelled.wait()`."""

    def __init__(self, live: Live, asked: Callable[[OperationRecord], bool]) -> None:
        self._live = live
        self._asked = asked

    def __bool__(self) -> bool:
        return self._asked(self._live.record)

    async def wait(self) -> bool:
        """Return once a caller has asked for it (true), or the operation has ended without that (false)."""
        while not self and not self._live.record.terminal:
            await _changed(self._live)
        return bool(self)


class OperationControl(Generic[OperationT_co]):
    """Drives one operation from outside of its handler: after a restart, too, and while a handler runs.

    `OperationControl[ProcessOperation]` is one whose messages are those of the contract's `Process`.

    What changes the operation is durable when it returns the state after that. All of it raises `ServiceError`
    (OPERATION_ENDED, ILLEGAL_MOVE, OPERATION_NOT_FOUND, STORE_UNAVAILABLE, or for a payload that is too large or breaks
    a rule of the contract), and `TypeError` for a message of another type than the contract's.
    """

    def __init__(self, engine: Engine, live: Live, *, created: bool = False) -> None:
        self._engine = engine
        self._control = Control(engine)
        self._live = live
        self.created = created
        """Whether this very `accept` made the operation."""
        self.cancelled = Wish(live, lambda record: record.cancel_requested is not None)
        """Whether somebody asked to cancel. Answer it by `acknowledge_cancel` within the contract's grace."""
        self.stopping = Wish(live, lambda record: record.stop_requested is not None)
        """Whether a caller asked to stop: complete it with what there is."""

    @property
    def name(self) -> str:
        """`operations/{id}`."""
        return self._live.record.name

    @property
    def uid(self) -> str:
        """The UUIDv7 that is this operation's alone."""
        return uid_text(self._live.record.uid)

    @property
    def type_name(self) -> str:
        """`package.Service/Method`."""
        return self._live.record.type

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._live.record.state

    async def input(self: OperationControl[Operation[InputT, Any, Any, Any, Any]]) -> InputT:
        """The request that started it."""
        data = await self._engine.input_of(self._live.record)
        found: Any = self._control.type_of(self._live).input.FromString(data)
        return found  # type: ignore[no-any-return]  # the contract's type

    async def started(self) -> State:
        """Mark it as started; no handler will begin it. Does nothing where it is RUNNING or CANCELLING already."""
        return (await self._control.started(self._live)).state

    async def progress(
        self: OperationControl[Operation[Any, ProgressT, Any, Any, Any]], value: ProgressT, *,
        jobs: Sequence[Planned] = (),
    ) -> State:  # fmt: skip
        """Report progress. `jobs`: as of `complete`."""
        message = self._checked("progress", value, lambda type: type.progress)
        return (await self._control.progress(self._live, message, jobs)).state

    async def output(self: OperationControl[Operation[Any, Any, OutputT, Any, Any]], value: OutputT) -> State:
        """Send output to the callers."""
        message = self._checked("output", value, lambda type: type.output)
        return (await self._control.output(self._live, message)).state

    @overload
    async def complete(
        self: OperationControl[Operation[Any, Any, Any, None, Any]], *, jobs: Sequence[Planned] = ()
    ) -> State: ...

    @overload
    async def complete(
        self: OperationControl[Operation[Any, Any, Any, ResultT, Any]], result: ResultT, *, jobs: Sequence[Planned] = ()
    ) -> State: ...

    async def complete(self: OperationControl[Any], result: Any = None, *, jobs: Sequence[Planned] = ()) -> State:
        """End it with a result. An operation that is CANCELLING ends as CANCELLED, and the result is kept aside.

        `jobs`: those of `JobQueue.plan`, created in the same transaction: both or neither. Where one of them has no
        room this raises `JobNotEnqueuedError`, and the operation stays as it is; one that is being cancelled creates
        none.
        """
        type = self._control.type_of(self._live)
        if result is None and type.void(type.result):
            result = type.result()
        if result.__class__ is not type.result:
            raise TypeError(f"{type.name} ends with {type.result.DESCRIPTOR.full_name}, not {_name(result)}")
        return (await self._control.complete(self._live, result, jobs)).state

    async def fail(self, error: BaseException, *, jobs: Sequence[Planned] = ()) -> State:
        """End it with an error: callers see all of an `OperationError`; any other is for the log alone. `jobs`: as of
        `complete`."""
        if not isinstance(error, BaseException):
            raise TypeError(f"error: {error!r} is no exception: give OperationError(REASON, message) for the callers")
        return await self._settle(error=error, jobs=jobs)

    async def cancel(self, reason: str = "") -> State:
        """Cancel it as its provider, whatever the contract allows callers: at once, or while a handler runs within its
        grace. Does nothing where it has ended."""
        return (await self._control.cancel(self._live, reason)).state

    async def acknowledge_cancel(self) -> State:
        """Answer a caller's cancel request: it ends as CANCELLED. Raises `ServiceError` (NO_CANCEL_REQUEST) without."""
        return (await self._control.acknowledge_cancel(self._live)).state

    async def attach(
        self: OperationControl[Operation[Any, Any, Any, ResultT, Any]], work: Awaitable[ResultT | None]
    ) -> State:
        """Wait for `work` and let its value complete the operation; returns the state in which it ended.

        No handler begins the operation or runs it again from then on, and one that runs is interrupted, unless it is
        that one, or a task of its own, that calls. If `work` returns None and has not ended it by a control call, it
        fails with ATTACH_NOT_TERMINAL; what `work` raises fails it like a handler's error. When the operation ends by
        another hand, `work` is cancelled; when this call is cancelled, `work` is too, and the operation stays as it is.
        """
        check_work(work, "what can be awaited")
        try:
            await self._control.attach(self._live)
        except BaseException:
            if inspect.iscoroutine(work):
                work.close()  # never begun: Python would warn that nobody awaited it
            raise
        own = Work(self._live.record.uid)
        task = asyncio.create_task(_run(own, work))
        try:
            while not task.done() and (own.ending or not self._live.record.terminal):
                await _changed(self._live, task)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        if self._live.record.terminal:
            if not task.cancelled() and task.exception() is not None:
                log.error("what was attached to %s raised", self.name, exc_info=task.exception())
            return self.state
        if task.cancelled():
            return await self._settle(error=RuntimeError("what was attached was cancelled though nobody asked for it"))
        if task.exception() is not None:
            return await self._settle(error=task.exception())
        return await self._settle(value=task.result())

    async def signals(self, *names: str) -> AsyncIterator[Signal[Any]]:
        """The signals that wait, then new ones as they come, in the order of their acceptance; no names: all of them.

        Each is given once by this iterator, and again by another one until it is consumed: `await control.consume(it)`
        when it is done with. Ends when the operation does.
        """
        after = 0
        type = self._control.type_of(self._live)
        for name in names:
            self._engine.requests.signal_type(self._live, check_text("name", name))
        while True:
            for stored in await self._control.signals(self._live, after=after):
                after = stored.number
                if not names or stored.name in names:
                    yield received(type, stored, NonDeterministicError)
            while not waiting_after(self._live.record, "", after):
                if self._live.record.terminal:
                    return
                await _changed(self._live)

    async def consume(self, signal: Signal[Any] | int) -> State:
        """Be done with a signal, or with the one of this number: nobody gets it again.

        Raises `ServiceError` (SIGNAL_CONSUMED) where it is consumed already.
        """
        if not isinstance(signal, Signal) and type(signal) is not int:
            raise TypeError(f"signal: {signal!r} is none, nor the number of one")
        number = signal.number if isinstance(signal, Signal) else signal
        return (await self._control.consume(self._live, number)).state

    async def offer(
        self, key: str, *, store: str | None = None, filename: str = "", content_type: str | None = None,
        expires_in: float | timedelta | None = None, max_uses: int | None = None, url: bool = False,
    ) -> Offer:  # fmt: skip
        """Offer an object to the callers that may observe the operation; see `Transfer.offer` for the arguments.

        Each call is an offer of its own. Raises `TransferError` (OBJECT_NOT_FOUND, NOT_SUPPORTED, STORE_UNAVAILABLE),
        `ValueError` for terms that mean nothing, `RuntimeError` where the contract declares no transfer.
        """
        terms = Terms.said(key, store, filename, content_type, expires_in, max_uses, url)
        record = await self._control.offer(self._live, terms)
        return Offer.of(record, len(record.downloads))

    async def revoke(self, name: str) -> None:
        """Take an offer of this operation back, `downloads/{uid}.{number}`, also once it has ended.

        Raises `ValueError` for the name of anything else.
        """
        await self._control.revoke(self._live, number_of(self._live.record, name))

    def _checked(self, what: str, value: Any, channel: Callable[[OperationType], type[Message]]) -> Message:
        type = self._control.type_of(self._live)
        expected = channel(type)
        if value.__class__ is not expected or type.void(expected):
            declared = "none" if type.void(expected) else expected.DESCRIPTOR.full_name
            raise TypeError(f"{type.name}: {what} of type {_name(value)}, but the contract declares {declared}")
        message: Message = value
        return message

    async def _settle(
        self, *, value: Any = None, error: BaseException | None = None, jobs: Sequence[Planned] = ()
    ) -> State:
        type, limit = self._control.type_of(self._live), self._engine.executor.max_payload
        if error is None:
            outcome = returned(type, value, limit, attached=True)
        else:
            outcome = raised(type, self.name, error, limit, {"operation": self.name, "type": type.name})
        return (await self._control.settle(self._live, outcome.move, outcome.payload, jobs)).state


def type_of(engine: Engine, handler: object) -> OperationType:
    """The operation type whose handler this is. Raises `TypeError`."""
    if not callable(handler):
        raise TypeError(f"{handler!r} is no handler of this server: pass a method like OrdersService.process")
    for type in engine.types.values():
        service: Any = getattr(type.handler, "__self__", None)
        name = service.OPERATIONS[type.method.name]
        if any(vars(base).get(name) is handler for base in service.__class__.__mro__):
            return type
    raise TypeError(f"{handler!r} is no handler of this server: pass a method like OrdersService.process")


async def _run(own: Work, work: Awaitable[T]) -> T:
    working.set(own)
    return await work


async def _changed(live: Live, *others: asyncio.Future[Any]) -> None:
    """Return at the next publication of the operation, or once one of the others is done."""
    future = live.changed()
    try:
        await asyncio.wait([future, *others], return_when=asyncio.FIRST_COMPLETED)
    finally:
        live.forget(future)


def _name(value: object) -> str:
    return value.__class__.__name__
