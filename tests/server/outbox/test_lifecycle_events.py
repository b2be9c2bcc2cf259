"""The eight lifecycle events, each from what makes it true."""

from __future__ import annotations

import asyncio
from typing import Any

from longshore_server import (
    Job,
    JobRetry,
    RecurringContext,
    StepRetry,
)
from tests.server.outbox.conftest import Ear, Order


class TestTheEightEvents:
    """Seed 3's, each from what makes it true."""

    async def test_a_recurring_tells_of_its_start_its_runs_and_its_end(self, make_place) -> None:
        ear = Ear()
        place = make_place(ear=ear)

        @place.server.recurring("refresh", every="30m", state=int)
        async def refresh(ctx: RecurringContext[int]) -> None:
            ctx.state += 1

        await place.harness.start()
        await refresh.start("a", 0)
        await refresh.terminate("a", "user logged out")
        await place.settle()
        assert ear.types == ["job.started", "job.executed", "job.terminated"]
        started, executed, ended = ear.heard
        assert (started.kind, started.definition) == ("recurring", "refresh")
        assert started.subject == executed.subject == "recurrings/refresh/instances/a"
        assert executed.data == {"runCount": 1, "attempt": 1, "durationMs": 0.0}
        assert ended.data == {"reason": "user logged out", "runCount": 1}
        assert all(event.id[14] == "7" for event in ear.heard)
        assert sorted(event.id for event in ear.heard) == [event.id for event in ear.heard]

    async def test_a_handler_that_ends_its_instance_tells_of_it(self, make_place) -> None:
        """Upstream's `ctx.terminate` emits nothing."""
        ear = Ear()
        place = make_place(ear=ear)

        @place.server.recurring("once", every=60, state=int)
        async def once(ctx: RecurringContext[int]) -> None:
            ctx.terminate("done")

        await place.harness.start()
        await once.start("a", 0)
        await place.settle()
        assert ear.types == ["job.started", "job.executed", "job.terminated"]
        assert ear.one("job.terminated")["reason"] == "done"

    async def test_a_failure_says_the_real_error_and_whether_it_is_tried_again(self, make_place) -> None:
        """Upstream says "Retry scheduled for attempt 2" in place of the error."""
        ear = Ear()
        place = make_place(ear=ear)
        retry = StepRetry(max_attempts=2, initial_delay=10)

        @place.server.recurring("refresh", every=60, state=int, retry=retry)
        async def refresh(ctx: RecurringContext[int]) -> None:
            raise ConnectionError("the identity provider is down")

        await place.harness.start()
        await refresh.start("a", 0)
        await place.harness.advance(10)
        first, second = [event.data for event in ear.heard if event.type == "job.failed"]
        assert (first["willRetry"], first["attempt"], first["runCount"]) == (True, 1, 1)
        assert (second["willRetry"], second["attempt"], second["runCount"]) == (False, 2, 1)
        for failed in (first, second):
            assert failed["error"]["reason"] == "HANDLER_ERROR"
            assert failed["error"]["problem"] == "ConnectionError: the identity provider is down"
        spent = ear.one("job.retryExhausted")
        assert (spent["attempts"], spent["reason"]) == (2, "max_attempts")
        assert spent["error"] == second["error"]

    async def test_exhaustion_says_its_true_reason(self, make_place) -> None:
        """Upstream says max_attempts, whatever it was."""
        ear = Ear()
        place = make_place(ear=ear)
        retry = StepRetry(max_attempts=9, initial_delay=10, max_duration=15)

        @place.server.recurring("refresh", every=60, state=int, retry=retry)
        async def refresh(ctx: RecurringContext[int]) -> None:
            raise ConnectionError

        await place.harness.start()
        await refresh.start("a", 0)
        await place.harness.advance(60)
        assert ear.one("job.retryExhausted")["reason"] == "max_duration"

    async def test_a_debounce_tells_of_each_batch(self, make_place) -> None:
        ear = Ear()
        place = make_place(ear=ear)

        @place.server.debounce("webhook", event=int, flush_after=5, max_events=3)
        async def webhook(ctx: Any) -> None:
            pass

        await place.harness.start()
        await webhook.add("a", 1)
        await webhook.add("a", 2)
        await place.harness.advance(5)
        for number in range(3):
            await webhook.add("a", number)
        await webhook.add("a", 9)
        await webhook.flush("a")
        await place.settle()
        assert ear.types.count("job.started") == 1
        assert ear.types.count("debounce.started") == ear.types.count("job.executed") == 3
        flushed = [event.data for event in ear.heard if event.type == "debounce.flushed"]
        assert [(data["eventCount"], data["reason"]) for data in flushed] == [
            (2, "flush_after"), (3, "max_events"), (1, "manual"),
        ]  # fmt: skip
        begun = next(event for event in ear.heard if event.type == "debounce.started")
        assert begun.data["flushAt"] > begun.time.isoformat()

    async def test_a_task_tells_which_handler_has_set_a_timer(self, make_place) -> None:
        """Upstream never says `error`, and emits neither start nor end of a task."""
        ear = Ear()
        place = make_place(ear=ear)
        orders = place.server.task("order", Order)
        await place.harness.start()
        await orders.send("a", {"again": True})
        await orders.send("b", {"bad": True})
        await place.harness.advance(70)
        await orders.terminate("a")
        await place.settle()
        timers = [
            (event.subject[-1], event.data["timer"], event.data["trigger"])
            for event in ear.heard
            if event.type == "task.scheduled"
        ]
        assert timers[:3] == [("a", "chase", "event"), ("b", "later", "error"), ("a", "", "execute")]
        assert ("a", "idle", "idle") in timers
        assert ear.types.count("job.started") == 2
        assert ear.one("job.failed")["error"]["problem"] == "ValueError: no such order"
        assert ear.one("job.terminated") == {"reason": "", "runCount": 2}

    async def test_jobs_of_queues_tell_the_same(self, make_place) -> None:
        ear = Ear(payloads=True)
        place = make_place(ear=ear)

        @place.server.job("reserve", retry=JobRetry(max_attempts=2, initial_delay=10))
        async def reserve(payload: int, job: Job[int]) -> int:
            if payload < 0:
                raise ValueError("less than nothing")
            return payload + 1

        await place.harness.start()
        await reserve.create(1)
        await place.settle()
        assert [(event.type, event.kind, event.definition) for event in ear.heard] == [
            ("job.started", "job", "reserve"), ("job.executed", "job", "reserve"),
        ]  # fmt: skip
        assert (ear.one("job.started")["input"], ear.one("job.executed")["result"]) == (1, 2)
        ear.heard.clear()
        await reserve.create(-1)
        cancelled = await reserve.create(5, delay=100)
        await cancelled.cancel("not needed")
        await place.harness.advance(10)
        failed = [event.data for event in ear.heard if event.type == "job.failed"]
        assert [data["willRetry"] for data in failed] == [True, False]
        assert failed[0]["error"]["problem"] == "ValueError: less than nothing"
        assert ear.one("job.retryExhausted")["reason"] == "max_attempts"
        assert ear.one("job.terminated")["reason"] == "not needed"


