"""`google.longrunning.Operations`: all five methods over the same store, as AIP-151 wants them."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2 as lro
from google.longrunning import operations_pb2_grpc as lro_grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from lab.v1 import lab_pb2

from longshore_server import OperationError
from tests.conftest import Lab, State, reason_of, refused, turns


def stub(lab: Lab) -> Any:
    return lro_grpc.OperationsStub(lab.channel)


async def get(lab: Lab, name: str) -> lro.Operation:
    found: lro.Operation = await stub(lab).GetOperation(lro.GetOperationRequest(name=name))
    return found


async def test_while_it_runs_it_has_neither_error_nor_response(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await op.progress(lab_pb2.PlayProgress(number=3))
        await gate.wait()
        return lab_pb2.PlayResult(number=4)

    name = (await lab.begin()).operation.name
    first = await get(lab, name)
    assert (first.done, first.WhichOneof("result")) == (False, None)
    await lab.reached(name, "progress")
    operation = await get(lab, name)
    progress, result = lab_pb2.PlayProgress(), lab_pb2.PlayResult()
    assert operation.metadata.Unpack(progress)
    assert progress.number == 3
    assert not operation.done
    gate.set()
    await lab.end(name)
    operation = await get(lab, name)
    assert operation.done
    assert operation.response.Unpack(result)
    assert result.number == 4
    assert operation.metadata.Is(lab_pb2.PlayProgress.DESCRIPTOR)


async def test_metadata_is_of_the_declared_type_before_there_is_any(lab: Lab) -> None:
    for type, name in (("Play", "lab.v1.PlayProgress"), ("Count", "longshore.v1.CounterProgress")):
        operation = await get(lab, (await lab.begin(type)).operation.name)
        assert operation.metadata.type_url == f"type.googleapis.com/{name}"


async def test_an_empty_result_is_packed_as_such(lab: Lab) -> None:
    started = await lab.begin("Fire", Empty())
    await lab.end(started.operation.name)
    operation = await get(lab, started.operation.name)
    assert operation.done
    assert operation.response.Is(Empty.DESCRIPTOR)
    assert operation.metadata.Is(Empty.DESCRIPTOR)


async def test_a_failure_is_its_error(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        raise OperationError("NO_STOCK", "There is none.", code=5)

    operation = await get(lab, (await lab.run()).name)
    assert operation.done
    assert (operation.error.code, operation.error.message) == (5, "There is none.")
    assert reason_of(operation.error) == "NO_STOCK"


async def test_a_cancelled_one_is_done_with_code_1(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.cancelled.wait()
        raise asyncio.CancelledError

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    answer = await stub(lab).CancelOperation(lro.CancelOperationRequest(name=name))
    assert answer == Empty()
    await lab.end(name)
    operation = await get(lab, name)
    assert (operation.done, operation.error.code) == (True, 1)
    await stub(lab).CancelOperation(lro.CancelOperationRequest(name=name))  # repeatable


async def test_cancelling_what_cannot_be(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    name = (await lab.begin("PlayThrough")).operation.name
    code, reason, _ = await refused(stub(lab).CancelOperation(lro.CancelOperationRequest(name=name)))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_CANCELLABLE")


async def test_delete_removes_an_ended_one_with_everything(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.step("a", int)
        await op.progress(lab_pb2.PlayProgress())
        return lab_pb2.PlayResult()

    empty = {k: v for k, v in lab.tables().items() if k != "boots"}
    name = (await lab.lab.PlayNamed(lab_pb2.PlayRequest(key="k", request_id="r"))).name
    await lab.end(name)
    assert await stub(lab).DeleteOperation(lro.DeleteOperationRequest(name=name)) == Empty()
    assert {k: v for k, v in lab.tables().items() if k != "boots"} == empty
    code, reason, _ = await refused(lab.get(name))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "OPERATION_NOT_FOUND")
    code, _, _ = await refused(stub(lab).DeleteOperation(lro.DeleteOperationRequest(name=name)))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_delete_of_a_live_one_is_refused_and_changes_nothing(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    name = (await lab.begin()).operation.name
    await lab.reached(name, "started")
    before = lab.tables()
    code, reason, _ = await refused(stub(lab).DeleteOperation(lro.DeleteOperationRequest(name=name)))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OPERATION_RUNNING")
    assert lab.tables() == before


@pytest.mark.parametrize("timeout", [None, Duration(seconds=30)])
async def test_wait_answers_with_the_end(lab: Lab, timeout: Duration | None) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    waiting = asyncio.ensure_future(_answer(lab, name, timeout))
    await turns()
    gate.set()
    assert (await waiting).done


async def test_wait_answers_when_its_time_is_up(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    name = (await lab.begin()).operation.name
    waiting = asyncio.ensure_future(_answer(lab, name, Duration(seconds=30)))
    await lab.clock.armed(30)
    lab.clock.advance(30)
    assert not (await waiting).done
    assert not (await _answer(lab, name, Duration())).done
    assert (await lab.get(name)).state == State.STATE_RUNNING


async def _answer(lab: Lab, name: str, timeout: Duration | None) -> lro.Operation:
    answer: lro.Operation = await stub(lab).WaitOperation(lro.WaitOperationRequest(name=name, timeout=timeout))
    return answer


async def test_a_field_that_is_not_supported_is_refused_and_not_ignored(lab: Lab) -> None:
    # As bytes: the lowest version of googleapis-common-protos does not know return_partial_success by name.
    request = lro.ListOperationsRequest.FromString(b"\x28\x01")
    code, reason, _ = await refused(stub(lab).ListOperations(request))
    assert (code, reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED_FIELD")


async def test_a_list_has_the_operations_as_get_gives_them(lab: Lab) -> None:
    names = [(await lab.run(count=n)).name for n in range(3)]
    listed = await stub(lab).ListOperations(lro.ListOperationsRequest(name="operations"))
    assert list(listed.operations) == [await get(lab, name) for name in reversed(names)]
