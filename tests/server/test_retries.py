"""Attempts that fail and are made again, as the contract's retry policy says."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any
from uuid import UUID

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError
from longshore_server.store.mutations import Mutation, RequestStop
from tests.conftest import Lab, State, reason_of, reason_of_end, result_of
from tests.server.retrying import RetryHandlers


@pytest.fixture
async def lab(make_lab: Any) -> Lab:
    found: Lab = await make_lab(services=[RetryHandlers])
    return found


class Failing:
    """A handler whose first attempts fail. It counts them, and says when one is over."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.times = times
        self.error = error or RuntimeError("it failed")
        self.attempts: list[int] = []
        self.ops: list[Any] = []

    async def __call__(self, request: Any, op: Any) -> lab_pb2.PlayResult:
        self.attempts.append(op.attempt)
        self.ops.append(op)
        if len(self.attempts) <= self.times:
            raise self.error
        return lab_pb2.PlayResult(number=op.attempt)


async def start(lab: Lab, type: str = "Try", **fields: Any) -> str:
    name: str = (await lab.begin(f"RetryService/{type}", **fields)).operation.name
    return name


async def failed(lab: Lab, name: str, count: int = 1) -> operation_pb2.OperationEvent:
    """Return once the `count`-th attempt has failed and the next one is timed."""
    event = await lab.reached(name, "attempt_failed", count)
    await lab.catch_up()
    return event


async def test_a_failed_attempt_is_made_again_after_its_delay(lab: Lab) -> None:
    handler = lab.plays(Failing(2))
    name = await start(lab)
    event = await failed(lab, name)
    assert reason_of(event.attempt_failed.error) == "HANDLER_ERROR"
    assert event.attempt_failed.retry_delay.ToMicroseconds() == 10_000_000
    assert (event.attempt, event.state) == (1, State.STATE_RUNNING)
    waiting = await lab.get(name)
    assert (waiting.state, waiting.attempt, waiting.failures) == (State.STATE_RUNNING, 1, 1)
    assert waiting.next_attempt_time.ToMicroseconds() == event.time.ToMicroseconds() + 10_000_000
    lab.clock.advance(9.999)
    await lab.catch_up()
    assert handler.attempts == [1]
    lab.clock.advance(0.001)
    second = await failed(lab, name, 2)
    assert second.attempt_failed.retry_delay.ToMicroseconds() == 20_000_000
    lab.clock.advance(20)
    snapshot = await lab.end(name)
    assert (result_of(snapshot).number, snapshot.attempt, snapshot.failures) == (3, 3, 2)
    assert not snapshot.HasField("next_attempt_time")
    assert await lab.kinds(name) == ["accepted", "started", "attempt_failed", "attempt_failed", "completed"]


async def test_the_last_failure_ends_the_operation_with_its_error(lab: Lab) -> None:
    handler = lab.plays(Failing(99, OperationError("OUT_OF_STOCK", "no A1 left", metadata={"sku": "A1"})))
    name = await start(lab)
    for attempt, delay in enumerate((10, 20), 1):
        await failed(lab, name, attempt)
        lab.clock.advance(delay)
    snapshot = await lab.end(name)
    assert (snapshot.state, reason_of_end(snapshot)) == (State.STATE_FAILED, "OUT_OF_STOCK")
    assert (snapshot.error.message, snapshot.attempt, snapshot.failures) == ("no A1 left", 3, 2)
    assert handler.attempts == [1, 2, 3]
    assert await lab.kinds(name) == ["accepted", "started", "attempt_failed", "attempt_failed", "failed"]


