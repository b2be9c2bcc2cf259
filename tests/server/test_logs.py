"""What handlers log, and how their steps have failed: durable, for operators alone."""

# ruff: noqa: G004, G010 - op.log is no logger of the standard library
from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
from typing import Any, cast

import grpc
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operation_control_service_pb2 as cpb
from longshore.v1 import operation_control_service_pb2_grpc as control_grpc
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import records_pb2
from longshore_server import OperationError, StepRetry
from longshore_server.handler import log as handler_log
from longshore_server.handler import texts
from longshore_server.rpc import paging
from longshore_server.store import logs, queries
from longshore_server.store.logs import Level, LogLine, StepFailure
from longshore_server.store.mutations import AddLine, Delete, FailTry, OperationAttempt, Sweep, upkeep
from longshore_server.testing import ManualClock
from tests.conftest import Crash, Lab, State, fields_of, reason_of_end, refused

HOUR, DAY = 3600.0, 86_400.0
COMPLETED, FAILED = records_pb2.StepOutcome.STATE_COMPLETED, records_pb2.StepOutcome.STATE_FAILED
ALL = 10_000


async def uid_of(lab: Lab, name: str) -> bytes:
    return bytes((await lab.engine.find(name)).record.uid)


def control(lab: Lab) -> Any:
    return control_grpc.OperationControlServiceStub(lab.channel)


async def lines(lab: Lab, name: str) -> list[LogLine]:
    await lab.catch_up()
    page = await control(lab).ListLogs(cpb.ListLogsRequest(name=name, page_size=1000))
    return [
        LogLine(line.time.ToMicroseconds(), line.attempt, line.level, line.step, line.message, line.data)
        for line in page.lines
    ]


async def messages(lab: Lab, name: str) -> list[str]:
    return [line.message for line in await lines(lab, name)]


async def steps(lab: Lab, name: str) -> list[Any]:
    return list((await control(lab).ListSteps(cpb.ListStepsRequest(name=name))).steps)


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
    await (await lab.server.operations.control(name)).fail(OperationError("STOPPED", "by hand"))
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
    await lab.engine.store.writer.submit(FailTry(OperationAttempt(uid, 1), StepFailure("call", 1, 1, 2, "")))
    tables = lab.tables()
    assert not any(tables[table] for table in ("logs", "logbooks", "step_failures"))


def flaky(failures: int) -> Any:
    """A function that fails so often."""
    errors = iter([ConnectionError(f"line {number} broke") for number in range(1, failures + 1)])

    async def work() -> None:
        for error in errors:
            raise error

    return work


async def test_a_line_between_others_of_its_batch(lab: Lab) -> None:
    """One after the deletion of its operation is not kept, one before a sweep is not taken for the oldest."""
    uid = await uid_of(lab, (await lab.run()).name)
    now, writer = lab.clock.now(), lab.engine.store.writer
    author = OperationAttempt(uid, 1)

    def line(time: int) -> AddLine:
        return AddLine(author, LogLine(time, 1, Level.INFO, "", "", "{}"))

    await writer.submit(line(now - 10))
    await asyncio.gather(*map(writer.submit, (line(now), Sweep(now - 10))))
    assert [row[3:] for row in lab.tables()["logbooks"]] == [(2, now)]
    await asyncio.gather(*map(writer.submit, (line(now), Delete(uid), line(now))))
    assert not lab.tables()["logbooks"]


