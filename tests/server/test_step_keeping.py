"""Retry from the step that failed: the new operation begins with what the old one has completed in steps."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import uuid
from typing import Any

import grpc
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError, step
from longshore_server.store.mutations import Delete
from tests.conftest import Crash, Lab, State, reason_of_end, refused, result_of
from tests.server.retrying import RetryHandlers

CREATED, EXISTING = pb.StartResponse.DISPOSITION_CREATED, pb.StartResponse.DISPOSITION_EXISTING


@pytest.fixture
async def lab(make_lab: Any) -> Lab:
    found: Lab = await make_lab(services=[RetryHandlers])
    return found


async def retry(lab: Lab, name: str, request_id: str = "", *, keep: bool = True) -> pb.StartResponse:
    return await lab.operations.Retry(pb.RetryRequest(name=name, request_id=request_id, keep_steps=keep))


class Order:
    """Three steps, the last of which fails while `broken`. What they did, by name and key."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.broken = lab, True
        self.did: list[str] = []
        self.keys: list[str] = []
        lab.plays(self.handle)

    def do(self, name: str) -> str:
        self.did.append(name)
        self.keys.append(step.key)
        if name == "ship" and self.broken:
            raise OperationError("BUSY")
        return f"{name} done"

    async def handle(self, request: Any, op: Any) -> lab_pb2.PlayResult:
        done = [await op.step(name, self.do, name) for name in ("reserve", "charge", "ship")]
        return lab_pb2.PlayResult(text=", ".join(done))

    async def fails(self, type: str = "Play", **fields: Any) -> Any:
        old = await self.lab.run(type, **fields)
        assert reason_of_end(old) == "BUSY"
        self.did.clear()
        self.broken = False
        return old


async def test_it_goes_on_at_the_step_that_failed(lab: Lab) -> None:
    order = Order(lab)
    old = await order.fails()
    again = await retry(lab, old.name)
    new = await lab.end(again.operation.name)
    assert (again.disposition, order.did) == (CREATED, ["ship"])
    assert (new.state, result_of(new).text) == (State.STATE_COMPLETED, "reserve done, charge done, ship done")
    assert (new.retried_from, new.attempt) == (f"operations/{old.uid}", 1)
    assert await lab.get(old.name) == old, "nothing changes what has ended"
    assert order.keys[-1] == f"{new.uid}/ship", "it is another operation's step"


async def test_by_default_all_is_done_anew(lab: Lab) -> None:
    order = Order(lab)
    old = await order.fails()
    assert (await lab.end((await retry(lab, old.name, keep=False)).operation.name)).state == State.STATE_COMPLETED
    assert order.did == ["reserve", "charge", "ship"]


async def test_what_is_kept_is_kept_by_the_retry_of_a_retry(lab: Lab) -> None:
    order = Order(lab)
    old = await order.fails()
    order.broken = True
    second = await lab.end((await retry(lab, old.name)).operation.name)
    assert (reason_of_end(second), order.did) == ("BUSY", ["ship"])
    order.broken = False
    third = await lab.end((await retry(lab, second.name)).operation.name)
    assert (third.state, third.retried_from) == (State.STATE_COMPLETED, f"operations/{second.uid}")
    assert order.did == ["ship", "ship"]


@pytest.mark.parametrize("begun", [False, True], ids=["before its first step", "after its last one"])
async def test_a_crash_loses_nothing_of_it(lab: Lab, begun: bool) -> None:
    order = Order(lab)
    old = await order.fails()
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        if not begun:
            await crash.here(op)
        result = await order.handle(request, op)
        if begun:
            await crash.here(op)
        return result

    name = (await retry(lab, old.name)).operation.name
    await crash.happen()
    new = await lab.end(name)
    assert (new.state, new.attempt, order.did) == (State.STATE_COMPLETED, 2, ["ship"])


