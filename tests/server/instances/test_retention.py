"""What is kept of instances is kept for a time: tombstones, debounces with nothing to do, dead letters."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from datetime import timedelta
from typing import Any

import pytest

from longshore_server import Server, StepRetry
from longshore_server.instance_lifecycle import Kind, Status
from longshore_server.instances.task import Task
from longshore_server.store import instance_retention
from longshore_server.store.instance_ledger import InstanceLedger
from longshore_server.store.mutations import Mutation, SweepInstances
from longshore_server.store.mutations.upkeep import SWEEP_EVENTS, SWEEP_INSTANCES
from tests.conftest import LabHandlers
from tests.server.instances.laboratory import Gate, Ping, Token, World

DAY = 86_400
HOUR = 3600
TABLES = ("instances", "instance_states", "instance_entries", "instance_ids")


async def swept(world: World) -> None:
    """Return once the sweep that is due has come to its end."""
    sweeper = world.engine.sweeper
    while sweeper._task is not None:
        await sweeper._task
    await world.settled()


async def pass_time(world: World, seconds: float) -> None:
    await world.advance(seconds)
    # One that has just been swept comes a second later at the earliest.
    await swept(world)
    await world.advance(1)
    await swept(world)


def left(world: World) -> list[str]:
    return [name for (name,) in world.rows("SELECT id FROM instances ORDER BY id")]


class Order(Task[Token, Ping]):
    async def on_event(self, event: Ping, ctx: Any) -> None:
        ctx.state = Token(event.number)
        if event.number < 0:
            ctx.terminate("no such order")

    async def execute(self, ctx: Any) -> None: ...


async def test_a_tombstone_goes_when_its_time_is_over_and_what_lives_stays(world: World) -> None:
    orders = world.server.task("order", Order, retention="1h")
    await world.start()
    await orders.send("lives", Ping(1))
    await orders.send("ended", Ping(-1), event_id="once")
    assert (await orders.status("ended")).status is Status.TERMINATED
    await pass_time(world, HOUR - 2)
    assert left(world) == ["ended", "lives"]
    await pass_time(world, 2)
    assert left(world) == ["lives"]
    assert [len(world.rows(f"SELECT * FROM {table}")) for table in TABLES] == [1, 1, 0, 0]
    await pass_time(world, 400 * DAY)
    assert await orders.get_state("lives") == Token(1)


async def test_what_is_sent_to_one_that_was_swept_begins_it_as_if_it_had_never_been(world: World) -> None:
    orders = world.server.task("order", Order, retention=60)
    await world.start()
    await orders.send("a", Ping(-1), event_id="once")
    assert (await orders.send("a", Ping(-1), no_wait=True)).created, "a tombstone's is another generation"
    await world.settled()
    assert (await orders.status("a")).generation == 2
    await pass_time(world, 60)
    assert (await orders.status("a")).status is Status.NOT_FOUND
    sent = await orders.send("a", Ping(1), event_id="once", expected_version=0)
    assert (sent.created, sent.duplicate, sent.version) == (True, False, 1)
    assert (await orders.status("a")).generation == 1


async def test_a_renewed_one_is_not_swept_by_the_time_of_its_tombstone(world: World) -> None:
    orders = world.server.task("order", Order, retention="1h")
    await world.start()
    await orders.send("a", Ping(-1))
    await pass_time(world, HOUR / 2)
    await orders.send("a", Ping(1))
    await pass_time(world, DAY)
    assert left(world) == ["a"]


@pytest.mark.parametrize(
    ("option", "server", "kept"),
    [(None, None, 30 * DAY), (None, 60.0, 60), ("2m", 60.0, 120), (timedelta(days=1), None, DAY)],
    ids=["the default", "the server's", "the definition's", "a timedelta"],
)
async def test_how_long_it_is_kept(world: World, option: Any, server: float | None, kept: int) -> None:
    if server is not None:
        world.settings["default_retention"] = server

    @world.server.recurring("tick", every="1000d", state=int, retention=option)
    async def tick(ctx: Any) -> None:
        ctx.terminate()

    await world.start()
    await tick.start("a", 1)
    await pass_time(world, kept - 2)
    assert left(world) == ["a"]
    await pass_time(world, 2)
    assert left(world) == []


@pytest.mark.parametrize(("option", "server"), [(0, 60.0), (None, 0.0)])
async def test_zero_is_for_ever(world: World, option: Any, server: float) -> None:
    world.settings["default_retention"] = server

    @world.server.recurring("tick", every="1000d", state=int, retention=option)
    async def tick(ctx: Any) -> None:
        ctx.terminate()

    await world.start()
    await tick.start("a", 1)
    await pass_time(world, 4000 * DAY)
    assert left(world) == ["a"]
    assert world.engine.sweeper._timer is None


@pytest.mark.parametrize("wrong", [-1, "soon", "40000d"])
async def test_what_is_no_time_is_refused_by_name(world: World, wrong: Any) -> None:
    with pytest.raises(ValueError, match="retention: "):
        world.server.task("order", Order, retention=wrong)


class TestDebounces:
    @pytest.fixture
    def broken(self) -> set[int]:
        """The numbers of the events whose batches fail."""
        return set()

    def declare(self, world: World, broken: set[int], **options: Any) -> Any:
        @world.server.debounce("pings", event=Ping, flush_after="5s", retention="1h", **options)
        async def send(ctx: Any) -> None:
            if ctx.state.number in broken:
                raise RuntimeError(ctx.state.number)

        return send

    async def test_one_that_has_collected_nothing_goes_and_begins_anew(self, world: World, broken: set[int]) -> None:
        send = self.declare(world, broken)
        await world.start()
        await send.add("a", Ping(1), event_id="once")
        await send.flush("a")
        await send.add("b", Ping(1))
        await pass_time(world, HOUR / 2)
        await send.add("b", Ping(2))
        await pass_time(world, HOUR / 2 + 1)
        assert left(world) == ["b"], "from what happened last"
        added = await send.add("a", Ping(3), event_id="once")
        assert (added.created, added.duplicate, added.event_count) == (True, False, 1)

    async def test_one_with_an_open_batch_stays_however_old_it_is(self, world: World, broken: set[int]) -> None:
        @world.server.debounce("slow", event=Ping, flush_after="300d", retention="1h")
        async def send(ctx: Any) -> None: ...

        await world.start()
        await send.add("a", Ping(1))
        await pass_time(world, 299 * DAY)
        assert left(world) == ["a"]

    async def test_one_that_waits_for_its_retry_or_is_paused_or_runs_stays(self, world: World) -> None:
        gate = Gate()

        @world.server.debounce(
            "pings", event=Ping, flush_after="5s", retention="1h", timeout="300d", max_events=1,
            retry=StepRetry(2, initial_delay=100 * DAY, max_delay=100 * DAY),
        )  # fmt: skip
        async def send(ctx: Any) -> None:
            if ctx.id == "fails":
                raise RuntimeError
            if ctx.id == "runs":
                await gate.hold()

        await world.start()
        await send.add("fails", Ping(1))
        running = asyncio.ensure_future(send.add("runs", Ping(1)))
        await send.add("paused", Ping(1))
        await send.pause("paused")
        await gate.reached.wait()
        await pass_time(world, 50 * DAY)
        assert left(world) == ["fails", "paused", "runs"]
        gate.opened.set()
        await running
        await send.resume("paused")
        await pass_time(world, HOUR)
        assert left(world) == ["fails"]

    async def test_a_dead_letter_goes_and_then_its_instance(self, world: World, broken: set[int]) -> None:
        broken.add(1)
        send = self.declare(world, broken)
        await world.start()
        await send.add("a", Ping(1))
        await send.flush("a")
        before = await send.status("a")
        assert (before.status, before.dead_letters) == (Status.FAILED, 1)
        await pass_time(world, HOUR - 2)
        assert (await send.status("a")).dead_letters == 1
        await pass_time(world, 2)
        after = await send.status("a")
        assert (after.status, after.dead_letters, after.last_error) == (Status.FAILED, 0, before.last_error)
        assert world.rows("SELECT * FROM instance_entries") == []
        await pass_time(world, HOUR)
        assert left(world) == []

    async def test_of_several_dead_letters_the_oldest_go_and_the_others_can_be_replayed(
        self, world: World, broken: set[int]
    ) -> None:
        async def sorry(error: BaseException, ctx: Any) -> None: ...

        broken.update((1, 2))
        send = self.declare(world, broken, on_error=sorry)
        await world.start()
        await send.add("a", Ping(1))
        await send.flush("a")
        await pass_time(world, HOUR / 2)
        await send.add("a", Ping(2))
        await send.flush("a")
        assert (await send.status("a")).dead_letters == 2
        await pass_time(world, HOUR / 2)
        assert (await send.status("a")).dead_letters == 1
        broken.clear()
        await send.resume("a")
        await send.flush("a")
        status = await send.status("a")
        assert (status.dead_letters, status.waiting_batches, status.run_count) == (0, 0, 3)

    async def test_one_that_is_replayed_and_dies_again_is_kept_from_then(self, world: World, broken: set[int]) -> None:
        broken.add(1)
        send = self.declare(world, broken)
        await world.start()
        await send.add("a", Ping(1))
        await send.flush("a")
        await pass_time(world, HOUR / 2)
        await send.resume("a")
        await send.flush("a")
        await pass_time(world, HOUR / 2 + 1)
        assert (await send.status("a")).dead_letters == 1
        await pass_time(world, HOUR / 2)
        assert (await send.status("a")).dead_letters == 0

    async def test_one_that_is_replayed_is_no_dead_letter_while_its_handler_runs(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate, broken = Gate(), True

        @world.server.debounce("pings", event=Ping, flush_after="5s", retention="1h", timeout="300d")
        async def send(ctx: Any) -> None:
            if broken:
                raise RuntimeError
            await gate.hold()

        await world.start()
        await send.add("a", Ping(1))
        await send.flush("a")
        broken = False
        await send.resume("a")
        await gate.reached.wait()
        await pass_time(world, DAY)
        assert "the sweep" not in caplog.text
        gate.opened.set()
        await send.flush("a")
        status = await send.status("a")
        assert (status.status, status.run_count, status.waiting_batches) == (Status.ACTIVE, 1, 0)

    @pytest.mark.parametrize("sweep_first", [True, False])
    async def test_an_event_of_the_sweeps_own_batch_is_not_lost(
        self, world: World, broken: set[int], sweep_first: bool
    ) -> None:
        send = self.declare(world, broken)
        await world.start()
        await send.add("a", Ping(1))
        await send.flush("a")
        world.clock.advance(60)
        writer = world.engine.store.writer
        sweep = _later(writer, SweepInstances({(Kind.DEBOUNCE, "pings"): 1}))
        both = [sweep, send.add("a", Ping(2))]
        results = await asyncio.gather(*(both if sweep_first else reversed(both)))
        added = next(result for result in results if not isinstance(result, int))
        assert sweep_first in results
        assert (added.created, added.event_count) == (sweep_first, 1)
        await world.advance(5)
        assert (await send.status("a")).run_count == (1 if sweep_first else 2)


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_no_event_is_swept_but_in_a_dead_letter_that_is_old_enough(
    world: World, seed: int
) -> None:
    """A random life of three debounces: each event is handled, collected, kept as a letter, or was one for long."""
    kept, dice = 20, random.Random(seed)
    added, handled = set[int](), set[int]()
    given_up: dict[int, float] = {}
    broken = False

    def collect(ctx: Any) -> list[int]:
        return [*ctx.state, ctx.event]

    async def note(error: BaseException, ctx: Any) -> None:
        given_up.update(dict.fromkeys(ctx.state, world.now()))
        if ctx.id != "a":
            raise error

    @world.server.debounce(
        "pings", event=int, state=list, initial=list, on_event=collect, on_error=note, flush_after=5, retention=kept
    )
    async def send(ctx: Any) -> None:
        if broken:
            raise RuntimeError
        handled.update(ctx.state)

    await world.start()
    begun = 0
    for number in range(150):
        id = dice.choice("abc")
        match dice.randrange(8):
            case 0 | 1 | 2:
                begun += (await send.add(id, number)).created
                added.add(number)
            case 3:
                await send.flush(id)
            case 4:
                await send.resume(id)
            case 5:
                await (send.pause if dice.random() < 0.3 else send.resume)(id)
            case 6:
                broken = not broken
            case _:
                await pass_time(world, dice.choice((1, 9, 30, 30)))
        for event in handled:
            given_up.pop(event, None)
        found = {
            event
            for table in ("instance_states", "instance_entries")
            for (body,) in world.rows(f"SELECT body FROM {table}")
            for event in json.loads(body)
        }
        lost = added - found - handled
        assert all(world.now() - given_up.get(event, world.now()) >= kept for event in lost)
    assert begun > 3, "some were swept, and began anew"
    assert handled


async def _later(writer: Any, mutation: Mutation[int]) -> int:
    """Submit it once a task runs it."""
    result: int = await writer.submit(mutation)
    return result


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
async def test_what_is_over_while_no_server_runs_goes_at_the_next_start(world: World, crash: bool) -> None:
    orders = world.server.task("order", Order, retention="1h")
    await world.start()
    await orders.send("a", Ping(-1))
    await (world.harness.crash() if crash else world.harness.stop())
    world.clock.advance(2 * HOUR)
    await world.start()
    await pass_time(world, 1)
    assert left(world) == []


async def test_what_no_definition_is_served_for_stays(world: World) -> None:
    orders = world.server.task("order", Order, retention="1h")
    await world.start()
    await orders.send("a", Ping(-1))
    other = Server(LabHandlers())
    other.task("other", Order, retention=1)
    await world.restart(other)
    await pass_time(world, DAY)
    assert left(world) == ["a"]


class _Many(Mutation[None]):
    """Tombstones, each with so many lines of a log."""

    def __init__(self, count: int, lines: int) -> None:
        self.count, self.lines = count, lines

    def apply(self, tx: Any) -> None:
        ledger = tx.ledger(InstanceLedger)
        like = ledger.find(Kind.TASK, "order", "a")
        for number in range(self.count):
            uid = number.to_bytes(16)
            ledger.insert(like.evolve(uid=uid, id=f"more-{number}"))
            if self.lines:
                tx.connection.execute("INSERT INTO logbooks VALUES (?, ?, 0, 0, ?)", (uid, self.lines, tx.now))


@pytest.mark.parametrize(
    ("count", "lines", "most"), [(SWEEP_INSTANCES * 3, 0, SWEEP_INSTANCES), (5, SWEEP_EVENTS // 2, 2)],
    ids=["in instances", "in their lines"],
)  # fmt: skip
async def test_a_batch_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch, count: int, lines: int, most: int
) -> None:
    orders = world.server.task("order", Order, retention="1h")
    await world.start()
    await orders.send("a", Ping(-1))
    await world.engine.store.writer.submit(_Many(count, lines))
    batches: list[int] = []
    apply = SweepInstances.apply

    def counted(self: SweepInstances, tx: Any) -> int:
        batches.append(apply(self, tx))
        return batches[-1]

    monkeypatch.setattr(SweepInstances, "apply", counted)
    await pass_time(world, HOUR)
    assert left(world) == []
    assert (sum(batches), max(batches)) == (count + 1, most)


def test_one_index_drives_each_query_and_nothing_is_sorted(tmp_path: Any) -> None:
    """However many live: of a million that do not end a sweep reads none."""
    from longshore_server.store.database import migrations

    connection = sqlite3.connect(tmp_path / "plans.db")
    for _, script in migrations():
        connection.executescript(script)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    list(instance_retention.expired(connection, Kind.DEBOUNCE, "x", 1, 1))
    instance_retention.buried(connection, "x", 1, 1)
    instance_retention.next_expiry(connection, {(Kind.DEBOUNCE, "x"): 1})
    connection.set_trace_callback(None)
    plans = ["; ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {s}")) for s in statements]
    connection.close()
    assert len(plans) == 4
    for plan, index in zip(plans, ("quiet (kind=? AND definition=? AND quiet<?)", "buried (definition=? AND buried<?)",
                                   "quiet (kind=? AND definition=? AND quiet>?)", "buried (definition=? AND buried>?)"),
                           strict=True):  # fmt: skip
        assert index in plan
        assert "TEMP B-TREE" not in plan
        assert "SCAN" not in plan.replace("CORRELATED SCALAR", "").replace("SCAN (subquery", "")
