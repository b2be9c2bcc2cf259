"""`op`: what a handler sees of its operation, and everything that it can do with it."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from typing_extensions import TypeVar as DefaultTypeVar
from typing_extensions import TypeVarTuple, Unpack

from longshore.v1 import channels_pb2
from longshore_server.clock import SECOND, Clock, sleep_until
from longshore_server.contract.types import OperationType
from longshore_server.handler import codec, offers, steps
from longshore_server.handler.deferral import HandOver
from longshore_server.handler.facts import Caller, Flag, Recovery
from longshore_server.handler.journal import Asked, Journal, Key, place
from longshore_server.handler.log import OperationLog
from longshore_server.handler.offers import Objects
from longshore_server.handler.reports import Reports
from longshore_server.handler.signals import Inbox, Published, Signal, SignalStream
from longshore_server.handler.steps import Running, StepRetry, Steps
from longshore_server.handler.transfer import Transfer
from longshore_server.ids import uid_text
from longshore_server.lifecycle import Move
from longshore_server.store.mutations import Record
from longshore_server.store.record import JournalEntry, OperationRecord
from longshore_server.tracer import Tracer

if TYPE_CHECKING:
    from longshore_server.store.store import Store

InputT = TypeVar("InputT", bound=Message)
ProgressT = TypeVar("ProgressT")
OutputT = TypeVar("OutputT")
ResultT = TypeVar("ResultT")
ServicesT = DefaultTypeVar("ServicesT", default=Any)
T = TypeVar("T")
Args = TypeVarTuple("Args")

STEP = "step"
"""The kind of journal entries: what a step has returned."""

current: contextvars.ContextVar[Operation[Any, Any, Any, Any, Any] | None] = contextvars.ContextVar(
    "longshore_operation", default=None
)
"""The operation whose handler is running here, if any."""


class Operation(Generic[InputT, ProgressT, OutputT, ResultT, ServicesT]):
    """The context of one attempt.

    Everything that takes effect is durable before it is visible to anyone, and belongs to this attempt: once another
    attempt has begun, or the operation has ended, further effects raise `ServiceError`.
    """

    def __init__(
        self, type: OperationType, record: OperationRecord, input: InputT, journal: Journal, store: Store,
        clock: Clock, services: ServicesT, max_payload: int, source: Published, tracer: Tracer, objects: Objects,
    ) -> None:  # fmt: skip
        self._type = type
        self._record = record
        self._journal = journal
        self._store = store
        self._writer = store.writer
        self._clock = clock
        self._source = source
        self._tracer = tracer
        self._objects = objects
        self._reports = Reports(type, record, store.writer, max_payload)
        self.hand_over = HandOver(record, store.writer)
        """For the engine: what this attempt has given away."""
        self.input: InputT = input
        """The request that started the operation."""
        self.services: ServicesT = services
        """What the server's lifespan yielded."""
        self.cancelled = Flag()
        """Raised when a caller asks to cancel."""
        self.stopping = Flag()
        """Raised when a caller asks to stop: what the handler then returns completes the operation as stopped."""

    @property
    def id(self) -> str:
        """The public id: the name without `operations/`."""
        return self._record.id

    @property
    def name(self) -> str:
        """`operations/{id}`."""
        return self._record.name

    @property
    def uid(self) -> str:
        """The UUIDv7 that is this operation's alone."""
        return uid_text(self._record.uid)

    @property
    def uid_bytes(self) -> bytes:
        """For the engine: the uid as the store keys it."""
        return self._record.uid

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that it was started with."""
        return dict(self._record.labels)

    @property
    def caller(self) -> Caller:
        """Who started it."""
        return Caller(self._record.owner, frozenset(self._record.capabilities))

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self._record.attempt

    @property
    def deadline(self) -> datetime | None:
        """When the operation fails if it has not ended (UTC); None: never."""
        deadline = self._record.deadline
        return None if deadline is None else datetime.fromtimestamp(deadline / SECOND, UTC)

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

    @property
    def fatal(self) -> Exception | None:
        """Why this attempt cannot succeed any more, whatever the handler returns."""
        return self._journal.fatal

    @property
    def missed_steps(self) -> list[str]:
        """For the engine: the names of the steps that are recorded and that this attempt has not asked for."""
        return self._journal.missed(STEP)

    @property
    def log(self) -> OperationLog:
        """A logger for the operators of the service: callers never see it. Every line carries the operation's name."""
        return OperationLog(self._type.name, self._record)

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
            value = channels_pb2.CounterProgress(current=value, total=total, message=message)
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

    # Of plain functions that return coroutines mypy would make `Any` in a gather of both kinds.
    @overload
    async def step(
        self, name: str, function: Callable[[Unpack[Args]], Awaitable[T]], *args: *Args,
        retry: StepRetry | None = None, timeout: float | timedelta | None = None,
    ) -> T: ...  # fmt: skip

    @overload
    async def step(
        self, name: str, function: Callable[[Unpack[Args]], T], *args: *Args,
        retry: StepRetry | None = None, timeout: float | timedelta | None = None,
    ) -> T: ...  # fmt: skip

    # mypy 2.4 does not take `*args: Any` for an implementation of overloads that unpack a TypeVarTuple.
    def step(  # type: ignore[misc]
        self, name: str, function: Callable[..., Any], *args: Any,
        retry: StepRetry | None = None, timeout: float | timedelta | None = None,
    ) -> Coroutine[Any, Any, Any]:  # fmt: skip
        """Run `function(*args)` once in the life of the operation, and return its recorded result ever after.

        The result is recorded when the function has returned: a crash in between runs it again, so pass `step.key` on
        to whatever must not happen twice. Results are protobuf messages, JSON values, dataclasses or pydantic models,
        always decoded from what was stored. Steps may run in parallel, not inside one another.

        Args:
            name: tells it from the other steps of the operation, in this attempt and in all later ones.
            retry: how often the function is tried before the step fails. Default: once.
            timeout: the longest that one try may take, in seconds or as a timedelta, before it is cancelled; only what
                awaits can be. Default: as long as it takes.

        Raises what the function raised last (nothing is recorded), `StepTimeoutError` where it took too long,
        `DuplicateNameError` for a name used before in this attempt, `NestedStepError` inside another step,
        `NonDeterministicError` when a re-run passes other arguments, `TypeError` for another kind of result.
        """
        # No coroutine itself: in a task of its own it would find only asyncio as its caller.
        return self._step(name, place(2), function, args, retry, timeout)

    async def _step(
        self, name: str, where: str, function: Callable[..., Any], args: tuple[Any, ...],
        retry: StepRetry | None, timeout: float | timedelta | None,
    ) -> Any:  # fmt: skip
        steps.refuse_nesting(name)
        key = self._journal.claim(STEP, name, where)
        asked = Asked(*args)
        entry = self._journal.recorded(key, asked)
        if entry is None:
            with self._tracer.step(name):
                entry = await self._run_step(key, asked, function, args, retry, timeout)
        return self._journal.decode(key, entry)

    async def _run_step(
        self, key: Key, asked: Asked, function: Callable[..., Any], args: tuple[Any, ...],
        retry: StepRetry | None, timeout: float | timedelta | None,
    ) -> JournalEntry:  # fmt: skip
        name, started = key[1], self._clock.now()
        running = Running(name, f"{self.uid}/{name}")
        try:
            result = await self._steps.run(running, function, args, retry, timeout)
        except BaseException:
            self._journal.release(key)
            raise
        try:
            stored = codec.encode(result)
        except codec.NotStorableError as error:
            raise TypeError(f"step {name!r}: {error}") from None
        return await self._record_entry(key, asked, stored, started)

    async def sleep(self, duration: float | timedelta) -> None:
        """Sleep durably: the end is recorded at the first call, and a re-run sleeps only what is left of it.

        Args:
            duration: seconds, or a timedelta. Raises `ValueError` when it is negative.
        """
        seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
        if seconds < 0:
            raise ValueError(f"cannot sleep {seconds} seconds")
        asked = Asked(seconds)
        key = self._journal.count("sleep", "")
        entry = self._journal.recorded(key, asked)
        if entry is None:
            wake = self._clock.now() + int(seconds * SECOND)
            entry = await self._record_entry(key, asked, codec.encode(wake))
        await sleep_until(self._clock, self._journal.decode(key, entry))

    async def defer(self) -> ResultT:
        """Hand the operation over: `return await op.defer()`. It is durable when this returns.

        No handler runs for it any more, not after a restart either: `server.operations.control(name)` or
        `OperationControlService` end it, its deadline, or a cancel request. What the handler then returns is ignored.

        Raises `ServiceError` when another attempt has begun or the operation has ended.
        """
        await self.hand_over.defer()
        return cast("ResultT", None)

    async def attach(self, work: Awaitable[ResultT | None]) -> ResultT:
        """Hand the operation over to `work`, whose value completes it: `return await op.attach(work())`.

        Durable before `work` begins. Like a deferred operation it has no slot and is not run again: when the process
        dies, a control call, its deadline or a cancel request ends it. `work` may end it by a control call itself; if
        it has not and returns None, the operation fails with ATTACH_NOT_TERMINAL. What it raises is raised here.

        Raises `ServiceError` when another attempt has begun or the operation has ended; `work` has then not begun.
        """
        return cast("ResultT", await self.hand_over.attach(work))

    async def next_signal(self, name: str, timeout: float | timedelta | None = None) -> Signal[Any]:
        """The oldest signal of this name that waits, or the next one that comes; each is given out once.

        The signal is consumed, and the journal knows by which call, in one transaction: a re-run gets the same signals
        from the same calls, then new ones. The end of the waiting is recorded at the first call, so that a re-run waits
        only what is left; and a `TimeoutError` is recorded, too.

        Args:
            timeout: seconds, or a timedelta. Default: as long as it takes.

        Raises `TimeoutError` when the time is up, `ValueError` for a name that the contract does not declare,
        `NonDeterministicError` when a re-run asks with another timeout.
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
        return Transfer(self._type, self._record, self._source, self._journal, self._writer, self._clock, self._objects)

    def signal_id(self, uid: str, name: str) -> str:
        """For the engine: the id of the next signal of this name that the handler sends to another operation."""
        _, _, occurrence = self._journal.count("send", f"{uid} {name}")
        return f"{self.uid}/{name}/{occurrence}"

    def child_entry(self, name: str, asked: Asked, where: str) -> tuple[JournalEntry, bytes | None]:
        """For the engine: the journal entry of a child start, and the uid that an earlier attempt recorded for it."""
        key = self._journal.claim("child", name, where)
        found = self._journal.recorded(key, asked)
        kind, name, occurrence = key
        entry = JournalEntry(kind, name, occurrence, self.attempt, asked.digest, asked.text, "uid", b"")
        return entry, None if found is None else found.outcome

    def release_child(self, entry: JournalEntry) -> None:
        """For the engine: a start that was refused has recorded nothing, and its name is free again."""
        self._journal.release((entry.kind, entry.name, entry.occurrence))

    async def _record_entry(
        self, key: Key, asked: Asked, stored: codec.Encoded, started: int | None = None
    ) -> JournalEntry:
        entry = JournalEntry(*key, self.attempt, asked.digest, asked.text, stored.codec, stored.data, started)
        return await self._writer.submit(Record(self._record.uid, entry))

    @cached_property
    def _steps(self) -> Steps:
        return Steps(self._type, self._record, self._clock, self.cancelled, self.stopping)

    @cached_property
    def _inbox(self) -> Inbox:
        # Made when it is asked for: most operations have no signals.
        return Inbox(self._type, self._record, self._source, self._journal, self._store, self._clock)
