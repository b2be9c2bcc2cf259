"""Dead letters that are nobody's any more: very many go a bounded number at a time, and nobody is given them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from longshore_server.instance_lifecycle import Kind, Move, Status
from longshore_server.store import database, instance_leftovers
from longshore_server.store.batches import Batches
from longshore_server.store.instance_ledger import InstanceLedger
from longshore_server.store.instance_leftovers import LETTERS
from longshore_server.store.mutations import Mutation, SweepLeftovers
from longshore_server.store.mutations.instance_admin import Revive
from tests.server.instances.laboratory import Gate, Ping, World

MANY = 4 * LETTERS + 1
HOUR = 3600


class _Bury(Mutation[None]):
    """Let an instance have so many dead letters of two events each, as very many batches leave them that fail."""

    def apply(self, tx: Any) -> None:
        ledger = tx.ledger(InstanceLedger)
        record = ledger.find(Kind.DEBOUNCE, "pings", "a")
        ledger.make(record, Move.ACCEPT, accepted=record.accepted + MANY, dead=record.dead + MANY)
        tx.connection.executemany(
            "INSERT INTO instance_entries (uid, number, type, accepted, events, started, cause, buried, definition,"
            " error, codec, body) VALUES (?, ?, 4, 0, 2, 0, 1, ?, 'pings', x'', 'json', x'5b5d')",
            [(record.uid, -record.accepted - n, ledger.now) for n in range(1, MANY + 1)],
        )


class Pings:
    """A debounce, an instance of which has very many dead letters."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broken = False
        self.gate: Gate | None = None
        self.handled: list[Any] = []

        @world.server.debounce("pings", state=list, event=Ping, flush_after="1h", retention="2h",
                               initial=list, on_event=lambda ctx: [*ctx.state, ctx.event.number])  # fmt: skip
        async def pings(ctx: Any) -> None:
            if self.gate is not None:
                await self.gate.hold()
            if self.broken:
                raise ValueError("broken")
            self.handled.append(ctx.state)

        self.definition = pings

    def stored(self) -> int:
        """How many dead letters there are in the file."""
        return int(self.world.rows("SELECT count(*) FROM instance_entries WHERE number < 0")[0][0])

    async def gone(self) -> None:
        """Let the sweeper come to its end."""
        await self.world.advance(1)
        assert self.world.rows("SELECT count(*) FROM instance_letters_left") == [(0,)]


