"""A batch of many events: the last ones cost what the first did."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.instances.laboratory import World

BLOCK = 200
"""How many events are compared, each in a commit of its own: how many share one is up to the machine."""


@pytest.mark.parametrize("on_event", [None, lambda ctx: {"count": ctx.event_count}], ids=["latest", "counted"])
async def test_the_writer_has_as_much_to_do_for_the_last_events_as_for_the_first(world: World, on_event: Any) -> None:
    @world.server.debounce("pings", event=dict, state=dict, on_event=on_event, flush_after="1h")
    async def pings(ctx: Any) -> None: ...

    await world.start()
    database = world.engine.store.writer._database
    statements: list[int] = []
    steps: list[None] = []

    def listen(on: bool) -> None:
        raw = database.raw
        raw.set_trace_callback((lambda statement: statements.append(len(statement))) if on else None)
        raw.set_progress_handler((lambda: steps.append(None)) if on else None, 10)

    await database.run(lambda: listen(True))

    async def add(block: int) -> tuple[int, int, int]:
        """A block of events: how many bytes the statements have with their values, how many steps SQLite makes, and how
        many rows change."""
        statements.clear()
        steps.clear()
        rows = database.raw.total_changes
        numbers = range(1_000_000 + block * BLOCK, 1_000_000 + (block + 1) * BLOCK)
        for number in numbers:
            await pings.add("a", {"number": number, "text": "x" * 100}, event_id=f"event-{number}")
        return sum(statements), len(steps), database.raw.total_changes - rows

    await add(0)
    first = await add(1)
    for block in range(2, 7):
        await add(block)
    last = await add(7)
    await database.run(lambda: listen(False))
    assert (await pings.status("a")).event_count == 8 * BLOCK
    # All are known as long as the batch is open.
    assert world.rows("SELECT count(*) FROM instance_ids") == [(8 * BLOCK,)]
    assert all(0 < after < 1.3 * before for before, after in zip(first, last, strict=True)), (first, last)