async def test_what_the_next_attempt_knows(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            await op.progress(lab_pb2.PlayProgress(number=42))
            raise OperationError("BUSY")
        recovery = op.recovery
        assert (recovery.attempt, recovery.failures, recovery.crashes, recovery.progress.number) == (1, 1, 0, 42)
        return lab_pb2.PlayResult(number=op.attempt)

    name = await start(lab)
    await failed(lab, name)
    lab.clock.advance(10)
    assert result_of(await lab.end(name)).number == 2


async def test_steps_that_are_recorded_are_not_done_again(lab: Lab) -> None:
    done: list[str] = []

    @lab.plays
    async def handler(request, op):
        await op.step("first", done.append, "first")
        await op.step("second", done.append, "second")
        if op.attempt < 3:
            raise RuntimeError("after the steps")
        return lab_pb2.PlayResult()

    name = await start(lab)
    for attempt, delay in enumerate((10, 20), 1):
        await failed(lab, name, attempt)
        lab.clock.advance(delay)
    assert (await lab.end(name)).attempt == 3
    assert done == ["first", "second"]


async def test_a_reason_that_the_contract_names_is_final(lab: Lab) -> None:
    handler = lab.plays(Failing(99, OperationError("CARD_DECLINED")))
    snapshot = await lab.end(await start(lab, "TryUnless"))
    assert (reason_of_end(snapshot), snapshot.failures) == ("CARD_DECLINED", 0)
    assert handler.attempts == [1]


async def test_an_attempt_that_took_too_long_is_made_again(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            await asyncio.Event().wait()
        return lab_pb2.PlayResult(number=op.attempt)

    name = await start(lab, "TryUnless")
    await lab.clock.armed(5)
    lab.clock.advance(5)
    event = await failed(lab, name)
    assert reason_of(event.attempt_failed.error) == "ATTEMPT_TIMEOUT"
    lab.clock.advance(10)
    assert result_of(await lab.end(name)).number == 2


async def test_a_handler_that_swallows_its_timeout_is_left_behind(lab: Lab) -> None:
    released = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        while op.attempt == 1 and not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return lab_pb2.PlayResult(number=op.attempt)

    name = await start(lab, "TryUnless")
    await lab.clock.armed(5)
    lab.clock.advance(5)
    await lab.clock.armed(10)  # as long as a grace
    lab.clock.advance(10)
    await failed(lab, name)
    released.set()
    await lab.catch_up()
    waiting = await lab.get(name)
    assert (waiting.state, waiting.attempt) == (State.STATE_RUNNING, 1)  # what the old one returned counts no more
    lab.clock.advance(10)
    assert result_of(await lab.end(name)).number == 2


async def _returns_another_type(request: Any, op: Any) -> Any:
    return lab_pb2.PlayProgress()


async def _returns_too_much(request: Any, op: Any) -> Any:
    return lab_pb2.PlayResult(text="x" * 5000)


async def _asks_for_something_else(request: Any, op: Any) -> Any:
    await op.step("a", lambda attempt: attempt, op.attempt)
    raise RuntimeError("again")


@pytest.mark.parametrize(
    ("handler", "reason", "attempts"),
    [
        (_returns_another_type, "WRONG_RESULT_TYPE", 1),
        (_returns_too_much, "RESULT_TOO_LARGE", 1),
        (_asks_for_something_else, "NON_DETERMINISTIC", 2),
    ],
)
async def test_a_mistake_that_another_attempt_would_repeat_is_final(
    make_lab: Any, handler: Any, reason: str, attempts: int
) -> None:
    lab = await make_lab(services=[RetryHandlers], max_payload=4096)
    lab.plays(handler)
    name = await start(lab)
    if attempts == 2:
        await failed(lab, name)
        lab.clock.advance(10)
    snapshot = await lab.end(name)
    assert (reason_of_end(snapshot), snapshot.attempt) == (reason, attempts)


async def test_a_delay_of_nothing(lab: Lab) -> None:
    """Attempts that are all due at the same moment, since the clock stands still."""
    handler = lab.plays(Failing(9))
    snapshot = await lab.end(await start(lab, "TryAtOnce"))
    assert (result_of(snapshot).number, snapshot.failures) == (10, 9)
    assert handler.attempts == list(range(1, 11))


async def test_the_jitter_comes_before_the_cap(lab: Lab) -> None:
    lab.plays(Failing(99))
    name = await start(lab, "TrySteadily")
    delays = []
    for attempt in range(1, 10):
        event = await failed(lab, name, attempt)
        delays.append(event.attempt_failed.retry_delay.ToMicroseconds() / 1e6)
        lab.clock.advance(delays[-1])
    assert (await lab.end(name)).attempt == 10
    assert all(5 <= delay <= 12 for delay in delays)
    assert 12 in delays, "some would have been longer"
    assert len(set(delays)) > 4
    assert min(delays) < 9


async def test_no_attempt_is_due_after_the_longest_duration(lab: Lab) -> None:
    """At 10, 30 and 60 seconds; the next would be at 100."""
    handler = lab.plays(Failing(99))
    name = await start(lab, "TryForAMinute")
    for attempt, delay in enumerate((10, 20, 30), 1):
        event = await failed(lab, name, attempt)
        assert event.attempt_failed.retry_delay.seconds == delay
        lab.clock.advance(delay)
    assert reason_of_end(await lab.end(name)) == "HANDLER_ERROR"
    assert handler.attempts == [1, 2, 3, 4]


async def test_an_attempt_that_would_come_after_the_deadline_is_not_waited_for(lab: Lab) -> None:
    """The second fails after 20 seconds; the third would be due after 30, as long as the operation may last."""

    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    name = await start(lab, "TryUnless")
    await lab.clock.armed(5)
    lab.clock.advance(5)
    await failed(lab, name)
    lab.clock.advance(10)
    await lab.clock.armed(5)
    lab.clock.advance(5)
    snapshot = await lab.end(name)
    assert (reason_of_end(snapshot), snapshot.attempt) == ("ATTEMPT_TIMEOUT", 2)


async def test_a_deadline_passes_while_the_next_attempt_waits_for_a_slot(make_lab: Any) -> None:
    lab = await make_lab(services=[RetryHandlers], concurrency=1)

    @lab.plays
    async def handler(request, op):
        if request.script == "hold":
            await op.sleep(4)
            return lab_pb2.PlayResult()
        raise OperationError("BUSY")

    name = await start(lab, "TryUnless")
    await failed(lab, name)
    for _ in range(8):
        await start(lab, "TryUnless", script="hold")
    for _ in range(7):
        await lab.clock.armed(4)
        lab.clock.advance(4)
    await lab.clock.armed(4)
    waiting = await lab.get(name)
    assert (waiting.state, waiting.attempt) == (State.STATE_RUNNING, 1)
    lab.clock.advance(2)
    assert reason_of_end(await lab.end(name)) == "DEADLINE_EXCEEDED"


async def test_the_next_attempt_gets_a_slot_like_any_other(make_lab: Any) -> None:
    lab = await make_lab(services=[RetryHandlers], concurrency=1)
    gate, order = asyncio.Event(), []

    @lab.plays
    async def handler(request, op):
        order.append((request.script, op.attempt))
        if request.script == "fails" and op.attempt == 1:
            raise OperationError("BUSY")
        await gate.wait()
        return lab_pb2.PlayResult()

    name = await start(lab, script="fails")
    await failed(lab, name)
    others = [await start(lab, script=script) for script in ("one", "two")]
    await lab.catch_up()
    lab.clock.advance(10)
    await lab.catch_up()
    assert order == [("fails", 1), ("one", 1)], "its slot was free while it waited"
    gate.set()
    for each in (*others, name):
        await lab.end(each)
    assert order == [("fails", 1), ("one", 1), ("two", 1), ("fails", 2)]


@pytest.mark.parametrize("type", ["Try", "TryUnless"])
async def test_a_cancel_while_it_waits_ends_it_at_once(lab: Lab, type: str) -> None:
    handler = lab.plays(Failing(99))
    name = await start(lab, type)
    await failed(lab, name)
    snapshot = await lab.operations.Cancel(pb.CancelRequest(name=name, reason="enough"))
    assert (snapshot.state, snapshot.error.message) == (State.STATE_CANCELLED, "enough")
    lab.clock.advance(3600)
    await lab.catch_up()
    assert handler.attempts == [1]
    assert await lab.kinds(name) == ["accepted", "started", "attempt_failed", "cancelled"]


async def test_an_attempt_that_fails_after_a_cancel_request_is_the_last(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.cancelled.wait()
        raise OperationError("BUSY")

    cooperative, best_effort = await start(lab), await start(lab, "TryUnless")
    for name in (cooperative, best_effort):
        await lab.reached(name, "started")
        await lab.operations.Cancel(pb.CancelRequest(name=name))
    assert (await lab.end(cooperative)).state == State.STATE_CANCELLED
    assert reason_of_end(await lab.end(best_effort)) == "BUSY"


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
async def test_killed_while_retrying_it_comes_at_the_recorded_time(lab: Lab, crash: bool) -> None:
    """Not at once, not twice."""
    handler = lab.plays(Failing(1))
    name = await start(lab)
    await failed(lab, name)
    lab.clock.advance(4)
    for _ in range(2):
        await lab.restart(crash=crash)
        await lab.catch_up()
    waiting = await lab.get(name)
    assert (waiting.attempt, waiting.failures, waiting.crashes) == (1, 1, 0)
    lab.clock.advance(5.999)
    await lab.catch_up()
    assert handler.attempts == [1]
    lab.clock.advance(0.001)
    assert result_of(await lab.end(name)).number == 2
    lab.clock.advance(3600)
    await lab.catch_up()
    assert handler.attempts == [1, 2]
    assert await lab.kinds(name) == ["accepted", "started", "attempt_failed", "completed"]


async def test_what_was_due_while_no_server_ran_comes_at_once_and_once(lab: Lab) -> None:
    handler = lab.plays(Failing(1))
    name = await start(lab)
    await failed(lab, name)
    await lab.harness.crash()
    lab.clock.advance(3600)
    await lab.harness.start()
    await lab.connect()
    assert result_of(await lab.end(name)).number == 2
    assert handler.attempts == [1, 2]


async def test_a_deadline_passes_while_no_server_runs(lab: Lab) -> None:
    handler = lab.plays(Failing(1))
    name = await start(lab, "TryUnless")
    await failed(lab, name)
    await lab.harness.crash()
    lab.clock.advance(30)
    await lab.harness.start()
    await lab.connect()
    assert reason_of_end(await lab.end(name)) == "DEADLINE_EXCEEDED"
    assert handler.attempts == [1]


async def test_interruptions_count_apart_from_failures(lab: Lab) -> None:
    """Three attempts by the policy, and two more that a crash has cut off."""

    @lab.plays
    async def handler(request, op):
        if op.attempt in (1, 3):
            await op.sleep(3600)
        raise OperationError("BUSY")

    name = await start(lab)
    await lab.clock.armed(3600)
    await lab.restart()
    await failed(lab, name, 2)
    lab.clock.advance(10)
    await lab.reached(name, "attempt_failed", 2)
    await lab.clock.armed(3590)
    await lab.restart()
    lab.clock.advance(1)
    await failed(lab, name, 4)
    lab.clock.advance(20)
    snapshot = await lab.end(name)
    assert (reason_of_end(snapshot), snapshot.attempt, snapshot.failures, snapshot.crashes) == ("BUSY", 5, 2, 2)
    reasons = [reason_of(e.attempt_failed.error) for e in await lab.events(name) if e.HasField("attempt_failed")]
    assert reasons == ["INTERRUPTED", "BUSY", "INTERRUPTED", "BUSY"]


async def test_an_attempt_that_fails_while_the_server_stops_is_made_again_by_the_next(make_lab: Any) -> None:
    lab = await make_lab(services=[RetryHandlers], drain=30.0)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            await gate.wait()
            raise OperationError("BUSY")
        return lab_pb2.PlayResult(number=op.attempt)

    name = await start(lab)
    await lab.reached(name, "started")
    stopping = asyncio.ensure_future(lab.harness.stop())
    await lab.clock.armed(30)
    gate.set()
    await stopping
    await lab.harness.start()
    await lab.connect()
    waiting = await lab.get(name)
    assert (waiting.failures, waiting.crashes, waiting.HasField("next_attempt_time")) == (1, 0, True)
    lab.clock.advance(10)
    assert result_of(await lab.end(name)).number == 2


async def test_every_failure_is_in_the_log_with_its_trace(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.plays(Failing(1))
    with caplog.at_level(logging.ERROR):
        name = await start(lab)
        await failed(lab, name)
    (line,) = [record for record in caplog.records if record.exc_info]
    assert (line.operation, line.attempt) == (name, 1)  # type: ignore[attr-defined]


async def test_no_timer_outlives_the_attempts(lab: Lab) -> None:
    before = None
    for _ in range(3):
        lab.plays(Failing(2))
        name = await start(lab)
        for attempt, delay in enumerate((10, 20), 1):
            await failed(lab, name, attempt)
            lab.clock.advance(delay)
        await lab.end(name)
        await lab.catch_up()
        assert lab.clock.pending == (before or lab.clock.pending)
        before = lab.clock.pending


async def test_an_attempt_that_a_stop_brings_forward_while_it_becomes_due_is_made_once(lab: Lab) -> None:
    """Both times come: the old one while the stop is being stored, the new one with its commit."""
    handler = lab.plays(Failing(1))
    name = await start(lab)
    await failed(lab, name)
    writer, first, second = lab.engine.store.writer, Hold(), Hold()
    writer.submit(first)
    await asyncio.to_thread(first.begun.wait)  # what comes now goes into one batch
    stopping = writer.submit(RequestStop(UUID(name.removeprefix("operations/")).bytes, ""))
    writer.submit(second)
    first.go.set()
    await asyncio.to_thread(second.begun.wait)
    lab.clock.advance(10)
    second.go.set()
    await stopping
    end = await lab.end(name)
    assert (end.state, result_of(end).number) == (State.STATE_COMPLETED, 2)
    await lab.catch_up()
    assert handler.attempts == [1, 2]


class Hold(Mutation[None]):
    """Keeps the writer busy until the test lets it go on."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def apply(self, tx: Any) -> None:
        self.begun.set()
        assert self.go.wait(60)