class Slow:
    """A writer that writes when the test says so."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queued: list[tuple[AddLine, Any]] = []
        self.messages: list[str] = []

    def submit(self, mutation: Any, settled: Any) -> None:
        asyncio.get_running_loop()  # raises in another thread
        self.queued.append((mutation, settled))

    def write(self, count: int) -> None:
        for _ in range(count):
            mutation, settled = self.queued.pop(0)
            self.messages.append(mutation.line.message)
            settled(None)


async def test_what_is_left_out_is_one_gap_until_all_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_log, "MAX_WAITING", 3)
    writer = Slow()
    log = handler_log.AttemptLog(OperationAttempt(b"", 1), {}, cast("Any", writer), ManualClock())
    for number in range(5):
        log.info(str(number))
    writer.write(2)
    log.info("still left out")
    writer.write(1)
    log.info("again")
    writer.write(2)
    assert writer.messages == [
        "0", "1", "2", "3 lines are left out here: they came faster than they could be stored", "again",
    ]  # fmt: skip


async def test_bytes_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_log, "WAITING_BYTES", 100)
    writer = Slow()
    log = handler_log.AttemptLog(OperationAttempt(b"", 1), {}, cast("Any", writer), ManualClock())
    for _ in range(5):
        log.info("x" * 60)
        writer.write(1)
    assert len(writer.messages) == 5


async def test_a_thread_hands_its_lines_to_the_loop() -> None:
    writer = Slow()
    log = handler_log.AttemptLog(OperationAttempt(b"", 1), {}, cast("Any", writer), ManualClock())
    await asyncio.to_thread(log.info, "from afar")
    writer.write(1)
    assert writer.messages == ["from afar"]


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
    page = await control(lab).ListLogs(cpb.ListLogsRequest(name=name))
    assert [line.number for line in page.lines] == list(range(page.dropped_lines + 1, total + 1))
    assert 16 <= len(page.lines) <= 18
    assert page.lines[-1].message == "line 00099"


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
            await writer.submit(AddLine(OperationAttempt(uid, 1), LogLine(now, 1, Level.INFO, "", "", "{}")))

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
    await asyncio.gather(*(lab.engine.store.writer.submit(AddLine(OperationAttempt(uid, 1), line)) for _ in range(50)))
    with contextlib.closing(sqlite3.connect(lab.engine.store.path)) as database:
        ((found, weight),) = queries.expired(database, lab.clock.now() + 10**15, 10)
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


# Reading.


async def pages(call: Any, request: Any, field: str) -> list[list[Any]]:
    """All pages, each with its items."""
    found = []
    while True:
        page = await call(request)
        found.append(list(getattr(page, field)))
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


async def test_logs_are_read_in_pages(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        for number in range(6):
            (op.log.warn if number % 2 else op.log.info)(str(number))
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    await lab.catch_up()
    request = cpb.ListLogsRequest(name=name, page_size=2)
    found = await pages(control(lab).ListLogs, request, "lines")
    assert [[line.message for line in page] for page in found] == [["0", "1"], ["2", "3"], ["4", "5"]]
    request = cpb.ListLogsRequest(name=name, page_size=2, level=records_pb2.LogLine.LEVEL_WARN)
    found = await pages(control(lab).ListLogs, request, "lines")
    assert [[line.number for line in page] for page in found] == [[2, 4], [6]]
    token = (await control(lab).ListLogs(cpb.ListLogsRequest(name=name, page_size=2))).next_page_token
    request.page_token = token
    _, reason, _ = await refused(control(lab).ListLogs(request))
    assert reason == "INVALID_PAGE_TOKEN", "it is of another level"


async def test_a_page_of_large_lines_is_cut_short(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 1000)

    @lab.plays
    async def handler(request, op):
        async def fail() -> None:
            raise ValueError("x" * 400)

        for number in range(5):
            op.log.info("x" * 400)
            with pytest.raises(ValueError, match="xxx"):
                await op.step(f"step {number}", fail)
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    await lab.catch_up()
    found = await pages(control(lab).ListLogs, cpb.ListLogsRequest(name=name), "lines")
    assert [len(page) for page in found] == [2, 2, 1]
    found = await pages(control(lab).ListSteps, cpb.ListStepsRequest(name=name), "steps")
    assert [[step.step for step in page] for page in found] == [["step 0", "step 1"], ["step 2", "step 3"], ["step 4"]]


@pytest.mark.parametrize("apart", [0, 1])
async def test_steps_are_read_in_pages(lab: Lab, apart: int) -> None:
    """Whether they ended at the same time or not."""

    @lab.plays
    async def handler(request, op):
        for number in range(5):
            lab.clock.advance(apart)
            await op.step(f"step {number}", int)
        return lab_pb2.PlayResult()

    request = cpb.ListStepsRequest(name=(await lab.run()).name, page_size=2)
    found = await pages(control(lab).ListSteps, request, "steps")
    assert [[step.step[-1] for step in page] for page in found] == [["0", "1"], ["2", "3"], ["4"]]


async def test_what_nobody_has_logged_is_an_empty_page(lab: Lab) -> None:
    name = (await lab.run()).name
    assert await pages(control(lab).ListLogs, cpb.ListLogsRequest(name=name), "lines") == [[]]
    assert await pages(control(lab).ListSteps, cpb.ListStepsRequest(name=name), "steps") == [[]]


async def test_wrong_requests_are_refused(lab: Lab) -> None:
    name = (await lab.run()).name
    stub = control(lab)
    for call, request, field in (
        (stub.ListLogs, cpb.ListLogsRequest(name=name, page_size=-1), "page_size"),
        (stub.ListLogs, cpb.ListLogsRequest(name=name, level=9), "level"),  # type: ignore[arg-type]
        (stub.ListLogs, cpb.ListLogsRequest(name=name, page_token="no"), "page_token"),
        (stub.ListLogs, cpb.ListLogsRequest(name="jobs/x"), "name"),
        (stub.ListSteps, cpb.ListStepsRequest(name=name, page_size=-1), "page_size"),
        (stub.ListSteps, cpb.ListStepsRequest(name=name, page_token="no"), "page_token"),
    ):
        code, _, status = await refused(call(request))
        assert (code, fields_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    for call, request in (
        (stub.ListLogs, cpb.ListLogsRequest(name="operations/none")),
        (stub.ListSteps, cpb.ListStepsRequest(name="operations/none")),
    ):
        code, reason, _ = await refused(call(request))
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "OPERATION_NOT_FOUND")
