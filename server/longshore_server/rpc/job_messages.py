"""Jobs, their attempts and their queues as messages."""

from __future__ import annotations

import json

from google.protobuf.any_pb2 import Any

from longshore.v1 import annotations_pb2
from longshore.v1 import jobs_service_pb2 as pb
from longshore_server.contract.durations import span
from longshore_server.contract.types import URL_PREFIX
from longshore_server.ids import uid_text
from longshore_server.job_lifecycle import JobMove, JobState, Stand
from longshore_server.jobs.definition import Definition, Rate, shown
from longshore_server.jobs.scheduler import Line
from longshore_server.jobs.tally import Tally
from longshore_server.rpc.wire import duration, retry_policy, set_time
from longshore_server.store.job_attempts import JobAttemptRow
from longshore_server.store.job_record import Attachment, Body, JobRecord, QueueRow, TargetKind
from longshore_server.store.mutations.job_creation import WhenFull


def snapshot(record: JobRecord) -> pb.JobSnapshot:
    """A job, without its payload and its result."""
    message = pb.JobSnapshot(
        name=record.name, queue=f"queues/{record.queue}", state=pb.JobSnapshot.State.ValueType(record.state),
        stand=pb.JobSnapshot.Stand.ValueType(record.stand), revision=record.revision, attempt=record.attempt,
        failures=record.failures, claims=record.claims, priority=record.priority, key=record.key,
        detached=record.detached, deferred=record.deferred, cancel_reason=record.cancel_reason, problem=record.problem,
        traceparent=record.trace, attached=[_target(attachment) for attachment in record.attachments],
    )  # fmt: skip
    if record.operation is not None:
        message.operation = _operation(record.operation)
    if record.parent is not None:
        own = record.parent == record.operation
        message.parent = _operation(record.parent) if own else f"jobs/{uid_text(record.parent)}"
    for into, time in (
        (message.create_time, record.created), (message.update_time, record.updated), (message.due_time, record.due),
        (message.start_time, record.started), (message.attempt_time, record.begun), (message.end_time, record.ended),
        (message.deadline, record.deadline), (message.lease_expire_time, record.lease),
        (message.expire_time, record.expires), (message.cancel_request_time, record.cancel_requested),
    ):  # fmt: skip
        if time is not None:
            set_time(into, time)
    if record.progress is not None:
        message.progress.CopyFrom(_packed(record.progress))
    if record.error is not None:
        message.last_error.ParseFromString(record.error)
    return message


def full(record: JobRecord, payload: Body) -> pb.JobSnapshot:
    """A job with its payload and its result."""
    message = snapshot(record)
    message.payload.CopyFrom(_value(payload))
    if record.result is not None:
        message.result.CopyFrom(_value(record.result))
    return message


def attempt(row: JobAttemptRow) -> pb.JobAttempt:
    """What became of an attempt."""
    message = pb.JobAttempt(
        attempt=row.attempt, outcome=pb.JobAttempt.Outcome.ValueType(row.outcome), problem=row.problem
    )
    set_time(message.start_time, row.begun)
    if row.ended is not None:
        set_time(message.end_time, row.ended)
    if row.error:
        message.error.ParseFromString(row.error)
    return message


def queue(line: Line, row: QueueRow, tally: Tally, now: int) -> pb.Queue:
    """A queue, with what its rate says at `now`."""

    def count(state: JobState, stand: Stand = Stand.NONE) -> int:
        return tally.standing(row.name, state, stand)

    counts = pb.Queue.Counts(
        ready=count(JobState.QUEUED, Stand.READY), blocked=count(JobState.QUEUED, Stand.BLOCKED),
        delayed=count(JobState.QUEUED, Stand.DELAYED), active=count(JobState.ACTIVE),
        cancelling=count(JobState.CANCELLING), stale=count(JobState.STALE), dead=count(JobState.DEAD),
    )  # fmt: skip
    message = pb.Queue(
        name=f"queues/{row.name}", settings=_settings(line.definition, row), paused=row.paused, counts=counts,
        running=line.slots.held,
    )  # fmt: skip
    if (following := row.next_claim(now)) is not None:
        set_time(message.next_claim_time, following)
    return message


_WHEN_FULL = {
    WhenFull.REJECT: pb.QueueSettings.WHEN_FULL_REJECT, WhenFull.COALESCE: pb.QueueSettings.WHEN_FULL_COALESCE,
    WhenFull.REPLACE_OLDEST: pb.QueueSettings.WHEN_FULL_REPLACE_OLDEST,
}  # fmt: skip
_ON_STALE = {
    JobMove.REQUEUE: pb.QueueSettings.ON_STALE_RETRY, JobMove.FAIL: pb.QueueSettings.ON_STALE_FAIL,
    JobMove.LOSE: pb.QueueSettings.ON_STALE_BLOCK,
}  # fmt: skip


def _settings(definition: Definition, row: QueueRow) -> pb.QueueSettings:
    return pb.QueueSettings(
        function=definition.place, payload_type=shown(definition.payload), result_type=shown(definition.result),
        key="" if definition.key is None else definition.key.text, max_active=definition.max_active,
        max_queued=definition.max_queued, when_full=_WHEN_FULL[definition.when_full],
        on_stale=_ON_STALE[definition.on_stale], concurrency=definition.concurrency, rate=_rate(definition.rate),
        retry=retry_policy(definition.retry), timeout=duration(definition.timeout),
        deadline=duration(definition.deadline), heartbeat=duration(definition.heartbeat),
        max_claims=definition.max_claims, cancel_grace=duration(definition.cancel_grace),
        retention=duration(row.retention), idempotency_ttl=duration(definition.idempotency_ttl),
        max_live=definition.max_live, on_step_change=(
            annotations_pb2.ON_STEP_CHANGE_FAIL if definition.fixed_steps else annotations_pb2.ON_STEP_CHANGE_REPORT
        ),
    )  # fmt: skip


def _rate(rate: Rate | None) -> pb.QueueSettings.Rate | None:
    return None if rate is None else pb.QueueSettings.Rate(count=rate.count, per=duration(span(rate.per)))


def _value(body: Body) -> pb.JobValue:
    kind, _, path = body.codec.partition(":")
    if kind == "proto":
        return pb.JobValue(message=_packed(body))
    try:
        text = body.data.decode()
    except UnicodeDecodeError:
        # Halves of characters, which no message can hold: JSON can write them as escapes.
        text = json.dumps(json.loads(body.data))
    return pb.JobValue(json=text, type=path)


def _packed(body: Body) -> Any:
    """A message, as it is stored."""
    return Any(type_url=URL_PREFIX + body.codec.removeprefix("proto:"), value=body.data)


def _target(attachment: Attachment) -> str:
    if attachment.kind is TargetKind.OPERATION:
        return _operation(attachment.target)
    return f"jobs/{uid_text(attachment.target)}"


def _operation(uid: bytes) -> str:
    return f"operations/{uid_text(uid)}"
