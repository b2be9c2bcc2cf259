"""Tasks: every context member and verb."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from longshore_server import StepRetry
from longshore_server.instance_lifecycle import Status
from longshore_server.instances.task import ErrorContext, ExecuteContext, IdleContext, Task, TaskEventContext
from tests.server.instances.laboratory import Gate, Ping, Pong, Token, World

happened: list[Any] = []
START = datetime.fromtimestamp(1_767_225_600, UTC)


class Plain(Task[Token, Ping | Pong]):
    """Notes what happens; a ping's number is the delay of its timer, in seconds."""

    async def on_event(self, event: Ping | Pong, ctx: TaskEventContext[Token]) -> None:
        happened.append(("event", event, ctx.is_first_event, ctx.event_count))
        ctx.state = Token((ctx.state.value if ctx.state else 0) + 1)
        if isinstance(event, Ping) and event.number:
            ctx.schedule(event.number)

    async def execute(self, ctx: ExecuteContext[Token]) -> None:
        happened.append(("execute", ctx.execute_count, ctx.event_count, ctx.timer, ctx.get_schedule()))


async def test_events_are_handled_in_order_and_timers_when_they_are_due(world: World) -> None:
    happened.clear()
    order = world.server.task("order", Plain)
    await world.start()
    sent = await order.send("a", Ping(30))
    assert sent == (True, "tasks/order/instances/a", START + timedelta(seconds=30), Status.ACTIVE, 1, False, None)
    assert (await order.send("a", Pong("x"))).created is False
    assert await order.get_state("a") == Token(2)
    await world.restart()
    await world.advance(30)
    assert happened == [
        ("event", Ping(30), True, 1),
        ("event", Pong("x"), False, 2),
        ("execute", 1, 2, "", None),
    ]
    status = await order.status("a")
    assert (status.idle, status.scheduled_at, status.event_count, status.execute_count) == (True, None, 2, 1)


async def test_trigger_executes_at_once(world: World) -> None:
    happened.clear()
    order = world.server.task("order", Plain)
    await world.start()
    assert await order.trigger("a") == (False, Status.NOT_FOUND, None)
    await order.send("a", Ping())
    assert await order.trigger("a") == (True, Status.ACTIVE, None)
    assert happened[1:] == [("execute", 1, 1, None, None)]


class Idle(Task[Token, Ping]):
    async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
        if event.number:
            ctx.schedule(timedelta(seconds=event.number), name="later")

    async def execute(self, ctx: ExecuteContext[Token]) -> None:
        happened.append(("execute", ctx.timer))
        if ctx.timer == "cleanup":
            ctx.terminate("done")

    async def on_idle(self, ctx: IdleContext[Token]) -> None:
        happened.append(("idle", ctx.idle_reason, ctx.execution_started_at))
        if ctx.idle_reason == "execute":
            ctx.schedule("1h", name="cleanup")


async def test_on_idle_runs_after_both_handlers_once_nothing_is_scheduled(world: World) -> None:
    happened.clear()
    order = world.server.task("order", Idle)
    await world.start()
    await order.send("a", Ping())
    await order.send("a", Ping(10))
    await world.advance(10)
    status = await order.status("a")
    assert status.timers == {"cleanup": START + timedelta(seconds=3610)}
    await world.advance(3600)
    assert happened == [
        ("idle", "on_event", START),
        ("execute", "later"),
        ("idle", "execute", START + timedelta(seconds=10)),
        ("execute", "cleanup"),
    ]
    status = await order.status("a")
    assert (status.status, status.stop_reason) == (Status.TERMINATED, "done")


class Fragile(Task[Token, Ping]):
    async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
        ctx.state = Token(99)
        ctx.schedule(1)
        raise RuntimeError("no")

    async def execute(self, ctx: ExecuteContext[Token]) -> None:
        happened.append("execute")

    async def on_error(self, error: BaseException, ctx: ErrorContext[Token]) -> None:
        happened.append((str(error), ctx.error_source, ctx.state, ctx.attempt))
        ctx.state = Token(1)
        ctx.schedule(30)


async def test_on_error_takes_the_place_of_what_failed(world: World) -> None:
    happened.clear()
    order = world.server.task("order", Fragile, retry=StepRetry(2, initial_delay=5))
    await world.start()
    sent = await order.send("a", Ping())
    assert sent.retry_at == START + timedelta(seconds=5)
    await world.advance(5)
    assert happened == [("no", "on_event", None, 2)]
    assert await order.get_state("a") == Token(1)
    await world.advance(29)
    assert happened[1:] == []
    await world.advance(1)
    assert happened[1:] == ["execute"]
    status = await order.status("a")
    assert (status.status, status.event_count, status.execute_count) == (Status.ACTIVE, 1, 1)


