"""`op`: what a handler sees of its operation, and everything that it can do with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from typing_extensions import TypeVar as DefaultTypeVar

from longshore.v1 import channels_pb2
from longshore_server.clock import Clock
from longshore_server.contract.types import OperationType
from longshore_server.handler import offers, planned
from longshore_server.handler.deferral import Attachable, HandOver
from longshore_server.handler.durable import Durable
from longshore_server.handler.facts import Caller, Recovery
from longshore_server.handler.journal import Journal
from longshore_server.handler.offers import Objects
from longshore_server.handler.planned import Planned
from longshore_server.handler.reports import Reports, counter
from longshore_server.handler.signals import Inbox, Published, Signal, SignalStream
from longshore_server.handler.transfer import Transfer
from longshore_server.lifecycle import Move
from longshore_server.store.mutations import OperationAttempt
from longshore_server.store.record import OperationRecord
from longshore_server.tracer import Tracer

if TYPE_CHECKING:
    from longshore_server.handler.waits import HandlerWaits
    from longshore_server.store.store import Store

InputT = TypeVar("InputT", bound=Message)
ProgressT = TypeVar("ProgressT")
OutputT = TypeVar("OutputT")
ResultT = TypeVar("ResultT")
ServicesT = DefaultTypeVar("ServicesT", default=Any)


class Operation(Durable, Generic[InputT, ProgressT, OutputT, ResultT, ServicesT]):
    """The context of one attempt of an operation."""

    def __init__(
        self, type: OperationType, record: OperationRecord, input: InputT, journal: Journal, store: Store,
        clock: Clock, services: ServicesT, max_payload: int, source: Published, tracer: Tracer, objects: Objects,
        waits: HandlerWaits,
    ) -> None:  # fmt: skip
        attempt_ends = None
        if type.attempt_timeout is not None and record.begun is not None:
            attempt_ends = record.begun + type.attempt_timeout
        super().__init__(
            OperationAttempt(record.uid, record.attempt), record.name, journal, store.writer, clock, tracer,
            deadline=record.deadline,
            ends=min((end for end in (record.deadline, attempt_ends) if end is not None), default=None),
            max_payload=max_payload, fields={"operation": record.name, "type": type.name, "attempt": record.attempt},
        )  # fmt: skip
        self._type = type
        self._record = record
        self._store = store
        self._source = source
        self._objects = objects
        self._reports = Reports(type, record, store.writer, max_payload)
        self.hand_over = HandOver(self.author, store.writer, waits)
        """For the engine: what this attempt has given away."""
        self.following: list[Planned] = []
        """For the engine: jobs that its completion creates."""
        self.input: InputT = input
        """The request that started the operation."""
        self.services: ServicesT = services
        """What the server's lifespan yielded."""

    @property
    def id(self) -> str:
        """The public id: the name without `operations/`."""
        return self._record.id

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that it was started with."""
        return dict(self._record.labels)

    @property
    def caller(self) -> Caller:
        """Who started it."""
        return Caller(self._record.owner, frozenset(self._record.capabilities))

    @property
    def recovery(self) -> Recovery[ProgressT] | None:
        """What the last attempt left; None in the first attempt."""
        record = self._record
        if record.attempt <= 1:
            return None
        progress: Any = None
        if record.progress is not None:
            progress = self._type.progress()
            AnyMessage.FromString(record.progress).Unpack(progress)
        return Recovery(record.attempt - 1, record.failures, record.crashes, progress)

    async def started(self) -> None:
        """Does nothing: the engine has logged `started` already. Kept for handlers that are written after seed 1."""

    @overload
    def progress(
        self: Operation[Any, channels_pb2.CounterProgress, Any, Any, Any],
        value: int, total: int | None = None, message: str = "",
    ) -> Awaitable[None]: ...  # fmt: skip

    @overload
    def progress(self, value: ProgressT) -> Awaitable[None]: ...

    def progress(
        self: Operation[Any, Any, Any, Any, Any], value: Any, total: int | None = None, message: str = ""
    ) -> Awaitable[None]:
        """Report progress. Queued in order at once; await the result to know that it is durable, and so visible.

        Raises `TypeError` for another type than the contract's, `ValueError` for a message larger than the server
        sends, `ServiceError` (TOO_MUCH_UNACKNOWLEDGED) when more than 1024 reports wait; the awaitable raises
        `ServiceError` when this attempt may no longer report.
        """
        if isinstance(value, int) and self._type.progress is channels_pb2.CounterProgress:
            value = counter(self.name, value, total, message)
        return self._reports.submit(Move.PROGRESS, self._type.progress, self._type.progress_url, value)

    @overload
    def output(
        self: Operation[Any, Any, channels_pb2.DiagnosticOutput, Any, Any],
        value: str, channel: channels_pb2.DiagnosticOutput.Channel.ValueType = ...,
    ) -> Awaitable[None]: ...  # fmt: skip

    @overload
    def output(self, value: OutputT) -> Awaitable[None]: ...

    def output(
        self: Operation[Any, Any, Any, Any, Any],
        value: Any,
        channel: channels_pb2.DiagnosticOutput.Channel.ValueType = channels_pb2.DiagnosticOutput.CHANNEL_INFO,
    ) -> Awaitable[None]:
        """Send output to the callers; a text becomes a `DiagnosticOutput` where that is the type. Like `progress`."""
        if isinstance(value, str) and self._type.output is channels_pb2.DiagnosticOutput:
            value = channels_pb2.DiagnosticOutput(channel=channel, message=value)
        return self._reports.submit(Move.OUTPUT, self._type.output, self._type.output_url, value)

    def then(self, *jobs: Planned) -> None:
        """Have jobs created by the completion of the operation: in the transaction in which it is COMPLETED with what
        the handler returns, or never.

        They are those of `JobQueue.plan`. Where one of them has no room the attempt fails, as by the error of `create`.
        Raises `TypeError` for what is none.
        """
        planned.check(jobs)
        self.following.extend(jobs)

    async def defer(self, *, jobs: Sequence[Planned] = ()) -> ResultT:
        """Hand the operation over: `return await op.defer()`. It is durable when this returns.

        No handler runs for it any more, not after a restart either: `server.operations.control(name)` or
        `OperationControlService` end it, its deadline, or a cancel request. What the handler then returns is ignored.

        `jobs`: those of `JobQueue.plan`, created in the same transaction: both or neither.

        Raises `ServiceError` when another attempt has begun or the operation has ended, `JobNotEnqueuedError` where one
        of the jobs has no room.
        """
        await self.hand_over.defer(jobs)
        return cast("ResultT", None)

    async def attach(
        self, work: Awaitable[ResultT | None] | Attachable, *, shared: bool = False,
        progress: Callable[[Any], ProgressT] | None = None,
    ) -> ResultT:  # fmt: skip
        """Hand the operation over to `work`, which completes it: `return await op.attach(job)`, or `attach(work())`.

        A job: the operation ends in the transaction in which the job does, after any restart: with its result, its
        error, or cancelled. No coroutine waits for that. Its progress becomes the operation's where it is of the same
        type.

        Anything else that can be awaited: durable before `work` begins. Like a deferred operation it has no slot and is
        not run again: when the process dies, a control call, its deadline or a cancel request ends it. `work` may end
        it by a control call itself; if it has not and returns None, the operation fails with ATTACH_NOT_TERMINAL. What
        it raises is raised here.

        Args:
            shared: whether the job may be one that was created elsewhere: one that a coalesced `submit` found.
            progress: makes the operation's progress of the job's where that is of another type; a function at the top
                of a module, so that a later server finds it.

        Raises `ServiceError` when another attempt has begun or the operation has ended, and for a job that cannot be
        attached, or cannot end before the operation does: nothing is then handed over, and `work` has not begun.
        `TypeError` for a job with another result than the operation's, and for what is no job and cannot be awaited.
        """
        if isinstance(work, Attachable):
            reports = None if self._type.void(self._type.progress) else self._type.progress
            await self.hand_over.give(work.attachment(self.author, self._type.result, reports, shared, progress))
            return cast("ResultT", None)
        return cast("ResultT", await self.hand_over.attach(work))

    async def next_signal(self, name: str, timeout: float | timedelta | None = None) -> Signal[Any]:
        """The oldest signal of this name that waits, or the next one that comes; each is given out once.

        The signal is consumed, and the journal knows by which call, in one transaction: a re-run gets the same signals
        from the same calls, then new ones. The end of the waiting is recorded at the first call, so that a re-run waits
        only what is left; and a `TimeoutError` is recorded, too.

        Args:
            timeout: seconds, or a timedelta. Default: as long as it takes.

        Raises `TimeoutError` when the time is up, `ValueError` for a name that the contract does not declare or a
        timeout that makes no sense,
        `NonDeterministicError` when a re-run asks with another timeout, or the contract of today has another type for
        the signal.
        """
        return await self._inbox.next((name,), timeout)

    def signals(self, *names: str) -> SignalStream[Any]:
        """Signals as they come, in the order of their acceptance, each one once; no names: all that are declared.

        `async for signal in op.signals("add", "remove"): ...` never ends by itself: leave it with `break` or `return`.
        Each turn is as durable as a `next_signal`. Raises `ValueError` for a name that the contract does not declare.
        """
        self._inbox.check(names)
        return SignalStream(self._inbox, names)

    @cached_property
    def transfer(self) -> Transfer:
        """The operation's bytes: those that its caller sends, and those that it offers to callers.

        Raises `RuntimeError` where the contract declares no transfer.
        """
        offers.transfer_of(self._type)
        return Transfer(self._type, self._record, self._source, self.journal, self._writer, self._clock, self._objects)

    @cached_property
    def _inbox(self) -> Inbox:
        # Made when it is asked for: most operations have no signals.
        return Inbox(self._type, self._record, self._source, self.journal, self._store, self._clock)
