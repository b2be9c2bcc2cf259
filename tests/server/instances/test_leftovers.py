"""The ids of a generation that is over: nobody finds them any more, and they go a bounded number at a time."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from longshore_server.store.batches import Batches
from longshore_server.store.instance_leftovers import ROOM, Leftovers
from longshore_server.store.mutations import Mutation, SweepLeftovers
from tests.server.instances.laboratory import Ping, World

MANY = 10_000


class _Know(Mutation[None]):
    """Let an instance know so many ids of events, as a large batch leaves them."""

    def __init__(self, id: str, count: int) -> None:
        self.id, self.count = id, count

    def apply(self, tx: Any) -> None:
        tx.flush()
        tx.connection.executemany(
            "INSERT INTO instance_ids (uid, generation, use, id, place, number, events, digest)"
            " SELECT uid, generation, 1, ?2, ?3, 0, 0, x'00' FROM instances WHERE id = ?1",
            [(self.id, f"old-{n}", n) for n in range(2, 2 + self.count)],
        )


class Ids:
    """How many ids are stored, after each commit."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.stored: list[int] = []
        commit = Batches._commit

        def counted(batches: Batches, connection: sqlite3.Connection) -> None:
            (count,) = connection.execute("SELECT count(*) FROM instance_ids").fetchone()
            self.stored.append(count)
            commit(batches, connection)

        monkeypatch.setattr(Batches, "_commit", counted)

    @property
    def largest(self) -> int:
        """The most that one commit has deleted."""
        return max(before - after for before, after in zip(self.stored, self.stored[1:], strict=False))

    async def gone(self) -> None:
        """Let the sweeper come to its end."""
        await self.world.advance(1)
        assert self.world.rows("SELECT count(*) FROM instance_leftovers") == [(0,)]


@pytest.fixture
async def pings(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A debounce, an instance of which knows very many ids."""

    @world.server.debounce("pings", state=Ping, flush_after="1h", retention="2h")
    async def pings(ctx: Any) -> None:
        pass

    await world.start()
    await pings.add("a", Ping(1), event_id="first")
    await world.engine.store.writer.submit(_Know("a", MANY))
    return pings


def owners(world: World) -> list[Any]:
    return world.rows("SELECT generation, count(*) FROM instance_ids GROUP BY generation ORDER BY generation")


async def test_a_new_generation_never_knows_the_ids_of_the_old_one(
    world: World, pings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = Ids(world, monkeypatch)
    await pings.terminate("a")
    added = await pings.add("a", Ping(2), event_id="old-9000")
    assert (added.created, added.duplicate) == (True, False)
    assert owners(world) == [(1, MANY + 1 - ROOM), (2, 1)], "most of the old ones are still there"
    assert not (await pings.add("a", Ping(3), event_id="first")).duplicate
    assert (await pings.add("a", Ping(2), event_id="old-9000")).duplicate
    await ids.gone()
    assert owners(world) == [(2, 2)]
    assert ids.largest == ROOM
    assert (await pings.add("a", Ping(2), event_id="old-9000")).duplicate


@pytest.mark.parametrize("tombstone", [False, True])
async def test_a_purge_leaves_nothing_however_many_ids_there_were(
    world: World, pings: Any, monkeypatch: pytest.MonkeyPatch, tombstone: bool
) -> None:
    ids = Ids(world, monkeypatch)
    if tombstone:
        await pings.terminate("a")
    await pings.terminate("a", purge=True)
    assert world.rows("SELECT count(*) FROM instances") == [(0,)]
    added = await pings.add("a", Ping(2), event_id="old-9000")
    assert (added.created, added.duplicate) == (True, False)
    await ids.gone()
    assert owners(world) == [(1, 1)]
    assert ids.largest == ROOM


async def test_what_is_kept_no_more_goes_in_several_transactions(
    world: World, pings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pings.flush("a")
    ids = Ids(world, monkeypatch)
    await world.advance(2 * 3600)
    await ids.gone()
    assert owners(world) == []
    assert ids.largest == ROOM


async def test_a_crash_halfway_leaves_the_rest_to_the_next_server(world: World, pings: Any) -> None:
    crash = world.harness.crash_after(commits=2, when=lambda change: isinstance(change, SweepLeftovers))
    await pings.terminate("a", purge=True)
    world.clock.advance(1)
    await crash
    assert owners(world) == [(1, MANY + 1 - 3 * ROOM)]
    await world.advance(1)
    assert owners(world) == []
    assert world.rows("SELECT count(*) FROM instance_leftovers") == [(0,)]


async def test_an_ordinary_instance_leaves_nothing_behind(world: World, pings: Any) -> None:
    await pings.add("b", Ping(1), event_id="1")
    await world.engine.store.writer.submit(_Know("b", ROOM // 2))
    await pings.terminate("b", purge=True)
    assert owners(world) == [(1, MANY + 1)]
    assert world.rows("SELECT count(*) FROM instance_leftovers") == [(0,)]


async def test_one_index_drives_the_deletion(world: World, pings: Any) -> None:
    class _Plans(Mutation[list[str]]):
        def apply(self, tx: Any) -> list[str]:
            statements: list[str] = []
            tx.connection.set_trace_callback(statements.append)
            tx.ledger(Leftovers).add(b"x" * 16, 1)
            tx.connection.set_trace_callback(None)
            return ["; ".join(row[3] for row in tx.connection.execute(f"EXPLAIN QUERY PLAN {s}")) for s in statements]

    plans = await world.engine.store.writer.submit(_Plans())
    assert "(uid=? AND generation=? AND use=? AND place=?)" in plans[0], "what is deleted is found, not looked for"
    assert "TEMP B-TREE" not in plans[0]