async def test_only_steps_are_kept(lab: Lab) -> None:
    """The sleep is slept again, and the child started again."""
    children = []

    @lab.plays
    async def handler(request, op):
        if request.script == "child":
            return lab_pb2.PlayResult()
        await op.step("work", int)
        await op.sleep(60)
        children.append((await lab.server.operations.start(Lab.TYPE, lab_pb2.PlayRequest(script="child"))).name)
        raise OperationError("BUSY")

    name = (await lab.begin()).operation.name
    for _ in range(2):
        await lab.clock.armed(60)
        lab.clock.advance(60)
        assert reason_of_end(await lab.end(name)) == "BUSY"
        name = (await retry(lab, name)).operation.name
    assert len(set(children)) == 2
    with contextlib.closing(sqlite3.connect(f"file:{lab.data / 'longshore.db'}?mode=ro", uri=True)) as database:
        assert set(database.execute("SELECT kind, name FROM journal WHERE kept")) == {("step", "work")}


async def test_a_changed_handler_is_told_whose_step_it_was(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    order = Order(lab)
    old = await order.fails()

    @lab.plays
    async def handler(request, op):
        await op.step("reserve", order.do, "something else")
        return lab_pb2.PlayResult()

    new = await lab.end((await retry(lab, old.name)).operation.name)
    assert reason_of_end(new) == "NON_DETERMINISTIC"
    origin = "attempt 1 of the operation that it repeats"
    assert new.error.message == f"step 'reserve': this attempt asks for something else than {origin} did."
    assert f"{origin} asked for ('reserve'), this attempt asks for ('something else')" in caplog.text
    assert order.did == []


async def test_a_template_name_goes_over_with_the_steps(lab: Lab) -> None:
    order = Order(lab)
    old = await order.fails("RetryService/Keep", key="a")
    stays = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await stays.wait()
        return await order.handle(request, op)

    first, again = await retry(lab, "operations/kept-a"), await retry(lab, f"operations/{old.uid}")
    assert (first.operation.name, first.disposition) == ("operations/kept-a", CREATED)
    assert (again.operation.uid, again.disposition) == (first.operation.uid, EXISTING)
    stays.set()
    new = await lab.end("operations/kept-a")
    assert (new.state, new.uid, order.did) == (State.STATE_COMPLETED, first.operation.uid, ["ship"])


async def test_its_request_id_is_for_a_retry_with_the_steps(lab: Lab) -> None:
    old = await Order(lab).fails()
    one, two = await retry(lab, old.name, "key"), await retry(lab, old.name, "key")
    assert (one.disposition, two.disposition, two.operation.uid) == (CREATED, EXISTING, one.operation.uid)
    assert (await lab.end(one.operation.name)).state == State.STATE_COMPLETED
    before = lab.tables()
    code, reason, _ = await refused(retry(lab, old.name, "key", keep=False))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert lab.tables() == before


async def test_what_is_deleted_has_no_steps_to_keep(lab: Lab) -> None:
    old = await Order(lab).fails()
    uid = uuid.UUID(old.uid).bytes
    start = lab.engine.requests._start

    async def late(*args: Any) -> Any:
        # Between the look at the old operation and the commit of the new one.
        await lab.engine.store.writer.submit(Delete(uid))
        return await start(*args)

    lab.engine.requests._start = late
    code, reason, _ = await refused(retry(lab, old.name))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "OPERATION_NOT_FOUND")
    assert (lab.tables()["operations"], lab.tables()["journal"]) == ([], [])
    lab.engine.requests._start = start
    code, reason, _ = await refused(retry(lab, old.name))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "OPERATION_NOT_FOUND")


async def test_the_steps_stay_where_the_old_operation_is_deleted_later(lab: Lab) -> None:
    order = Order(lab)
    old = await order.fails()
    order.broken = True
    second = await lab.end((await retry(lab, old.name)).operation.name)
    await lab.operations.Delete(pb.DeleteRequest(name=old.name))
    order.broken = False
    third = await lab.end((await retry(lab, second.name)).operation.name)
    assert (third.state, order.did) == (State.STATE_COMPLETED, ["ship", "ship"])