@pytest.fixture
async def pings(world: World) -> Pings:
    found = Pings(world)
    await world.start()
    await found.definition.add("a", Ping(1))
    await found.definition.flush("a")
    await world.engine.store.writer.submit(_Bury())
    return found


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many dead letters each transaction leaves."""
    found: list[int] = []
    commit = Batches._commit

    def counted(batches: Batches, connection: sqlite3.Connection) -> None:
        (count,) = connection.execute("SELECT count(*) FROM instance_entries WHERE number < 0").fetchone()
        found.append(count)
        commit(batches, connection)

    monkeypatch.setattr(Batches, "_commit", counted)
    return found


def most(stored: list[int]) -> int:
    """How many fewer a transaction has left, at most."""
    return max(before - after for before, after in itertools.pairwise(stored))


async def test_very_many_are_resumed_in_several_transactions(world: World, pings: Pings, stored: list[int]) -> None:
    """100,000 held up all other changes for seconds."""
    pings.gate = Gate()
    assert (await pings.definition.resume("a")).changed
    status = await pings.definition.status("a")
    assert (status.dead_letters, status.waiting_batches, pings.stored()) == (0, MANY, 0)
    assert most([MANY, *stored]) == LETTERS


async def test_each_is_resumed_once_though_it_dies_again(world: World, pings: Pings) -> None:
    pings.broken = True

    async def sorry(error: BaseException, ctx: Any) -> None: ...

    pings.definition.on_error = sorry
    await pings.definition.resume("a")
    await world.settled()
    status = await pings.definition.status("a")
    assert (status.status, status.dead_letters, pings.stored()) == (Status.ACTIVE, MANY, MANY)


async def test_what_dies_while_very_many_are_resumed_is_not_resumed_with_them(
    world: World, pings: Pings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sorry(error: BaseException, ctx: Any) -> None: ...

    submit, batches = pings.definition.host.submit, itertools.count()

    async def slowly(change: Mutation[Any]) -> Any:
        if isinstance(change, Revive):
            if next(batches) == 0:
                await pings.definition.add("a", Ping(2))
                await pings.definition.flush("a", no_wait=True)
            await world.settled()  # each that was resumed has died again
        return await submit(change)

    pings.broken, pings.definition.on_error = True, sorry
    monkeypatch.setattr(pings.definition.host, "submit", slowly)
    await asyncio.wait_for(pings.definition.resume("a"), 60)
    await world.settled()
    status = await pings.definition.status("a")
    assert (status.dead_letters, pings.stored(), next(batches)) == (MANY + 1, MANY + 1, 5)
    assert status.run_count == 1 + MANY + 1


@pytest.mark.parametrize("what", ["pause", "clear", "terminate"])
async def test_what_happens_to_an_instance_while_very_many_are_resumed(world: World, pings: Pings, what: str) -> None:
    """The rest changes no status, and is not of what began after that."""
    pings.gate = Gate()
    resumed = asyncio.ensure_future(pings.definition.resume("a"))
    await pings.gate.reached.wait()
    await getattr(pings.definition, what)("a")
    await resumed
    status = await pings.definition.status("a")
    if what == "pause":
        assert (status.status, status.dead_letters, status.waiting_batches) == (Status.PAUSED, 0, MANY)
    else:
        ended = Status.ACTIVE if what == "clear" else Status.TERMINATED
        assert (status.status, status.dead_letters) == (ended, 0)
        assert status.waiting_batches <= 1
    await pings.gone()
    assert pings.stored() == 0


async def test_those_that_a_crash_left_out_of_a_resume_are_dead_letters_still(world: World, pings: Pings) -> None:
    pings.gate = Gate()
    crash = world.harness.crash_after(commits=2, when=lambda change: isinstance(change, Revive))
    resumed = asyncio.ensure_future(pings.definition.resume("a"))
    await crash
    resumed.cancel()
    status = await pings.definition.status("a")
    assert (status.dead_letters, status.waiting_batches) == (MANY - 3 * LETTERS, 3 * LETTERS)
    await pings.definition.resume("a")
    pings.gate.opened.set()
    await world.settled()
    assert len(pings.handled) == MANY + 1


@pytest.mark.parametrize("verb", ["clear", "terminate", "purge"])
async def test_very_many_go_in_several_transactions(world: World, pings: Pings, stored: list[int], verb: str) -> None:
    if verb == "clear":
        assert (await pings.definition.clear("a")).discarded_events == 2 * MANY
        assert (await pings.definition.clear("a")).discarded_events == 0
    else:
        await pings.definition.terminate("a", purge=verb == "purge")
    assert (await pings.definition.status("a")).dead_letters == 0
    assert pings.stored() > 0
    await pings.gone()
    assert pings.stored() == 0
    assert most([MANY, *stored]) == LETTERS


async def test_nobody_is_given_those_that_are_left(world: World, pings: Pings) -> None:
    """What dies after that is a dead letter as any: it is replayed alone, and cleared alone."""
    world.engine.sweeper.stop()
    await pings.definition.clear("a")
    pings.broken = True
    for count in (1, 2):
        await pings.definition.add("a", Ping(7))
        await pings.definition.flush("a")
        status = await pings.definition.status("a")
        assert (status.status, status.dead_letters) == (Status.FAILED, 1)
        pings.broken = False
        await pings.definition.resume("a")
        await world.settled()
        assert pings.handled[1:] == [[7]] * count
        pings.broken = True
    await pings.definition.add("a", Ping(8))
    await pings.definition.flush("a")
    assert (await pings.definition.clear("a")).discarded_events == 1
    assert pings.stored() > LETTERS
    await world.restart()
    await pings.gone()
    assert pings.stored() == 0


async def test_a_batch_whose_handler_runs_at_the_clear_is_kept_where_it_dies(world: World, pings: Pings) -> None:
    pings.broken, pings.gate = True, Gate()
    await pings.definition.add("a", Ping(7))
    await pings.definition.flush("a", no_wait=True)
    await pings.gate.reached.wait()
    assert (await pings.definition.clear("a")).discarded_events == 2 * MANY
    pings.gate.opened.set()
    await world.settled()
    await pings.gone()
    assert (pings.stored(), (await pings.definition.status("a")).dead_letters) == (1, 1)


async def test_a_batch_that_is_kept_where_it_dies_may_be_older_than_a_dead_letter(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler of the last batch ran when those before it were resumed: it died first. The sweeper comes late."""
    monkeypatch.setattr(instance_leftovers, "LETTERS", 2)
    gates: dict[int, Gate] = {}
    broken = True
    handled: list[int] = []

    async def sorry(error: BaseException, ctx: Any) -> None: ...

    @world.server.debounce("pings", state=int, event=Ping, flush_after="1h", on_error=sorry,
                           on_event=lambda ctx: ctx.event.number)  # fmt: skip
    async def pings(ctx: Any) -> None:
        if ctx.state in gates:
            await gates[ctx.state].hold()
        if broken:
            raise ValueError("broken")
        handled.append(ctx.state)

    await world.start()
    for number in range(1, 5):
        await pings.add("a", Ping(number))
        await pings.flush("a")
    gates |= {4: Gate(), 5: Gate()}
    await pings.add("a", Ping(5))
    await pings.flush("a", no_wait=True)
    await gates[5].reached.wait()
    await pings.resume("a")
    gates[5].opened.set()
    await gates[4].reached.wait()
    world.engine.sweeper.stop()
    assert (await pings.clear("a")).discarded_events == 4, "1 to 3, and 5"
    gates[4].opened.set()
    await world.settled()
    await world.restart()
    await world.advance(1)
    assert (await pings.status("a")).dead_letters == 1
    assert [events for (events,) in world.rows("SELECT events FROM instance_entries")] == [1]
    broken = False
    await pings.resume("a")
    await world.settled()
    status = await pings.status("a")
    assert (handled, status.status, status.dead_letters) == ([4], Status.ACTIVE, 0)


