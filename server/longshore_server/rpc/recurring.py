"""`longshore.v1.RecurringService`: the verbs of recurring instances over the wire."""

from __future__ import annotations

from typing import Any

from longshore.v1 import instances_pb2
from longshore.v1 import recurring_service_pb2 as pb
from longshore_server.engine.engine import Engine
from longshore_server.instance_lifecycle import Kind
from longshore_server.instances.recurring import Recurring
from longshore_server.rpc.boundary import Context, Method, unary
from longshore_server.rpc.instances import Instances, absent, facts, read, set_moment, status
from longshore_server.store.instances import InstanceRecord

SERVICE = "longshore.v1.RecurringService"


class RecurringService:
    """Starts, triggers and watches over recurring instances."""

    def __init__(self, engine: Engine) -> None:
        self._instances: Instances[Recurring[Any]] = Instances(engine, Kind.RECURRING)

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "StartRecurring": unary(pb.StartRecurringRequest, self._start),
            "TriggerRecurring": unary(pb.TriggerRecurringRequest, self._trigger),
            "GetRecurring": unary(pb.GetRecurringRequest, self._get),
            "GetRecurringState": unary(pb.GetRecurringStateRequest, self._instances.state),
            "ListDefinitions": unary(instances_pb2.ListDefinitionsRequest, self._instances.definitions),
            "ListRecurrings": unary(pb.ListRecurringsRequest, self._list),
            "ListRecurringLogs": unary(pb.ListRecurringLogsRequest, self._instances.logs),
            "PauseRecurring": unary(pb.PauseRecurringRequest, self._instances.pause),
            "ResumeRecurring": unary(pb.ResumeRecurringRequest, self._instances.resume),
            "TerminateRecurring": unary(pb.TerminateRecurringRequest, self._instances.terminate),
        }

    async def _start(self, request: pb.StartRecurringRequest, context: Context) -> bytes:
        definition, id = self._instances.find(context, request.name)
        value = await read(request, "input", definition.state_shape, definition.host.max_payload)
        found = await definition.start(id, value, no_wait=request.no_wait, owner=context.caller.name)
        response = pb.StartRecurringResponse(created=found.created, status=status(found.status))
        set_moment(response.retry_time, found.retry_at)
        return response.SerializeToString()

    async def _trigger(self, request: pb.TriggerRecurringRequest, context: Context) -> bytes:
        definition, id = self._instances.find(context, request.name)
        found = await definition.trigger(id, request_id=request.request_id, no_wait=request.no_wait)
        response = pb.TriggerRecurringResponse(triggered=found.triggered, status=status(found.status))
        set_moment(response.retry_time, found.retry_at)
        return response.SerializeToString()

    async def _get(self, request: pb.GetRecurringRequest, context: Context) -> bytes:
        definition, id = self._instances.find(context, request.name)
        found = await self._instances.record(definition, id)
        if found is not None:
            return _snapshot(definition, found[0]).SerializeToString()
        snapshot = pb.RecurringSnapshot()
        absent(snapshot.facts, Kind.RECURRING, definition.name, id)
        return snapshot.SerializeToString()

    async def _list(self, request: pb.ListRecurringsRequest, context: Context) -> bytes:
        return await self._instances.page(request, context, pb.ListRecurringsResponse(), _snapshot)


def _snapshot(definition: Recurring[Any], record: InstanceRecord) -> pb.RecurringSnapshot:
    found = definition.describe(record)
    snapshot = pb.RecurringSnapshot(run_count=found.run_count)
    facts(snapshot.facts, record)
    set_moment(snapshot.next_run_time, found.next_run_at)
    return snapshot
