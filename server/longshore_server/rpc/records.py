"""What attempts have left for operators, in pages: lines of their logs, and outcomes of their steps; by uid."""

from __future__ import annotations

from typing import Protocol, TypeVar

from longshore.v1 import instances_pb2, records_pb2
from longshore.v1 import jobs_service_pb2 as jobs_pb
from longshore.v1 import operation_control_service_pb2 as pb
from longshore_server.errors import invalid
from longshore_server.rpc import wire
from longshore_server.rpc.paging import Asked, Fit, make_token, read_size, read_token
from longshore_server.store.logs import LogLine, StepOutcome
from longshore_server.store.store import Store

LinesT = TypeVar("LinesT", pb.ListLogsResponse, jobs_pb.ListJobLogsResponse, instances_pb2.InstanceLogs)
StepsT = TypeVar("StepsT", pb.ListStepsResponse, jobs_pb.ListJobStepsResponse)


class AskedLines(Asked, Protocol):
    """A request for lines."""

    level: records_pb2.LogLine.Level.ValueType


async def log_page(store: Store, uid: bytes, request: AskedLines, response: LinesT) -> LinesT:
    """`response` with a page of lines. Raises `ServiceError` (INVALID_ARGUMENT, INVALID_PAGE_TOKEN)."""
    size = read_size(request.page_size)
    if request.level not in records_pb2.LogLine.Level.values():
        raise invalid("level", f"{request.level} is no level")
    query = ("logs", uid, request.level)
    after = int.from_bytes(read_token(store.page_key, request.page_token, query)) if request.page_token else 0
    page = await store.lines(uid, request.level, after, size + 1)
    response.dropped_lines = page.dropped
    fit = Fit()
    for stored in page.lines:
        shown = _line(stored.number, stored.line)
        if len(response.lines) == size or not fit.takes(shown):
            response.next_page_token = make_token(store.page_key, after.to_bytes(16), query)
            break
        response.lines.append(shown)
        after = stored.number
    return response


async def step_page(store: Store, uid: bytes, request: Asked, response: StepsT) -> StepsT:
    """`response` with a page of outcomes. Raises as `log_page`."""
    size = read_size(request.page_size)
    query = ("steps", uid)
    since = skip = 0
    if request.page_token:
        # A time, and how many of those that ended at that time were on the pages before.
        position = read_token(store.page_key, request.page_token, query)
        since, skip = int.from_bytes(position[:8]), int.from_bytes(position[8:])
    fit = Fit()
    for outcome in await store.steps(uid, since, skip, size + 1):
        shown = _outcome(outcome)
        if len(response.steps) == size or not fit.takes(shown):
            response.next_page_token = make_token(store.page_key, since.to_bytes(8) + skip.to_bytes(8), query)
            break
        response.steps.append(shown)
        since, skip = outcome.ended, (skip + 1 if outcome.ended == since else 1)
    return response


def _line(number: int, line: LogLine) -> records_pb2.LogLine:
    level = records_pb2.LogLine.Level.ValueType(line.level)
    shown = records_pb2.LogLine(
        number=number, attempt=line.attempt, level=level, step=line.step, message=line.message, data=line.data,
        run=line.run,
    )  # fmt: skip
    wire.set_time(shown.time, line.time)
    return shown


def _outcome(outcome: StepOutcome) -> records_pb2.StepOutcome:
    shown = records_pb2.StepOutcome(
        step=outcome.name, attempt=outcome.attempt, tries=outcome.failures + outcome.completed, error=outcome.error,
        state=records_pb2.StepOutcome.STATE_COMPLETED if outcome.completed else records_pb2.StepOutcome.STATE_FAILED,
        kept=outcome.kept,
    )  # fmt: skip
    if outcome.started is not None:
        wire.set_time(shown.start_time, outcome.started)
    wire.set_time(shown.end_time, outcome.ended)
    return shown
