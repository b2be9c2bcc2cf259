"""`longshore.v1.OperationsService`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from google.protobuf.message import Message

from longshore.v1 import operations_service_pb2 as pb
from longshore_server.auth.identity import Principal
from longshore_server.clock import SECOND
from longshore_server.contract.types import OperationType
from longshore_server.engine.engine import Engine
from longshore_server.engine.signals import Sending
from longshore_server.engine.watch import HEARTBEAT, WatchOptions
from longshore_server.errors import Reason, ServiceError, invalid
from longshore_server.ids import uid_text
from longshore_server.lifecycle import EventType
from longshore_server.rpc import views, wire
from longshore_server.rpc.authorization import Authorization
from longshore_server.rpc.boundary import Context, Method, duration, stream, unary
from longshore_server.rpc.catalog import Catalog
from longshore_server.rpc.listing import Listing
from longshore_server.rpc.metadata import read_retry, read_with
from longshore_server.rpc.payload import unpack
from longshore_server.rpc.waiting import end_of, start_and_wait
from longshore_server.store.record import OperationRecord

SERVICE = "longshore.v1.OperationsService"
MAX_EVENT_TYPES = 64
"""How many a watch may name, a kind that is named twice included."""
_CREATED = pb.StartResponse.DISPOSITION_CREATED
_EXISTING = pb.StartResponse.DISPOSITION_EXISTING


class OperationsService:
    """The callers' side of every operation."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._authorization = Authorization(engine)

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "Start": unary(pb.StartRequest, self._start),
            "Run": stream(pb.RunRequest, self._run),
            "Get": unary(pb.GetRequest, self._get),
            "Wait": unary(pb.WaitRequest, self._wait),
            "Watch": stream(pb.WatchRequest, self._watch),
            "Cancel": unary(pb.CancelRequest, self._cancel),
            "Stop": unary(pb.StopRequest, self._stop),
            "Signal": unary(pb.SignalRequest, self._signal),
            "Retry": unary(pb.RetryRequest, self._retry),
            "Delete": unary(pb.DeleteRequest, self._delete),
            **Listing(self._engine, self._authorization).methods(),
            **Catalog(self._engine).methods(),
        }

    async def _start(self, request: pb.StartRequest, context: Context) -> bytes:
        engine, caller = self._engine, context.caller
        asked = read_with(request, context)
        follow = asked.wait is not None
        type, input = self._input(request, caller, follow=follow)
        terms = self._authorization.terms(caller, asked.request_id, asked.labels)
        if follow:
            (_, created), record = await start_and_wait(context, engine, type, input, terms, asked.wait)
        else:
            live, created = await engine.start(type, input, terms)
            record = self._authorization.shown(caller, live.record)
        response = pb.StartResponse(operation=wire.snapshot(record), disposition=_CREATED if created else _EXISTING)
        return response.SerializeToString()

    async def _run(self, request: pb.RunRequest, context: Context) -> AsyncIterator[Iterable[bytes]]:
        engine, caller = self._engine, context.caller
        asked, options = read_with(request, context), watch_options(request, caller)
        with engine.watches.place(caller.name):
            type, input = self._input(request, caller, follow=True)
            terms = self._authorization.terms(caller, asked.request_id, asked.labels)
            live, _ = await engine.start(type, input, terms)
            async for batch in engine.watch(live, options):
                yield map(wire.watch_response, batch)

    def _input(
        self, request: pb.StartRequest | pb.RunRequest, caller: Principal, *, follow: bool
    ) -> tuple[OperationType, Message]:
        type = self._engine.type_named(request.type)
        self._authorization.check_start(caller, type, follow=follow)
        if not request.HasField("input"):
            return type, type.input()
        return type, unpack(
            request.input, type.input, "input", type.name, Reason.WRONG_INPUT_TYPE, self._engine.max_input
        )

    async def _get(self, request: pb.GetRequest, context: Context) -> bytes:
        live = await self._authorization.find(context.caller, request.name)
        full = views.wants_input(request.view)
        return (await views.snapshot(self._engine, live.record, full=full)).SerializeToString()

    async def _wait(self, request: pb.WaitRequest, context: Context) -> bytes:
        wait = duration(request.timeout, "timeout") if request.HasField("timeout") else None
        live = await self._authorization.find(context.caller, request.name)
        record = await end_of(context, self._engine, live, wait)
        return wire.snapshot(record).SerializeToString()

    async def _watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[Iterable[bytes]]:
        after = request.after_sequence if request.HasField("after_sequence") else None
        if after is not None and after < 0:
            raise invalid("after_sequence", "must not be negative")
        options = watch_options(request, context.caller, after)
        live = await self._authorization.find(context.caller, request.name)
        check_uid(live.record, request.uid)
        with self._engine.watches.place(context.caller.name):
            async for batch in self._engine.watch(live, options):
                yield map(wire.watch_response, batch)

    async def _cancel(self, request: pb.CancelRequest, context: Context) -> bytes:
        live = await self._authorization.find(context.caller, request.name, "cancel")
        return wire.snapshot(await self._engine.requests.cancel(live, request.reason)).SerializeToString()

    async def _stop(self, request: pb.StopRequest, context: Context) -> bytes:
        live = await self._authorization.find(context.caller, request.name, "cancel")
        return wire.snapshot(await self._engine.requests.stop(live, request.reason)).SerializeToString()

    async def _signal(self, request: pb.SignalRequest, context: Context) -> bytes:
        live = await self._authorization.find(context.caller, request.name, "control")
        declared = self._engine.requests.signal_type(live, request.signal)
        payload = declared.payload()
        if request.HasField("payload"):
            taker = f"signal {declared.name!r}"
            limit = self._engine.executor.max_payload
            payload = unpack(request.payload, declared.payload, "payload", taker, Reason.WRONG_PAYLOAD_TYPE, limit)
        sending = Sending(declared.name, payload, context.caller.name, request.signal_id)
        accepted = await self._engine.requests.signal(live, sending)
        return pb.SignalResponse(
            operation=wire.snapshot(accepted.record), number=accepted.number, signal_id=accepted.id,
            duplicate=accepted.duplicate,
        ).SerializeToString()  # fmt: skip

    async def _retry(self, request: pb.RetryRequest, context: Context) -> bytes:
        request_id = read_retry(request, context)
        live = await self._authorization.find(context.caller, request.name, "call")
        terms = self._authorization.terms(context.caller, request_id, live.record.labels)
        again, created = await self._engine.requests.retry(live, terms, keep_steps=request.keep_steps)
        disposition = _CREATED if created else _EXISTING
        return pb.StartResponse(operation=wire.snapshot(again.record), disposition=disposition).SerializeToString()

    async def _delete(self, request: pb.DeleteRequest, context: Context) -> bytes:
        await self._engine.requests.delete(await self._authorization.find(context.caller, request.name, "cancel"))
        return pb.DeleteResponse().SerializeToString()


