"""What ends a run from outside, and who is told of it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from longshore_server import InstanceStatus, StepRetry
from longshore_server.errors import Reason, ServiceError
from longshore_server.instances.runner import SLOTS
from longshore_server.store.mutations.instance_run import BeginRun, FinishRun
from tests.server.instances.laboratory import Gate, Token, World


async def test_a_resumed_run_has_all_its_attempts_again(world: World) -> None:
    attempts: list[int] = []

    @world.server.recurring("refresh", every=3600, state=Token, retry=StepRetry(2, initial_delay=1))
    async def refresh(ctx: Any) -> None:
        attempts.append(ctx.attempt)
        raise RuntimeError

    await world.start()
    await refresh.start("a", Token())
    await world.advance(1)
    await refresh.resume("a")
    await world.settled()
    await world.advance(1)
    assert attempts == [1, 2, 1, 2]


async def test_a_handler_that_does_not_stop_changes_nothing_of_what_has_ended(world: World) -> None:
    gate = Gate()

    @world.server.recurring("refresh", every=3600, state=Token, start_immediately=False)
    async def refresh(ctx: Any) -> None:
        while not gate.opened.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.hold()
        ctx.state = Token(99)

    await world.start()
    await refresh.start("a", Token(1))
    running = asyncio.create_task(refresh.trigger("a"))
    await gate.reached.wait()
    await refresh.terminate("a")
    assert (await running).status is InstanceStatus.TERMINATED
    assert (await refresh.start("a", Token(2))).created
    runs = list(world.engine.instances._runner._runs.values())
    gate.opened.set()
    await asyncio.wait(runs)
    assert await refresh.get_state("a") == Token(2)


async def test_who_waits_for_a_run_is_told_when_it_is_paused_before(world: World) -> None:
    gate = Gate()

    @world.server.recurring("refresh", every=3600, state=Token)
    async def refresh(ctx: Any) -> None:
        await gate.hold()

    await world.start()
    first = asyncio.create_task(refresh.start("a", Token()))
    await gate.reached.wait()
    second = asyncio.create_task(refresh.trigger("a"))
    await world.settled()
    await refresh.pause("a")
    gate.opened.set()
    assert (await first).status is InstanceStatus.PAUSED
    assert (await second).status is InstanceStatus.PAUSED


async def test_a_handler_that_hangs_is_cancelled_and_has_failed(world: World) -> None:
    attempts: list[float] = []

    @world.server.recurring("refresh", every=3600, state=Token, timeout=30, retry=StepRetry(2, initial_delay=1))
    async def refresh(ctx: Any) -> None:
        attempts.append(world.now())
        ctx.state.value += 1
        await asyncio.Event().wait()

    await world.start()
    await refresh.start("a", Token(), no_wait=True)
    await world.harness.advance(60)
    status = await refresh.status("a")
    assert (status.status, status.attempt) == (InstanceStatus.ACTIVE, 2)
    await world.harness.advance(1)
    assert attempts == [0, 31]
    status = await refresh.status("a")
    assert status.last_error is not None
    assert (status.status, status.last_error.reason) == (InstanceStatus.FAILED, "ATTEMPT_TIMEOUT")
    assert await refresh.get_state("a") == Token()


@pytest.mark.parametrize("reason", [None, "\ud800", "x" * 1025])
async def test_a_reason_that_cannot_be_kept_fails_the_run_and_leaves_no_zombie(world: World, reason: Any) -> None:
    @world.server.recurring("refresh", every=3600, state=Token)
    async def refresh(ctx: Any) -> None:
        ctx.terminate(reason)

    await world.start()
    await refresh.start("a", Token())
    assert (await refresh.status("a")).status is InstanceStatus.FAILED


async def test_an_end_that_the_store_does_not_take_fails_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, tx: Any) -> Any:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(FinishRun, "apply", broken)

    @world.server.recurring("refresh", every=3600, state=Token)
    async def refresh(ctx: Any) -> None:
        pass

    await world.start()
    await refresh.start("a", Token())
    status = await refresh.status("a")
    assert status.last_error is not None
    assert (status.status, status.last_error.reason) == (InstanceStatus.FAILED, "INTERNAL")


async def test_a_beginning_that_the_store_does_not_take_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, begun = BeginRun.apply, list[float]()

    def broken(self: BeginRun, tx: Any) -> Any:
        begun.append(world.now())
        if len(begun) == 1:
            raise RuntimeError("a mistake of ours")
        return apply(self, tx)

    monkeypatch.setattr(BeginRun, "apply", broken)

    @world.server.recurring("refresh", every=3600, state=Token)
    async def refresh(ctx: Any) -> None:
        pass

    await world.start()
    await refresh.start("a", Token(), no_wait=True)
    await world.settled()
    await world.harness.advance(60)
    assert (await refresh.status("a")).run_count == 1
    assert set(begun) == {0, 60}


async def test_those_that_cannot_begin_are_set_aside_however_many_they_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, apply, begun = SLOTS + 10, BeginRun.apply, list[bytes]()

    def broken(self: BeginRun, tx: Any) -> Any:
        begun.append(self.uid)
        if world.now() < 90 and len(begun) < 4 * SLOTS:
            raise ServiceError(Reason.INTERNAL, "a mistake of ours")
        return apply(self, tx)

    monkeypatch.setattr(BeginRun, "apply", broken)

    @world.server.recurring("refresh", every=30, start_immediately=False, state=Token)
    async def refresh(ctx: Any) -> None:
        pass

    await world.start()
    for n in range(count):
        await refresh.start(f"{n}", Token())
    await world.advance(30)
    assert (len(begun), len(set(begun))) == (count, count), "each was tried once"
    await world.advance(59)
    assert len(begun) == count
    await refresh.trigger("7", no_wait=True)
    await world.settled()
    assert len(begun) == count + 1, "one that has changed is tried again"
    await world.advance(1)
    assert world.rows("SELECT count(*) FROM instances WHERE runs > 0") == [(count,)]


async def test_a_handler_that_swallows_its_cancellation_is_given_up_and_its_instance_goes_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, seen, told = Gate(), [], []

    async def sorry(error: BaseException, ctx: Any) -> None:
        told.append((type(error).__name__, ctx.state.value, world.now()))
        ctx.state = Token(7)

    @world.server.recurring("refresh", every=3600, state=Token, timeout=30, on_error=sorry)
    async def refresh(ctx: Any) -> None:
        seen.append(ctx.run_count)
        while ctx.run_count == 1 and not stuck.opened.is_set():
            ctx.state = Token(99)
            with contextlib.suppress(asyncio.CancelledError):
                await stuck.hold()

    await world.start()
    started = asyncio.create_task(refresh.start("a", Token(1)))
    await world.harness.advance(30)
    assert not started.done()
    await world.harness.advance(10)
    assert (await started).status is InstanceStatus.ACTIVE
    assert told == [("RunTimeoutError", 1, 40)]
    assert "does not stop though it was cancelled" in caplog.text
    assert (await refresh.trigger("a")).triggered
    assert seen == [1, 2]
    assert await refresh.get_state("a") == Token(7)
    assert not world.engine.instances._runner._runs
    stuck.opened.set()
    await world.settled()
    assert await refresh.get_state("a") == Token(7)


async def test_another_generation_runs_though_the_handler_of_the_one_before_does_not_stop(world: World) -> None:
    stuck = Gate()

    @world.server.recurring("refresh", every=3600, state=Token)
    async def refresh(ctx: Any) -> None:
        while ctx.state.value == 1 and not stuck.opened.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await stuck.hold()
        ctx.state = Token(3)

    await world.start()
    first = asyncio.create_task(refresh.start("a", Token(1)))
    await stuck.reached.wait()
    await refresh.terminate("a")
    assert (await first).status is InstanceStatus.TERMINATED
    second = asyncio.create_task(refresh.start("a", Token(2)))
    await world.harness.advance(9)
    assert not second.done()
    await world.harness.advance(1)
    assert (await second).created
    assert await refresh.get_state("a") == Token(3)
    stuck.opened.set()
    await world.settled()


async def test_a_handler_is_cancelled_once_and_may_clean_up(world: World) -> None:
    begun, gate, cleaned = Gate(), Gate(), []

    @world.server.recurring("refresh", every=3600, state=Token)
    async def refresh(ctx: Any) -> None:
        if ctx.state.value == 1:
            try:
                await begun.hold()
            finally:
                await gate.hold()
                cleaned.append(ctx.state.value)

    await world.start()
    first = asyncio.create_task(refresh.start("a", Token(1)))
    await begun.reached.wait()
    await refresh.terminate("a")
    await gate.reached.wait()
    assert (await refresh.start("a", Token(2), no_wait=True)).created
    await refresh.pause("a")
    await refresh.resume("a")
    await world.settled()
    gate.opened.set()
    await first
    await world.settled()
    assert cleaned == [1]
    assert (await refresh.status("a")).run_count == 1
