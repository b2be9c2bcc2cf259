"""What all definitions share: their options, how one of their runs becomes one change of the store, and their verbs."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from longshore_server.auth.identity import LOCAL, capabilities_problem
from longshore_server.clock import SECOND
from longshore_server.contract.durations import span
from longshore_server.contract.retry import Exhausted
from longshore_server.contract.template import MAX_VALUE
from longshore_server.contract.validation import check_flag, check_reason
from longshore_server.errors import Reason, ServiceError, failure, invalid, reason_of, shorten
from longshore_server.handler.failures import Failure, describe, problem_of
from longshore_server.handler.log import LogLevel, level_of
from longshore_server.handler.steps import StepRetry
from longshore_server.instance_lifecycle import Kind, Status
from longshore_server.instances.answers import Answer
from longshore_server.instances.in_time import RunTimeoutError, in_time
from longshore_server.instances.run import Run, StateT, Surroundings, Terminating, fields
from longshore_server.instances.values import Shape, TooLargeError, UnreadableError
from longshore_server.instances.waiters import Waiter
from longshore_server.store.instances import InstanceRecord, Value
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.mutations.instance import Address, End, Newcomer, Taken, Verb
from longshore_server.store.mutations.instance_admin import Pause, Resume, Resumed, Revive, Terminate
from longshore_server.store.mutations.instance_run import FailRun, FinishRun, Work

log = logging.getLogger(__name__)

T = TypeVar("T")
Chance = Callable[[], float]
TIMEOUT = timedelta(hours=1)
"""The longest that one attempt may take where a definition says nothing."""
_NAME = re.compile(r"[A-Za-z0-9._~-]+")


class Host(Protocol):
    """What definitions need of the server that runs them."""

    max_payload: int

    def now(self) -> int: ...
    def newcomer(self, owner: str) -> Newcomer: ...
    async def submit(self, mutation: Mutation[T]) -> T: ...
    async def take(self, verb: Verb, *, wait: bool) -> tuple[Taken | None, Answer | None]: ...
    async def waiter(self, address: Address, *, wait: bool) -> Waiter: ...
    def hand(self, verb: Verb, waiter: Waiter) -> Waiter: ...
    async def find(self, address: Address) -> tuple[InstanceRecord, Value | None] | None: ...
    async def page(
        self, kind: Kind, definition: str, status: Status | None, after: bytes, limit: int
    ) -> Sequence[InstanceRecord]: ...


class Terminated(NamedTuple):
    """What `terminate` answers."""

    terminated: bool
    """Whether this has ended it."""
    status: Status
    """TERMINATED, also where it had ended before; NOT_FOUND: there is no such instance."""
    reason: str
    """Why it has ended."""


class Changed(NamedTuple):
    """What `pause` and `resume` answer."""

    changed: bool
    """Whether this has changed its status, or let dead letters wait again."""
    status: Status
    """Of now; NOT_FOUND: there is no such instance."""


class Definition(abc.ABC, Generic[StateT]):
    """One named recurring, debounce or task. See the methods of `Server` that make them for the options."""

    kind: Kind
    buries = False
    """Whether work that is given up is kept aside, so that what follows can go on."""

    def __init__(
        self, name: str, state: Any, *, retry: StepRetry | None, log_level: LogLevel, call: str | None,
        max_crashes: int, timeout: str | float | timedelta, retention: str | float | timedelta | None,
    ) -> None:  # fmt: skip
        check_segment("name", name, "a definition")
        if retry is not None and not isinstance(retry, StepRetry):
            raise TypeError(f"retry: {retry!r} is no StepRetry: write retry=StepRetry(max_attempts=3)")
        if type(max_crashes) is not int or max_crashes < 1:
            raise ValueError(f"max_crashes: {max_crashes!r} is no whole number from 1 on")
        if call is not None and not isinstance(call, str):
            raise TypeError(f"call: {call!r} is no text such as 'orders.write'")
        if call is not None and (problem := capabilities_problem([call]) or _reserved(call)) is not None:
            raise ValueError(f"call: {problem}")
        self.name = name
        self.state_shape = Shape(state, "state")
        self.retry = None if retry is None else retry.policy
        self.level = level_of(log_level)
        self.call = call
        """The capability that callers need; None: only the provider and the admin may."""
        self.max_crashes = max_crashes
        self.timeout = check_span("timeout", timeout)
        self.retention = None if retention is None else check_span("retention", retention, zero=True)
        """Microseconds that a quiet instance, or a dead letter, is kept; 0: for ever; None: as the server says."""
        self._host: Host | None = None

    def attach(self, host: Host | None) -> None:
        """For the server: what runs it now."""
        self._host = host

    # Runs.

    @abc.abstractmethod
    async def act(self, run: Run) -> None:
        """Call the handlers of one run."""

    @property
    @abc.abstractmethod
    def rescues(self) -> bool:
        """Whether it has an `on_error`."""

    @abc.abstractmethod
    async def rescue(self, error: BaseException, run: Run) -> None:
        """Call `on_error`."""

    @abc.abstractmethod
    def finish(self, run: Run) -> FinishRun:
        """What a run comes to that has succeeded. Raises `TypeError` or `ValueError` where that cannot be stored."""

    async def handle(self, work: Work, around: Surroundings, chance: Chance) -> FinishRun | FailRun:
        """One run: the change of the store that it comes to."""
        record = work.record
        try:
            run = Run(work, self.state_shape, self.level, around)
        except UnreadableError as error:
            return _unreadable_run(record, error)
        try:
            return await self._finished(run, lambda: self.act(run))
        except UnreadableError as error:
            return _unreadable_run(record, error)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _cancelled():
                raise
            _interrupt(error)
            found = self._describe(error, run, around)
            retry_at, exhausted = self._retry_at(record, found, chance, around)
            failed = FailRun(record.uid, record.fence, found.status, retry_at, problem_of(error), exhausted)
            return (
                failed if retry_at is not None or not self.rescues else await self._rescued(error, failed, run, around)
            )

    async def _finished(self, run: Run, handler: Callable[[], Awaitable[None]]) -> FinishRun:
        with contextlib.suppress(Terminating):
            await in_time(handler, self.timeout, run.around.clock, run.record.name, fields(run.record))
        return self.finish(run)

    async def _rescued(
        self, error: BaseException, failed: FailRun, run: Run, around: Surroundings
    ) -> FinishRun | FailRun:
        run = run.anew()
        try:
            finished = await self._finished(run, lambda: self.rescue(error, run))
        except BaseException as further:
            if isinstance(further, asyncio.CancelledError) and _cancelled():
                raise
            _interrupt(further)
            self._describe(further, run, around)
            return failed
        finished.error, finished.bury = failed.error, self.buries
        finished.problem, finished.exhausted = failed.problem, failed.exhausted
        return finished

    def _describe(self, error: BaseException, run: Run, around: Surroundings) -> Failure:
        record = run.record
        if isinstance(error, TooLargeError):
            log.error("%s: %s", record.name, error, extra=dict(fields(record)))
            return Failure(failure(Reason.STATE_TOO_LARGE, str(error)))
        if isinstance(error, RunTimeoutError):
            log.error("%s: its handler took too long", record.name, extra=dict(fields(record)))
            message = f"The handler took longer than {self.timeout / SECOND:g} s, the definition's timeout."
            return Failure(failure(Reason.ATTEMPT_TIMEOUT, message), retriable=True)
        return describe(record.name, error, around.max_payload, fields(record), record.definition)

    def _retry_at(
        self, record: InstanceRecord, found: Failure, chance: Chance, around: Surroundings
    ) -> tuple[int | None, str]:
        """When it runs again; or, where it does not though it was to, which bound of the policy says so."""
        if self.retry is None or not found.retriable:
            return None, ""
        now = around.now()
        reason = reason_of(found.status)
        judged = self.retry.judge(record.failures + 1, reason, chance(), now, record.begun or now, None)
        if isinstance(judged, Exhausted):
            return None, judged.value
        return (None if judged is None else now + judged), ""

    def resumed_timers(self, timers: Mapping[str, int], now: int) -> Mapping[str, int]:  # noqa: ARG002 - of recurrings
        """The timers from a resume on, of those that there were."""
        return timers

    # Verbs that all kinds have.

    async def pause(self, id: str) -> Changed:
        """Begin no handler of an instance until it is resumed; one that is under way comes to its end.

        What is sent meanwhile is kept. An instance that has failed, or is terminated, stays that.
        """
        record, paused = await self.host.submit(Pause(self.address(id)))
        return Changed(paused, Status.NOT_FOUND if record is None else record.status)

    async def resume(self, id: str) -> Changed:
        """Let an instance go on that is paused or has failed: what had failed is done again at once, from attempt 1.

        Dead letters wait again, too, also those of an instance that has not failed: very many in several transactions,
        between which other changes have their turn. Where the server ends before the last of these, or nobody waits for
        it any more, the rest are dead letters still.
        """
        found: Resumed | None = await self.host.submit(Resume(self.address(id), self.resumed_timers))
        if found is None:
            return Changed(False, Status.NOT_FOUND)
        status, after = found.record.status, found.revived
        while after:
            after = await self.host.submit(Revive(found.record.uid, after, found.record.accepted))
        return Changed(status is not found.before or found.revived > 0, status)

    async def terminate(self, id: str, reason: str = "", *, purge: bool = False) -> Terminated:
        """End an instance: its handler, its timers and what waits. Repeatable.

        Args:
            reason: why, for those who ask later.
            purge: leave nothing of it; else its tombstone answers, with its last state.
        """
        end = End(check_reason(reason), check_flag("purge", purge))
        record, ended = await self.host.submit(Terminate(self.address(id), end))
        if record is None:
            return Terminated(False, Status.NOT_FOUND, "")
        return Terminated(ended, Status.TERMINATED, record.reason)

    async def get_state(self, id: str) -> StateT | None:
        """The state of an instance; None: it has none, or there is no such instance.

        Raises `ServiceError` (STATE_UNREADABLE) when the definition cannot read it.
        """
        found = await self.host.find(self.address(id))
        return None if found is None else self.read_state(found[0], found[1])

    def read_state(self, record: InstanceRecord, stored: Value | None) -> StateT | None:
        """A stored state as a value."""
        if stored is None:
            return None
        try:
            state: StateT = self.state_shape.load(stored)
        except UnreadableError as error:
            raise unreadable(record, error) from None
        return state

    @property
    def host(self) -> Host:
        """What runs it. Raises `RuntimeError` while nothing does."""
        if self._host is None:
            raise RuntimeError(f"{self.kind.name.lower()} {self.name!r} works while its server runs")
        return self._host

    def address(self, id: str) -> Address:
        """One instance. Raises `ServiceError` (INVALID_ARGUMENT)."""
        return Address(self.kind, self.name, check_id(id))

    def newcomer(self, owner: str | None) -> Newcomer:
        """What an instance needs that begins now. `owner`: the principal; None: the service's own code."""
        return self.host.newcomer(LOCAL.name if owner is None else owner)