def watch_options(
    request: pb.WatchRequest | pb.RunRequest, caller: Principal, after: int | None = None
) -> WatchOptions:
    """What a watcher wants, for as long as its credentials last.

    Raises `ServiceError` for event types and intervals that do not exist, and for too many of the former.
    """
    types = None
    if request.event_types:
        if len(request.event_types) > MAX_EVENT_TYPES:
            # Before they are looked at: a message has room for millions, and nobody else is served meanwhile.
            there_are = f"there may be at most {MAX_EVENT_TYPES}, these are {len(request.event_types)}"
            raise invalid("event_types", there_are)
        known = {int(kind) for kind in EventType}
        for position, value in enumerate(request.event_types):
            if value not in known:
                raise invalid(f"event_types[{position}]", f"{value} is no event type")
        types = frozenset(EventType(value) for value in request.event_types)
    heartbeat = HEARTBEAT
    if request.HasField("heartbeat_interval"):
        heartbeat = duration(request.heartbeat_interval, "heartbeat_interval")
        if not SECOND <= heartbeat <= 300 * SECOND:
            raise invalid("heartbeat_interval", "must be between 1 s and 5 min")
    return WatchOptions(after=after, types=types, conflate=request.conflate, heartbeat=heartbeat, until=caller.expires)


def check_uid(record: OperationRecord, uid: str) -> None:
    """Raises `ServiceError` (UID_MISMATCH) when a caller means another operation of this name."""
    if uid and uid != uid_text(record.uid):
        raise ServiceError(
            Reason.UID_MISMATCH,
            f"{record.name} is {uid_text(record.uid)} now, not {uid[:64]}: follow the other one as operations/{{uid}}.",
            resource=record.name,
        )
