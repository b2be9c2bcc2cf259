"""All jobs of one server: what is created, what runs, who waits, and what a restart does with the rest."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from longshore_server.clock import Clock
from longshore_server.errors import Reason, ServiceError
from longshore_server.handler.durable import Durable, wait_on
from longshore_server.handler.lending import Slot
from longshore_server.handler.waits import HandlerWaits
from longshore_server.ids import Uids
from longshore_server.job_lifecycle import ENDED, JobState
from longshore_server.jobs.known import comparable, known
from longshore_server.jobs.queue import JobQueue
from longshore_server.jobs.runner import Ending, Run
from longshore_server.jobs.scheduler import Line, Scheduler
from longshore_server.jobs.suspect import SuspectJob
from longshore_server.jobs.tally import Tally
from longshore_server.store import job_pages
from longshore_server.store import job_rows as rows
from longshore_server.store.database import StoreError
from longshore_server.store.job_record import Body, JobRecord
from longshore_server.store.ledger import Published
from longshore_server.store.mutations import Author, Mutation
from longshore_server.store.mutations.job import ClaimJob, DeclareQueues, PauseQueue, ReleaseJobs
from longshore_server.store.mutations.job_creation import Admission, CreateJobs, NewJob
from longshore_server.store.mutations.with_jobs import Joint, WithJobs
from longshore_server.store.record import JournalEntry
from longshore_server.store.store import Store
from longshore_server.tracer import Tracer

T = TypeVar("T")
_REUSED = Reason.REQUEST_ID_REUSED


class Host:
    """Jobs of a set of queues on one store.

    `closed` tells why nothing new may begin now, if so. `retention`: microseconds that an ended job is kept where its
    queue says nothing; 0: for ever. `chance` draws the jitter of retries.
    """

    def __init__(
        self, queues: Iterable[JobQueue[Any, Any]], store: Store, clock: Clock, *, chance: Callable[[], float],
        tracer: Tracer, max_input: int, max_payload: int, retention: int, closed: Callable[[], ServiceError | None],
        waits: HandlerWaits,
    ) -> None:  # fmt: skip
        self.queues = {queue.name: queue for queue in queues}
        self.store = store
        self.clock = clock
        self.chance = chance
        self.tracer = tracer
        self.max_input = max_input
        self.max_payload = max_payload
        self._retention = retention
        self._comparisons: set[asyncio.Task[None]] = set()
        """Of payloads, on behalf of changes of operations."""
        self._closed = closed
        self.services: Any = None
        self.context = contextvars.Context()
        """What every attempt's own context is copied from: the lifespan's, never that of whoever created the job."""
        self.loop = asyncio.get_running_loop()
        self.scheduler = Scheduler(self, (queue.definition for queue in self.queues.values()))
        self.stopping = False
        self.uids: Uids
        self.runs: dict[bytes, Run] = {}
        """The attempts that run here, by job."""
        self.waits = waits
        self.tally = Tally()
        """How many jobs there are."""
        self._waiters: dict[bytes, dict[asyncio.Future[JobRecord | None], None]] = {}
        self._left: set[bytes] = set()
        """Jobs whose attempt was interrupted because the server stops."""

    # Life.

    async def open(self, uids: Uids) -> None:
        """Check that what lives in the store can go on. Raises `StoreError`."""
        self.uids = uids
        counts: dict[str, int] = {}
        standing = await self.store.read(job_pages.counts)
        self.tally.begin(standing)
        for (queue, state, _), count in standing.items():
            if queue not in self.queues and state not in ENDED:
                counts[queue] = counts.get(queue, 0) + count
        if counts:
            shown = ", ".join(f"{count} in {queue!r}" for queue, count in sorted(counts.items()))
            raise StoreError(
                f"jobs of queues that this server does not have have not ended: {shown}. Declare the queues again "
                "until they have, or cancel them with the version that does"
            )
        declared = [queue.definition.row(self._retention) for queue in self.queues.values()]
        for row in await self.store.writer.submit(DeclareQueues(declared)):
            self.scheduler.lines[row.name].paused = row.paused
        for bound in self.queues.values():
            bound.bind(self)

    async def latest(self) -> int:
        """When the latest of the attempts began that the last server left behind; 0: it left none."""
        return await self.store.read(job_pages.latest)

    async def recover(self, innocent: int = -1) -> None:
        """Let what the last server left behind be made again: its attempts died with it. `innocent`: what began at this
        time or before counts no crash."""
        await self._release(crashed=True, innocent=innocent)

    async def suspects(self, crashes: int) -> list[SuspectJob]:
        """The jobs that were under way in so many crashes in a row, or more."""
        return [SuspectJob(self, record) for record in await self.store.read(partial(job_pages.crashed, crashes))]

    def start(self) -> None:
        """Let attempts begin."""
        if self.queues:
            self.scheduler.start()

    async def isolate(self, suspect: SuspectJob) -> Run | None:
        """Begin one job apart from those that wait. Returns its attempt once that has begun; None: it does not wait, or
        its queue is paused, and it is run apart once that is resumed."""
        if self._closed() is not None:
            return None
        line = self.scheduler.lines[suspect.queue]
        slot = line.slots.take()

        def begun(claimed: tuple[JobRecord, Body] | Exception | None) -> None:
            if isinstance(claimed, tuple):
                self.launch(line, slot, *claimed)
                return
            slot.end()
            if claimed is None and line.paused:
                line.suspects.append(suspect)

        await self.store.writer.submit(ClaimJob(suspect.uid, line.definition.heartbeat), begun)
        return self.runs.get(suspect.uid)

    @property
    def _max_claims(self) -> Mapping[str, int]:
        return {name: queue.definition.max_claims for name, queue in self.queues.items()}

    def drain(self) -> None:
        """Begin nothing more, and let nobody wait for what the next server does."""
        self.scheduler.stop()
        for uid in self._waiters:
            self._look_again(uid)

    async def stop(self, until: int) -> int:
        """Give what runs until `until`, then leave it to the next server. Returns how many those are."""
        self.drain()
        for run in self.runs.values():
            run.server_stops()
        tasks = [run.task for run in self.runs.values()]
        if tasks:
            done = asyncio.ensure_future(asyncio.wait(tasks))
            timer = self.clock.call_at(until, done.cancel)
            await asyncio.wait([done])
            timer.cancel()
        self.stopping = True
        left = list(self.runs.values())
        for run in left:
            run.end(Ending.DRAIN)
        if left:
            # One that swallows its cancellation is left behind: the process is about to end.
            await asyncio.wait([run.task for run in left], timeout=5)
        return len(left)

    async def release(self) -> None:
        """Say of what was interrupted that no crash has done it."""
        await asyncio.gather(self._release(crashed=False), return_exceptions=True)

    async def _release(self, *, crashed: bool, innocent: int = -1) -> None:
        """Let what is under way be made again, some in each transaction: there are more than slots, since who waits has
        lent its own."""
        if self.queues:
            while await self.store.writer.submit(ReleaseJobs(self._max_claims, crashed, innocent)):
                pass

    def abandon(self) -> None:
        """For tests: from here on nothing runs, as if the process had been killed."""
        self.stopping = True
        self.scheduler.stop()
        for run in list(self.runs.values()):
            run.end(Ending.DRAIN)
        self.unbind()

    def unbind(self) -> None:
        """Let the queues be of no server any more. Repeatable."""
        for queue in self.queues.values():
            queue.bind(None)

    # What code asks.

    def create(
        self, news: Sequence[NewJob], by: tuple[Author, JournalEntry] | None, *, keep_rejection: bool = False
    ) -> asyncio.Future[list[Admission]]:
        """Create jobs, all or none. Raises `ServiceError`; what their keys refuse is in the admissions."""
        create = partial(self._create, by=by, keep_rejection=keep_rejection)
        if comparable(news):
            return self.loop.create_task(self._create_known(news, create))
        return create(news)

    async def _create_known(
        self, news: Sequence[NewJob], create: Callable[[Sequence[NewJob]], asyncio.Future[list[Admission]]]
    ) -> list[Admission]:
        try:
            return await create(news)
        except ServiceError as error:
            if error.reason is not _REUSED or (again := await known(self.store, news, self.clock.now())) is None:
                raise
        return await create(again)

    def _create(
        self, news: Sequence[NewJob], by: tuple[Author, JournalEntry] | None, *, keep_rejection: bool
    ) -> asyncio.Future[list[Admission]]:
        jobs, slots, refusal = self._reserve(news)
        if by is None:
            # A handler's job is its operation's work, not new work.
            refusal = self._closed() or refusal
        creation = CreateJobs(jobs, by, keep_rejection, refusal)
        return self.store.writer.submit(creation, partial(self._created, jobs, slots))

    def create_with(
        self, change: Mutation[T], news: Sequence[NewJob], operation: bytes,
        settled: Callable[[Joint[T] | Exception], object],
    ) -> None:  # fmt: skip
        """Make a change of an operation and create jobs with it, both or neither. `settled` gets what came of it."""
        jobs, slots, refusal = self._reserve(news)

        def done(joint: Joint[T] | Exception) -> None:
            self._created(jobs, slots, joint if isinstance(joint, Exception) else joint.jobs)
            if isinstance(joint, ServiceError) and joint.reason is _REUSED and comparable(news):
                comparison = self.loop.create_task(again(joint))
                self._comparisons.add(comparison)
                comparison.add_done_callback(self._comparisons.discard)
            else:
                settled(joint)

        async def again(refusal: ServiceError) -> None:
            try:
                stored = await known(self.store, news, self.clock.now())
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing was changed
                settled(error)
                return
            if stored is None:
                settled(refusal)
            else:
                self.create_with(change, stored, operation, settled)

        self.store.writer.submit(WithJobs(change, CreateJobs(jobs, refusal=refusal), operation), done)

    def _reserve(self, news: Sequence[NewJob]) -> tuple[list[NewJob], list[Slot | None], ServiceError | None]:
        """Each with a slot of its queue, where it may begin now and there is one; and why there may not be so many."""
        jobs, slots, refusal = [], [], None
        for new in news:
            line = self.scheduler.lines[new.record.queue]
            line.pending += 1
            if self.tally.live(new.record.queue) + line.pending > line.definition.max_live:
                refusal = _too_many(line)
            slot = self.scheduler.reserve(line) if new.record.due is None else None
            jobs.append(new._replace(begin=slot is not None))
            slots.append(slot)
        return jobs, slots, refusal

    def _created(
        self, jobs: Sequence[NewJob], slots: Sequence[Slot | None], outcome: list[Admission] | Exception
    ) -> None:
        # Not where the future is awaited: who goes away cancels that, and the slot would be lost.
        admissions: list[Admission | None] = [None] * len(jobs)
        if not isinstance(outcome, Exception) and len(outcome) == len(jobs):
            admissions = list(outcome)
        for new, slot, admission in zip(jobs, slots, admissions, strict=True):
            line = self.scheduler.lines[new.record.queue]
            line.pending -= 1
            record = None if admission is None or not admission.created else admission.job
            begun = slot is not None and record is not None and record.state is JobState.ACTIVE
            if begun and slot is not None and record is not None:
                self.launch(line, slot, record, new.payload)
            if new.record.due is None:
                self.scheduler.created(line, slot, begun)

    async def find(self, uid: bytes, queue: str = "") -> JobRecord:
        """The job with this uid, of a queue or of any. Raises `ServiceError` (JOB_NOT_FOUND)."""
        run = self.runs.get(uid)
        found = await self.store.read(lambda connection: rows.load(connection, uid)) if run is None else run.record
        if found is None or queue not in ("", found.queue):
            raise rows.job_not_found(uid)
        return found

    async def wait(self, uid: bytes, queue: str, until: int | None, inside: Durable | None = None) -> JobRecord:
        """The job once it has ended, or at `until` if that comes first. `inside`: the handler that waits.

        Raises `ServiceError` (JOB_NOT_FOUND); when the server drains, see `wait_on`.
        """
        while True:
            future: asyncio.Future[JobRecord | None] = self.loop.create_future()
            # Before it is looked at, so that no end comes between the two.
            waiters = self._waiters.setdefault(uid, {})
            waiters[future] = None
            timer = None if until is None else self.clock.call_at(until, partial(_tell, future, None))
            try:
                record = await self.find(uid, queue)
                if record.terminal or (until is not None and self.clock.now() >= until):
                    return record
                if (closed := self._closed()) is not None and not self.scheduler.open:
                    runs = record.resident and not record.deferred and uid not in self._left
                    wait_on(inside, closed, goes_on=runs)
                ended = await future
                if ended is not None:
                    return ended
            finally:
                if timer is not None:
                    timer.cancel()
                waiters.pop(future, None)
                if not waiters and self._waiters.get(uid) is waiters:
                    del self._waiters[uid]

    async def pause(self, queue: str, paused: bool) -> None:
        """Let no attempt of a queue begin, or let them again; durable, over restarts too."""
        # Not where the future is awaited: who goes away cancels that, and the line would differ from the store.
        settled = partial(self.scheduler.paused, self.scheduler.lines[queue])
        await self.store.writer.submit(PauseQueue(queue, paused), settled)

    # What commits bring.

    def publish(self, changes: Mapping[bytes, Published]) -> None:
        """A commit has changed jobs."""
        for uid, (record, moves) in changes.items():
            for move in moves:
                self.tally.move(*move)
            waiters = self._waiters.get(uid)
            if waiters is not None and (record is None or record.terminal):
                for future in list(waiters):
                    _tell(future, record)
            elif not self.scheduler.open:
                self._look_again(uid)
            if record is not None:
                run = self.runs.get(uid)
                if run is not None:
                    run.publish(record)
                self.scheduler.publish(record)

    def launch(self, line: Line, slot: Slot, record: JobRecord, payload: Body) -> None:
        """Run an attempt that has begun in the store, in a slot that is taken."""
        if not self.stopping:
            self.runs[record.uid] = Run(self, line, slot, record, payload)

    def finished(self, run: Run) -> None:
        """An attempt is over."""
        uid = run.record.uid
        if self.runs.get(uid) is run:
            del self.runs[uid]
        run.acting.end()
        if run.left:
            self._left.add(uid)
            self._look_again(uid)

    def _look_again(self, uid: bytes) -> None:
        """Let who waits for a job see where it stands."""
        for future in self._waiters.get(uid, ()):
            _tell(future, None)


def _too_many(line: Line) -> ServiceError:
    name, limit = line.definition.name, line.definition.max_live
    problem = (
        f"{limit} jobs of the queue {name!r} may be live, and there would be more: try again when some have ended."
    )
    metadata = {"queue": name, "limit": str(limit)}
    return ServiceError(Reason.TOO_MANY_JOBS, problem, retry_after=5.0, metadata=metadata)


def _tell(waiter: asyncio.Future[JobRecord | None], ended: JobRecord | None) -> None:
    """What was waited for; None: look again."""
    if not waiter.done():
        waiter.set_result(ended)
