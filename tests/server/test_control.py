"""`OperationControlService`: the provider drives operations from outside, by stubs alone."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from lab.v1 import lab_pb2

from longshore.v1 import channels_pb2
from longshore.v1 import operation_control_service_pb2 as cpb
from longshore.v1 import operation_control_service_pb2_grpc as control_grpc
from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import Lab, State, fields_of, reason_of, reason_of_end, refused, result_of

INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


def stub(lab: Lab) -> Any:
    return control_grpc.OperationControlServiceStub(lab.channel)


def packed(message: Message) -> AnyMessage:
    found = AnyMessage()
    found.Pack(message)
    return found


PROGRESS = packed(lab_pb2.PlayProgress(text="halfway"))
RESULT = packed(lab_pb2.PlayResult(text="by hand"))
ERROR = status_pb2.Status(code=9, message="no")


async def deferred(lab: Lab, type: str = "Play", request: Message | None = None) -> str:
    """The name of an operation whose handler has deferred it and is gone."""

    @lab.plays
    async def handler(request, op):
        return await op.defer()

    name = (await lab.begin(type, request)).operation.name
    await lab.catch_up()
    assert (await lab.get(name)).deferred
    return name


@pytest.mark.parametrize("crash", [None, True, False], ids=["at once", "after a crash", "after a stop"])
async def test_a_control_call_drives_a_deferred_operation_to_its_end(lab: Lab, crash: bool | None) -> None:
    name = await deferred(lab, request=lab_pb2.PlayRequest(key="k"))
    if crash is not None:
        await lab.restart(crash=crash)
    control = stub(lab)
    snapshot = await control.GetOperation(cpb.GetOperationRequest(name=name))
    assert snapshot.deferred
    assert lab_pb2.PlayRequest.FromString(snapshot.input.value).key == "k"
    snapshot = await control.ReportProgress(cpb.ReportProgressRequest(name=name, progress=PROGRESS))
    assert (snapshot.sequence, snapshot.progress) == (3, PROGRESS)
    output = packed(channels_pb2.DiagnosticOutput(message="said"))
    assert (await control.ReportOutput(cpb.ReportOutputRequest(name=name, output=output))).sequence == 4
    snapshot = await control.Complete(cpb.CompleteRequest(name=name, result=RESULT))
    assert (snapshot.state, result_of(snapshot).text) == (State.STATE_COMPLETED, "by hand")
    assert await lab.kinds(name) == ["accepted", "started", "progress", "output", "completed"]


async def test_every_change_is_refused_after_the_end(lab: Lab) -> None:
    name = (await lab.run()).name
    control, before = stub(lab), lab.tables()
    for call in (
        control.ReportStarted(cpb.ReportStartedRequest(name=name)),
        control.ReportProgress(cpb.ReportProgressRequest(name=name, progress=PROGRESS)),
        control.Complete(cpb.CompleteRequest(name=name, result=RESULT)),
        control.Fail(cpb.FailRequest(name=name, error=ERROR)),
        control.AcknowledgeCancel(cpb.AcknowledgeCancelRequest(name=name)),
        control.ConsumeSignal(cpb.ConsumeSignalRequest(name=name, number=1)),
    ):
        code, reason, _ = await refused(call)
        assert (code, reason) == (PRECONDITION, "OPERATION_ENDED")
    assert lab.tables() == before


async def test_a_controller_ends_an_operation_whose_handler_runs(lab: Lab) -> None:
    entered, interrupted = asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request, op):
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            interrupted.set()

    name = (await lab.begin()).operation.name
    await entered.wait()
    snapshot = await stub(lab).Complete(cpb.CompleteRequest(name=name, result=RESULT))
    assert result_of(snapshot).text == "by hand"
    await interrupted.wait()
    await lab.catch_up()
    assert lab.engine.executor.running == 0


async def test_cancel_requests_reach_the_controller_and_are_answered(lab: Lab) -> None:
    name, control = await deferred(lab), stub(lab)
    code, reason, _ = await refused(control.AcknowledgeCancel(cpb.AcknowledgeCancelRequest(name=name)))
    assert (code, reason) == (PRECONDITION, "NO_CANCEL_REQUEST")
    await lab.operations.Cancel(pb.CancelRequest(name=name, reason="why"))
    snapshot = await control.GetOperation(cpb.GetOperationRequest(name=name))
    assert (snapshot.state, snapshot.cancel_reason) == (State.STATE_CANCELLING, "why")
    await lab.restart()
    control = stub(lab)
    for _ in range(2):
        snapshot = await control.AcknowledgeCancel(cpb.AcknowledgeCancelRequest(name=name))
        assert (snapshot.state, snapshot.error.message) == (State.STATE_CANCELLED, "why")


async def test_fail_puts_a_reason_where_there_is_none(lab: Lab) -> None:
    name = await deferred(lab)
    snapshot = await stub(lab).Fail(cpb.FailRequest(name=name, error=ERROR))
    assert (snapshot.state, snapshot.error.code, snapshot.error.message) == (State.STATE_FAILED, 9, "no")
    assert reason_of_end(snapshot) == "FAILED"


async def test_fail_puts_the_reason_first(lab: Lab) -> None:
    error = status_pb2.Status(code=9, message="no")
    error.details.append(packed(lab_pb2.PlayResult(text="other")))
    error.details.append(packed(error_details_pb2.ErrorInfo(reason="TOO_DEAR", domain="lab.v1")))
    name = await deferred(lab)
    snapshot = await stub(lab).Fail(cpb.FailRequest(name=name, error=error))
    assert reason_of(snapshot.error) == "TOO_DEAR"
    assert len(snapshot.error.details) == 2


BAD_PROGRESS = [
    (None, "INVALID_ARGUMENT", "progress"),
    (AnyMessage(), "WRONG_PAYLOAD_TYPE", "progress"),
    (RESULT, "WRONG_PAYLOAD_TYPE", "progress"),
    (AnyMessage(type_url=PROGRESS.type_url, value=b"\xff"), "MALFORMED_REQUEST", "progress.value"),
]


@pytest.mark.parametrize(("progress", "reason", "field"), BAD_PROGRESS)
async def test_bad_payloads_are_refused_before_anything_is_written(
    lab: Lab, progress: AnyMessage | None, reason: str, field: str
) -> None:
    name = await deferred(lab)
    before = lab.tables()
    request = cpb.ReportProgressRequest(name=name, progress=progress)
    code, found, status = await refused(stub(lab).ReportProgress(request))
    assert (code, found, fields_of(status)) == (INVALID, reason, [field])
    assert lab.tables() == before
