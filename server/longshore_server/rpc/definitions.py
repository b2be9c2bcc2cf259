"""What a service declares of recurrings, debounces and tasks, as messages."""

from __future__ import annotations

from typing import Any

from longshore.v1 import instances_pb2 as pb
from longshore_server.instances.debounce import Debounce
from longshore_server.instances.definition import Definition
from longshore_server.instances.recurring import Misfire, Overlap, Recurring
from longshore_server.instances.schedule import Every
from longshore_server.instances.values import Shape
from longshore_server.jobs.definition import shown
from longshore_server.rpc.wire import duration, retry_policy

_OVERLAPS: dict[Overlap, pb.RecurringSchedule.Overlap.ValueType] = {
    "skip": pb.RecurringSchedule.OVERLAP_SKIP, "queue": pb.RecurringSchedule.OVERLAP_QUEUE,
}  # fmt: skip
_MISFIRES: dict[Misfire, pb.RecurringSchedule.Misfire.ValueType] = {
    "once": pb.RecurringSchedule.MISFIRE_ONCE, "skip": pb.RecurringSchedule.MISFIRE_SKIP,
    "all": pb.RecurringSchedule.MISFIRE_ALL,
}  # fmt: skip


def declared(found: Definition[Any], name: str) -> pb.InstanceDefinition:
    """A definition, under its name on the wire: `recurrings/{definition}`."""
    event: Shape | None = getattr(found, "event_shape", None)
    message = pb.InstanceDefinition(
        name=name, state_type=_types(found.state_shape), event_type="" if event is None else _types(event),
        call=found.call or "", retry=retry_policy(found.retry), timeout=duration(found.timeout),
    )  # fmt: skip
    match found:
        case Recurring():
            message.schedule.CopyFrom(_schedule(found))
        case Debounce():
            message.window.CopyFrom(_window(found))
    return message


def _types(shape: Shape) -> str:
    """The types that a value may have, as callers know them."""
    return " | ".join(shown(member) for member in shape.members)


def _schedule(found: Recurring[Any]) -> pb.RecurringSchedule:
    times = found.schedule
    message = pb.RecurringSchedule(
        overlap=_OVERLAPS[found.overlap], misfire=_MISFIRES[found.misfire], start_immediately=found.start_immediately
    )
    if isinstance(times, Every):
        message.MergeFrom(pb.RecurringSchedule(every=duration(times.interval), fixed_rate=times.fixed_rate))
    else:
        message.MergeFrom(pb.RecurringSchedule(cron=times.expression, zone=times.zone.key))
    return message


def _window(found: Debounce[Any, Any]) -> pb.DebounceWindow:
    window = found.window
    return pb.DebounceWindow(
        flush_after=duration(window.flush_after), trailing=window.trailing, max_wait=duration(window.max_wait),
        max_events=window.max_events,
    )  # fmt: skip