class Broken(Plain):
    async def on_event(self, event: Ping | Pong, ctx: TaskEventContext[Token]) -> None:
        await super().on_event(event, ctx)
        if broken[0]:
            raise RuntimeError


broken = [True]


async def test_a_task_that_has_failed_is_kept_and_resumed_with_its_event(world: World) -> None:
    happened.clear()
    broken[0] = True
    order = world.server.task("order", Broken)
    await world.start()
    assert (await order.send("a", Ping(30))).status is Status.FAILED
    # Taken, and left for later.
    assert (await order.send("a", Ping(31))).status is Status.FAILED
    assert await order.get_state("a") is None
    status = await order.status("a")
    assert (status.waiting_events, status.scheduled_at, status.attempt) == (2, None, 1)
    broken[0] = False
    await world.restart()
    assert len(happened) == 1
    await order.resume("a")
    await world.settled()
    assert [event for _, event, *_ in happened] == [Ping(30), Ping(30), Ping(31)]
    assert await order.get_state("a") == Token(2)


async def test_one_event_at_a_time_in_the_order_of_their_acceptance(world: World) -> None:
    gate, seen, running = Gate(), [], [0]

    class Slow(Task[Token, Ping]):
        async def on_event(self, event: Ping, ctx: TaskEventContext[Token]) -> None:
            running[0] += 1
            assert running[0] == 1
            await gate.hold()
            seen.append(event.number)
            running[0] -= 1

        async def execute(self, ctx: ExecuteContext[Token]) -> None: ...

    order = world.server.task("order", Slow)
    await world.start()
    for number in range(40):
        await order.send("a", Ping(number), no_wait=True)
    await gate.reached.wait()
    gate.opened.set()
    await order.send("a", Ping(40))
    assert seen == list(range(41))


async def test_a_tombstone_answers_and_an_event_begins_a_new_generation(world: World) -> None:
    happened.clear()
    order = world.server.task("order", Plain)
    await world.start()
    await order.send("a", Ping(30), event_id="x")
    assert await order.terminate("a", "enough") == (True, Status.TERMINATED, "enough")
    assert await order.terminate("a", "again") == (False, Status.TERMINATED, "enough")
    await world.advance(60)
    assert await order.trigger("a") == (False, Status.TERMINATED, None)
    assert await order.pause("a") == (False, Status.TERMINATED)
    assert await order.resume("a") == (False, Status.TERMINATED)
    assert await order.get_state("a") == Token(1)
    sent = await order.send("a", Ping(), event_id="x")
    assert (sent.created, sent.duplicate) == (True, False)
    status = await order.status("a")
    assert (status.generation, status.event_count, status.stop_reason) == (2, 1, "")
    assert happened[-1] == ("event", Ping(), True, 1)
    assert await order.terminate("a", purge=True) == (True, Status.TERMINATED, "")
    assert (await order.status("a")).status is Status.NOT_FOUND
    assert world.rows("SELECT count(*) FROM instance_states") == [(0,)]


async def test_a_paused_one_takes_events_and_handles_them_once_it_is_resumed(world: World) -> None:
    happened.clear()
    order = world.server.task("order", Plain)
    await world.start()
    await order.send("a", Ping(30))
    assert await order.pause("a") == (True, Status.PAUSED)
    assert await order.pause("a") == (False, Status.PAUSED)
    await world.advance(60)
    assert (await order.send("a", Ping())).status is Status.PAUSED
    assert len(happened) == 1
    await world.restart()
    assert await order.resume("a") == (True, Status.ACTIVE)
    await world.settled()
    assert [kind for kind, *_ in happened] == ["event", "execute", "event"]


async def test_a_time_that_is_long_past_is_due_at_once(world: World) -> None:
    executed: list[float] = []

    class Late(Task[Token, Ping]):
        async def on_event(self, event: Ping, ctx: Any) -> None:
            ctx.set_state(Token())
            ctx.schedule(datetime(1960, 1, 1, tzinfo=UTC))

        async def execute(self, ctx: Any) -> None:
            executed.append(world.now())

    late = world.server.task("late", Late)
    await world.start()
    await late.send("a", Ping(1))
    await world.settled()
    assert executed == [0]
