"""What was proven to be wrong with durable-effect's jobs, and must not be with ours: a test for each."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from longshore_server import (
    ExecuteContext,
    FlushReason,
    IdleContext,
    OperationError,
    StepRetry,
    Task,
    TaskContext,
    TaskEventContext,
)
from longshore_server import InstanceStatus as Status
from tests.server.instances.laboratory import Ping, Token, World

START = datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_recurring_that_fails_without_a_retry_is_no_zombie(world: World) -> None:
    broken = True

    @world.server.recurring("refresh", every=60, state=Token)
    async def refresh(ctx: Any) -> None:
        if broken:
            raise OperationError("TOKEN_REVOKED", "The token is revoked.")

    await world.start()
    assert (await refresh.start("a", Token(1))).status is Status.FAILED
    status = await refresh.status("a")
    assert status.last_error == ("TOKEN_REVOKED", "The token is revoked.")
    assert await refresh.get_state("a") == Token(1)
    assert await refresh.trigger("a") == (False, Status.FAILED, None)
    broken = False
    assert (await refresh.resume("a")).changed
    await world.settled()
    await world.advance(60)
    assert (await refresh.status("a")).run_count == 2


async def test_an_invalid_input_leaves_nothing_and_a_later_start_creates(world: World) -> None:
    @world.server.recurring("refresh", every=60, state=Token)
    async def refresh(ctx: Any) -> None: ...

    await world.start()
    with pytest.raises(TypeError, match="state: it must be Token, not dict"):
        await refresh.start("a", {})
    assert world.rows("SELECT count(*) FROM instances") == [(0,)]
    assert (await refresh.start("a", Token())).created


async def test_a_flush_that_fails_without_a_retry_keeps_the_batch_and_is_no_zombie(world: World) -> None:
    seen: list[int] = []

    @world.server.debounce("pings", state=Ping, flush_after=5)
    async def pings(ctx: Any) -> None:
        seen.append(ctx.state.number)
        if len(seen) == 1:
            raise RuntimeError

    await world.start()
    await pings.add("a", Ping(1))
    flushed = await pings.flush("a")
    assert flushed == (True, 1, Status.FAILED, None)
    assert (await pings.status("a")).dead_letters == 1
    await pings.resume("a")
    await world.settled()
    assert seen == [1, 1]


async def test_a_flush_says_that_it_is_tried_again_and_why_it_was_flushed_stays(world: World) -> None:
    seen: list[FlushReason] = []

    @world.server.debounce("pings", state=Ping, flush_after=5, max_events=1, retry=StepRetry(2, initial_delay=7))
    async def pings(ctx: Any) -> None:
        seen.append(ctx.flush_reason)
        if len(seen) == 1:
            raise RuntimeError

    await world.start()
    assert (await pings.add("a", Ping(1))).retry_at == START + timedelta(seconds=7)
    await world.advance(7)
    assert seen == [FlushReason.MAX_EVENTS] * 2


async def test_the_first_event_is_no_state(world: World) -> None:
    states: list[Any] = []

    def reduce(ctx: Any) -> Token:
        states.append(ctx.state)
        return Token(ctx.event.number)

    @world.server.debounce("pings", state=Token, event=Ping, flush_after=5, on_event=reduce)
    async def pings(ctx: Any) -> None: ...

    await world.start()
    await pings.add("a", Ping(1))
    await pings.add("a", Ping(2))
    assert states == [None, Token(1)]


class Reminder(Task[Token, Ping]):
    seen: list[Any] = []  # noqa: RUF012 - of the test

    async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
        ctx.schedule(30)

    async def execute(self, ctx: ExecuteContext[Token]) -> None:
        self.seen.append(("execute", ctx.get_schedule()))

    async def on_idle(self, ctx: IdleContext[Token]) -> None:
        self.seen.append(("idle", ctx.idle_reason))


async def test_a_due_time_is_cleared_when_it_fires_and_on_idle_runs_after_execute(world: World) -> None:
    Reminder.seen.clear()
    task = world.server.task("reminder", Reminder)
    await world.start()
    await task.send("a", Ping())
    await world.advance(30)
    assert Reminder.seen == [("execute", None), ("idle", "execute")]
    status = await task.status("a")
    assert (status.idle, status.scheduled_at) == (True, None)


async def test_a_delay_is_counted_by_the_servers_clock(world: World) -> None:
    task = world.server.task("reminder", Reminder)
    await world.start()
    sent = await task.send("a", Ping())
    assert sent.scheduled_at == START + timedelta(seconds=30)


async def test_an_event_that_is_none_is_not_counted(world: World) -> None:
    task = world.server.task("reminder", Reminder)
    await world.start()
    with pytest.raises(TypeError, match="event: it must be Ping, not Token"):
        await task.send("a", Token())  # type: ignore[arg-type]
    await task.send("a", Ping())
    assert (await task.status("a")).event_count == 1


async def test_an_event_with_an_id_counts_once_also_when_sent_at_the_same_moment(world: World) -> None:
    @world.server.debounce("pings", state=Ping, flush_after=5)
    async def pings(ctx: Any) -> None: ...

    await world.start()
    added = await asyncio.gather(*(pings.add("a", Ping(1), event_id="x") for _ in range(20)))
    assert sum(not one.duplicate for one in added) == 1
    assert (await pings.status("a")).event_count == 1


async def attempts_of(world: World, error: BaseException, retry: StepRetry | None) -> tuple[Any, list[float]]:
    """When a run that always fails was tried, and how its instance stands in the end."""
    tries: list[float] = []

    @world.server.recurring("refresh", every=10_000, state=Token, retry=retry)
    async def refresh(ctx: Any) -> None:
        tries.append(world.now())
        raise error

    await world.start()
    await refresh.start("a", Token())
    for _ in range(100):
        await world.advance(1)
    return await refresh.status("a"), tries


async def test_max_attempts_are_all_of_them_and_the_last_error_is_kept(world: World) -> None:
    status, tries = await attempts_of(world, OperationError("BUSY", "Try later."), StepRetry(3, initial_delay=1))
    assert tries == [0, 1, 3]
    assert (status.status, status.attempt, status.last_error) == (Status.FAILED, 3, ("BUSY", "Try later."))


async def test_no_delay_is_longer_than_the_cap_whatever_the_jitter(world: World) -> None:
    _, tries = await attempts_of(world, RuntimeError(), StepRetry(20, initial_delay=2, max_delay=2, jitter=1))
    assert all(after - before <= 2 for before, after in itertools.pairwise(tries))
    assert len(tries) == 20


async def test_there_is_no_attempt_after_the_maximum_duration(world: World) -> None:
    status, tries = await attempts_of(
        world, RuntimeError(), StepRetry(100, backoff="constant", initial_delay=5, max_duration=12)
    )
    assert (status.status, tries) == (Status.FAILED, [0, 5, 10])


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (OperationError("GONE", final=True), StepRetry(3, initial_delay=1)),
        (OperationError("GONE"), StepRetry(3, initial_delay=1, non_retryable_reasons=["GONE"])),
    ],
)
async def test_an_error_can_say_that_it_is_final(world: World, error: Exception, retry: StepRetry) -> None:
    status, tries = await attempts_of(world, error, retry)
    assert (status.status, tries) == (Status.FAILED, [0])


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
async def test_a_defect_is_retried_like_any_error(world: World, error: BaseException) -> None:
    status, tries = await attempts_of(world, error, StepRetry(2, initial_delay=1))
    assert (status.status, tries) == (Status.FAILED, [0, 1])


async def test_a_handler_that_ends_its_instance_says_why(world: World) -> None:
    @world.server.recurring("refresh", every=60, state=Token)
    async def refresh(ctx: Any) -> None:
        ctx.state = Token(9)
        try:
            ctx.terminate("too many failures")
        except Exception:  # noqa: BLE001 - what it must get past
            raise AssertionError from None

    await world.start()
    started = await refresh.start("a", Token())
    assert (started.created, started.status) == (True, Status.TERMINATED)
    status = await refresh.status("a")
    assert (status.stop_reason, status.run_count, status.next_run_at) == ("too many failures", 1, None)
    assert await refresh.get_state("a") == Token(9)
    assert await refresh.trigger("a") == (False, Status.TERMINATED, None)
    again = await refresh.start("a", Token(), no_wait=True)
    assert again.created


async def test_what_a_failed_handler_changed_is_not_kept(world: World) -> None:
    @world.server.recurring("refresh", every=60, state=Token, retry=StepRetry(2, initial_delay=1))
    async def refresh(ctx: Any) -> None:
        ctx.state.value += 1
        ctx.set_state(Token(ctx.state.value + 1))
        ctx.update_state(lambda state: Token(state.value + 1))
        if ctx.attempt == 1:
            assert not ctx.is_retry
            raise RuntimeError
        assert ctx.is_retry

    await world.start()
    await refresh.start("a", Token(0))
    assert await refresh.get_state("a") == Token(0)
    await world.advance(1)
    assert await refresh.get_state("a") == Token(3)


async def test_a_run_that_kills_its_server_every_time_is_given_up(world: World) -> None:
    reached = asyncio.Event()

    @world.server.recurring("refresh", every=60, state=Token, max_crashes=3)
    async def refresh(ctx: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    await world.start()
    await refresh.start("a", Token(), no_wait=True)
    for _ in range(3):
        await reached.wait()
        reached.clear()
        await world.restart()
    status = await refresh.status("a")
    assert status.last_error is not None
    assert (status.status, status.last_error.reason) == (Status.FAILED, "CRASH_LOOP")


async def test_a_stop_in_good_order_is_no_crash(world: World) -> None:
    reached = asyncio.Event()

    @world.server.recurring("refresh", every=60, state=Token, max_crashes=1)
    async def refresh(ctx: Any) -> None:
        reached.set()
        if ctx.attempt < 3:
            await asyncio.Event().wait()

    await world.start()
    await refresh.start("a", Token(), no_wait=True)
    for _ in range(2):
        await reached.wait()
        reached.clear()
        await world.restart(crash=False)
    await world.settled()
    assert (await refresh.status("a")).run_count == 1


class Timers(Task[Token, Ping]):
    async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
        ctx.schedule(START + timedelta(seconds=50), name="b")
        ctx.schedule("20s", name="a")
        ctx.schedule(timedelta(seconds=10), name="a")
        assert ctx.get_schedule(name="a") == START + timedelta(seconds=10)
        assert ctx.cancel_schedule(name="c") is False
        ctx.schedule(0, name="c")
        assert ctx.cancel_schedule(name="c") is True
        never, naive = datetime.max.replace(tzinfo=UTC), datetime(2026, 1, 1)  # noqa: DTZ001 - what it must not take
        for wrong in (-1, "x", naive, never, object()):
            with pytest.raises((ValueError, TypeError)):
                ctx.schedule(wrong)  # type: ignore[arg-type]

    async def execute(self, ctx: ExecuteContext[Token]) -> None:
        fired.append((ctx.timer, ctx.execution_started_at - START))


fired: list[Any] = []


async def test_named_timers_each_fire_once_and_the_last_schedule_of_a_name_counts(world: World) -> None:
    fired.clear()
    task = world.server.task("timers", Timers)
    await world.start()
    await task.send("a", Ping())
    assert (await task.status("a")).timers == {name: START + timedelta(seconds=s) for name, s in (("a", 10), ("b", 50))}
    await world.advance(10)
    await world.restart()
    await world.advance(40)
    assert fired == [("a", timedelta(seconds=10)), ("b", timedelta(seconds=50))]


async def test_many_timers_are_one_timer_of_the_clock_and_no_look_at_the_store(world: World) -> None:
    task = world.server.task("reminder", Reminder)
    await world.start()
    before = world.clock.pending
    await asyncio.gather(*(task.send(str(number), Ping()) for number in range(1000)))
    await world.settled()
    assert world.clock.pending == before + 1
    reads = 0
    read = world.engine.store.read

    async def counted(query: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(query)

    world.engine.store.read = counted
    await world.advance(29)
    assert reads == 0


async def test_more_that_is_overdue_than_there_are_slots_runs_after_a_restart(world: World) -> None:
    Reminder.seen.clear()
    task = world.server.task("reminder", Reminder)
    await world.start()
    await asyncio.gather(*(task.send(str(number), Ping()) for number in range(700)))
    await world.harness.crash()
    world.clock.advance(3600)
    await world.start()
    await world.settled()
    assert len(Reminder.seen) == 1400
    assert world.rows("SELECT count(*), sum(runs) FROM instances WHERE due IS NULL") == [(700, 700)]


def test_contexts_have_what_the_seeds_context_has() -> None:
    members = {"state", "set_state", "update_state", "schedule", "cancel_schedule", "get_schedule", "terminate"}
    assert members <= set(dir(TaskContext))