class TestLosses:
    """What no handler has raised, or somebody has taken care of."""

    async def test_one_that_crashed_too_often_says_so(self, make_place) -> None:
        ear = Ear()
        place = make_place(ear=ear)
        gate = asyncio.Event()

        @place.server.recurring("refresh", every=60, state=int, max_crashes=1)
        async def refresh(ctx: RecurringContext[int]) -> None:
            await gate.wait()

        @place.server.job("work", max_claims=1)
        async def work(payload: int, job: Job[None]) -> None:
            await gate.wait()

        await place.harness.start()
        await refresh.start("a", 0, no_wait=True)
        await work.create(1)
        await place.harness.crash_and_restart()
        spent = {event.kind: event.data for event in ear.heard if event.type == "job.retryExhausted"}
        assert {kind: data["reason"] for kind, data in spent.items()} == {
            "recurring": "max_crashes", "job": "max_claims",
        }  # fmt: skip
        failed = [event.data for event in ear.heard if event.type == "job.failed"]
        assert [(data["error"]["reason"], data["willRetry"]) for data in failed] == [("CRASH_LOOP", False)] * 2

    async def test_what_on_error_has_taken_care_of_has_failed_all_the_same(self, make_place) -> None:
        ear = Ear()
        place = make_place(ear=ear)

        async def mend(error: BaseException, ctx: RecurringContext[int]) -> None:
            ctx.state = -1

        @place.server.recurring("refresh", every=60, state=int, on_error=mend)
        async def refresh(ctx: RecurringContext[int]) -> None:
            raise ConnectionError("down")

        await place.harness.start()
        await refresh.start("a", 0)
        await place.settle()
        assert ear.types == ["job.started", "job.failed"]
        assert ear.one("job.failed")["willRetry"] is False
        assert ear.one("job.failed")["error"]["problem"] == "ConnectionError: down"

    async def test_a_job_that_is_not_heard_of_is_told_of(self, make_place) -> None:
        ear = Ear()
        place = make_place(ear=ear)
        gate = asyncio.Event()

        @place.server.job("work", heartbeat=10, max_claims=2)
        async def work(payload: int, job: Job[None]) -> None:
            await gate.wait()

        await place.harness.start()
        await work.create(1)
        await place.harness.advance(30)
        failed = [event.data for event in ear.heard if event.type == "job.failed"]
        assert [(data["error"]["reason"], data["willRetry"]) for data in failed] == [
            ("HEARTBEAT_LOST", True), ("HEARTBEAT_LOST", False),
        ]  # fmt: skip
        assert ear.one("job.retryExhausted")["reason"] == "max_claims"


class TestValues:
    async def test_inputs_and_states_go_only_where_they_are_asked_for(self, make_place) -> None:
        """Upstream sends the whole state with every event."""
        plain, full = Ear(), Ear(payloads=True)
        place = make_place(plain=plain, full=full)

        @place.server.recurring("refresh", every=60, state=dict)
        async def refresh(ctx: RecurringContext[dict[str, str]]) -> None:
            ctx.state["token"] = "new"

        await place.harness.start()
        await refresh.start("a", {"token": "old"})
        await place.settle()
        assert full.one("job.started")["input"] == {"token": "old"}
        assert full.one("job.executed")["state"] == {"token": "new"}
        assert [event.id for event in plain.heard] == [event.id for event in full.heard]
        assert "old" not in str(plain.heard)

    async def test_nothing_of_them_is_stored_for_nobody(self, make_place) -> None:
        ear = Ear()
        ear.gate.clear()
        place = make_place(ear=ear)

        @place.server.recurring("refresh", every=60, state=str)
        async def refresh(ctx: RecurringContext[str]) -> None: ...

        await place.harness.start()
        await refresh.start("a", "a secret")
        await place.settle()
        assert len(rows := place.rows("SELECT * FROM outbox")) == 2
        assert "secret" not in str(rows)
