"""`longshore.v1.DebounceService`: the verbs of debounce instances over the wire."""

from __future__ import annotations

from typing import Any

from longshore.v1 import debounce_service_pb2 as pb
from longshore.v1 import instances_pb2
from longshore_server.engine.engine import Engine
from longshore_server.instance_lifecycle import Kind
from longshore_server.instances.debounce import Debounce
from longshore_server.rpc.boundary import Context, Method, unary
from longshore_server.rpc.instances import Instances, absent, facts, read, set_moment, status
from longshore_server.store.instances import InstanceRecord

SERVICE = "longshore.v1.DebounceService"


class DebounceService:
    """Collects events into batches, and watches over them."""

    def __init__(self, engine: Engine) -> None:
        self._instances: Instances[Debounce[Any, Any]] = Instances(engine, Kind.DEBOUNCE)

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "AddEvent": unary(pb.AddEventRequest, self._add),
            "FlushDebounce": unary(pb.FlushDebounceRequest, self._flush),
            "ClearDebounce": unary(pb.ClearDebounceRequest, self._clear),
            "GetDebounce": unary(pb.GetDebounceRequest, self._get),
            "GetDebounceState": unary(pb.GetDebounceStateRequest, self._instances.state),
            "ListDefinitions": unary(instances_pb2.ListDefinitionsRequest, self._instances.definitions),
            "ListDebounces": unary(pb.ListDebouncesRequest, self._list),
            "ListDebounceLogs": unary(pb.ListDebounceLogsRequest, self._instances.logs),
            "PauseDebounce": unary(pb.PauseDebounceRequest, self._instances.pause),
            "ResumeDebounce": unary(pb.ResumeDebounceRequest, self._instances.resume),
            "TerminateDebounce": unary(pb.TerminateDebounceRequest, self._instances.terminate),
        }

    async def _add(self, request: pb.AddEventRequest, context: Context) -> bytes:
        definition, id = self._instances.find(context, request.name)
        event = await read(request, "event", definition.event_shape, definition.host.max_payload)
        found = await definition.add(
            id, event, event_id=request.event_id, no_wait=request.no_wait, owner=context.caller.name
        )
        response = pb.AddEventResponse(
            created=found.created, duplicate=found.duplicate, event_count=found.event_count, status=status(found.status)
        )
        set_moment(response.flush_time, found.will_flush_at)
        set_moment(response.retry_time, found.retry_at)
        return response.SerializeToString()

    async def _flush(self, request: pb.FlushDebounceRequest, context: Context) -> bytes:
        definition, id = self._instances.find(context, request.name)
        found = await definition.flush(id, request_id=request.request_id, no_wait=request.no_wait)
        response = pb.FlushDebounceResponse(
            flushed=found.flushed, event_count=found.event_count, status=status(found.status)
        )
        set_moment(response.retry_time, found.retry_at)
        return response.SerializeToString()

    async def _clear(self, request: pb.ClearDebounceRequest, context: Context) -> bytes:
        definition, id = self._instances.find(context, request.name, admin=True)
        found = await definition.clear(id)
        return pb.ClearDebounceResponse(
            cleared=found.cleared, discarded_events=found.discarded_events, status=status(found.status)
        ).SerializeToString()

    async def _get(self, request: pb.GetDebounceRequest, context: Context) -> bytes:
        definition, id = self._instances.find(context, request.name)
        found = await self._instances.record(definition, id)
        if found is not None:
            return _snapshot(definition, found[0]).SerializeToString()
        snapshot = pb.DebounceSnapshot()
        absent(snapshot.facts, Kind.DEBOUNCE, definition.name, id)
        return snapshot.SerializeToString()

    async def _list(self, request: pb.ListDebouncesRequest, context: Context) -> bytes:
        return await self._instances.page(request, context, pb.ListDebouncesResponse(), _snapshot)


def _snapshot(definition: Debounce[Any, Any], record: InstanceRecord) -> pb.DebounceSnapshot:
    found = definition.describe(record)
    snapshot = pb.DebounceSnapshot(
        event_count=found.event_count, waiting_batches=found.waiting_batches, dead_letters=found.dead_letters,
        run_count=found.run_count,
    )  # fmt: skip
    facts(snapshot.facts, record)
    set_moment(snapshot.batch_start_time, found.started_at)
    set_moment(snapshot.flush_time, found.will_flush_at)
    return snapshot
