"""How steps have failed: durable, for operators alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError, StepRetry
from longshore_server.store import logs
from longshore_server.store.logs import StepFailure
from longshore_server.store.mutations import FailTry, OperationAttempt
from tests.conftest import Crash, Lab, State, reason_of_end
from tests.server.records import COMPLETED, FAILED, flaky, steps, uid_of


async def test_failed_tries_of_a_step_are_kept_with_their_time_and_the_last_error(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            await op.step("reserve", flaky(2), retry=StepRetry(3, initial_delay=0.6, backoff="constant"))
        await crash.here(op)
        return lab_pb2.PlayResult()

    began = lab.clock.now()
    name = (await lab.begin()).operation.name
    for _ in range(2):
        await lab.clock.armed(0.6)
        lab.clock.advance(0.6)
    await crash.happen()
    await lab.end(name)
    (step,) = await steps(lab, name)
    assert (step.step, step.attempt, step.state, step.tries) == ("reserve", 1, COMPLETED, 3)
    assert (step.error, step.kept) == ("ConnectionError: line 2 broke", False)
    assert (step.start_time.ToMicroseconds(), step.end_time.ToMicroseconds()) == (began, began + 1_200_000)


async def test_a_step_that_failed_in_one_attempt_and_not_in_the_next(lab: Lab) -> None:
    crash = Crash(lab)
    work = flaky(1)

    @lab.plays
    async def handler(request, op):
        await op.step("plain", int)
        if op.attempt == 1:
            with pytest.raises(ConnectionError):
                await op.step("charge", work)
            await crash.here(op)
        await op.step("charge", work)
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    await lab.end(name)
    found = [(s.step, s.attempt, s.tries, s.error, s.state) for s in await steps(lab, name)]
    assert found == [
        ("charge", 1, 1, "ConnectionError: line 1 broke", FAILED),
        ("plain", 1, 1, "", COMPLETED),
        ("charge", 2, 1, "", COMPLETED),
    ]


async def test_tries_of_the_same_name_add_up_within_an_attempt(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        work = flaky(2)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await op.step("charge", work)
        await op.step("charge", work)
        return lab_pb2.PlayResult()

    (step,) = await steps(lab, (await lab.run()).name)
    assert (step.tries, step.state) == (3, COMPLETED)


async def test_a_failed_try_is_durable_before_the_handler_hears_of_it(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            try:
                await op.step("charge", flaky(1))
            except ConnectionError:
                await crash.here(op)
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    await lab.end(name)
    assert [(s.attempt, s.tries, s.state) for s in await steps(lab, name)] == [(1, 1, FAILED)]


async def test_an_interrupted_step_is_told_of(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.step("wait", asyncio.Event().wait)

    name = (await lab.begin()).operation.name
    await lab.catch_up()
    await (await lab.server.operations.control(name)).fail(OperationError("STOPPED", "by hand"))
    await lab.catch_up()
    (step,) = await steps(lab, name)
    assert (step.step, step.error, step.state) == ("wait", "CancelledError", FAILED)


async def test_failures_of_the_latest_attempts_are_kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_FAILURES", 3)
    name = (await lab.run()).name
    uid = await uid_of(lab, name)
    for attempt in range(1, 8):
        failed = FailTry(OperationAttempt(uid, attempt), StepFailure("a", attempt, 1, 2, ""))
        await lab.engine.store.writer.submit(failed)
    assert [s.attempt for s in await steps(lab, name)] == [5, 6, 7]


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("x" * 1999, "ValueError: step 'big': its result has 2001 bytes, more than the 2000 of max_payload"),
        ({1}, "TypeError: step 'big': the value is a builtins.set, which is no JSON"),
    ],
    ids=["large", "kind"],
)
async def test_a_result_that_cannot_be_kept_is_a_precise_error(make_lab: Any, result: Any, said: str) -> None:
    lab = await make_lab(max_payload=2000)
    raised: list[Exception] = []

    @lab.plays
    async def handler(request, op):
        try:
            await op.step("big", lambda: result)
        except Exception as error:
            raised.append(error)
            raise

    end = await lab.run()
    assert (end.state, reason_of_end(end)) == (State.STATE_FAILED, "HANDLER_ERROR")
    assert f"{type(raised[0]).__name__}: {raised[0]}".startswith(said)
    assert not lab.tables()["journal"]
    (step,) = await steps(lab, end.name)
    assert step.error.startswith(said)


async def test_a_result_of_the_largest_size_is_kept(make_lab: Any) -> None:
    lab = await make_lab(max_payload=2000)

    @lab.plays
    async def handler(request, op):
        return lab_pb2.PlayResult(number=len(await op.step("big", lambda: "x" * 1998)))

    assert (await lab.run()).state == State.STATE_COMPLETED


async def test_the_run_id_is_the_operations_own_over_all_attempts(lab: Lab) -> None:
    crash = Crash(lab)
    seen: list[str] = []

    @lab.plays
    async def handler(request, op):
        seen.append(op.run_id)
        await crash.here(op)
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert seen == [(await lab.end(name)).uid] * 2


async def test_kept_steps_are_told_of_by_the_operation_that_repeats(lab: Lab) -> None:
    ship = flaky(1)

    @lab.plays
    async def handler(request, op):
        await op.step("pay", flaky(1), retry=StepRetry(2, initial_delay=0))
        await op.step("ship", ship)
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    again = await lab.operations.Retry(pb.RetryRequest(name=name, keep_steps=True))
    await lab.end(again.operation.name)
    found = [(s.step, s.attempt, s.tries, s.error, s.state, s.kept) for s in await steps(lab, again.operation.name)]
    assert found == [("pay", 1, 1, "", COMPLETED, True), ("ship", 1, 1, "", COMPLETED, False)]
