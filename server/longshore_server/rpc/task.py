"""`longshore.v1.TaskService`: the verbs of tasks over the wire."""

from __future__ import annotations

from typing import Any

from longshore.v1 import instances_pb2
from longshore.v1 import task_service_pb2 as pb
from longshore_server.engine.engine import Engine
from longshore_server.errors import invalid
from longshore_server.instance_lifecycle import Kind
from longshore_server.instances.task import TaskDefinition
from longshore_server.rpc.boundary import Context, Method, unary
from longshore_server.rpc.instances import Instances, absent, facts, read, set_moment, status
from longshore_server.store.instances import InstanceRecord

SERVICE = "longshore.v1.TaskService"


class TaskService:
    """Sends events to tasks, and watches over them."""

    def __init__(self, engine: Engine) -> None:
        self._instances: Instances[TaskDefinition[Any, Any]] = Instances(engine, Kind.TASK)

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "SendEvent": unary(pb.SendEventRequest, self._send),
            "TriggerTask": unary(pb.TriggerTaskRequest, self._trigger),
            "GetTask": unary(pb.GetTaskRequest, self._get),
            "GetTaskState": unary(pb.GetTaskStateRequest, self._instances.state),
            "ListDefinitions": unary(instances_pb2.ListDefinitionsRequest, self._instances.definitions),
            "ListTasks": unary(pb.ListTasksRequest, self._list),
            "ListTaskLogs": unary(pb.ListTaskLogsRequest, self._instances.logs),
            "PauseTask": unary(pb.PauseTaskRequest, self._instances.pause),
            "ResumeTask": unary(pb.ResumeTaskRequest, self._instances.resume),
            "TerminateTask": unary(pb.TerminateTaskRequest, self._instances.terminate),
        }

    async def _send(self, request: pb.SendEventRequest, context: Context) -> bytes:
        definition, id = self._instances.find(context, request.name)
        event = await read(request, "event", definition.event_shape, definition.host.max_payload)
        expected = request.expected_version if request.HasField("expected_version") else None
        if expected is not None and expected < 0:
            raise invalid("expected_version", "must not be negative")
        found = await definition.send(
            id, event, event_id=request.event_id, expected_version=expected, no_wait=request.no_wait,
            owner=context.caller.name,
        )  # fmt: skip
        response = pb.SendEventResponse(
            created=found.created, duplicate=found.duplicate, status=status(found.status), version=found.version
        )
        set_moment(response.schedule_time, found.scheduled_at)
        set_moment(response.retry_time, found.retry_at)
        return response.SerializeToString()

    async def _trigger(self, request: pb.TriggerTaskRequest, context: Context) -> bytes:
        definition, id = self._instances.find(context, request.name)
        found = await definition.trigger(id, request_id=request.request_id, no_wait=request.no_wait)
        response = pb.TriggerTaskResponse(triggered=found.triggered, status=status(found.status))
        set_moment(response.retry_time, found.retry_at)
        return response.SerializeToString()

    async def _get(self, request: pb.GetTaskRequest, context: Context) -> bytes:
        definition, id = self._instances.find(context, request.name)
        found = await self._instances.record(definition, id)
        if found is not None:
            return _snapshot(definition, found[0]).SerializeToString()
        snapshot = pb.TaskSnapshot()
        absent(snapshot.facts, Kind.TASK, definition.name, id)
        return snapshot.SerializeToString()

    async def _list(self, request: pb.ListTasksRequest, context: Context) -> bytes:
        return await self._instances.page(request, context, pb.ListTasksResponse(), _snapshot)


def _snapshot(definition: TaskDefinition[Any, Any], record: InstanceRecord) -> pb.TaskSnapshot:
    found = definition.describe(record)
    snapshot = pb.TaskSnapshot(
        idle=found.idle, event_count=found.event_count, execute_count=found.execute_count,
        waiting_events=found.waiting_events,
    )  # fmt: skip
    facts(snapshot.facts, record)
    for name, time in found.timers.items():
        snapshot.timers[name].FromDatetime(time)
    return snapshot