class InterruptedRunError(BaseException):
    """A run that stops with its server: the next one runs it again, and it has not failed."""


def _interrupt(error: BaseException) -> None:
    """Raises `InterruptedRunError` where a handler asked for what a server that stops refuses to all."""
    if isinstance(error, ServiceError) and error.reason is Reason.SERVER_DRAINING:
        raise InterruptedRunError from error


def _unreadable_run(record: InstanceRecord, error: UnreadableError) -> FailRun:
    log.error("%s: %s", record.name, error, extra=dict(fields(record)))
    status = failure(Reason.STATE_UNREADABLE, shorten(str(error), 1024))
    return FailRun(record.uid, record.fence, status, None, problem_of(error))


def unreadable(record: InstanceRecord, error: UnreadableError) -> ServiceError:
    """The refusal of a caller who wants what the definition cannot read."""
    return ServiceError(Reason.STATE_UNREADABLE, f"{record.name}: {error}.", resource=record.name)


def check_span(option: str, value: str | float | timedelta, *, zero: bool = False) -> int:
    """Microseconds of an option. Raises `ValueError` or `TypeError` with a sentence that names it."""
    try:
        return span(value, zero=zero)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{option}: {error}") from None


def check_segment(field: str, value: str, what: str) -> str:
    """A part of an instance's name. Raises `ValueError` with one sentence, `TypeError` for no text."""
    if not isinstance(value, str):
        raise TypeError(f"{field}: {value!r} is no text")
    if not _NAME.fullmatch(value) or len(value) > MAX_VALUE:
        raise ValueError(
            f"{field}: {value[:200]!r} cannot name {what}: write 1 to {MAX_VALUE} letters, digits, '.', '_', '~' or '-'"
        )
    return value


def check_id(id: str) -> str:
    """The id of an instance. Raises `ServiceError` (INVALID_ARGUMENT)."""
    try:
        return check_segment("id", id, "an instance")
    except ValueError as error:
        raise invalid("id", str(error).removeprefix("id: ")) from None


def check_key(field: str, key: str) -> str:
    """The idempotency key of an event, or of a request. Raises `ServiceError` (INVALID_ARGUMENT) or `TypeError`."""
    if not isinstance(key, str):
        raise TypeError(f"{field} must be a text, not {key!r}")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise invalid(field, "holds what no text can: half of a character") from None
    if size > MAX_VALUE:
        raise invalid(field, f"must not be longer than {MAX_VALUE} bytes")
    return key


def _reserved(capability: str) -> str | None:
    """Why a definition cannot ask for it; None: it can."""
    if capability.startswith("longshore."):
        return f"{capability!r} is built in, and no definition can ask for it: leave call= out, or name one of your own"
    return None


def _cancelled() -> bool:
    """Whether somebody has asked the task that runs here to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
