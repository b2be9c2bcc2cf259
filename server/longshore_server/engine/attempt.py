"""One attempt: run the handler once, and turn whatever it does into one outcome.

prepare (input, journal, timers) -> the handler -> outcome -> settle
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from longshore_server.clock import SECOND, Timer
from longshore_server.contract.types import OperationType
from longshore_server.engine.live import Live
from longshore_server.engine.outcome import Outcome, raised, returned
from longshore_server.errors import Reason, ServiceError, failure, reason_of
from longshore_server.handler import planned
from longshore_server.handler.deferral import Work, working
from longshore_server.handler.durable import handling
from longshore_server.handler.failures import LastResort
from longshore_server.handler.journal import Journal
from longshore_server.handler.lending import Acting, acting
from longshore_server.handler.offers import TransferError
from longshore_server.handler.operation import Operation
from longshore_server.handler.planned import Planned
from longshore_server.lifecycle import Move, State
from longshore_server.store.mutations import Mutation, Settle, TryAgain
from longshore_server.store.record import OperationRecord
from longshore_server.tracer import UNRECORDED

if TYPE_CHECKING:
    from longshore_server.engine.executor import Executor

log = logging.getLogger(__name__)

_OVER = (Reason.STALE_ATTEMPT, Reason.OPERATION_ENDED, Reason.OPERATION_NOT_FOUND, Reason.STORE_UNAVAILABLE)
"""Why an outcome comes to nothing."""


class Ending(enum.Enum):
    """Why a handler's task was cancelled from outside."""

    GRACE = "grace"  # the caller's cancel request was not honoured in time
    TIMEOUT = "timeout"  # the attempt took longer than the contract allows
    SETTLED = "settled"  # the operation ended by another hand (its deadline), or was taken over
    DRAIN = "drain"  # the server is stopping: the next one runs it again


