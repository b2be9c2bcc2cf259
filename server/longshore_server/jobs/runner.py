"""One attempt of a job: run the function once, and turn whatever it does into one outcome.

prepare (payload, journal, timers) -> the function -> outcome -> settle
"""

from __future__ import annotations

import asyncio
import enum
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from longshore_server.clock import SECOND, Timer
from longshore_server.contract.retry import Exhausted
from longshore_server.errors import Reason, ServiceError, failure, reason_of
from longshore_server.handler import codec
from longshore_server.handler.durable import handling
from longshore_server.handler.failures import MAX_PROBLEM, LastResort, describe, problem_of
from longshore_server.handler.journal import Journal, Key
from longshore_server.handler.lending import Acting, Slot, acting
from longshore_server.handler.waits import asked_anew
from longshore_server.job_lifecycle import JobMove, JobState
from longshore_server.jobs.context import Job
from longshore_server.jobs.definition import fits, shown
from longshore_server.jobs.outcomes import JobCancelledError
from longshore_server.store.job_record import Body, JobRecord
from longshore_server.store.mutations.job import LoseJob, SettleJob
from longshore_server.tracer import UNRECORDED

if TYPE_CHECKING:
    from longshore_server.jobs.host import Host
    from longshore_server.jobs.scheduler import Line

log = logging.getLogger(__name__)


class Ending(enum.Enum):
    """Why a function's task was cancelled from outside."""

    GRACE = "grace"  # a request to cancel was not honoured in time
    TIMEOUT = "timeout"  # the attempt took longer than its queue allows
    FENCED = "fenced"  # the job has ended, or another attempt has it
    DRAIN = "drain"  # the server is stopping: the next one runs it again


class Outcome(NamedTuple):
    """How an attempt ended."""

    move: JobMove
    result: Body | None = None
    error: bytes | None = None
    problem: str = ""
    retriable: bool = False
    anew: Key | None = None
    """The refusal that it failed with, for which another one asks anew."""


