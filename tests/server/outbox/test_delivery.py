"""Events on their way to sinks: at least once, in order, whatever one of the sinks or the server does."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from longshore_server import (
    DebounceContext,
    EventsRefusedError,
    Job,
    LifecycleEvent,
    RecurringContext,
    StepRetry,
)
from longshore_server.store.mutations import Mutation
from longshore_server.store.outbox import EventType
from longshore_server.store.transaction import Transaction
from tests.server.outbox.conftest import Ear, Order, Place


class _AddAndFlush(Mutation[None]):
    """A change whose rows are written before its transaction is at its end."""

    def apply(self, tx: Transaction) -> None:
        assert tx.outbox is not None
        tx.outbox.add(EventType.STARTED, tx.now, "jobs/1", "work", {})
        tx.flush()


class TestDelivery:
    async def test_a_server_without_sinks_writes_nothing(self, make_place) -> None:
        place = make_place()
        place.server.task("order", Order)
        await place.harness.start()
        await place.server.definitions[next(iter(place.server.definitions))].send("a", {})
        await place.settle()
        assert place.rows("SELECT * FROM sqlite_sequence WHERE name = 'outbox'") == []

    async def test_a_transaction_that_writes_in_parts_writes_no_event_twice(self, make_place) -> None:
        ear = Ear()
        place = make_place(ear=ear)
        place.server.task("order", Order)
        await place.harness.start()
        await place.harness.running.engine.store.writer.submit(_AddAndFlush())
        await place.settle()
        assert ear.types == ["job.started"]

    async def test_what_all_have_got_is_deleted(self, make_place) -> None:
        one, two = Ear(), Ear(batch_size=1)
        two.gate.clear()
        place = make_place(one=one, two=two)
        orders = place.server.task("order", Order)
        await place.harness.start()
        await orders.send("a", {})
        await place.settle()
        assert one.types == ["job.started", "task.scheduled"]
        assert len(place.rows("SELECT * FROM outbox")) == 2
        two.gate.set()
        await place.settle()
        assert two.types == one.types
        assert two.calls == 2
        assert place.rows("SELECT * FROM outbox") == []

    async def test_one_that_is_down_is_tried_again_and_holds_up_nobody(self, make_place) -> None:
        down, up = Ear(), Ear()
        down.problem = ConnectionError("refused")
        place = make_place(down=down, up=up)
        orders = place.server.task("order", Order)
        await place.harness.start()
        await orders.send("a", {})
        await place.settle()
        assert len(up.heard) == 2
        assert down.calls == 1
        for pause, calls in ((1, 2), (2, 3), (4, 4)):
            await place.harness.advance(pause - 0.001)
            assert down.calls == calls - 1
            await place.harness.advance(0.001)
            assert down.calls == calls
        down.problem = None
        await place.harness.advance(8)
        assert [event.id for event in down.heard] == [event.id for event in up.heard]

    async def test_one_that_hangs_is_cut_off_and_holds_up_nobody(self, make_place) -> None:
        hanging, up = Ear(), Ear()
        hanging.gate.clear()
        place = make_place(hanging=hanging, up=up)
        orders = place.server.task("order", Order)
        await place.harness.start()
        await orders.send("a", {})
        await place.settle()
        assert len(up.heard) == 2
        await place.harness.advance(31)
        assert hanging.calls == 2
        assert place.harness.running.deliveries.all[0].failures == 1
        hanging.gate.set()
        await place.settle()
        assert len(hanging.heard) == 2

    async def test_what_is_left_when_a_server_stops_comes_from_the_next(self, make_place) -> None:
        ear = Ear()
        ear.problem = ConnectionError("refused")
        place = make_place(ear=ear)
        orders = place.server.task("order", Order)
        await place.harness.start()
        await orders.send("a", {})
        await place.settle()
        await place.harness.stop()
        ear.problem = None
        await place.harness.start()
        await place.settle()
        assert ear.types == ["job.started", "task.scheduled"]

    async def test_a_new_sink_gets_what_happens_from_then_on_and_one_that_is_gone_keeps_nothing(
        self, make_place
    ) -> None:
        old, new = Ear(), Ear()
        old.problem = ConnectionError("refused")
        place = make_place(old=old)
        orders = place.server.task("order", Order)
        await place.harness.start()
        await orders.send("a", {})
        await place.settle()
        await place.harness.stop()
        place.server.sinks = {"new": new}
        await place.harness.start()
        assert place.rows("SELECT * FROM outbox") == []
        await orders.send("b", {})
        await place.settle()
        assert {event.subject for event in new.heard} == {"tasks/order/instances/b"}


class TestBounds:
    async def test_who_is_too_far_behind_loses_the_oldest_and_that_is_counted(self, tmp_path: Path) -> None:
        slow, fast = Ear(), Ear()
        slow.problem = ConnectionError("refused")
        place = Place(tmp_path / "data", slow=slow, fast=fast)
        place.harness.configure(max_outbox=100, metrics="127.0.0.1:0")

        @place.server.job("work")
        async def work(payload: int, job: Job[None]) -> None: ...

        await place.harness.start()
        for number in range(100):
            await work.create(number)
            await place.settle()
        slow.problem = None
        await place.harness.advance(60)
        metrics = place.harness.running.metrics
        assert metrics is not None
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{metrics.address}/").read().decode())
        await place.harness.stop()
        assert len(fast.heard) == 200
        lost = 200 - len(slow.heard)
        assert 88 <= lost <= 100
        assert [event.id for event in slow.heard] == [event.id for event in fast.heard[lost:]]
        assert f'longshore_events_dropped_total{{sink="slow"}} {lost}.0' in text
        assert 'longshore_events_dropped_total{sink="fast"} 0.0' in text
        assert 'longshore_events_delivered_total{sink="fast"} 200.0' in text
        assert 'longshore_events_waiting{sink="slow"} 0.0' in text

    async def test_so_many_bytes_are_kept_and_the_latest_event_in_any_case(self, make_place) -> None:
        ear = Ear(payloads=True)
        ear.problem = ConnectionError("refused")
        place = make_place(ear=ear)
        place.harness.configure(max_outbox_bytes=1_000_000, max_payload=2_000_000)

        @place.server.debounce("pages", event=str, flush_after="1h")
        async def pages(ctx: DebounceContext[str]) -> None: ...

        @place.server.recurring("books", every="1h", state=str, start_immediately=False)
        async def books(ctx: RecurringContext[str]) -> None: ...

        def kept() -> int:
            ((size,),) = place.rows("SELECT ifnull(sum(length(data) + length(body)), 0) FROM outbox")
            return int(size)

        await place.harness.start()
        most = 0
        for number in range(60):
            await pages.add(str(number), "x" * 50_000)
            await place.settle()
            most = max(most, kept())
        assert 1_000_000 < most <= 1_000_000 * 9 / 8
        # However late it comes, it takes up where the oldest is that is left.
        ear.problem = None
        await place.harness.advance(60)
        assert place.rows("SELECT count(*) FROM outbox") == [(0,)]
        subjects = [event.subject for event in ear.heard if event.type == "job.started"]
        assert subjects[-1] == "debounces/pages/instances/59"
        assert 18 <= len(subjects) <= 22
        ear.problem = ConnectionError("refused")
        for name in ("large", "larger"):
            await books.start(name, "x" * 1_500_000)
        await place.settle()
        assert 1_500_000 < kept() < 1_501_000, "one is too large, and is the latest"
        ear.problem = None
        await place.harness.advance(60)
        assert ear.heard[-1].subject == "recurrings/books/instances/larger"


class TestRefused:
    async def test_an_event_that_a_sink_never_takes_holds_up_none_that_follow(
        self, make_place, caplog: pytest.LogCaptureFixture
    ) -> None:
        ear = Ear()
        deliver, sizes, begun = ear.deliver, [], asyncio.Event()

        async def particular(events: Sequence[LifecycleEvent]) -> None:
            sizes.append(len(events))
            begun.set()
            if any(event.subject.endswith(("/bad", "/worse")) for event in events):
                raise EventsRefusedError("no such thing")
            await deliver(events)

        ear.deliver = particular  # type: ignore[method-assign]
        place = make_place(ear=ear)
        place.harness.configure(metrics="127.0.0.1:0")

        @place.server.recurring("refresh", every=60, state=int, start_immediately=False)
        async def refresh(ctx: RecurringContext[int]) -> None: ...

        await place.harness.start()
        ear.gate.clear()
        await refresh.start("first", 0)
        await begun.wait()
        for name in ("a", "bad", "b", "c", "d", "worse", "e"):
            await refresh.start(name, 0)
        ear.gate.set()
        await place.settle()
        metrics = place.harness.running.metrics
        assert metrics is not None
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{metrics.address}/").read().decode())
        assert place.rows("SELECT count(*) FROM outbox") == [(0,)]
        assert [event.subject.rpartition("/")[2] for event in ear.heard] == ["first", "a", "b", "c", "d", "e"]
        assert max(sizes) == 7
        for name, count in (("refused", 2), ("delivered", 6), ("dropped", 0)):
            assert f'longshore_events_{name}_total{{sink="ear"}} {count}.0' in text
        assert 'longshore_sink_failures_total{sink="ear"} 0.0' in text
        assert 'longshore_events_waiting{sink="ear"} 0.0' in text
        said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert [line.partition(", event ")[0] for line in said] == [
            f"sink 'ear' never gets job.started of recurrings/refresh/instances/{name}" for name in ("bad", "worse")
        ]

    async def test_what_may_pass_amid_a_refusal_is_delivered_again_without_what_was_taken(self, make_place) -> None:
        ear = Ear()
        deliver, calls = ear.deliver, 0

        async def shaky(events: Sequence[LifecycleEvent]) -> None:
            nonlocal calls
            calls += 1
            if len(events) > 1:
                raise EventsRefusedError("one at a time")
            if calls == 5:
                raise ConnectionError("the line broke")
            await deliver(events)

        ear.deliver = shaky  # type: ignore[method-assign]
        place = make_place(ear=ear)

        @place.server.recurring("refresh", every=60, state=int, start_immediately=False)
        async def refresh(ctx: RecurringContext[int]) -> None: ...

        await place.harness.start()
        ear.gate.clear()
        for name in "abcde":
            await refresh.start(name, 0)
        ear.gate.set()
        await place.settle()
        await place.harness.advance(1)
        assert [event.subject[-1] for event in ear.heard] == list("abcde")


class TestCrashes:
    async def test_no_event_is_lost_and_none_comes_before_its_commit(self, make_place) -> None:
        """At every commit boundary of one instance's life: what was told is true, and all of it is told."""
        boundary = 0
        while True:
            boundary += 1
            ear = Ear()
            place = make_place(ear=ear)

            async def deliver(events: Sequence[LifecycleEvent], ear: Any = ear, place: Any = place) -> None:
                for event in events:
                    ((runs, status),) = place.rows("SELECT runs, status FROM instances")
                    assert runs >= event.data.get("runCount", 0) - (event.type == "job.failed")
                    assert status == 4 or event.type != "job.terminated"
                ear.heard.extend(events)

            ear.deliver = deliver  # type: ignore[method-assign]

            @place.server.recurring("refresh", every=60, state=int, retry=StepRetry(max_attempts=3, initial_delay=1))
            async def refresh(ctx: RecurringContext[int]) -> None:
                if ctx.run_count == 2 and ctx.attempt == 1:
                    raise ConnectionError
                if ctx.run_count == 3:
                    ctx.terminate("enough")

            await place.harness.start()
            crash = place.harness.crash_after(commits=boundary)
            asked = asyncio.ensure_future(refresh.start("a", 0, no_wait=True))
            await place.settle()
            if asked.cancel():
                # It died before it answered: whoever asks again finds what is durable.
                await refresh.start("a", 0, no_wait=True)
            await place.harness.advance(300)
            if not crash.happened:
                crash.cancel()
                break
            unique = {event.id: event for event in ear.heard}
            types = [event.type for event in unique.values()]
            assert types.count("job.started") == 1, boundary
            assert [e.data["runCount"] for e in unique.values() if e.type == "job.executed"] == [1, 2, 3], boundary
            assert types.count("job.terminated") == 1, boundary
            assert types[0] == "job.started", boundary
            assert types[-1] == "job.terminated", boundary
            await place.harness.stop()
        assert boundary > 10
