"""`OperationControlService`: the provider drives operations from outside, by stubs alone."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from lab.v1 import control_longshore, lab_pb2
from lab.v1.control_pb2 import Hearing, Verdict

from longshore.v1 import channels_pb2
from longshore.v1 import operation_control_service_pb2 as cpb
from longshore.v1 import operation_control_service_pb2_grpc as control_grpc
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import Code
from tests.conftest import Lab, LabHandlers, State, fields_of, reason_of, reason_of_end, refused, result_of

INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


JUDGE = "ControlService/Judge"


class ControlHandlers(control_longshore.ControlService):
    """Runs what the test has written for the laboratory."""

    def __init__(self, lab: LabHandlers) -> None:
        self._lab = lab

    async def judge(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)


@pytest.fixture
async def court(make_lab: Any) -> Lab:
    """A laboratory that serves `ControlService`, too, whose payloads have rules."""
    made: Lab = await make_lab(services=[ControlHandlers])
    return made


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
        control.Attach(cpb.AttachRequest(name=name)),
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


async def test_the_rules_of_the_contract_bind_controllers(court: Lab) -> None:
    name = await deferred(court, JUDGE)
    control, before = stub(court), court.tables()
    bad = packed(Hearing(day=0))
    for call, field in (
        (control.ReportProgress(cpb.ReportProgressRequest(name=name, progress=bad)), "day"),
        (control.ReportOutput(cpb.ReportOutputRequest(name=name, output=bad)), "day"),
        (control.Complete(cpb.CompleteRequest(name=name, result=packed(Verdict(text="no")))), "text"),
        # Absent is an empty one.
        (control.Complete(cpb.CompleteRequest(name=name)), "text"),
    ):
        code, reason, status = await refused(call)
        assert (code, reason, fields_of(status)) == (INVALID, "INVALID_ARGUMENT", [field])
    assert court.tables() == before
    snapshot = await control.Complete(cpb.CompleteRequest(name=name, result=packed(Verdict(text="yes"))))
    assert snapshot.state == State.STATE_COMPLETED


async def test_what_is_larger_than_the_server_sends_is_refused(make_lab: Any) -> None:
    lab = await make_lab(max_payload=1024)
    name = await deferred(lab)
    control, before = stub(lab), lab.tables()
    long = "x" * 2000
    progress, output = packed(lab_pb2.PlayProgress(text=long)), packed(channels_pb2.DiagnosticOutput(message=long))
    error = status_pb2.Status(code=9, message="x" * 1025)
    # It is not even read.
    malformed = AnyMessage(type_url=packed(lab_pb2.PlayResult()).type_url, value=b"\xff" * 1025)
    for call in (
        control.ReportProgress(cpb.ReportProgressRequest(name=name, progress=progress)),
        control.ReportOutput(cpb.ReportOutputRequest(name=name, output=output)),
        control.Complete(cpb.CompleteRequest(name=name, result=packed(lab_pb2.PlayResult(text=long)))),
        control.Complete(cpb.CompleteRequest(name=name, result=malformed)),
        control.Fail(cpb.FailRequest(name=name, error=error)),
        control.Fail(cpb.FailRequest(name=name, error=status_pb2.Status(code=9, message="m", details=[malformed]))),
    ):
        code, reason, _ = await refused(call)
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "INPUT_TOO_LARGE")
    assert lab.tables() == before
    progress = packed(lab_pb2.PlayProgress(text="x" * 1020))
    await control.ReportProgress(cpb.ReportProgressRequest(name=name, progress=progress))


async def test_a_channel_that_the_contract_leaves_empty_takes_nothing(lab: Lab) -> None:
    entered = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await op.defer()
        entered.set()

    name = (await lab.operations.Start(_start_of_fire())).operation.name
    await entered.wait()
    control = stub(lab)
    for call, field in (
        (control.ReportProgress(cpb.ReportProgressRequest(name=name, progress=PROGRESS)), "progress"),
        (control.ReportOutput(cpb.ReportOutputRequest(name=name, output=PROGRESS)), "output"),
    ):
        code, reason, status = await refused(call)
        assert (code, reason, fields_of(status)) == (INVALID, "WRONG_PAYLOAD_TYPE", [field])
    assert (await control.Complete(cpb.CompleteRequest(name=name))).state == State.STATE_COMPLETED


def _start_of_fire() -> pb.StartRequest:
    return pb.StartRequest(type="lab.v1.LabService/Fire")


INFO = error_details_pb2.ErrorInfo(reason="NO", domain="lab.v1")
BAD_ERRORS = {
    "OK": (status_pb2.Status(message="no"), "INVALID_ARGUMENT", "error.code"),
    "no code": (status_pb2.Status(code=17, message="no"), "INVALID_ARGUMENT", "error.code"),
    "negative": (status_pb2.Status(code=-1, message="no"), "INVALID_ARGUMENT", "error.code"),
    "cancelled": (status_pb2.Status(code=1, message="no"), "INVALID_ARGUMENT", "error.code"),
    "no message": (status_pb2.Status(code=9), "INVALID_ARGUMENT", "error.message"),
    "no type": (
        status_pb2.Status(code=9, message="no", details=[AnyMessage()]), "INVALID_ARGUMENT", "error.details[0]"
    ),
    "malformed": (
        status_pb2.Status(
            code=9, message="no",
            details=[packed(INFO), AnyMessage(type_url="x/google.rpc.ErrorInfo", value=b"\xff")],
        ), "MALFORMED_REQUEST", "error.details[1].value",
    ),
    **{
        f"malformed {kind}": (
            status_pb2.Status(
                code=9, message="no",
                details=[packed(INFO), packed(INFO), AnyMessage(type_url=f"x/{kind}", value=b"\xff\xff")],
            ), "MALFORMED_REQUEST", "error.details[2].value",
        )
        for kind in ("google.rpc.RetryInfo", "lab.v1.PlayResult")
    },
    "no reason": (
        status_pb2.Status(code=9, message="no", details=[packed(error_details_pb2.ErrorInfo(domain="x"))]),
        "INVALID_ARGUMENT", "error.details[0].reason",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ERRORS)
async def test_an_error_that_is_none_is_refused(lab: Lab, case: str) -> None:
    error, reason, field = BAD_ERRORS[case]
    name = await deferred(lab)
    before = lab.tables()
    code, found, status = await refused(stub(lab).Fail(cpb.FailRequest(name=name, error=error)))
    assert (code, found, fields_of(status)) == (INVALID, reason, [field])
    assert lab.tables() == before


async def test_details_of_types_that_the_server_does_not_know_are_taken_as_they_are(lab: Lab) -> None:
    details = [AnyMessage(type_url="x/elsewhere.v1.Thing", value=b"\xff"), packed(lab_pb2.PlayResult(text="known"))]
    error = status_pb2.Status(code=9, message="no", details=details)
    snapshot = await stub(lab).Fail(cpb.FailRequest(name=await deferred(lab), error=error))
    assert list(snapshot.error.details)[1:] == details


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.CANCELLED])
async def test_every_other_canonical_code_may_end_an_operation(lab: Lab, code: Code) -> None:
    name = await deferred(lab)
    snapshot = await stub(lab).Fail(cpb.FailRequest(name=name, error=status_pb2.Status(code=code, message="no")))
    assert (snapshot.state, snapshot.error.code) == (State.STATE_FAILED, code)


async def test_names_are_checked_and_unknown_ones_not_found(lab: Lab) -> None:
    control = stub(lab)
    code, reason, _ = await refused(control.GetOperation(cpb.GetOperationRequest(name="nonsense")))
    assert (code, reason) == (INVALID, "INVALID_NAME")
    code, reason, _ = await refused(control.Complete(cpb.CompleteRequest(name="operations/nobody", result=RESULT)))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "OPERATION_NOT_FOUND")
    snapshot = await lab.get(await deferred(lab))
    same = await control.GetOperation(cpb.GetOperationRequest(name=f"operations/{snapshot.uid}"))
    assert same.name == snapshot.name


async def test_before_its_start_an_operation_reports_and_completes_nothing(lab: Lab) -> None:
    accepted = await lab.server.operations.accept(Lab.TYPE, lab_pb2.PlayRequest())
    control = stub(lab)
    for call in (
        control.ReportProgress(cpb.ReportProgressRequest(name=accepted.name, progress=PROGRESS)),
        control.Complete(cpb.CompleteRequest(name=accepted.name, result=RESULT)),
    ):
        code, reason, _ = await refused(call)
        assert (code, reason) == (PRECONDITION, "ILLEGAL_MOVE")
    for _ in range(2):
        snapshot = await control.ReportStarted(cpb.ReportStartedRequest(name=accepted.name))
        assert (snapshot.state, snapshot.sequence, snapshot.deferred) == (State.STATE_RUNNING, 2, True)
    await control.Complete(cpb.CompleteRequest(name=accepted.name, result=RESULT))
    assert await lab.kinds(accepted.name) == ["accepted", "started", "completed"]


async def test_a_result_that_loses_to_a_cancel_request_is_kept(lab: Lab) -> None:
    name = await deferred(lab)
    await lab.operations.Cancel(pb.CancelRequest(name=name))
    snapshot = await stub(lab).Complete(cpb.CompleteRequest(name=name, result=RESULT))
    assert snapshot.state == State.STATE_CANCELLED
    assert any("late_result" in row for row in lab.tables()["journal"])


async def test_the_provider_cancels_what_callers_cannot(lab: Lab) -> None:
    name = await deferred(lab, "PlayThrough")
    control = stub(lab)
    code, reason, status = await refused(
        control.CancelOperation(cpb.CancelOperationRequest(name=name, reason="x" * 1025))
    )
    assert (code, reason, fields_of(status)) == (INVALID, "INVALID_ARGUMENT", ["reason"])
    for _ in range(2):
        snapshot = await control.CancelOperation(cpb.CancelOperationRequest(name=name, reason="withdrawn"))
        assert (snapshot.state, snapshot.error.message) == (State.STATE_CANCELLED, "withdrawn")


async def plead(lab: Lab, name: str, day: int, signal: str = "plead", text: str = "") -> None:
    payload = packed(Hearing(day=day, text=text))
    await lab.operations.Signal(pb.SignalRequest(name=name, signal=signal, payload=payload))


async def test_signals_of_a_deferred_operation_wait_for_its_controller(court: Lab) -> None:
    name = await deferred(court, JUDGE)
    control = stub(court)
    assert not (await control.ListSignals(cpb.ListSignalsRequest(name=name))).signals
    waiting = control.ListSignals(_listing(name, wait=60))
    await court.clock.armed(60)
    await plead(court, name, 1)
    (signal,) = (await waiting).signals
    assert (signal.number, signal.signal, signal.sender) == (1, "plead", "local")
    assert signal.payload == packed(Hearing(day=1))
    assert signal.HasField("accept_time")
    await plead(court, name, 2, "object")
    await plead(court, name, 3)
    await court.restart()
    control = stub(court)
    listed = await control.ListSignals(_listing(name, "plead", wait=60))
    assert [s.number for s in listed.signals] == [1, 3]
    snapshot = await control.ConsumeSignal(cpb.ConsumeSignalRequest(name=name, number=1))
    assert [s.number for s in snapshot.pending_signals] == [2, 3]
    for number in (1, 4, 0, -1):
        code, reason, _ = await refused(control.ConsumeSignal(cpb.ConsumeSignalRequest(name=name, number=number)))
        assert (code, reason) == (PRECONDITION, "SIGNAL_CONSUMED")
    await control.Complete(cpb.CompleteRequest(name=name, result=packed(Verdict(text="yes"))))
    assert [s.number for s in (await control.ListSignals(_listing(name, wait=60))).signals] == [2, 3]


async def test_a_wait_for_signals_ends_with_its_time_the_operation_or_the_server(court: Lab) -> None:
    name = await deferred(court, JUDGE)
    control = stub(court)
    waiting = control.ListSignals(_listing(name, "object", wait=60))
    await court.clock.armed(60)
    await plead(court, name, 1)  # of another name: nobody is answered
    court.clock.advance(60)
    assert not (await waiting).signals
    other = await deferred(court, JUDGE)
    waiting = control.ListSignals(_listing(other, wait=60))
    await court.clock.armed(60)
    await control.Complete(cpb.CompleteRequest(name=other, result=packed(Verdict(text="yes"))))
    assert not (await waiting).signals
    waiting = control.ListSignals(_listing(name, "object", wait=60))
    await court.clock.armed(60)
    court.engine.drain()
    code, reason, _ = await refused(waiting)
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")


async def test_signals_of_an_operation_that_is_deleted_while_they_are_read(
    court: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await deferred(court, JUDGE)
    await plead(court, name, 1)
    await stub(court).CancelOperation(cpb.CancelOperationRequest(name=name))
    read = court.engine.store.waiting_signals

    async def delete_first(*asked: Any) -> Any:
        monkeypatch.undo()
        await court.operations.Delete(pb.DeleteRequest(name=name))
        return await read(*asked)

    monkeypatch.setattr(court.engine.store, "waiting_signals", delete_first)
    code, reason, _ = await refused(stub(court).ListSignals(_listing(name), timeout=20))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "OPERATION_NOT_FOUND")


async def test_signals_come_in_pages(court: Lab) -> None:
    name, other = await deferred(court, JUDGE), await deferred(court, JUDGE)
    for number in range(1, 6):
        await plead(court, name, number)
    await plead(court, other, 1)
    control = stub(court)

    async def page(size: int, token: str = "", signal: str = "", of: str = name) -> tuple[list[int], str]:
        listed = await control.ListSignals(
            cpb.ListSignalsRequest(name=of, signal=signal, page_size=size, page_token=token)
        )
        return [signal.number for signal in listed.signals], listed.next_page_token

    assert await page(5) == ([1, 2, 3, 4, 5], "")
    first, token = await page(2)
    second, following = await page(2, token)
    assert (first, second) == ([1, 2], [3, 4])
    await court.restart()
    control = stub(court)
    assert await page(2, following) == ([5], "")
    # What is consumed meanwhile is left out, and what came meanwhile is there.
    await control.ConsumeSignal(cpb.ConsumeSignalRequest(name=name, number=3))
    await plead(court, name, 6)
    assert await page(1000, token) == ([4, 5, 6], "")
    for wrong in (page(2, token, "plead"), page(2, token, of=other), page(2, "AAAA")):
        code, reason, status = await refused(wrong)
        assert (code, reason, fields_of(status)) == (INVALID, "INVALID_PAGE_TOKEN", ["page_token"])
    code, reason, status = await refused(page(-1))
    assert (code, reason, fields_of(status)) == (INVALID, "INVALID_ARGUMENT", ["page_size"])


async def test_a_page_of_signals_is_cut_before_stock_clients_cannot_receive_it(court: Lab) -> None:
    name = await deferred(court, JUDGE)
    for number in range(1, 8):
        await plead(court, name, number, text="x" * 900_000)
    request, seen = cpb.ListSignalsRequest(name=name), []
    while True:
        page = await stub(court).ListSignals(request)
        seen.append([signal.number for signal in page.signals])
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [[1, 2, 3], [4, 5, 6], [7]]


async def test_a_page_is_waited_for(court: Lab) -> None:
    name = await deferred(court, JUDGE)
    for number in (1, 2):
        await plead(court, name, number)
    first = await stub(court).ListSignals(cpb.ListSignalsRequest(name=name, page_size=1))
    await stub(court).ConsumeSignal(cpb.ConsumeSignalRequest(name=name, number=2))
    request = _listing(name, wait=60)
    request.page_token = first.next_page_token
    waiting = stub(court).ListSignals(request)
    await court.clock.armed(60)
    await plead(court, name, 3)
    assert [signal.number for signal in (await waiting).signals] == [3]


async def test_signals_are_asked_for_by_names_that_exist(court: Lab) -> None:
    name = await deferred(court, JUDGE)
    code, reason, status = await refused(stub(court).ListSignals(_listing(name, "pleed")))
    assert (code, reason, fields_of(status)) == (INVALID, "UNKNOWN_SIGNAL", ["signal"])
    assert "plead" in status.message
    request = _listing(name)
    request.wait.seconds = -1
    code, reason, status = await refused(stub(court).ListSignals(request))
    assert (code, reason, fields_of(status)) == (INVALID, "INVALID_ARGUMENT", ["wait"])


def _listing(name: str, signal: str = "", wait: int | None = None) -> cpb.ListSignalsRequest:
    request = cpb.ListSignalsRequest(name=name, signal=signal)
    if wait is not None:
        request.wait.seconds = wait
    return request
