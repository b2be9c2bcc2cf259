"""A queue with keys against a simple model of it: hypothesis mixes callers, outcomes, time, admins and crashes.

After every step the store says of every job what the model says, and exactly the attempts of the model run. A crash
comes between two steps, or right after any commit of one, before anybody has heard of it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from longshore_server import (
    Accepted,
    Coalesced,
    Job,
    JobNotEnqueuedError,
    JobQueue,
    JobRequest,
    JobRetry,
    OperationError,
    Rate,
    Reason,
    Rejected,
    Replaced,
    Server,
    ServiceError,
)
from longshore_server.clock import SECOND
from longshore_server.engine import recovery
from longshore_server.handler import codec
from longshore_server.ids import uid_text
from longshore_server.job_lifecycle import JobState, Stand
from longshore_server.store.mutations.job import RetryJob
from longshore_server.testing import Harness
from tests.conftest import LabHandlers
from tests.server.jobs.model import (
    ATTEMPTS,
    BACKOFF,
    CLAIMS,
    DEADLINE,
    GRACE,
    HEARTBEAT,
    KEPT,
    PACE,
    TIMEOUT,
    ModelJob,
    ModelQueue,
    Policy,
)

KEYS = ("a", "b")
COMMITS = st.sampled_from([0, 0, 0, 1, 2])
"""After how many commits the server dies; 0: it does not. Who dies all the time comes to nothing else."""
Change = Callable[[ModelQueue], object]


@dataclass
class Load:
    key: str
    number: int


class World:
    """The real queue. Its function does in each attempt what it is told."""

    def __init__(self, directory: Path, policy: Policy) -> None:
        server = Server(LabHandlers())
        self.directory = directory
        self.harness = Harness(server, directory)
        self.attempts: dict[int, tuple[Job[Any], asyncio.Queue[str]]] = {}
        """The attempts that run, by the number of their job."""
        self.children: dict[int, tuple[Job[Any], asyncio.Queue[str]]] = {}
        """Those of the jobs to which others are attached, by the number of these."""
        self.left: list[Job[Any]] = []
        """Those that ran once, at this server."""
        self.completed: list[int] = []

        @server.job(
            "load", key="{key}", max_active=policy.max_active, max_queued=policy.max_queued,
            when_full=cast("Any", policy.when_full), on_stale=cast("Any", policy.on_stale),
            concurrency=policy.concurrency, max_claims=CLAIMS, heartbeat=HEARTBEAT / SECOND,
            cancel_grace=GRACE / SECOND, retry=JobRetry(max_attempts=ATTEMPTS, initial_delay=BACKOFF / SECOND),
            rate=Rate(1, PACE / SECOND) if policy.rated else None,
            timeout=TIMEOUT / SECOND if policy.timed else None,
            deadline=DEADLINE / SECOND if policy.limited else None,
            idempotency_ttl=KEPT / SECOND if policy.forgetful else None,
        )  # fmt: skip
        async def load(payload: Load, job: Job[int]) -> int:
            assert payload.number not in self.attempts, "two attempts of one job"
            how = await self.work(payload, job, self.attempts)
            if how == "attach":
                # What it says after that is not heard either.
                self.left.remove(job)
                return await job.attach(await child.create(payload))
            if how == "fail":
                raise RuntimeError("no")
            if how == "fatal":
                raise OperationError("NEVER", final=True)
            self.completed.append(payload.number)
            return payload.number

        @server.job("child", concurrency=100, max_claims=CLAIMS, cancel_grace=GRACE / SECOND)
        async def child(payload: Load, job: Job[int]) -> int:
            if await self.work(payload, job, self.children) == "fatal":
                raise OperationError("NEVER", final=True)
            return payload.number

        self.queue: JobQueue[Load, int] = load

    async def work(self, payload: Load, job: Job[int], attempts: dict[int, tuple[Job[Any], asyncio.Queue[str]]]) -> str:
        """Be one of the attempts until it is told how to end."""
        told = asyncio.Queue[str]()
        attempts[payload.number] = job, told
        try:
            return await told.get()
        finally:
            del attempts[payload.number]
            self.left.append(job)

    @property
    def now(self) -> int:
        return int(self.harness.clock.now())

    def rows(self) -> dict[int, tuple[Any, ...]]:
        """What the store says of each job, and its uid after that."""
        path = self.directory / "longshore.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            found = connection.execute(
                """SELECT codec, body, queue, state, stand, attempt, failures, claims, due, deadline, lease, jobs.uid
                   FROM jobs JOIN job_bodies USING (uid) WHERE part = 1 ORDER BY queue"""
            ).fetchall()
        rows: dict[int, tuple[Any, ...]] = {}
        children: dict[int, tuple[Any, ...]] = {}
        for kind, body, queue, state, stand, attempt, failures, claims, *rest, uid in found:
            number = codec.decode(codec.Encoded(kind, body)).number
            if queue == "child":
                assert number not in children, "a job is there twice"
                children[number] = (JobState(state), attempt, claims)
            else:
                assert number not in rows, "a job is there twice"
                rows[number] = (
                    JobState(state), Stand(stand), attempt, failures, claims, *rest, children.get(number), uid,
                )  # fmt: skip
        assert children.keys() <= rows.keys()
        return rows

    async def do(self, call: Coroutine[Any, Any, Any], commits: int) -> tuple[Any, bool]:
        """What came of a call, as a result or an exception, and whether the server crashed in it.

        `commits`: right after so many; 0: not at all.
        """
        crash = self.harness.crash_after(commits=commits) if commits else None
        task = asyncio.ensure_future(call)
        await self.harness.settle()
        if crash is not None:
            crash.cancel()
            if crash.happened:
                self.left.clear()
                task.cancel()
        outcome: Any = (await asyncio.gather(task, return_exceptions=True))[0]
        return outcome, crash is not None and crash.happened


class QueueMachine(RuleBasedStateMachine):
    """One queue, its callers and its admins."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()

    def wait(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(call)

    @initialize(
        concurrency=st.integers(1, 3), max_active=st.integers(1, 2), max_queued=st.integers(0, 2),
        when_full=st.sampled_from(["reject", "coalesce", "replace_oldest"]),
        on_stale=st.sampled_from(["retry", "fail", "block"]), rated=st.booleans(), timed=st.booleans(),
        limited=st.booleans(), forgetful=st.booleans(),
    )  # fmt: skip
    def begin(self, **policy: Any) -> None:
        self.model = ModelQueue(Policy(**policy))
        self.world = World(Path(self.folder.name), self.model.policy)
        self.number = 0
        self.wait(self.world.harness.restart())

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.wait(self._to_the_end())
            finally:
                self.wait(self.world.harness.stop())
        self.loop.close()
        self.folder.cleanup()

    async def _to_the_end(self) -> None:
        """Whatever is left can be brought to its end: nothing is stuck, and nothing was done twice."""
        await self.world.harness.running.engine.jobs.pause("load", False)
        await self.world.harness.settle()
        waiting = (Stand.READY, Stand.DELAYED)
        while self.attempts or any(row[1] in waiting for row in self.world.rows().values()):
            for _, told in self.attempts:
                told.put_nowait("complete")
            await self.world.harness.advance(1)
        left = {number for number, row in self.world.rows().items() if row[0] < JobState.COMPLETED}
        stale = {number for number, row in self.world.rows().items() if row[0] is JobState.STALE}
        behind = {self.model.jobs[number].key for number in stale}
        assert all(self.model.jobs[number].key in behind for number in left), "a job waits for nothing"

    @property
    def attempts(self) -> list[tuple[Job[Any], asyncio.Queue[str]]]:
        return [*self.world.attempts.values(), *self.world.children.values()]

    def happen(self, call: Coroutine[Any, Any, Any], change: Change, commits: int) -> Any:
        """Do something to both; returns what came of the call, None where nobody lived to hear it."""
        outcome, crashed = self.wait(self.world.do(call, commits))
        if crashed:
            ways = self.model.after_a_crash(change, self.world.now)
            rows = self.world.rows()
            shown = [way.shown for way in ways]
            assert self._shown(rows) in shown, f"{self._shown(rows)} is none of {shown}"
            self.model = ways[shown.index(self._shown(rows))]
            return None
        change(self.model)
        self.model.go_on(self.world.now)
        if isinstance(outcome, BaseException) and not isinstance(outcome, ServiceError | JobNotEnqueuedError):
            raise outcome
        return outcome

    def _shown(self, rows: dict[int, tuple[Any, ...]]) -> dict[int, tuple[Any, ...]]:
        return {number: row[:-1] for number, row in rows.items()}

    def _tick(self) -> None:
        """So that no two things are due at the same time, whose order would be nobody's business."""
        self.pass_time(0.001)

    @rule(
        key=st.sampled_from(KEYS), priority=st.integers(0, 2), delay=st.sampled_from([0, 0, 0, 4]), at=st.booleans(),
        request=st.sampled_from(["", "", "x", "x", "y"]), same=st.booleans(), strict=st.booleans(),
        commits=COMMITS,
    )  # fmt: skip
    def create(
        self, key: str, priority: int, delay: int, at: bool, request: str, same: bool, strict: bool, commits: int
    ) -> None:  # fmt: skip
        self._tick()
        self.number += 1
        now, number = self.world.now, self.number
        payload = Load(key, number)
        known = self.model.request(request, now)
        if known is not None and same:
            payload = Load(self.model.jobs[known.number].key, known.payload)
        due = now + delay * SECOND if delay else None
        deadline = now + DEADLINE if self.model.policy.limited else None

        def change(model: ModelQueue) -> tuple[str, int | None]:
            new = ModelJob(number, payload.key, priority, due, deadline)
            return model.ask(new, request, payload.number, now, strict=strict) if request else model.create(
                new, strict=strict
            )  # fmt: skip

        word, older = change(self.model.copy())
        when: dict[str, Any] = {"delay": delay or None}
        if at and due is not None:
            when = {"run_at": datetime.fromtimestamp(due / SECOND, UTC)}
        verb = self.world.queue.create if strict else self.world.queue.submit
        call = verb(payload, priority=priority, idempotency_key=request or None, **when)
        outcome = self.happen(call, change, commits)
        if outcome is not None:
            self._check_creation(outcome, word, older, payload.key)

    def _check_creation(self, outcome: Any, word: str, older: int | None, key: str) -> None:
        numbers = {uid_text(row[-1]): number for number, row in self.world.rows().items()}

        def number(ref: Any) -> int:
            return numbers[ref.id]

        if isinstance(outcome, ServiceError):
            assert outcome.reason.name == word
        elif isinstance(outcome, JobNotEnqueuedError | Rejected):
            assert outcome.reason.value == word
            assert (outcome.key, outcome.existing != "") == (key, True)
        elif isinstance(outcome, Coalesced):
            assert (word, older) == ("coalesced", number(outcome.job))
        elif isinstance(outcome, Replaced):
            assert (word, older) == ("replaced", number(outcome.replaced))
            assert number(outcome.job) == self.number
        else:
            ref = outcome.job if isinstance(outcome, Accepted) else outcome
            assert word == ("accepted" if ref.created else "existing")
            assert number(ref) == (self.number if ref.created else older)

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=2, max_size=4), commits=COMMITS)
    def create_many(self, keys: list[str], commits: int) -> None:
        """All or none."""
        self._tick()
        numbers = range(self.number + 1, self.number + 1 + len(keys))
        self.number = numbers[-1]
        after = self.model.copy()
        deadline = self.world.now + DEADLINE if self.model.policy.limited else None
        news = [ModelJob(number, key, 0, None, deadline) for number, key in zip(numbers, keys, strict=True)]
        words = [after.create(replace(new), strict=True)[0] for new in news]
        refused = [position for position, word in enumerate(words) if word != "accepted"]

        def change(model: ModelQueue) -> None:
            for new in news:
                if not refused:
                    model.create(replace(new), strict=True)

        requests = [JobRequest(Load(key, number)) for number, key in zip(numbers, keys, strict=True)]
        outcome = self.happen(self.world.queue.create_many(requests), change, commits)
        if outcome is None:
            return
        assert isinstance(outcome, JobNotEnqueuedError) is bool(refused)
        if isinstance(outcome, JobNotEnqueuedError):
            assert outcome.index == refused[0]

    @precondition(lambda self: self.model.running)
    @rule(data=st.data(), how=st.sampled_from(["complete", "fail", "fatal"]), commits=COMMITS)
    def finish(self, data: st.DataObject, how: str, commits: int) -> None:
        self._tick()
        if not self.model.running:
            return
        number = data.draw(st.sampled_from([job.number for job in self.model.running]))

        async def tell() -> None:
            self.world.attempts[number][1].put_nowait(how)

        now = self.world.now
        self.happen(tell(), lambda model: model.finish(model.jobs[number], how, now), commits)

    @precondition(lambda self: any(job.state is JobState.ACTIVE for job in self.model.running))
    @rule(data=st.data())
    def attach(self, data: st.DataObject) -> None:
        """Where a crash could come between, see the same at every commit: the one job is made, and then attached."""
        self._tick()
        able = [job.number for job in self.model.running if job.state is JobState.ACTIVE and job.child is None]
        if not able:
            return
        number = data.draw(st.sampled_from(able))

        async def tell() -> None:
            self.world.attempts[number][1].put_nowait("attach")

        self.happen(tell(), lambda model: model.attach(model.jobs[number]), 0)

    @precondition(lambda self: self.world.children)
    @rule(data=st.data(), how=st.sampled_from(["complete", "fatal"]), commits=COMMITS)
    def finish_child(self, data: st.DataObject, how: str, commits: int) -> None:
        self._tick()
        if not self.world.children:
            return
        number = data.draw(st.sampled_from(sorted(self.world.children)))

        async def tell() -> None:
            self.world.children[number][1].put_nowait(how)

        self.happen(tell(), lambda model: model.finish_child(model.jobs[number], how), commits)

    @precondition(lambda self: self.model.running)
    @rule(data=st.data(), commits=st.integers(0, 1))
    def beat(self, data: st.DataObject, commits: int) -> None:
        self._tick()
        if not self.model.running:
            return
        number = data.draw(st.sampled_from([job.number for job in self.model.running]))
        now = self.world.now

        async def beat() -> None:
            await self.world.attempts[number][0].heartbeat()

        self.happen(beat(), lambda model: model.beat(model.jobs[number], now), commits)

    @precondition(lambda self: self.world.left)
    @rule(data=st.data())
    def disturb(self, data: st.DataObject) -> None:
        """Whoever has lost its job can change nothing: the model does not even hear of it."""
        job = data.draw(st.sampled_from(self.world.left))

        async def report() -> None:
            await job.progress(1)

        outcome = self.happen(report(), lambda _: None, 0)
        assert isinstance(outcome, ServiceError)
        assert outcome.reason is Reason.STALE_ATTEMPT

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), commits=COMMITS)
    def cancel(self, data: st.DataObject, commits: int) -> None:
        self._tick()
        number = data.draw(st.sampled_from(sorted(self.model.jobs)))
        ref = self.world.queue.job(uid_text(self.world.rows()[number][-1]))
        now = self.world.now
        self.happen(ref.cancel("no more"), lambda model: model.cancel(model.jobs[number], now), commits)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), commits=COMMITS)
    def retry(self, data: st.DataObject, commits: int) -> None:
        self._tick()
        # What a retry makes of what was recorded has tests of its own.
        alone = [number for number, job in sorted(self.model.jobs.items()) if job.child is None]
        if not alone:
            return
        number = data.draw(st.sampled_from(alone))
        uid = self.world.rows()[number][-1]

        async def retry() -> Any:
            return await self.world.harness.running.engine.store.writer.submit(RetryJob(uid, False, None))

        possible = self.model.copy().retry(self.model.copy().jobs[number])
        outcome = self.happen(retry(), lambda model: model.retry(model.jobs[number]), commits)
        if outcome is not None:
            assert isinstance(outcome, ServiceError) is not possible

    @rule(paused=st.booleans(), commits=COMMITS)
    def pause(self, paused: bool, commits: int) -> None:
        async def pause() -> None:
            await self.world.harness.running.engine.jobs.pause("load", paused)

        self.happen(pause(), lambda model: setattr(model, "paused", paused), commits)

    @rule(seconds=st.sampled_from([1.0, 3.0, 7.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        """The clock moves, and everything is due at its time: never before, in the order of the model."""
        until = self.world.now + round(seconds * SECOND)
        while (due := min(self.model.next_times(self.world.now), default=until + 1)) <= until:
            self.wait(self.world.harness.advance((due - 1 - self.world.now) / SECOND))
            self.the_same()
            self.wait(self.world.harness.advance(1 / SECOND))
            self.model.pass_time(due)
            self.model.go_on(due)
            self.the_same()
        self.wait(self.world.harness.advance((until - self.world.now) / SECOND))

    @precondition(lambda self: self.model.next_times(self.world.now))
    @rule(commits=st.integers(1, 2))
    def crash_in_time(self, commits: int) -> None:
        """A crash in what the clock brings next, to one job."""
        due, *others = self.model.next_times(self.world.now)
        if due in others:
            return
        # The server looks once more at a time that counts for nobody any more, as the deadline of a job that has ended.
        self.wait(self.world.harness.advance((due - 1 - self.world.now) / SECOND))
        self.the_same()

        async def advance() -> None:
            self.world.harness.clock.advance_to(due)

        self.happen(advance(), lambda model: model.pass_time(due), commits)

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        harness = self.world.harness
        self.wait(harness.crash_and_restart() if crash else harness.restart())
        self.world.left.clear()
        self.model.restart(crash=crash)
        self.model.go_on(self.world.now)

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "world"):
            return
        assert self._shown(self.world.rows()) == self.model.shown
        running = {number: job.attempt for number, (job, _) in self.world.attempts.items()}
        assert running == {job.number: job.attempt for job in self.model.running}
        children = {number: job.child for number, job in self.model.jobs.items() if job.child and job.child.running}
        assert {number: job._record.attempt for number, (job, _) in self.world.children.items()} == {
            number: child.attempt for number, child in children.items()
        }
        assert len(running) <= self.model.policy.concurrency
        for key in KEYS:
            active = [job for job in self.model.alive(key) if job.occupies]
            assert len(active) <= self.model.policy.max_active


# As many histories as a run of all tests has time for. A busy machine takes minutes: the limit is for what hangs.
@pytest.fixture(autouse=True)
def nobody_is_suspected(monkeypatch: pytest.MonkeyPatch) -> None:
    """After quick crashes jobs are run apart from others, of which the model knows nothing; see test_isolation.py."""
    monkeypatch.setattr(recovery, "SUSPICIOUS", 1_000_000)


TestQueue = pytest.mark.timeout(900)(QueueMachine.TestCase)
TestQueue.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
