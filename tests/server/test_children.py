"""Child starts: an entry of the parent's journal, so that a re-run finds the child that an earlier attempt started."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore_server import DuplicateNameError, OperationEndedError, OperationError, Reason, ServiceError
from tests.conftest import Crash, Lab, State, reason_of_end, result_of


async def test_a_child_is_started_once(lab: Lab) -> None:
    crash, refs = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        if request.script == "child":
            return lab_pb2.PlayResult(number=request.count)
        ref = await lab.server.operations.start(Lab.TYPE, lab_pb2.PlayRequest(script="child", count=5))
        refs.append((ref.uid, ref.created))
        await crash.here(op)
        return lab_pb2.PlayResult(number=(await ref.wait()).number + 1)

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert result_of(await lab.end(name)).number == 6
    (one, created), (two, again) = refs
    assert (one, created, again) == (two, True, False)
    assert len(lab.tables()["operations"]) == 2
    child = await lab.get(f"operations/{one}")
    assert (child.parent, child.owner) == (name, "local")


async def test_two_children_of_one_type_need_names(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        if request.script == "child":
            return lab_pb2.PlayResult(number=request.count)
        start = lab.server.operations.start
        one = await start(Lab.TYPE, lab_pb2.PlayRequest(script="child", count=1))
        with pytest.raises(DuplicateNameError):
            await start(Lab.TYPE, lab_pb2.PlayRequest(script="child", count=2))
        two = await start(Lab.TYPE, lab_pb2.PlayRequest(script="child", count=2), name="second")
        return lab_pb2.PlayResult(number=(await one.wait()).number + (await two.wait()).number)

    assert result_of(await lab.run()).number == 3


@pytest.mark.parametrize("way", ["start", "accept"])
async def test_parallel_children_of_one_name_are_refused_with_both_places(lab: Lab, way: str) -> None:
    @lab.plays
    async def handler(request, op):
        if request.script == "child":
            return lab_pb2.PlayResult()
        begin, child = getattr(lab.server.operations, way), lab_pb2.PlayRequest(script="child")
        one = begin(Lab.TYPE, child)
        two = begin(Lab.TYPE, child)
        error: Any
        _, error = await asyncio.gather(one, two, return_exceptions=True)
        assert isinstance(error, DuplicateNameError)
        places = [part for part in str(error).split() if "test_children.py:" in part]
        assert len(set(places)) == 2
        return lab_pb2.PlayResult()

    assert (await lab.run()).state == State.STATE_COMPLETED


async def test_another_child_input_in_a_rerun_is_non_deterministic(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        if request.script == "child":
            return lab_pb2.PlayResult()
        await lab.server.operations.start(Lab.TYPE, lab_pb2.PlayRequest(script="child", count=op.attempt))
        await crash.here(op)
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    snapshot = await lab.end(name)
    assert reason_of_end(snapshot) == "NON_DETERMINISTIC"
    assert "count: 1" in caplog.text
    assert "count: 2" in caplog.text
    assert len(lab.tables()["operations"]) == 2


async def test_a_child_start_and_its_entry_are_one_transaction(lab: Lab) -> None:
    """A parent that has ended by another hand starts no child any more."""
    entered, gate, done, errors = asyncio.Event(), asyncio.Event(), asyncio.Event(), []

    @lab.plays
    async def handler(request, op):
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await gate.wait()
        try:
            await lab.server.operations.start(Lab.TYPE, lab_pb2.PlayRequest(script="child"))
        except ServiceError as error:
            errors.append(error)
        done.set()

    name = (await lab.begin("PlayMinute")).operation.name
    await entered.wait()
    lab.clock.advance(60)
    assert reason_of_end(await lab.end(name)) == "DEADLINE_EXCEEDED"
    gate.set()
    await done.wait()
    assert [error.reason for error in errors] == [Reason.OPERATION_ENDED]
    assert len(lab.tables()["operations"]) == 1


async def test_a_failed_child_is_an_error_for_its_parent(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        if request.script == "child":
            raise OperationError("NO_STOCK")
        ref = await lab.server.operations.start(Lab.TYPE, lab_pb2.PlayRequest(script="child"))
        with pytest.raises(OperationEndedError) as caught:
            await ref.wait()
        assert caught.value.name == ref.name
        return lab_pb2.PlayResult(text=caught.value.state.name)

    assert result_of(await lab.run()).text == "FAILED"


async def test_a_start_beside_handlers_is_an_ordinary_one(lab: Lab) -> None:
    operations = lab.server.operations
    one = await operations.start(Lab.TYPE, lab_pb2.PlayRequest(), request_id="k", labels={"a": "b"})
    two = await operations.start(Lab.TYPE, lab_pb2.PlayRequest(), request_id="k", labels={"a": "b"})
    assert (one.uid, one.created, two.created) == (two.uid, True, False)
    assert (await one.wait()).text == "played"
    assert (await operations.find(one.name)).uid == one.uid
    assert [event.sequence async for event in one.watch()] == [1, 2, 3]
    with pytest.raises(TypeError, match=r"takes lab\.v1\.PlayRequest"):
        await operations.start(Lab.TYPE, lab_pb2.PlayResult())


async def test_a_parent_that_watches_its_child_goes_on_after_a_stop(lab: Lab) -> None:
    seen: list[list[int]] = []

    @lab.plays
    async def handler(request, op):
        if request.script == "child":
            if op.attempt == 1:
                await asyncio.Event().wait()
            return lab_pb2.PlayResult(text="child")
        child = await lab.server.operations.start(Lab.TYPE, lab_pb2.PlayRequest(script="child"))
        seen.append([])
        async for event in child.watch():
            seen[-1].append(event.sequence)
        return lab_pb2.PlayResult(text="parent")

    name = (await lab.begin(script="parent")).operation.name
    while not seen or len(seen[-1]) < 2:
        await lab.catch_up()
    await lab.restart(crash=False)
    ended = await lab.end(name)
    assert ended.state == State.STATE_COMPLETED, ended.error
    assert seen == [[1, 2], [1, 2, 3, 4]]


async def test_a_full_queue_refuses_no_child(make_lab: Any) -> None:
    """Its start is its parent's work, which is under way already: a refusal would end the parent."""
    lab = await make_lab(concurrency=1, queue=0)

    @lab.plays
    async def handler(request, op):
        if request.script == "parent":
            child = await lab.server.operations.start("lab.v1.LabService/PlayOn", lab_pb2.PlayRequest())
            await child.wait()
        return lab_pb2.PlayResult(text=request.script)

    name = (await lab.begin(script="parent")).operation.name
    assert (await lab.end(name)).state == State.STATE_COMPLETED
