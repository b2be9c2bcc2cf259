"""What is refused, or fails, with a precise reason: nothing of it is written."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from longshore_server import Server
from longshore_server.errors import Reason, ServiceError
from longshore_server.instance_lifecycle import Kind, Status
from longshore_server.store.mutations.instance import MAX_WAITING, Address
from longshore_server.store.mutations.instance_accept import SendEvent
from tests.conftest import LabHandlers
from tests.server.instances.laboratory import Gate, Ping, Token, World

TASK = Address(Kind.TASK, "order", "a")


def send(world: World, *, id: str = "", digest: bytes = b"", version: int | None = None) -> Any:
    newcomer = world.engine.instances.newcomer("local")
    return world.engine.store.writer.submit(SendEvent(TASK, newcomer, ("json", b"1"), id, digest, version))


async def refused(call: Any) -> Reason:
    with pytest.raises(ServiceError) as caught:
        await call
    return caught.value.reason


async def test_an_event_id_is_one_event(world: World) -> None:
    await world.start()
    first = await send(world, id="x", digest=b"1")
    again = await send(world, id="x", digest=b"1")
    assert (again.duplicate, again.entry) == (True, first.entry)
    assert await refused(send(world, id="x", digest=b"2")) is Reason.EVENT_ID_REUSED


async def test_another_version_than_expected_is_refused(world: World) -> None:
    await world.start()
    assert await refused(send(world, version=1)) is Reason.VERSION_MISMATCH
    await send(world, version=0)
    # At the right version, and what was accepted before changes it.
    assert await refused(send(world, version=0)) is Reason.VERSION_MISMATCH


async def test_what_waits_is_bounded(world: World) -> None:
    await world.start()
    await asyncio.gather(*(send(world) for _ in range(MAX_WAITING)))
    assert await refused(send(world)) is Reason.TOO_MANY_EVENTS


async def test_a_state_that_is_too_large_fails_the_run(world: World) -> None:
    world.settings["max_payload"] = 1024

    @world.server.recurring("refresh", every=60, state=Token)
    async def refresh(ctx: Any) -> None:
        ctx.state = Token(1, "x" * 2000)

    await world.start()
    started = await refresh.start("a", Token())
    assert started.status is Status.FAILED
    status = await refresh.status("a")
    assert status.last_error is not None
    assert status.last_error.reason == "STATE_TOO_LARGE"
    assert await refresh.get_state("a") == Token()
    with pytest.raises(ValueError, match="the server keeps 1024 at most"):
        await refresh.start("b", Token(1, "x" * 2000))
    assert (await refresh.status("b")).status is Status.NOT_FOUND


async def test_a_state_that_a_new_definition_cannot_read_is_kept(world: World) -> None:
    runs: list[Any] = []

    def declare(state: Any) -> Any:
        @world.server.recurring("refresh", every=60, state=state)
        async def refresh(ctx: Any) -> None:
            runs.append(ctx.state)

        return refresh

    await_old = declare(Token)
    await world.start()
    await await_old.start("a", Token(7))
    world.server.definitions.clear()
    refresh = declare(int)
    await world.restart()
    await world.advance(60)
    status = await refresh.status("a")
    assert status.status is Status.FAILED
    assert status.last_error is not None
    assert status.last_error.reason == "STATE_UNREADABLE"
    assert await refused(refresh.get_state("a")) is Reason.STATE_UNREADABLE
    world.server.definitions.clear()
    refresh = declare(Token)
    await world.restart()
    assert (await refresh.resume("a")).status is Status.ACTIVE
    await world.settled()
    assert runs == [Token(7), Token(7)]
    assert (await refresh.status("a")).last_error is None


async def test_an_event_that_on_event_cannot_take_is_refused_and_leaves_nothing(world: World) -> None:
    """durable-effect: an invalid first event made an instance whose later events were never flushed."""
    batches: list[Any] = []

    def reduce(ctx: Any) -> Token:
        if ctx.event.number < 0:
            raise SystemExit
        return Token(ctx.event.number)

    @world.server.debounce("pings", state=Token, event=Ping, flush_after=5, on_event=reduce)
    async def pings(ctx: Any) -> None:
        batches.append(ctx.state.value)

    await world.start()
    assert await refused(pings.add("a", Ping(-1))) is Reason.EVENT_NOT_TAKEN
    assert (await pings.status("a")).status is Status.NOT_FOUND
    assert world.rows("SELECT count(*) FROM instances") == [(0,)]
    added = await pings.add("a", Ping(2))
    assert added.created
    assert added.will_flush_at is not None
    assert await refused(pings.add("a", Ping(-1))) is Reason.EVENT_NOT_TAKEN
    await world.advance(5)
    assert batches == [2]


async def test_batches_that_are_flushed_are_bounded_too(world: World) -> None:
    gate = Gate()

    @world.server.debounce("pings", state=Ping, flush_after="1h")
    async def pings(ctx: Any) -> None:
        await gate.hold()

    await world.start()
    for number in range(MAX_WAITING):
        await pings.add("a", Ping(number))
        await pings.flush("a", no_wait=True)
    await pings.add("a", Ping(0))
    assert await refused(pings.flush("a", no_wait=True)) is Reason.TOO_MANY_EVENTS
    status = await pings.status("a")
    assert (status.waiting_batches, status.event_count) == (MAX_WAITING, 1)


async def test_what_was_under_way_and_is_no_more_defined_waits_for_its_definition_without_a_crash(world: World) -> None:
    gate = Gate()

    def declare(server: Server) -> Any:
        @server.recurring("refresh", every=60, state=Token, max_crashes=2)
        async def refresh(ctx: Any) -> None:
            await gate.hold()

        return refresh

    refresh = declare(world.server)
    await world.start()
    await refresh.start("a", Token(), no_wait=True)
    await gate.reached.wait()
    await world.restart(Server(LabHandlers()))
    await world.settled()
    assert world.rows("SELECT under_way, crashes, due < 0 FROM instances") == [(0, 0, 1)]
    gate.opened.set()
    again = Server(LabHandlers())
    refresh = declare(again)
    await world.restart(again)
    await world.settled()
    status = await refresh.status("a")
    assert (status.status, status.run_count) == (Status.ACTIVE, 1)
