"""What a step's function has asked for by name, asked for again: by its next try, or by who was cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore_server import DuplicateNameError, Job, OperationError, StepRetry
from longshore_server.store.mutations import Accept, Record
from longshore_server.store.mutations.job_creation import CreateJobs
from tests.conftest import Crash, State, reason_of_end, result_of
from tests.server.jobs.conftest import Yard

NOW = StepRetry(5, initial_delay=0)


@pytest.mark.parametrize("kind", ["create", "create_many", "submit"])
async def test_another_try_of_a_step_finds_the_job_that_the_first_has_created(yard: Yard, kind: str) -> None:
    found: list[str] = []

    @yard.job("load")
    async def load(payload: int, job: Job[int]) -> int:
        return payload

    async def ask() -> Any:
        match kind:
            case "create":
                return await load.create(7)
            case "submit":
                return (await load.submit(7)).job
            case _:
                return (await load.create_many([7]))[0]

    async def work() -> int:
        ref = await ask()
        found.append(ref.id)
        if len(found) < 3:
            raise ConnectionError
        return int(await ref.wait())

    @yard.plays
    async def handler(request: Any, op: Any) -> Any:
        return lab_pb2.PlayResult(number=await op.step("work", work, retry=NOW))

    await yard.start()
    end = await yard.run()
    assert (result_of(end).number, end.attempt, len(found), len(set(found))) == (7, 1, 3, 1)
    assert len(await yard.jobs()) == 1


async def test_another_try_waits_anew_for_what_took_too_long(yard: Yard) -> None:
    gate, tries = asyncio.Event(), 0

    @yard.job("load")
    async def load(payload: int, job: Job[int]) -> int:
        await gate.wait()
        return payload

    async def work() -> int:
        nonlocal tries
        tries += 1
        return int(await (await load.create(7)).wait(10))

    @yard.plays
    async def handler(request: Any, op: Any) -> Any:
        return lab_pb2.PlayResult(number=await op.step("work", work, retry=StepRetry(2, initial_delay=1)))

    await yard.start()
    name = (await yard.begin()).operation.name
    await yard.clock.armed(10)
    yard.clock.advance(10)
    await yard.clock.armed(1)
    yard.clock.advance(1)
    await yard.clock.armed(10)
    gate.set()
    assert (result_of(await yard.end(name)).number, tries) == (7, 2)


async def test_a_step_that_the_handler_asks_for_again_finds_its_job_after_a_crash_too(yard: Yard) -> None:
    crash, found = Crash(yard), []

    @yard.job("load")
    async def load(payload: int, job: Job[int]) -> int:
        return payload

    @yard.plays
    async def handler(request: Any, op: Any) -> Any:
        async def work() -> int:
            found.append((await load.create(7)).id)
            if len(found) == 2:
                await crash.here(op)
            if len(found) % 2:
                raise ConnectionError
            return 1

        with pytest.raises(ConnectionError):
            await op.step("work", work)
        return lab_pb2.PlayResult(number=await op.step("work", work))

    await yard.start()
    name = (await yard.begin()).operation.name
    await crash.happen()
    assert result_of(await yard.end(name)).number == 1
    assert (len(found), len(set(found))) == (4, 1)


async def test_another_try_that_creates_another_job_is_refused_with_both_sides(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    @yard.job("load")
    async def load(payload: int, job: Job[None]) -> None: ...

    async def work() -> None:
        nonlocal tries
        tries += 1
        await load.create(tries)
        raise ConnectionError

    @yard.plays
    async def handler(request: Any, op: Any) -> Any:
        await op.step("work", work, retry=NOW)

    await yard.start()
    end = await yard.run()
    assert (reason_of_end(end), tries) == ("NON_DETERMINISTIC", 2)
    assert "job 'load': its first try asked for ('load', 'create', [1," in caplog.text
    assert "another one asks for ('load', 'create', [2," in caplog.text
    assert len(await yard.jobs()) == 1


async def test_a_name_that_one_try_uses_twice_is_refused_with_both_places(yard: Yard) -> None:
    tries = 0

    @yard.job("load")
    async def load(payload: int, job: Job[None]) -> None: ...

    async def work() -> None:
        nonlocal tries
        tries += 1
        await load.create(1)
        if tries == 1:
            raise ConnectionError
        await load.create(1)

    @yard.plays
    async def handler(request: Any, op: Any) -> Any:
        with pytest.raises(
            DuplicateNameError, match=r"job 'load' is used at .*steps.py:\d+ and again at .*steps.py:\d+"
        ):
            await op.step("work", work, retry=NOW)
        with pytest.raises(DuplicateNameError, match=r"used at .* and again at"):
            await load.create(1)
        with pytest.raises(DuplicateNameError, match=r"used at .* and again at"):
            await op.step("other", load.create, 1)
        return lab_pb2.PlayResult()

    await yard.start()
    assert (await yard.run()).state == State.STATE_COMPLETED
    assert tries == 2


async def test_another_try_of_a_step_finds_the_operation_that_the_first_has_started(yard: Yard) -> None:
    found: list[tuple[str, bool]] = []

    @yard.plays
    async def handler(request: Any, op: Any) -> Any:
        if request.script == "child":
            return lab_pb2.PlayResult(number=3)

        async def work() -> int:
            ref = await yard.server.operations.start(Yard.TYPE, lab_pb2.PlayRequest(script="child"))
            found.append((ref.uid, ref.created))
            if len(found) == 1:
                raise OperationError("BUSY")
            return int((await ref.wait()).number)

        return lab_pb2.PlayResult(number=await op.step("work", work, retry=NOW))

    await yard.start()
    assert result_of(await yard.run()).number == 3
    (one, created), (two, once_more) = found
    assert (one, created, once_more) == (two, True, False)


@pytest.mark.parametrize("moment", ["submitted", "durable", "answered"])
@pytest.mark.parametrize("what", [CreateJobs, Accept, Record])
async def test_who_was_cancelled_while_it_was_written_finds_it(
    yard: Yard, what: type[Any], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    asking: list[asyncio.Task[Any]] = []

    def cancel(change: object) -> None:
        if isinstance(change, what) and asking:
            asking.pop().cancel()

    @yard.job("load")
    async def load(payload: int, job: Job[None]) -> None: ...

    @yard.plays
    async def handler(request: Any, op: Any) -> Any:
        if request.script == "child":
            return lab_pb2.PlayResult()

        async def ask() -> None:
            if what is CreateJobs:
                await load.create(7)
            elif what is Accept:
                await yard.server.operations.start(Yard.TYPE, lab_pb2.PlayRequest(script="child"))
            else:
                await op.step("work", calls.append, 1)

        first = asyncio.ensure_future(ask())
        asking.append(first)
        await asyncio.wait([first])
        assert first.cancelled()
        await ask()
        with pytest.raises(DuplicateNameError):
            await ask()
        return lab_pb2.PlayResult()

    await yard.start()
    writer = yard.engine.store.writer
    if moment == "durable":
        writer.on_write = cancel
    else:
        submit = writer.submit

        def submitted(change: Any, settled: Any = None) -> Any:
            future = submit(change, settled)
            if moment == "answered":
                future.add_done_callback(lambda _: yard.engine.store.writer.loop.call_soon(cancel, change))
            else:
                cancel(change)
            return future

        monkeypatch.setattr(writer, "submit", submitted)
    assert (await yard.run()).state == State.STATE_COMPLETED
    made = {CreateJobs: len(await yard.jobs()), Accept: len(yard.tables()["operations"]) - 1, Record: len(calls)}
    assert made == {kind: int(kind is what) for kind in made}
