from __future__ import annotations

from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import Lab, State


async def test_an_operation_runs_and_its_log_is_gapless(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        for number in range(3):
            await op.progress(lab_pb2.PlayProgress(number=number))
        return lab_pb2.PlayResult(text=request.script)

    started = await lab.begin(script="hello")
    snapshot = await lab.end(started.operation.name)
    assert snapshot.state == State.STATE_COMPLETED
    events = await lab.events(started.operation.name)
    assert [e.sequence for e in events] == list(range(1, 7))
    result = lab_pb2.PlayResult()
    assert events[-1].completed.result.Unpack(result)
    assert result.text == "hello"


async def test_a_crash_runs_the_handler_again_and_its_steps_only_once(lab: Lab) -> None:
    ran = []

    @lab.plays
    async def handler(request, op):
        await op.step("one", ran.append, 1)
        if op.attempt == 1:
            await op.progress(lab_pb2.PlayProgress(number=1))
            await op.sleep(1000)
        return lab_pb2.PlayResult(number=op.attempt)

    started = await lab.begin()
    name = started.operation.name
    async for message in lab.operations.Watch(pb.WatchRequest(name=name, after_sequence=0)):
        if message.event.HasField("progress"):
            break
    await lab.restart()
    snapshot = await lab.end(name)
    assert snapshot.state == State.STATE_COMPLETED
    assert snapshot.attempt == 2
    assert ran == [1]
    kinds = [e.WhichOneof("event") for e in await lab.events(name)]
    assert kinds == ["accepted", "started", "progress", "attempt_failed", "completed"]
