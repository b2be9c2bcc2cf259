"""What handlers log, and how their steps have failed: durable, for operators alone."""

# ruff: noqa: G004, G010 - op.log is no logger of the standard library
from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError, StepRetry
from longshore_server.handler import log as handler_log
from longshore_server.handler import texts
from longshore_server.store import logs, queries
from longshore_server.store.logs import Level, LogLine, StepFailure, StepOutcome
from longshore_server.store.mutations import AddLine, FailTry, Sweep, upkeep
from tests.conftest import Crash, Lab, State, reason_of_end

HOUR, DAY = 3600.0, 86_400.0
ALL = 10_000


async def uid_of(lab: Lab, name: str) -> bytes:
    return bytes((await lab.engine.find(name)).record.uid)


async def lines(lab: Lab, name: str) -> list[LogLine]:
    await lab.catch_up()
    page = await lab.engine.store.lines(await uid_of(lab, name), 0, 0, ALL)
    return [stored.line for stored in page.lines]


async def messages(lab: Lab, name: str) -> list[str]:
    return [line.message for line in await lines(lab, name)]


async def steps(lab: Lab, name: str) -> list[StepOutcome]:
    return list(await lab.engine.store.steps(await uid_of(lab, name), 0, 0, ALL))


async def test_a_line_has_its_level_step_attempt_time_and_data(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    @lab.plays
    async def handler(request, op):
        async def reserve() -> None:
            op.log.warn("stock is low", left=3, of={"sku": "a"})

        op.log.info("begun", message="a name of one's own")
        lab.clock.advance(1)
        await op.step("reserve", reserve)
        op.log.error("no good end")
        return lab_pb2.PlayResult()

    began = lab.clock.now()
    name = (await lab.run()).name
    assert await lines(lab, name) == [
        LogLine(began, 1, Level.INFO, "", "begun", '{"message":"a name of one\'s own"}'),
        LogLine(began + 1_000_000, 1, Level.WARN, "reserve", "stock is low", '{"left":3,"of":{"sku":"a"}}'),
        LogLine(began + 1_000_000, 1, Level.ERROR, "", "no good end", "{}"),
    ]
    found = [record for record in caplog.records if record.name == "longshore.handler"]
    assert [record.message for record in found] == ["begun", "stock is low", "no good end"]
    assert vars(found[1]).items() >= {"operation": name, "attempt": 1, "step": "reserve", "type": lab.TYPE}.items()
    assert not hasattr(found[0], "step")


async def test_a_line_is_durable_whatever_the_log_of_the_process_shows(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)

    @lab.plays
    async def handler(request, op):
        op.log.info("quiet")
        return lab_pb2.PlayResult()

    assert await messages(lab, (await lab.run()).name) == ["quiet"]
    assert "quiet" not in caplog.text


async def test_parallel_steps_have_their_own_lines(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        turn = asyncio.Event()

        async def first() -> None:
            await turn.wait()
            op.log.info("one")

        async def second() -> None:
            op.log.info("two")
            turn.set()

        await asyncio.gather(op.step("first", first), op.step("second", second))
        return lab_pb2.PlayResult()

    assert [(line.step, line.message) for line in await lines(lab, (await lab.run()).name)] == [
        ("second", "two"), ("first", "one"),
    ]  # fmt: skip


async def test_a_line_survives_a_crash_with_the_step_after_it(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        op.log.info("before")
        await op.step("charge", int)
        await crash.here(op)
        op.log.info("after")
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert (await lab.end(name)).attempt == 2
    found = [(line.attempt, line.message) for line in await lines(lab, name)]
    assert found == [(1, "before"), (2, "before"), (2, "after")]


async def test_lines_of_a_thread_are_kept_in_their_order(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        def work() -> None:
            for number in range(3):
                op.log.info(f"line {number}")

        await op.step("work", asyncio.to_thread, work)
        return lab_pb2.PlayResult()

    found = await lines(lab, (await lab.run()).name)
    assert [(line.step, line.message) for line in found] == [("work", f"line {n}") for n in range(3)]


async def test_an_attempt_that_is_not_the_current_one_still_tells(lab: Lab) -> None:
    """It may change nothing any more, and what it does is what an operator wants to see."""
    going, gone = asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request, op):
        try:
            await going.wait()
        except asyncio.CancelledError:
            op.log.warn("too late")
            gone.set()
            raise

    name = (await lab.begin()).operation.name
    control = await lab.server.operations.control(name)
    await control.fail(OperationError("STOPPED", "by hand"))
    await gone.wait()
    assert [(line.attempt, line.message) for line in await lines(lab, name)] == [(1, "too late")]


async def test_lines_go_with_their_operation_and_none_follows(lab: Lab) -> None:
    kept: list[Any] = []

    @lab.plays
    async def handler(request, op):
        op.log.info("here")
        kept.append(op)
        with pytest.raises(ConnectionError):
            await op.step("call", flaky(1))
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    uid = await uid_of(lab, name)
    assert lab.tables()["logs"]
    assert lab.tables()["step_failures"]
    await lab.operations.Delete(pb.DeleteRequest(name=name))
    kept[0].log.info("beyond")
    await lab.engine.store.writer.submit(FailTry(uid, StepFailure("call", 1, 1, 2, "")))
    tables = lab.tables()
    assert not any(tables[table] for table in ("logs", "logbooks", "step_failures"))


def flaky(failures: int) -> Any:
    """A function that fails so often."""
    errors = iter([ConnectionError(f"line {number} broke") for number in range(1, failures + 1)])

    async def work() -> None:
        for error in errors:
            raise error

    return work


class Silent:
    def __repr__(self) -> str:
        raise RuntimeError


circle: list[Any] = []
circle.append(circle)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({1, 2}, "{1, 2}"),
        (b"\xff", "b'\\xff'"),
        ([1, {3}], [1, "{3}"]),
        (float("nan"), "nan"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        (circle, "[[...]]"),
        (Silent(), "<Silent that cannot be shown: RuntimeError>"),
        ("\ud800", "\ud800"),
        (ConnectionError("lost"), "ConnectionError('lost')"),
        (10**30, 10**30),
    ],
    ids=["set", "bytes", "inner", "nan", "keys", "circle", "silent", "half", "error", "long"],
)
async def test_data_that_is_no_json_is_shown_as_text(lab: Lab, value: Any, text: Any) -> None:
    @lab.plays
    async def handler(request, op):
        op.log.info("odd", value=value, good=1)
        return lab_pb2.PlayResult()

    (line,) = await lines(lab, (await lab.run()).name)
    assert json.loads(line.data) == {"value": text, "good": 1}


async def test_what_is_too_large_is_cut_and_says_so(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        op.log.info("x" * 9000, y="y" * 20_000)
        op.log.info(ValueError("no text"))
        return lab_pb2.PlayResult()

    line, odd = await lines(lab, (await lab.run()).name)
    assert line.message == "x" * texts.MAX_TEXT + "... (cut, it had 9000 characters)"
    data = json.loads(line.data)
    assert (data["size"], data["cut"][:8], len(data["cut"])) == (20_008, '{"y":"yy', texts.MAX_DATA)
    assert odd.message == "ValueError('no text')"


async def test_lines_that_come_too_fast_leave_a_gap_that_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_log, "MAX_WAITING", 3)

    @lab.plays
    async def handler(request, op):
        for number in range(10):
            op.log.info(str(number))
        await op.sleep(0)
        op.log.info("again")
        return lab_pb2.PlayResult()

    gap = "7 lines are left out here: they came faster than they could be stored"
    assert await messages(lab, (await lab.run()).name) == ["0", "1", "2", gap, "again"]


async def test_bytes_that_wait_are_bounded_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_log, "WAITING_BYTES", 100)

    @lab.plays
    async def handler(request, op):
        for _ in range(5):
            op.log.info("x" * 60)
        return lab_pb2.PlayResult()

    *kept, gap = await messages(lab, (await lab.run()).name)
    assert (len(kept), gap[:7]) == (2, "3 lines")


@pytest.mark.parametrize("bound", ["MAX_LINES", "MAX_BYTES"])
async def test_the_oldest_lines_make_room(lab: Lab, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, bound, {"MAX_LINES": 16, "MAX_BYTES": 16 * 12}[bound])
    total = 100

    @lab.plays
    async def handler(request, op):
        for number in range(total):
            op.log.info(f"line {number:05}")
            if number % 7 == 0:
                await op.sleep(0)
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    await lab.catch_up()
    page = await lab.engine.store.lines(await uid_of(lab, name), 0, 0, ALL)
    numbers = [stored.number for stored in page.lines]
    assert numbers == list(range(page.dropped + 1, total + 1))
    assert 16 <= len(numbers) <= 18
    assert page.lines[-1].line.message == "line 00099"


async def test_one_line_stays_however_large_it_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 8)

    @lab.plays
    async def handler(request, op):
        op.log.info("x" * 100)
        op.log.info("y" * 100)
        return lab_pb2.PlayResult()

    assert await messages(lab, (await lab.run()).name) == ["y" * 100]


