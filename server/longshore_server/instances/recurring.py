"""`@server.recurring`: a handler that runs by a schedule, with a state of its own for every instance."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from longshore_server.contract.validation import check_flag
from longshore_server.handler.log import LogLevel
from longshore_server.handler.steps import StepRetry
from longshore_server.instance_lifecycle import Kind, Status
from longshore_server.instances import schedule
from longshore_server.instances.answers import Failed, failed, optional_moment, standing
from longshore_server.instances.definition import TIMEOUT, Definition, check_key
from longshore_server.instances.run import Run, Stateful, StateT, moment
from longshore_server.instances.schedule import Rate
from longshore_server.store.instances import NO_TIMERS, EntryType, InstanceRecord
from longshore_server.store.mutations.instance_accept import StartRecurring, Trigger
from longshore_server.store.mutations.instance_run import FinishRun

Overlap = Literal["skip", "queue"]
Misfire = Literal["once", "skip", "all"]


class RecurringContext(Stateful[StateT]):
    """What a recurring handler may know and do."""

    @property
    def run_count(self) -> int:
        """The number of this run, from 1; its retries have the same."""
        return self._run.record.runs + 1

    @property
    def planned_at(self) -> datetime:
        """When this run was due: by the schedule, or by who started or triggered it."""
        return moment(self._run.record.planned or 0)


Handler = Callable[[RecurringContext[StateT]], Awaitable[None]]
OnError = Callable[[BaseException, RecurringContext[StateT]], Awaitable[None]]


class Started(NamedTuple):
    """What `start` answers."""

    created: bool
    """Whether this has begun it; else it was there, and the input is ignored."""
    instance: str
    """Its full name, `recurrings/{definition}/instances/{id}`."""
    status: Status
    """TERMINATED: its handler has ended it at once."""
    retry_at: datetime | None = None
    """When the first run is made again, because it has failed."""


class Triggered(NamedTuple):
    """What `trigger` answers."""

    triggered: bool
    """Whether this has made it run; else its status says why not."""
    status: Status
    """NOT_FOUND: there is no such instance. TERMINATED: of old, or by this very run."""
    retry_at: datetime | None = None
    """When the run is made again, because it has failed."""


class RecurringStatus(NamedTuple):
    """What `status` answers."""

    status: Status
    """NOT_FOUND: there is no such instance."""
    run_count: int = 0
    """How many runs have come to their end."""
    next_run_at: datetime | None = None
    """None: it does not wait for the schedule, because it runs, is paused, has failed or is terminated."""
    attempt: int = 0
    """Of the run that is under way, or is to be made again; 0: none is."""
    retry_at: datetime | None = None
    """When that is made again."""
    created_at: datetime | None = None
    stop_reason: str = ""
    """Why it was terminated."""
    version: int = 0
    generation: int = 0
    last_error: Failed | None = None
    """What failed last, until a run succeeds."""


class Recurring(Definition[StateT]):
    """One recurring definition, and the verbs for its instances. Made by `@server.recurring`."""

    kind = Kind.RECURRING

    def __init__(
        self, name: str, handler: Handler[StateT], *, every: str | float | timedelta | None = None,
        cron: str | None = None, zone: str | None = None, state: Any = None, rate: Rate = "fixed_delay",
        start_immediately: bool = True, overlap: Overlap = "skip", misfire: Misfire = "once",
        retry: StepRetry | None = None, on_error: OnError[StateT] | None = None, log_level: LogLevel = "error",
        call: str | None = None, max_crashes: int = 5,
        timeout: str | float | timedelta = TIMEOUT, retention: str | float | timedelta | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            name, state, retry=retry, log_level=log_level, call=call, max_crashes=max_crashes, timeout=timeout,
            retention=retention,
        )  # fmt: skip
        self.handler = handler
        self.schedule = schedule.read(every, cron, zone, rate)
        if overlap not in ("skip", "queue"):
            raise ValueError(f"overlap: {overlap!r} is neither 'skip' nor 'queue'")
        if misfire not in ("once", "skip", "all"):
            raise ValueError(f"misfire: {misfire!r} is none of 'once', 'skip' and 'all'")
        self.start_immediately = check_flag("start_immediately", start_immediately)
        self.overlap = overlap
        self.misfire = misfire
        self.on_error = on_error

    async def __call__(self, ctx: RecurringContext[StateT]) -> None:
        """The handler itself, for tests of it alone."""
        await self.handler(ctx)

    # Runs.

    async def act(self, run: Run) -> None:
        if self._missed(run):
            return
        await self.handler(RecurringContext(run))

    @property
    def rescues(self) -> bool:
        return self.on_error is not None

    async def rescue(self, error: BaseException, run: Run) -> None:
        assert self.on_error is not None
        await self.on_error(error, RecurringContext(run))

    def finish(self, run: Run) -> FinishRun:
        return FinishRun(
            run.record.uid, run.record.fence, run.changed_state(), self._timers(run), run.end,
            counts=not self._missed(run),
        )  # fmt: skip

    def _missed(self, run: Run) -> bool:
        """Whether this run was due while no server was there for it, and is left out for that."""
        planned = run.record.planned
        return (
            self.misfire == "skip" and run.record.work_timer is not None and run.record.attempt == 1
            and planned is not None and planned < run.around.since
        )  # fmt: skip

    def _timers(self, run: Run) -> Mapping[str, int]:
        """When the next run is due, after one that has come to its end."""
        now, planned = run.around.now(), run.record.planned or run.started
        triggered = run.entry is not None and run.entry.type is EntryType.TRIGGER
        kept = triggered and run.timers and not self.schedule.moves
        following = run.timers[""] if kept else self.schedule.next(planned, now)
        # The run may have been interrupted: what passed meanwhile has not come while it was under way.
        attended = max(run.record.begun or run.started, run.around.since)
        return {"": self._made_up(following, now, attended)}

    def _made_up(self, due: int, now: int, attended: int) -> int:
        """What becomes of a time of the schedule, and of those after it, that may have passed by the end of a run.

        `attended`: since when the run, and a server for it, have been there.
        """
        if due > now:
            return due
        if due <= attended:
            return due if self.misfire == "all" else self.schedule.beyond(due, now)
        return self.schedule.beyond(due, now) if self.overlap == "skip" else self.schedule.latest(due, now)

    def resumed_timers(self, timers: Mapping[str, int], now: int) -> Mapping[str, int]:
        due = timers.get("")
        if due is None or due > now or self.misfire != "skip":
            return timers
        return {"": self.schedule.beyond(due, now)}

    # Verbs.

    async def start(self, id: str, input: StateT, *, no_wait: bool = False, owner: str | None = None) -> Started:
        """Begin an instance with a first state, unless it is there. Durable when it answers.

        Args:
            id: of the instance: 1 to 128 letters, digits, '.', '_', '~' and '-'.
            input: the first state.
            no_wait: answer at once; else, where the definition runs at once, after the first run.
            owner: the principal on whose behalf; None: the service's own code.

        Raises `ServiceError` for an id that cannot be, and while the server starts or stops; `TypeError` and
        `ValueError` for an input that is not of the definition's type, or too large.
        """
        host = self.host
        state = self.state_shape.store(input, host.max_payload)
        timers = NO_TIMERS if self.start_immediately else {"": self.schedule.beyond(host.now(), host.now())}
        start = StartRecurring(self.address(id), self.newcomer(owner), state, timers, self.start_immediately)
        taken, answer = await host.take(start, wait=not check_flag("no_wait", no_wait))
        assert taken is not None
        return Started(taken.created, taken.record.name, *standing(taken.record, answer))

    async def trigger(self, id: str, *, request_id: str = "", no_wait: bool = False) -> Triggered:
        """Run an instance now, whatever its schedule says. Durable when it answers, which is after that run.

        A run that waits for its retry gives way. `no_wait`: answer at once. `request_id`: the same id is the same
        request, and is done once, as long as it is among the latest 1000.
        """
        trigger = Trigger(self.address(id), check_key("request_id", request_id))
        taken, answer = await self.host.take(trigger, wait=not check_flag("no_wait", no_wait))
        if taken is None:
            return Triggered(False, Status.NOT_FOUND)
        return Triggered(taken.entry is not None or taken.duplicate, *standing(taken.record, answer))

    async def status(self, id: str) -> RecurringStatus:
        """How an instance stands."""
        found = await self.host.find(self.address(id))
        return RecurringStatus(Status.NOT_FOUND) if found is None else self.describe(found[0])

    def describe(self, record: InstanceRecord) -> RecurringStatus:
        """How an instance stands."""
        next_run = record.timers.get("") if record.status is Status.ACTIVE else None
        return RecurringStatus(
            record.status, record.runs, optional_moment(next_run), record.attempt, optional_moment(record.retry_at),
            moment(record.created), record.reason, record.version, record.generation, failed(record),
        )  # fmt: skip