class Attempt:
    """A handler's task and the timers around it."""

    def __init__(self, executor: Executor, type: OperationType, live: Live) -> None:
        self._executor = executor
        self._type = type
        self.live = live
        self._record = live.record
        self._ending: Ending | None = None
        self._timers: list[Timer] = []
        self._operation: Operation[Any, Any, Any, Any, Any] | None = None
        self._work = Work(live.record.uid)
        self._acting = Acting(live.record.uid)
        self._in_handler = False
        self._graced = False
        self._last_resort = LastResort()
        self._span = UNRECORDED
        self._following: Sequence[Planned] = ()
        self.holds_slot = True
        """Whether it counts among the attempts that its type may have at once."""
        self.task = executor.loop.create_task(self._run(), name=self._record.name, context=executor.context.copy())

    @property
    def number(self) -> int:
        """The attempt's number, which is also its fence."""
        return self._record.attempt

    @property
    def left(self) -> bool:
        """Whether it is left to the next server."""
        return self._ending is Ending.DRAIN

    @property
    def _fields(self) -> dict[str, Any]:
        """What every line of the log that belongs to this attempt carries."""
        return {"operation": self._record.name, "type": self._type.name, "attempt": self.number}

    def request(self, record: OperationRecord) -> None:
        """Tell the handler what callers have asked for. In CANCELLING it then has its grace. Repeatable."""
        if self._operation is None:
            return
        if record.deferred:
            self._handed_over()
            if record.attempt != self.number:
                self.end(Ending.SETTLED)
        if record.stop_requested is not None:
            self._operation.stopping.set()
        if record.cancel_requested is not None:
            self._operation.cancelled.set()
            # Apart from the flag, which a BEST_EFFORT contract raises long before its provider cancels.
            if record.state is State.CANCELLING and not self._graced and not record.deferred:
                self._graced = True
                when = self._executor.clock.now() + self._type.cancel_grace
                self._timers.append(self._executor.clock.call_at(when, lambda: self._interrupt(Ending.GRACE)))

    def end(self, ending: Ending) -> None:
        """Interrupt the handler. What it returns after that is ignored."""
        if ending is Ending.SETTLED and self._work.ending:
            return
        if self._ending is None:
            self._ending = ending
            if self._in_handler:
                self.task.cancel()

    def server_stops(self) -> None:
        """From here on it goes on at the next server where its handler waits for what outlasts this one."""
        if self._operation is not None:
            self._operation.server_stops()

    def _give_way(self) -> None:
        # What is deferred is not run again, nor what has attached something, which is a deferral, too.
        if self._operation is not None and not self._operation.hand_over.durable:
            self.end(Ending.DRAIN)

    def _handed_over(self) -> None:
        """Its slot is free, and only the operation's own deadline and grace count from now on."""
        for timer in self._timers:
            timer.cancel()
        self._executor.free(self._type, self)
        self._acting.over = self._operation is not None and not self._operation.hand_over.attached

    def _interrupt(self, ending: Ending) -> None:
        self.end(ending)
        # A handler that swallows its cancellation cannot keep the operation from ending: the fence shuts it out.
        when = self._executor.clock.now() + max(self._type.cancel_grace, SECOND)
        self._timers.append(self._executor.clock.call_at(when, self._settle_without_handler))

    def _settle_without_handler(self) -> None:
        outcome = self._interrupted()
        if self._in_handler and outcome is not None:
            log.error(
                "%s does not stop though it was cancelled: settled without it", self._record.name, extra=self._fields
            )
            self._settle(outcome)

    async def _run(self) -> None:
        record = self._record
        self._span = self._executor.tracer.attempt(record.name, record.type, record.attempt, record.trace)
        outcome: Outcome | None = None
        try:
            outcome = await self._execute()
            if outcome is not None:
                self._settle(outcome)
        except Exception as error:
            log.exception("attempt %d of %s broke", self.number, self._record.name, extra=self._fields)
            self._span.note(error)
            outcome = Outcome(Move.FAIL, failure(Reason.INTERNAL))
            if not self._executor.stopping:
                self._settle(outcome)
        finally:
            for timer in self._timers:
                timer.cancel()
            self._acting.end()
            self._executor.finished(self._type, self.live, self)
            self._end_span(outcome)
            # The task keeps its context: what the handler was given would be a cycle, left for the collector.
            handling.set(None)
            self._operation = None

    async def _execute(self) -> Outcome | None:
        operation = await self._prepare()
        if operation is None or self._ending is not None:
            return None if operation is None else self._interrupted()
        handling.set(operation)
        working.set(self._work)
        acting.set(self._acting)
        self._in_handler = True
        outcome: Outcome | None = None
        problem: BaseException | None = None
        try:
            result = await self._type.handler(operation.input, operation)
            outcome = self._returned(operation, result)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            while task.cancelling():
                task.uncancel()
            return self._interrupted()
        except BaseException as error:  # noqa: BLE001 - SystemExit too: user code may end an attempt, not the server
            problem = error
        finally:
            self._in_handler = False
        if self._ending is None and outcome is not None and outcome.move is Move.COMPLETE:
            problem = operation.check_steps(fixed=self._type.fixed_steps)
        problem = operation.fatal or problem
        if problem is not None:
            outcome = self._raised(problem)
        return outcome if self._ending is None else self._interrupted()

    def _end_span(self, outcome: Outcome | None) -> None:
        if self._operation is not None and self._operation.hand_over.complete:
            self._span.end("hand over")
        elif outcome is None:
            self._span.end("interrupt")
        else:
            self._span.end(outcome.move.value, reason_of(outcome.payload) if outcome.move is Move.FAIL else "")

    async def _prepare(self) -> Operation[Any, Any, Any, Any, Any] | None:
        """The context of the attempt: its input, and what earlier attempts have recorded."""
        record, type, executor = self._record, self._type, self._executor
        request = self.live.input
        if request is None:
            stored = await executor.store.input(record.uid)
            if stored is None:
                return None
            request = type.input.FromString(stored)
        entries = await executor.store.journal(record.uid) if record.attempt > 1 or record.retried_from else ()
        journal = Journal(entries)
        self._operation = Operation(
            type, record, request, journal, executor.store, executor.clock, executor.services,
            executor.max_payload, self.live, executor.tracer, executor.objects, executor.waits,
        )  # fmt: skip
        if type.rerun:
            self._operation.interrupt = self._give_way
        if executor.stopping:
            self._operation.server_stops()
        self.request(self.live.record)
        if type.attempt_timeout is not None:
            when = executor.clock.now() + type.attempt_timeout
            self._timers.append(executor.clock.call_at(when, lambda: self._interrupt(Ending.TIMEOUT)))
        return self._operation

    def _returned(self, operation: Operation[Any, Any, Any, Any, Any], result: Any) -> Outcome | None:
        if operation.hand_over.complete:
            return None
        return returned(self._type, result, self._executor.max_payload, attached=operation.hand_over.attached)

    def _raised(self, error: BaseException) -> Outcome:
        self._span.note(error)
        if (
            isinstance(error, TransferError)
            and error.reason == Reason.UPLOAD_ABORTED.name
            and self.live.record.cancel_requested is not None
        ):
            # The request to cancel is what took the handler's bytes away.
            return self._cancelled()
        return raised(self._type, self._record.name, error, self._executor.max_payload, self._fields)

    def _interrupted(self) -> Outcome | None:
        """What a cancelled handler means depends on who cancelled it."""
        if self._ending is Ending.DRAIN and self._operation is not None and self._operation.hand_over.attached:
            log.warning(
                "%s is not run again: a control call ends it, its deadline or a cancel request",
                self._record.name,
                extra=self._fields,
            )
        if self._ending in (Ending.DRAIN, Ending.SETTLED):
            return None
        if self._ending is Ending.TIMEOUT:
            return Outcome(Move.FAIL, failure(Reason.ATTEMPT_TIMEOUT), retriable=True)
        if self._ending is Ending.GRACE or self.live.record.cancel_requested is not None:
            return self._cancelled()
        # Nobody asked: the handler raised CancelledError by itself.
        return self._raised(RuntimeError("the handler raised CancelledError though nobody asked to cancel"))

    def _cancelled(self) -> Outcome:
        return Outcome(Move.CANCEL, failure(Reason.CANCELLED, self.live.record.cancel_reason))

    def _settle(self, outcome: Outcome) -> None:
        """Hand the outcome to the writer. Nobody waits for it here: the operation's end is published by its commit."""
        if self._operation is not None and self._operation.hand_over.complete:
            return
        change: Mutation[OperationRecord] = Settle(self._record.uid, self.number, outcome.move, outcome.payload)
        if outcome.retriable and self._type.retry is not None:
            delay = self._executor.retries.delay(self._type, self._record, reason_of(outcome.payload))
            if delay is not None:
                change = TryAgain(self._record.uid, self.number, outcome.payload, delay, outcome.anew)
        self._following = ()
        if self._operation is not None and outcome.move is Move.COMPLETE:
            self._following = self._operation.following
        planned.submit(self._executor.store.writer, change, self._following, self._record.uid, self._settled)

    def _fail(self, error: bytes) -> None:
        failed = Settle(self._record.uid, self.number, Move.FAIL, error)
        self._executor.store.writer.submit(failed, self._settled)

    def _settled(self, result: object) -> None:
        if self._last_resort.taken(result, self._fail):
            return
        if self._following and isinstance(result, Exception) and getattr(result, "reason", None) not in _OVER:
            # What was to begin with it cannot: it has not completed.
            self._settle(self._raised(result))
        elif isinstance(result, ServiceError):
            # The operation ended by another hand, another attempt has begun, or the store has stopped for good.
            log.info(
                "attempt %d of %s came to nothing: %s",
                self.number,
                self._record.name,
                result.message,
                extra=self._fields,
            )
