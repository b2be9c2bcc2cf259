"""Steps that were removed or renamed under a running operation are reported or refused; and how long steps took."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError, StepRetry
from tests.conftest import Crash, Lab, State, reason_of_end, result_of
from tests.server.retrying import RetryHandlers

REPORT = "the handler completed without asking for what is recorded of the steps"


@pytest.fixture
async def lab(make_lab: Any) -> Lab:
    found: Lab = await make_lab(services=[RetryHandlers])
    return found


def deployed(lab: Lab, before: list[str], now: list[str]) -> None:
    """A handler whose first attempt fails after the steps `before`; later ones have the steps `now`, and complete."""

    @lab.plays
    async def handler(request, op):
        await asyncio.gather(*(op.step(name, int) for name in (before if op.attempt == 1 else now)))
        if op.attempt == 1:
            raise OperationError("BUSY")
        return lab_pb2.PlayResult(number=op.attempt)


CHANGES: dict[str, tuple[list[str], list[str], str]] = {
    "none": (["a", "b"], ["a", "b"], ""),
    "another order": (["a", "b"], ["b", "a"], ""),
    "added": (["a"], ["a", "b"], ""),
    "removed": (["a", "b"], ["b"], "'a'"),
    "renamed": (["a", "b", "c"], ["a", "b2", "c2"], "'b', 'c'"),
}


@pytest.mark.parametrize("case", CHANGES)
async def test_what_is_reported_by_default(lab: Lab, case: str, caplog: pytest.LogCaptureFixture) -> None:
    before, now, steps = CHANGES[case]
    deployed(lab, before, now)
    end = await lab.run("RetryService/TryAtOnce")
    assert (end.state, result_of(end).number) == (State.STATE_COMPLETED, 2)
    reports = [record for record in caplog.records if REPORT in record.message]
    wanted = [f"{end.name}: {REPORT} {steps}: were they removed, or renamed?"] if steps else []
    assert [record.message for record in reports] == wanted
    for record in reports:
        assert (record.levelname, vars(record)["operation"]) == ("WARNING", end.name)
        assert (vars(record)["type"], vars(record)["attempt"]) == ("lab.v1.RetryService/TryAtOnce", 2)


@pytest.mark.parametrize("case", CHANGES)
async def test_what_fails_where_the_contract_says_so(lab: Lab, case: str, caplog: pytest.LogCaptureFixture) -> None:
    before, now, steps = CHANGES[case]
    deployed(lab, before, now)
    end = await lab.run("RetryService/TryFixed")
    assert end.attempt == 2, "another attempt would only meet it again"
    if not steps:
        assert end.state == State.STATE_COMPLETED
        return
    assert (end.state, reason_of_end(end)) == (State.STATE_FAILED, "NON_DETERMINISTIC")
    assert end.error.message == f"T{REPORT[1:]} {steps}."
    assert [r.levelname for r in caplog.records if f"{end.name}: {REPORT} {steps}" in r.message] == ["ERROR"]


@pytest.mark.parametrize("type", ["TryAtOnce", "TryFixed"])
async def test_an_attempt_that_fails_need_not_come_to_all_its_steps(
    lab: Lab, type: str, caplog: pytest.LogCaptureFixture
) -> None:
    @lab.plays
    async def handler(request, op):
        if op.attempt == 2:
            raise OperationError("BUSY")
        await op.step("a", int)
        if op.attempt == 1:
            raise OperationError("BUSY")
        return lab_pb2.PlayResult()

    end = await lab.run(f"RetryService/{type}")
    assert (end.state, end.attempt) == (State.STATE_COMPLETED, 3)
    assert REPORT not in caplog.text


@pytest.mark.parametrize("asks", ["Stop", "Cancel"])
async def test_who_is_asked_to_end_may_leave_steps_out(lab: Lab, asks: str, caplog: pytest.LogCaptureFixture) -> None:
    """A partial result is what the caller wanted."""
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            await op.step("a", int)
            await crash.here(op)
        await (op.stopping if asks == "Stop" else op.cancelled).wait()
        return lab_pb2.PlayResult(text="partial")

    name = (await lab.begin("RetryService/TryUnless")).operation.name
    await crash.happen()
    if asks == "Stop":
        await lab.operations.Stop(pb.StopRequest(name=name))
    else:
        await lab.operations.Cancel(pb.CancelRequest(name=name))
    assert result_of(await lab.end(name)).text == "partial"
    assert REPORT not in caplog.text


async def test_a_result_that_is_none_of_the_contracts_is_what_is_wrong(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            await op.step("a", int)
            raise OperationError("BUSY")
        return "what?"

    assert reason_of_end(await lab.run("RetryService/TryFixed")) == "WRONG_RESULT_TYPE"


async def test_it_is_noticed_after_a_crash_and_in_what_a_retry_has_kept(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            await op.step("a", int)
            await crash.here(op)
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert (await lab.end(name)).state == State.STATE_COMPLETED
    assert f"{name}: {REPORT} 'a'" in caplog.text

    @lab.plays
    async def renamed(request, op):
        await op.step("b", int)
        return lab_pb2.PlayResult()

    again = (await lab.operations.Retry(pb.RetryRequest(name=name, keep_steps=True))).operation.name
    assert (await lab.end(again)).state == State.STATE_COMPLETED
    assert f"{again}: {REPORT} 'a'" in caplog.text


async def test_a_mismatch_is_logged_once(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    @lab.plays
    async def handler(request, op):
        await op.step("a", abs, op.attempt)
        raise OperationError("BUSY")

    assert reason_of_end(await lab.run("RetryService/TryAtOnce")) == "NON_DETERMINISTIC"
    assert caplog.text.count("attempt 1 asked for (1), this attempt asks for (2)") == 1


def times(lab: Lab) -> dict[str, tuple[int | None, int]]:
    """When each entry of the journal was begun, where that is known, and recorded."""
    with contextlib.closing(sqlite3.connect(lab.data / "longshore.db")) as database:
        rows = database.execute("SELECT kind || name, started, recorded FROM journal")
        return {name: (started, recorded) for name, started, recorded in rows}


async def test_how_long_a_step_took_is_kept(lab: Lab) -> None:
    """From the first call of its function in the attempt that recorded it: waits between its tries count."""
    failed: list[int] = []

    async def work() -> None:
        if not failed:
            failed.append(1)
            raise ConnectionError

    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        await op.sleep(0)
        await op.step("quick", int)
        await crash.here(op)
        await op.step("slow", work, retry=StepRetry(2, initial_delay=7))
        return lab_pb2.PlayResult()

    begun = lab.clock.now()
    name = (await lab.begin()).operation.name
    await crash.reached.wait()
    lab.clock.advance(100)
    await crash.happen()
    await lab.clock.armed(7)
    lab.clock.advance(7)
    old = await lab.end(name)
    second = 1_000_000
    wanted = {
        "sleep": (None, begun),
        "stepquick": (begun, begun),
        "stepslow": (begun + 100 * second, begun + 107 * second),
    }
    assert times(lab) == wanted
    lab.clock.advance(1000)
    await lab.operations.Retry(pb.RetryRequest(name=old.name, keep_steps=True))
    await lab.operations.Delete(pb.DeleteRequest(name=old.name))
    del wanted["sleep"]
    assert {name: found for name, found in times(lab).items() if name in wanted} == wanted, "also by who kept it"
