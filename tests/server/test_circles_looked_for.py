"""How circles of those who wait are looked for, while others go on: what is read, and what is kept of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from longshore_server import ServiceError
from longshore_server.handler import waits
from longshore_server.handler.lending import Acting
from longshore_server.store.circles import circle
from tests.server.circling import Ring, ring
from tests.server.instances.laboratory import Ping

__all__ = ["ring"]


@pytest.mark.parametrize("fills", [False, True])
async def test_a_verb_keeps_nobody_from_waiting_before_it_has_found_something_to_wait_for(
    ring: Ring, monkeypatch: pytest.MonkeyPatch, fills: bool
) -> None:
    """The handler of a batch waits for the operation that is adding an event to the next batch."""
    closes = asyncio.Event()
    outcomes: list[str] = []

    async def begin(self: waits.HandlerWaits, target: Any) -> waits.Wait | None:
        wait = await may_wait(self, target)
        if wait is not None and isinstance(wait.by.node, bytes):  # the operation's
            await ring.gate.hold()
        return wait

    def look(*args: Any, **options: Any) -> Any:
        found = circle(*args, **options)
        if found is not None:
            loop.call_soon_threadsafe(closes.set)
        return found

    @ring.server.debounce("batch", event=Ping, flush_after="1h", max_events=2)
    async def batch(ctx: Any) -> None:
        if ctx.state.number:
            await ring.gate.reached.wait()
            try:
                outcomes.append((await ring.wait_for(ref.name)).text)
            except ServiceError as error:
                outcomes.append(error.reason.name)

    async def handler(op: Any) -> None:
        if fills:
            await batch.add("x", Ping(0), no_wait=True)
        await batch.add("x", Ping(0))

    loop, may_wait = asyncio.get_running_loop(), waits.HandlerWaits.begin
    monkeypatch.setattr(waits, "circle", look)
    monkeypatch.setattr(waits.HandlerWaits, "begin", begin)
    ring.handles(handler)
    await ring.start()
    await batch.add("x", Ping(1))
    await batch.flush("x", no_wait=True)
    ref = await ring.begin()
    await closes.wait()
    ring.gate.opened.set()
    assert (await ref.wait()).text == "done"
    await ring.settled()
    assert outcomes == ["ILLEGAL_MOVE" if fills else "done"]


class _OneByOne(dict[Any, Any]):
    """Tells those who ask for one, and nobody who goes through all."""

    def _refuse(self) -> Any:
        raise AssertionError("somebody goes through all who wait")

    __iter__ = copy = keys = values = items = _refuse


async def test_a_wait_looks_at_those_in_its_way_however_many_wait_and_nothing_is_left_of_it(ring: Ring) -> None:
    @ring.server.job("many")
    async def many(payload: int, job: Any) -> None:
        if payload:
            await ring.wait_for(ref.name)
        else:
            await ring.gate.hold()
            await ring.refused(ring.wait_for(ref.name))

    async def handler(op: Any) -> None:
        jobs = await many.create_many(range(40))
        await asyncio.gather(*(job.wait() for job in jobs[:1]))

    ring.handles(handler)
    await ring.start()
    table = ring.engine.handler_waits
    table._waits = _OneByOne()
    ref = await ring.begin()
    await ring.go_on()
    await ref.wait()
    await ring.settled()
    assert len(ring.problems) == 1
    assert (len(table._waits), len(table._ended), len(table._looks)) == (0, 0, 0)


async def test_who_has_ended_stays_for_the_looks_that_began_before_and_no_longer() -> None:
    """There may always be one under way."""
    reads: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    class Slow:
        async def read(self, _: Any) -> None:
            read = asyncio.get_running_loop().create_future()
            reads.put_nowait(read)
            await read

    table = waits.HandlerWaits(Slow())  # type: ignore[arg-type]

    async def begin(own: bytes) -> tuple[asyncio.Task[waits.Wait], asyncio.Future[None]]:
        task = asyncio.ensure_future(table._begin(Acting(own), b"target", hands_over=False))
        return task, await reads.get()

    first, read = await begin(b"first")
    read.set_result(None)
    await first
    second, read = await begin(b"second")
    table.end(await first)
    third, other = await begin(b"third")
    assert b"first" in table._waits
    read.set_result(None)
    await second
    assert list(table._waits) == [b"second", b"third"]
    other.set_result(None)
    await third


async def test_a_hand_over_that_is_settled_while_a_circle_is_looked_for_closes_it(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last would wait for the first, which waits for the middle one, which is just handed over to the last."""
    holding, looking = asyncio.Event(), asyncio.Event()
    over = threading.Event()

    async def before(self: waits.HandlerWaits, own: bytes, other: bytes) -> Callable[[], object]:
        settled = await hand_over(self, own, other)
        holding.set()
        await looking.wait()

        def done() -> None:
            settled()
            over.set()

        return done

    def look(connection: Any, *args: Any, **options: Any) -> Any:
        if holding.is_set() and not over.is_set():
            connection.execute("SELECT count(*) FROM jobs").fetchone()  # the store is read as of now
            loop.call_soon_threadsafe(looking.set)
            assert over.wait(20)
        return circle(connection, *args, **options)

    @ring.server.job("first")
    async def first(payload: str, job: Any) -> None:
        await middle.job(payload).wait()

    @ring.server.job("middle")
    async def middle(payload: str, job: Any) -> None:
        other = await first.create(job.id, detached=True)
        await ring.gate.hold()
        await job.attach(await last.create(other.id))

    @ring.server.job("last")
    async def last(payload: str, job: Any) -> None:
        await holding.wait()
        await ring.refused(first.job(payload).wait())

    loop, hand_over = asyncio.get_running_loop(), waits.HandlerWaits.before
    monkeypatch.setattr(waits, "circle", look)
    monkeypatch.setattr(waits.HandlerWaits, "before", before)
    await ring.start()
    ref = await middle.create("x")
    await ring.go_on()
    async with asyncio.timeout(60):
        await ref.wait()
    assert f"{ref.name} ends with jobs/" in ring.problems[0]