@pytest.mark.parametrize("purge", [False, True])
async def test_those_that_are_old_count_for_nobody_when_they_go(world: World, pings: Pings, purge: bool) -> None:
    await pings.definition.terminate("a", purge=purge)
    crash = world.harness.crash_after(commits=1, when=lambda change: isinstance(change, SweepLeftovers))
    world.clock.advance(2 * HOUR)
    await crash
    assert pings.stored() > 0
    await pings.gone()
    assert pings.stored() == 0


async def test_those_that_are_old_do_not_count_for_an_instance_that_goes_on(world: World, pings: Pings) -> None:
    await pings.definition.clear("a")
    await pings.definition.add("a", Ping(7))
    await world.harness.crash()
    world.clock.advance(2 * HOUR)
    await world.start()
    await pings.gone()
    await pings.gone()
    status = await pings.definition.status("a")
    assert (pings.stored(), status.status, status.dead_letters) == (0, Status.ACTIVE, 0)
    assert pings.handled[1:] == [[7]]


async def test_without_an_end_they_go_by_their_age(world: World, pings: Pings) -> None:
    await world.advance(2 * HOUR)
    await world.advance(1)
    assert (pings.stored(), (await pings.definition.status("a")).dead_letters) == (0, 0)


def test_those_of_an_earlier_schema_are_apart_from_what_waits(tmp_path: Path) -> None:
    steps = [step for step in database.migrations() if step[0] < 23]
    with contextlib.closing(sqlite3.connect(tmp_path / "longshore.db", isolation_level=None)) as connection:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "migrations", lambda: steps)
            database.migrate(connection, tmp_path)
        connection.executemany(
            "INSERT INTO instance_entries VALUES (x'01', ?, 4, 1, 'json', x'5b5d', 2, 3, 1, ?, ?, ?)",
            [(5, b"", 9, "pings"), (6, None, None, None), (7, b"", 8, "pings")],
        )
        database.migrate(connection, tmp_path)
        rows = connection.execute("SELECT number, events, buried, body FROM instance_entries").fetchall()
    assert rows == [(-7, 2, 8, b"[]"), (-5, 2, 9, b"[]"), (6, 2, None, b"[]")]