async def test_lines_are_read_in_pages_of_bounded_size(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "READ_BYTES", 10)

    @lab.plays
    async def handler(request, op):
        for number in range(9):
            op.log.info(f"{number}xxx")
        return lab_pb2.PlayResult()

    uid = await uid_of(lab, (await lab.run()).name)
    await lab.catch_up()
    first = await lab.engine.store.lines(uid, 0, 0, ALL)
    assert [stored.number for stored in first.lines] == [1, 2]


# How long they stay.


async def test_a_line_goes_when_its_own_time_is_over(make_lab: Any) -> None:
    lab = await make_lab(log_retention=2 * HOUR)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        op.log.info("first")
        await op.sleep(HOUR)
        op.log.info("second")
        await gate.wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await lab.clock.armed(HOUR)
    lab.clock.advance(HOUR)
    assert await messages(lab, name) == ["first", "second"]
    lab.clock.advance(HOUR - 1)
    assert await messages(lab, name) == ["first", "second"]
    lab.clock.advance(1)
    assert await messages(lab, name) == ["second"]
    lab.clock.advance(HOUR)
    assert await messages(lab, name) == []
    gate.set()
    await lab.end(name)


async def test_lines_are_deleted_in_bounded_batches(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [(await lab.run()).name for _ in range(3)]
    uids = [await uid_of(lab, name) for name in names]
    monkeypatch.setattr(upkeep, "SWEEP_OPERATIONS", 2)
    monkeypatch.setattr(upkeep, "SWEEP_EVENTS", 5)
    now, writer = lab.clock.now(), lab.engine.store.writer
    for uid in uids:
        for _ in range(4):
            await writer.submit(AddLine(uid, LogLine(now, 1, Level.INFO, "", "", "{}")))

    async def left() -> list[int]:
        await writer.submit(Sweep(now))
        return [len((await lab.engine.store.lines(uid, 0, 0, ALL)).lines) for uid in uids]

    assert [sorted(await left()) for _ in range(4)] == [[0, 3, 4], [0, 0, 2], [0, 0, 0], [0, 0, 0]]
    assert [(await lab.engine.store.lines(uid, 0, 0, ALL)).dropped for uid in uids] == [4, 4, 4]


async def test_lines_that_are_due_at_the_start_go(make_lab: Any) -> None:
    lab = await make_lab()

    @lab.plays
    async def handler(request, op):
        op.log.info("old")
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    assert await messages(lab, name) == ["old"]
    await lab.harness.stop()
    lab.clock.advance(7 * DAY)
    await lab.harness.start()
    assert await messages(lab, name) == []


async def test_lines_may_stay_as_long_as_their_operation(make_lab: Any) -> None:
    lab = await make_lab(log_retention=0)

    @lab.plays
    async def handler(request, op):
        op.log.info("here")
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    lab.clock.advance(29 * DAY)
    assert await messages(lab, name) == ["here"]


async def test_many_lines_count_when_operations_are_deleted(lab: Lab) -> None:
    """A batch of the sweeper is bounded by them, too."""
    uid = await uid_of(lab, (await lab.run()).name)
    line = LogLine(lab.clock.now(), 1, Level.INFO, "", "", "{}")
    await asyncio.gather(*(lab.engine.store.writer.submit(AddLine(uid, line)) for _ in range(50)))
    store = lab.engine.store
    ((found, weight),) = await store.read(lambda c: queries.expired(c, lab.clock.now() + 10**15, 10))
    assert found == uid
    assert weight > 50


# Steps.


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
    assert await steps(lab, name) == [
        StepOutcome(
            "reserve", 1, began, began + 1_200_000, failures=2, error="ConnectionError: line 2 broke", completed=True,
            kept=False,
        )
    ]  # fmt: skip


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
    found = [(s.name, s.attempt, s.failures, s.error, s.completed) for s in await steps(lab, name)]
    assert found == [
        ("charge", 1, 1, "ConnectionError: line 1 broke", False),
        ("plain", 1, 0, "", True),
        ("charge", 2, 0, "", True),
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
    assert (step.failures, step.completed) == (2, True)


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
    assert [(s.attempt, s.failures) for s in await steps(lab, name)] == [(1, 1)]


async def test_an_interrupted_step_is_told_of(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.step("wait", asyncio.Event().wait)

    name = (await lab.begin()).operation.name
    await lab.catch_up()
    await (await lab.server.operations.control(name)).fail(OperationError("STOPPED", "by hand"))
    await lab.catch_up()
    (step,) = await steps(lab, name)
    assert (step.name, step.error, step.completed) == ("wait", "CancelledError", False)


async def test_failures_of_the_latest_attempts_are_kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_FAILURES", 3)
    uid = await uid_of(lab, (await lab.run()).name)
    for attempt in range(1, 8):
        await lab.engine.store.writer.submit(FailTry(uid, StepFailure("a", attempt, 1, 2, "")))
    assert [s.attempt for s in await lab.engine.store.steps(uid, 0, 0, ALL)] == [5, 6, 7]


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
