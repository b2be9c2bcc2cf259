"""`longshore.v1.OperationControlService`: the provider's side of operations, from any process."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from longshore.v1 import operation_control_service_pb2 as pb
from longshore_server.contract.types import URL_PREFIX, OperationType
from longshore_server.engine.control import Control, waiting_after
from longshore_server.engine.engine import Engine
from longshore_server.engine.live import Live
from longshore_server.errors import Reason, invalid
from longshore_server.rpc import wire
from longshore_server.rpc.authorization import Authorization
from longshore_server.rpc.boundary import Context, Method, duration, unary
from longshore_server.rpc.paging import Fit, make_token, read_size, read_token
from longshore_server.rpc.payload import unpack
from longshore_server.rpc.records import log_page, step_page
from longshore_server.rpc.waiting import attended
from longshore_server.store.queries import StoredSignal
from longshore_server.store.record import OperationRecord

SERVICE = "longshore.v1.OperationControlService"


class OperationControlService:
    """Drives operations that their handlers have deferred, and any other that has not ended."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._control = Control(engine)
        self._authorization = Authorization(engine)

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "GetOperation": unary(pb.GetOperationRequest, self._get),
            "ReportStarted": unary(pb.ReportStartedRequest, self._started),
            "Attach": unary(pb.AttachRequest, self._attach),
            "ReportProgress": unary(pb.ReportProgressRequest, self._progress),
            "ReportOutput": unary(pb.ReportOutputRequest, self._output),
            "Complete": unary(pb.CompleteRequest, self._complete),
            "Fail": unary(pb.FailRequest, self._fail),
            "CancelOperation": unary(pb.CancelOperationRequest, self._cancel),
            "AcknowledgeCancel": unary(pb.AcknowledgeCancelRequest, self._acknowledge),
            "ListSignals": unary(pb.ListSignalsRequest, self._signals),
            "ConsumeSignal": unary(pb.ConsumeSignalRequest, self._consume),
            "ListLogs": unary(pb.ListLogsRequest, self._logs),
            "ListSteps": unary(pb.ListStepsRequest, self._steps),
        }

    async def _get(self, request: pb.GetOperationRequest, context: Context) -> bytes:
        live = await self._find(context, request.name)
        snapshot = wire.snapshot(live.record)
        type = self._engine.types.get(live.record.type)
        if type is not None:
            snapshot.input.type_url = URL_PREFIX + type.input.DESCRIPTOR.full_name
            snapshot.input.value = await self._engine.input_of(live.record)
        return snapshot.SerializeToString()

    async def _started(self, request: pb.ReportStartedRequest, context: Context) -> bytes:
        return _answer(await self._control.started(await self._find(context, request.name)))

    async def _attach(self, request: pb.AttachRequest, context: Context) -> bytes:
        return _answer(await self._control.attach(await self._find(context, request.name)))

    async def _progress(self, request: pb.ReportProgressRequest, context: Context) -> bytes:
        live = await self._find(context, request.name)
        type = self._control.type_of(live)
        value = self._value(request, "progress", request.progress, type, type.progress)
        return _answer(await self._control.progress(live, value))

    async def _output(self, request: pb.ReportOutputRequest, context: Context) -> bytes:
        live = await self._find(context, request.name)
        type = self._control.type_of(live)
        value = self._value(request, "output", request.output, type, type.output)
        return _answer(await self._control.output(live, value))

    async def _complete(self, request: pb.CompleteRequest, context: Context) -> bytes:
        live = await self._find(context, request.name)
        type = self._control.type_of(live)
        result = type.result()
        if request.HasField("result"):
            limit = self._engine.executor.max_payload
            result = unpack(request.result, type.result, "result", type.name, Reason.WRONG_PAYLOAD_TYPE, limit)
        return _answer(await self._control.complete(live, result))

    async def _fail(self, request: pb.FailRequest, context: Context) -> bytes:
        return _answer(await self._control.fail(await self._find(context, request.name), request.error))

    async def _cancel(self, request: pb.CancelOperationRequest, context: Context) -> bytes:
        return _answer(await self._control.cancel(await self._find(context, request.name), request.reason))

    async def _acknowledge(self, request: pb.AcknowledgeCancelRequest, context: Context) -> bytes:
        return _answer(await self._control.acknowledge_cancel(await self._find(context, request.name)))

    async def _signals(self, request: pb.ListSignalsRequest, context: Context) -> bytes:
        wait = duration(request.wait, "wait") if request.HasField("wait") else None
        size = read_size(request.page_size)
        live = await self._find(context, request.name)
        key, query = self._engine.store.page_key, ("signals", live.record.uid, request.signal)
        after = int.from_bytes(read_token(key, request.page_token, query)) if request.page_token else 0

        def read(due: int | None) -> Awaitable[Sequence[StoredSignal]]:
            return self._control.signals(live, request.signal, due, after=after, limit=size)

        found = await read(None)
        if wait is not None and not found:
            found = await attended(
                context, self._engine, wait, read, lambda signals: bool(signals) or live.record.terminal
            )
        response = pb.ListSignalsResponse()
        fit = Fit()
        for signal in found:
            shown = pb.ListSignalsResponse.ReceivedSignal(
                number=signal.number, signal=signal.name, signal_id=signal.id, sender=signal.sender
            )
            shown.payload.ParseFromString(signal.payload)
            wire.set_time(shown.accept_time, signal.accepted)
            if not fit.takes(shown):
                break
            response.signals.append(shown)
            after = signal.number
        if response.signals and waiting_after(live.record, request.signal, after):
            response.next_page_token = make_token(key, after.to_bytes(16), query)
        return response.SerializeToString()

    async def _consume(self, request: pb.ConsumeSignalRequest, context: Context) -> bytes:
        return _answer(await self._control.consume(await self._find(context, request.name), request.number))

    async def _logs(self, request: pb.ListLogsRequest, context: Context) -> bytes:
        live = await self._find(context, request.name)
        page = await log_page(self._engine.store, live.record.uid, request, pb.ListLogsResponse())
        return page.SerializeToString()

    async def _steps(self, request: pb.ListStepsRequest, context: Context) -> bytes:
        live = await self._find(context, request.name)
        page = await step_page(self._engine.store, live.record.uid, request, pb.ListStepsResponse())
        return page.SerializeToString()

    async def _find(self, context: Context, name: str) -> Live:
        self._authorization.check_provider(context.caller)
        return await self._engine.find(name)

    def _value(
        self, request: Message, field: str, packed: Any, type: OperationType, expected: type[Message]
    ) -> Message:
        """What is reported. Raises `ServiceError` when it is absent, of another type, too large or malformed."""
        if not request.HasField(field):
            raise invalid(field, "must be set")
        if type.void(expected):
            raise invalid(field, f"{type.name} declares no {field}", reason=Reason.WRONG_PAYLOAD_TYPE)
        limit = self._engine.executor.max_payload
        return unpack(packed, expected, field, type.name, Reason.WRONG_PAYLOAD_TYPE, limit)


def _answer(record: OperationRecord) -> bytes:
    return wire.snapshot(record).SerializeToString()