class Run:
    """The task of an attempt, and the timers around it."""

    def __init__(self, host: Host, line: Line, slot: Slot, record: JobRecord, payload: Body) -> None:
        self.host = host
        self.record = record
        """The job as it was last published."""
        self._definition = line.definition
        self._begun = record
        self._payload = payload
        self._ending: Ending | None = None
        self._timers: list[Timer] = []
        self._heartbeat: Timer | None = None
        self._job: Job[Any] | None = None
        self._in_function = False
        self._server_stops = False
        self._graced = False
        self._span = UNRECORDED
        self._last_resort = LastResort()
        self.acting = Acting(record.uid, slot)
        """With what it has of those that its queue may run at once."""
        self.task = host.loop.create_task(self._run(), name=record.name, context=host.context.copy())

    @property
    def left(self) -> bool:
        """Whether it is left to the next server."""
        return self._ending is Ending.DRAIN

    @property
    def _fields(self) -> dict[str, Any]:
        return {"job": self._begun.name, "queue": self._begun.queue, "attempt": self._begun.attempt}

    def publish(self, record: JobRecord) -> None:
        """The job has changed."""
        self.record = record
        if record.attempt != self._begun.attempt or not record.resident:
            self.end(Ending.FENCED)
            return
        if record.deferred:
            self._stop_timers()
            self.acting.end()
        elif record.state is JobState.CANCELLING and self._job is not None and not self._graced:
            self._graced = True
            self._job.cancelled.set()
            self._at(self._definition.cancel_grace, Ending.GRACE)

    def end(self, ending: Ending) -> None:
        """Interrupt the function. What it returns after that is ignored."""
        if self._ending is None:
            self._ending = ending
            if self._in_function:
                self.task.cancel()

    def server_stops(self) -> None:
        """From here on it goes on at the next server where its function waits for what outlasts this one."""
        self._server_stops = True
        if self._job is not None:
            self._job.server_stops()

    def heard(self) -> None:
        """The function has given a sign of life."""
        if self._definition.heartbeat is not None and self._ending is None:
            self._listen(self.host.clock.now() + self._definition.heartbeat)

    def _listen(self, until: int) -> None:
        """Take the attempt away at `until` unless it is heard of before, or has ended."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        if self.host.runs.get(self._begun.uid) is not self:
            return
        self._heartbeat = self.host.clock.call_at(until, self._lost)

    def _lost(self) -> None:
        begun, definition = self._begun, self._definition
        lose = LoseJob(begun.uid, begun.attempt, definition.on_stale, definition.max_claims)
        self.host.store.writer.submit(lose, self._looked)

    def _looked(self, found: JobRecord | ServiceError) -> None:
        """The store knows when it was heard of last: a little later than it was here."""
        if isinstance(found, ServiceError):
            self.heard()  # no answer, unless the attempt has ended: it is asked again
        elif found.attempt == self._begun.attempt and found.lease is not None:
            self._listen(found.lease)

    def _at(self, delay: int, ending: Ending) -> None:
        clock = self.host.clock
        self._timers.append(clock.call_at(clock.now() + delay, lambda: self._interrupt(ending)))

    def _interrupt(self, ending: Ending) -> None:
        self.end(ending)
        # A function that swallows its cancellation cannot keep the job from ending: the fence shuts it out.
        clock = self.host.clock
        when = clock.now() + max(self._definition.cancel_grace, SECOND)
        self._timers.append(clock.call_at(when, self._settle_without_function))

    def _settle_without_function(self) -> None:
        outcome = self._interrupted()
        if self._in_function and outcome is not None:
            log.error(
                "%s does not stop though it was cancelled: settled without it", self._begun.name, extra=self._fields
            )
            self._settle(outcome)

    def _stop_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        if self._heartbeat is not None:
            self._heartbeat.cancel()

    async def _run(self) -> None:
        begun = self._begun
        self._span = self.host.tracer.attempt(begun.name, begun.queue, begun.attempt, begun.trace)
        outcome: Outcome | None = None
        try:
            outcome = await self._execute()
        except Exception as error:
            log.exception("attempt %d of %s broke", begun.attempt, begun.name, extra=self._fields)
            self._span.note(error)
            outcome = None if self.host.stopping else Outcome(JobMove.FAIL, error=failure(Reason.INTERNAL))
        finally:
            if outcome is not None:
                self._settle(outcome)
            self._stop_timers()
            self.host.finished(self)
            ended = "interrupt" if outcome is None else outcome.move.value
            self._span.end(ended, reason_of(outcome.error or b"") if outcome is not None else "")
            # The task keeps its context: what the function was given would be a cycle, left for the collector.
            handling.set(None)
            self._job = None

    async def _execute(self) -> Outcome | None:
        begun, definition = self._begun, self._definition
        try:
            payload = codec.decode(codec.Encoded(*self._payload), definition.payload)
        except Exception as error:
            log.exception("the payload of %s cannot be read any more", begun.name, extra=self._fields)
            return Outcome(JobMove.BURY, error=failure(Reason.PAYLOAD_UNREADABLE), problem=problem_of(error))
        if not fits(payload, definition.payload):
            problem = f"the payload is {type(payload).__name__}, and the function takes {shown(definition.payload)}"
            return Outcome(JobMove.BURY, error=failure(Reason.PAYLOAD_UNREADABLE), problem=problem)
        entries = await self.host.store.journal(begun.uid) if begun.attempt > 1 else ()
        if self._ending is not None:
            return self._interrupted()
        job = self._job = Job(self, definition, begun, payload, Journal(entries), self.host.services)
        job.interrupt = partial(self.end, Ending.DRAIN)
        if self._server_stops:
            job.server_stops()
        self.publish(self.record)
        if definition.timeout is not None:
            self._at(definition.timeout, Ending.TIMEOUT)
        self.heard()
        handling.set(job)
        acting.set(self.acting)
        self._in_function = True
        try:
            outcome = self._returned(job, await definition.function(payload, job))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            while task.cancelling():
                task.uncancel()
            return self._interrupted()
        except BaseException as error:  # noqa: BLE001 - SystemExit too: user code may end an attempt, not the server
            outcome = self._raised(error)
        finally:
            self._in_function = False
        if job.fatal is not None:
            outcome = self._raised(job.fatal)
        if job.hand_over.complete:
            return None
        return outcome if self._ending is None else self._interrupted()

    def _returned(self, job: Job[Any], value: Any) -> Outcome:
        expected, limit = self._definition.result, self.host.max_payload
        problem = ""
        stored = None
        if not fits(value, expected):
            problem = f"it returned {type(value).__name__} instead of {shown(expected)}"
        else:
            try:
                stored = codec.encode(value)
            except codec.NotStorableError as error:
                problem = f"what it returned cannot be stored: {error}"
        if stored is None:
            if not job.hand_over.complete:
                log.error("%s: %s", self._begun.name, problem, extra=self._fields)
            return Outcome(JobMove.FAIL, error=failure(Reason.WRONG_RESULT_TYPE), problem=problem)
        if len(stored.data) > limit:
            message = f"The result is {len(stored.data)} bytes, more than the {limit} that the server sends."
            return Outcome(JobMove.FAIL, error=failure(Reason.RESULT_TOO_LARGE, message), problem=message)
        changed = job.check_steps(fixed=self._definition.fixed_steps)
        return Outcome(JobMove.COMPLETE, Body(*stored)) if changed is None else self._raised(changed)

    def _raised(self, error: BaseException) -> Outcome:
        if isinstance(error, JobCancelledError):
            return Outcome(JobMove.CANCEL, error=failure(Reason.CANCELLED, str(error)))
        self._span.note(error)
        # Who defines its reasons is known where it reaches callers: the contract of an operation that ends with it.
        found = describe(self._begun.name, error, self.host.max_payload, self._fields, "")
        return Outcome(JobMove.FAIL, None, found.status, problem_of(error), found.retriable, asked_anew(error))

    def _interrupted(self) -> Outcome | None:
        """What a cancelled function means depends on who cancelled it."""
        if self._ending in (Ending.DRAIN, Ending.FENCED):
            return None
        if self._ending is Ending.TIMEOUT:
            return Outcome(JobMove.FAIL, error=failure(Reason.ATTEMPT_TIMEOUT), retriable=True)
        if self.record.cancel_requested is not None:
            return Outcome(JobMove.CANCEL, error=failure(Reason.CANCELLED, self.record.cancel_reason))
        return self._raised(RuntimeError("the function raised CancelledError though nobody asked to cancel"))

    def _settle(self, outcome: Outcome) -> None:
        """Hand the outcome to the writer. Nobody waits for it here: the job's end is published by its commit."""
        begun, policy = self._begun, self._definition.retry
        settle = SettleJob(
            begun.uid, begun.attempt, outcome.move, outcome.result, outcome.error, outcome.problem[:MAX_PROBLEM]
        )
        reason = reason_of(outcome.error or b"")
        if outcome.retriable and policy is not None and reason not in policy.non_retryable:
            now, chance = self.host.clock.now(), self.host.chance()
            found = policy.judge(begun.failures + 1, reason, chance, now, begun.started or now, begun.deadline)
            settle.move = JobMove.REQUEUE if isinstance(found, int) else JobMove.BURY
            if isinstance(found, Exhausted):
                settle.exhausted = found.value
            else:
                settle.delay, settle.anew = found or 0, outcome.anew
        self.host.store.writer.submit(settle, self._settled)

    def _fail(self, error: bytes) -> None:
        failed = SettleJob(self._begun.uid, self._begun.attempt, JobMove.FAIL, error=error)
        self.host.store.writer.submit(failed, self._settled)

    def _settled(self, result: object) -> None:
        if not self._last_resort.taken(result, self._fail) and isinstance(result, ServiceError):
            # The job ended by another hand, another attempt has begun, or the store has stopped for good.
            log.info(
                "attempt %d of %s came to nothing: %s", self._begun.attempt, self._begun.name, result.message,
                extra=self._fields,
            )  # fmt: skip
