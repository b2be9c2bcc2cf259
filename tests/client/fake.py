"""A scripted stand-in for the server, so that the client's answers to trouble can be tested one by one.

It keeps operations in memory across `restart`, speaks the real protocol on a real port, and breaks on demand.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
from acme.orders.v1.orders_pb2 import ProcessOrderProgress, ProcessOrderResult
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc as pb_grpc
from longshore.v1.channels_pb2 import DiagnosticOutput
from longshore.v1.operation_pb2 import EventType, OperationEvent, OperationSnapshot
from longshore_server.testing.reservation import Reservation

S = OperationSnapshot
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


def pack(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def status(code: int, reason: str, message: str, *details: Message, domain: str = "longshore") -> Status:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata={"k": "v"})
    return Status(code=code, message=message, details=[pack(info), *map(pack, details)])


class Refusal(Exception):  # noqa: N818 - it is what the server says, not what goes wrong
    """Ends a call with a status and its details."""

    def __init__(self, proto: Status) -> None:
        super().__init__(proto.message)
        self.proto = proto

    async def send(self, context: Context) -> NoReturn:
        code = next(item for item in grpc.StatusCode if item.value[0] == self.proto.code)
        context.set_trailing_metadata((("grpc-status-details-bin", self.proto.SerializeToString()),))
        await context.abort(code, self.proto.message)


@dataclass
class Record:
    """One operation: its snapshot, its log, and a way to wake who follows it."""

    snapshot: OperationSnapshot
    events: list[OperationEvent] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    beats: int = 0
    """How many heartbeats each stream sends while there is no news."""

    def emit(self, state: OperationSnapshot.State.ValueType, **event: Any) -> None:
        sequence = len(self.events) + 1
        self.events.append(OperationEvent(sequence=sequence, revision=sequence, attempt=1, state=state, **event))
        self.events[-1].time.GetCurrentTime()
        self.snapshot.state, self.snapshot.sequence, self.snapshot.revision = state, sequence, sequence
        self.changed.set()
        self.changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self.snapshot.state >= S.STATE_COMPLETED

    def start(self) -> None:
        self.emit(S.STATE_RUNNING, started=OperationEvent.Started())

    def progress(self, step: str) -> None:
        value = pack(ProcessOrderProgress(step=step))
        self.snapshot.progress.CopyFrom(value)
        self.emit(S.STATE_RUNNING, progress=OperationEvent.Progress(value=value))

    def output(self, line: str) -> None:
        self.emit(S.STATE_RUNNING, output=OperationEvent.Output(value=pack(DiagnosticOutput(message=line))))

    def complete(self, result: Message | None = None) -> None:
        value = pack(ProcessOrderResult(status="done") if result is None else result)
        self.snapshot.result.CopyFrom(value)
        self.emit(S.STATE_COMPLETED, completed=OperationEvent.Completed(result=value))

    def fail(self, error: Status) -> None:
        self.snapshot.error.CopyFrom(error)
        self.emit(S.STATE_FAILED, failed=OperationEvent.Failed(error=error))

    def cancelled(self) -> None:
        error = status(code_pb2.CANCELLED, "CANCELLED", "the operation was cancelled")
        self.snapshot.error.CopyFrom(error)
        self.emit(S.STATE_CANCELLED, cancelled=OperationEvent.Cancelled(error=error))


class FakeOperations(pb_grpc.OperationsServiceServicer):
    """The service. `handler` runs each new operation; `trouble` is what the next calls meet."""

    # Nobody asks it for these.
    Stop: Any = None
    Signal: Any = None
    Retry: Any = None
    Delete: Any = None
    Count: Any = None

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.by_request: dict[str, Record] = {}
        self.requests: list[Any] = []
        self._more = asyncio.Condition()
        self.handler: Callable[[Record], Awaitable[None]] | None = None
        self.refuse: list[Refusal] = []
        """Consumed one a call, before anything else."""
        self.break_after: list[tuple[int, Refusal]] = []
        """Consumed one a stream: how many messages it sends before it ends so."""
        self.mute = 0
        """How many of the next streams send nothing and do not end."""
        self.on_cancel: Callable[[Record], None] = lambda record: record.cancelled()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids = itertools.count(1)

    async def asked(self, kind: type[Message], count: int = 1) -> None:
        """Return once `count` requests of a kind have come."""
        async with self._more:
            await self._more.wait_for(lambda: sum(type(request) is kind for request in self.requests) >= count)

    async def _enter(self, request: Message, context: Context) -> None:
        async with self._more:
            self.requests.append(request)
            self._more.notify_all()
        if self.refuse:
            await self.refuse.pop(0).send(context)

    def _begin(self, request: pb.StartRequest | pb.RunRequest) -> tuple[Record, bool]:
        if request.request_id in self.by_request:
            return self.by_request[request.request_id], False
        number = next(self._ids)
        snapshot = OperationSnapshot(name=f"operations/op-{number}", uid=f"uid-{number}", type=request.type)
        record = Record(snapshot)
        accepted = OperationEvent.Accepted(name=snapshot.name, uid=snapshot.uid, type=snapshot.type)
        record.emit(S.STATE_PENDING, accepted=accepted)
        self.by_request[request.request_id] = record
        self.records[snapshot.name] = self.records[f"operations/{snapshot.uid}"] = record
        if self.handler is not None:
            task = asyncio.ensure_future(self.handler(record))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return record, True

    async def _find(self, name: str, context: Context) -> Record:
        if name not in self.records:
            await Refusal(status(code_pb2.NOT_FOUND, "OPERATION_NOT_FOUND", f"{name} does not exist")).send(context)
        return self.records[name]

    async def Start(self, request: pb.StartRequest, context: Context) -> pb.StartResponse:  # noqa: N802
        await self._enter(request, context)
        record, created = self._begin(request)
        disposition = pb.StartResponse.DISPOSITION_CREATED if created else pb.StartResponse.DISPOSITION_EXISTING
        if request.HasField("wait"):
            await self._settle(record, request.wait.seconds + request.wait.nanos / 1e9)
        return pb.StartResponse(operation=record.snapshot, disposition=disposition)

    async def Get(self, request: pb.GetRequest, context: Context) -> OperationSnapshot:  # noqa: N802
        await self._enter(request, context)
        return (await self._find(request.name, context)).snapshot

    async def Wait(self, request: pb.WaitRequest, context: Context) -> OperationSnapshot:  # noqa: N802
        await self._enter(request, context)
        record = await self._find(request.name, context)
        await self._settle(record, request.timeout.seconds + request.timeout.nanos / 1e9)
        return record.snapshot

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> OperationSnapshot:  # noqa: N802
        await self._enter(request, context)
        record = await self._find(request.name, context)
        if not record.ended:
            self.on_cancel(record)
        return record.snapshot

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:  # noqa: N802
        await self._enter(request, context)
        return pb.ListResponse(operations=[record.snapshot for record in self.by_request.values()])

    async def ListTypes(self, request: pb.ListTypesRequest, context: Context) -> pb.ListTypesResponse:  # noqa: N802
        await self._enter(request, context)
        return pb.ListTypesResponse()

    async def GetType(self, request: pb.GetTypeRequest, context: Context) -> pb.OperationType:  # noqa: N802
        await self._enter(request, context)
        return pb.OperationType(type=request.type)

    async def Run(self, request: pb.RunRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:  # noqa: N802
        await self._enter(request, context)
        record, _ = self._begin(request)
        async for message in self._stream(record, None, request.event_types, context):
            yield message

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:  # noqa: N802
        await self._enter(request, context)
        record = await self._find(request.name, context)
        after = request.after_sequence if request.HasField("after_sequence") else None
        async for message in self._stream(record, after, request.event_types, context):
            yield message

    async def _settle(self, record: Record, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not record.ended:
                    await record.changed.wait()
        except TimeoutError:
            pass

    async def _stream(
        self, record: Record, after: int | None, types: Iterable[int], context: Context
    ) -> AsyncIterator[pb.WatchResponse]:
        limit, refusal = self.break_after.pop(0) if self.break_after else (-1, None)
        if self.mute:
            self.mute -= 1
            await asyncio.Event().wait()
        sent = 0
        async for message in self._messages(record, after, set(types)):
            if refusal is not None and sent == limit:
                await refusal.send(context)
            yield message
            sent += 1

    async def _messages(self, record: Record, after: int | None, types: set[int]) -> AsyncIterator[pb.WatchResponse]:
        if after is None:
            after = record.snapshot.sequence
            yield pb.WatchResponse(snapshot=record.snapshot)
        beats = 0
        while True:
            for event in record.events[after:]:
                after = event.sequence
                kind = EventType.Value(f"EVENT_TYPE_{(event.WhichOneof('event') or '').upper()}")
                if not types or kind in types or event.state >= S.STATE_COMPLETED:
                    yield pb.WatchResponse(event=event)
            changed = record.changed
            if after < len(record.events):
                continue
            if record.ended:
                return
            if beats < record.beats:
                beats += 1
                yield pb.WatchResponse(heartbeat=pb.WatchResponse.Heartbeat(sequence=after))
                continue
            await changed.wait()


class FakeServer:
    """The service on a port of its own, which a restart keeps."""

    def __init__(self) -> None:
        self.service = FakeOperations()
        self._reserved = Reservation()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return self._reserved.address

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_OperationsServiceServicer_to_server(self.service, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(0)

    async def restart(self) -> None:
        await self.stop()
        await self.start()
