"""What handlers log: durable, for operators alone."""

# ruff: noqa: G004, G010 - op.log is no logger of the standard library
from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, cast

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operation_control_service_pb2 as cpb
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError
from longshore_server.handler import log as handler_log
from longshore_server.handler import texts
from longshore_server.store import logs
from longshore_server.store.logs import Level, LogLine, StepFailure
from longshore_server.store.mutations import AddLine, Delete, FailTry, OperationAttempt, Sweep
from longshore_server.testing import ManualClock
from tests.conftest import Crash, Lab
from tests.server.records import ALL, control, flaky, lines, messages, uid_of


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
