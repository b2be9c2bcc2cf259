"""A test for every row of seed 4 (steps), named after it. A "job" and its "run" there are here an operation type and an
operation, `step.run` is `op.step`."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import channels_pb2
from longshore_server import DuplicateNameError, OperationError, step
from tests.conftest import Crash, Lab, State, reason_of_end, result_of


async def test_the_step_object_is_passed_to_handlers_for_creating_steps_and_logging(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.step("work", int)
        op.log.info("worked")
        return lab_pb2.PlayResult()

    assert (await lab.run()).state == State.STATE_COMPLETED


async def test_run_creates_a_resumable_step(lab: Lab) -> None:
    """What was done is not done again by a server that is killed and started anew; the rest is."""
    crash = Crash(lab)
    did: list[str] = []

    @lab.plays
    async def handler(request, op):
        await op.step("first", did.append, "first")
        await crash.here(op)
        await op.step("second", did.append, "second")
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert (await lab.end(name)).state == State.STATE_COMPLETED
    assert did == ["first", "second"]


async def test_name_is_unique_within_the_job(lab: Lab) -> None:
    """Within one operation: another one has steps of the same names."""

    @lab.plays
    async def handler(request, op):
        return lab_pb2.PlayResult(number=await op.step("count", abs, request.count))

    assert [result_of(await lab.run(count=count)).number for count in (1, 2)] == [1, 2]


async def test_fn_is_an_async_function_to_execute(lab: Lab) -> None:
    """Or one that is not; with its arguments, which the journal compares."""

    async def double(value: int) -> int:
        return 2 * value

    @lab.plays
    async def handler(request, op):
        return lab_pb2.PlayResult(number=await op.step("async", double, 4) + await op.step("plain", abs, -1))

    assert result_of(await lab.run()).number == 9


async def test_returns_the_result_of_fn_freshly_computed_or_retrieved_from_cache(lab: Lab) -> None:
    """The same value, of the same type: the fresh one, too, is read from what was stored."""
    crash, got = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        got.append(await op.step("fetch-users", lambda: [{"id": 1, "name": None}]))
        await crash.here(op)
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    await lab.end(name)
    assert got == [[{"id": 1, "name": None}]] * 2


async def test_first_execution_runs_fn_and_persists_the_result(lab: Lab) -> None:
    """Before the handler sees it."""
    rows: list[Any] = []

    @lab.plays
    async def handler(request, op):
        assert await op.step("fetch-users", lambda: ["ada"]) == ["ada"]
        rows.extend(lab.tables()["journal"])
        return lab_pb2.PlayResult()

    await lab.run()
    ((_, kind, name, *_),) = rows
    assert (kind, name, b'["ada"]' in rows[0]) == ("step", "fetch-users", True)


async def test_subsequent_executions_return_the_cached_result_without_running_fn(lab: Lab) -> None:
    crash, calls = Crash(lab), []

    async def fetch() -> int:
        calls.append(step.key)
        return len(calls)

    @lab.plays
    async def handler(request, op):
        users = await op.step("fetch-users", fetch)
        await crash.here(op)
        return lab_pb2.PlayResult(number=users)

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert result_of(await lab.end(name)).number == 1
    assert len(calls) == 1


@pytest.mark.parametrize(("level", "number"), [("info", logging.INFO), ("warn", logging.WARNING), ("error", 40)])
async def test_log_writes_structured_logs(lab: Lab, level: str, number: int, caplog: pytest.LogCaptureFixture) -> None:
    """`info(message, data?)`, `warn(message, data?)`, `error(message, data?)`, inside steps and outside."""
    caplog.set_level(logging.INFO, "longshore.handler")

    @lab.plays
    async def handler(request, op):
        write = getattr(op.log, level)
        write("plain")
        await op.step("work", lambda: write("user data", user_id="abc", count=10))
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    lines = [record for record in caplog.records if record.name == "longshore.handler"]
    assert [(line.levelno, line.message, vars(line)["data"]) for line in lines] == [
        (number, "plain", {}),
        (number, "user data", {"user_id": "abc", "count": 10}),
    ]
    assert {vars(line)["operation"] for line in lines} == {name}


async def test_progress_reports_progress_for_the_current_run(lab: Lab) -> None:
    """`progress(current, total, message?)`, on a type whose progress is counted; between steps and inside them."""

    @lab.plays
    async def handler(request, op):
        await op.progress(0, 100, "Starting...")
        await op.step("half", op.progress, 50, 100)
        await op.progress(100, 100, "Complete")
        return lab_pb2.PlayResult()

    seen = []
    for event in await lab.events((await lab.run("Count")).name):
        if event.WhichOneof("event") == "progress":
            counter = channels_pb2.CounterProgress()
            event.progress.value.Unpack(counter)
            seen.append((counter.current, counter.total, counter.message))
    assert seen == [(0, 100, "Starting..."), (50, 100, ""), (100, 100, "Complete")]


async def test_run_id_is_the_unique_identifier_of_the_current_run(lab: Lab) -> None:
    """The same in every attempt, and inside a step."""
    crash, ids = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        ids.append(op.uid)
        ids.append(await op.step(f"attempt-{op.attempt}", lambda: op.uid))
        await crash.here(op)
        return lab_pb2.PlayResult()

    started = (await lab.begin()).operation
    await crash.happen()
    await lab.end(started.name)
    assert ids == [started.uid] * 4
    assert (await lab.begin()).operation.uid != started.uid


@dataclasses.dataclass
class Order:
    order_id: str
    items: list[str]
    total: int


@pytest.mark.parametrize("items", [["book"], []], ids=["with items", "without"])
async def test_example_process_order(lab: Lab, items: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "longshore.handler")
    charged: list[int] = []

    @lab.plays
    async def handler(request, op):
        op.log.info("Starting order processing", order_id=request.key)

        async def fetch_order(order_id: str) -> Order:
            op.log.info("Fetching order from API")
            return Order(order_id, items, 1200)

        async def validate(order: Order) -> None:
            if not order.items:
                raise OperationError("NO_ITEMS", "Order has no items")
            op.log.info("Order validated", item_count=len(order.items))

        async def charge(total: int) -> None:
            charged.append(total)

        order = await op.step("fetch-order", fetch_order, request.key)
        await op.step("validate", validate, order)
        await op.step("process-payment", charge, order.total)
        op.log.info("Order processing complete")
        return lab_pb2.PlayResult(text="success")

    end = await lab.run(key="order_123")
    lines = [record.message for record in caplog.records if record.name == "longshore.handler"]
    assert lines[:2] == ["Starting order processing", "Fetching order from API"]
    if items:
        assert (end.state, result_of(end).text, charged) == (State.STATE_COMPLETED, "success", [1200])
        assert lines[2:] == ["Order validated", "Order processing complete"]
    else:
        assert (end.state, reason_of_end(end), charged) == (State.STATE_FAILED, "NO_ITEMS", [])


async def test_use_descriptive_names(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """They are what people read when something is wrong."""
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            await op.step("send-confirmation-email", int)
        await crash.here(op)
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    await lab.end(name)
    assert "'send-confirmation-email'" in caplog.text


async def test_dynamic_names_for_loops(lab: Lab) -> None:
    crash = Crash(lab)
    processed: list[str] = []

    @lab.plays
    async def handler(request, op):
        items = ["a", "b", "c"] if op.attempt == 1 else ["c", "b", "a", "d"]
        for item in items:
            await op.step(f"process-item-{item}", processed.append, item)
        await crash.here(op)
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert (await lab.end(name)).state == State.STATE_COMPLETED
    assert processed == ["a", "b", "c", "d"], "whatever their order is: the name says which is which"


async def test_avoid_duplicate_names(lab: Lab) -> None:
    """There they return the first one's result in silence."""
    ran: list[str] = []

    @lab.plays
    async def handler(request, op):
        await op.step("fetch", ran.append, "users")
        with pytest.raises(DuplicateNameError, match=r"step 'fetch' is used at .* and again at .*: give each a name"):
            await op.step("fetch", ran.append, "orders")
        await op.step("fetch-orders", ran.append, "orders")
        return lab_pb2.PlayResult()

    assert (await lab.run()).state == State.STATE_COMPLETED
    assert ran == ["users", "orders"]
