"""`longshore logs` and `steps`: what the attempts of an operation, a job or an instance have left for operators."""

from __future__ import annotations

import json
import shlex
from collections import deque
from datetime import UTC
from typing import TYPE_CHECKING, Any, TypeVar

import click

from longshore.v1 import operation_control_service_pb2 as control
from longshore.v1.jobs_service_pb2 import ListJobsRequest, ListJobsResponse
from longshore.v1.records_pb2 import LogLine, StepOutcome
from longshore_client.cli.as_json import print_json, stamp
from longshore_client.cli.plain import word
from longshore_client.cli.queues import call
from longshore_client.cli.session import Session, operation_name, with_session
from longshore_client.cli.text import elapsed, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.timestamp_pb2 import Timestamp

    from longshore_client.calls import UnaryRpc

CommandT = TypeVar("CommandT", bound="Callable[..., Any]")

PAGE = 500
LEVELS = {"info": LogLine.LEVEL_INFO, "warn": LogLine.LEVEL_WARN, "error": LogLine.LEVEL_ERROR}
_NAMES = {number: name for name, number in LEVELS.items()}
_COLORS = {"warn": "yellow", "error": "red"}

_LOGS_EPILOG = """\b
Examples:
  longshore logs orders-process-ord_123
  longshore logs orders-process-ord_123 --level warn --limit 20
  longshore logs operations/orders-process-ord_123 --json | jq -r 'select(.step == "charge") | .message'
"""

_STEPS_EPILOG = """\b
Examples:
  longshore steps orders-process-ord_123
  longshore steps orders-process-ord_123 --json | jq 'select(.tries > 1)'
"""


def which_lines(command: CommandT) -> CommandT:
    """The options of what shows a log."""
    level = click.option("--level", type=click.Choice(list(LEVELS)), default="info", show_default=True,
                         help="The least to show.")  # fmt: skip
    limit = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the latest N lines.")
    return level(limit(command))


@click.command("logs", epilog=_LOGS_EPILOG)
@click.argument("name")
@which_lines
@with_session
async def logs(session: Session, name: str, level: str, limit: int | None) -> None:
    """Show what the code of the operation NAME has logged, its latest lines, in order.

    Callers need the capability longshore.provider.
    """
    request = control.ListLogsRequest(name=operation_name(name), level=LEVELS[level], page_size=PAGE)
    await show_logs(session, session.channel.calls.list_logs, request, limit)


@click.command("steps", epilog=_STEPS_EPILOG)
@click.argument("name")
@with_session
async def steps(session: Session, name: str) -> None:
    """Show what became of the steps of the operation NAME, in each attempt, in the order in which they ended.

    Without --json also the jobs that work behind it. Callers need the capability longshore.provider.
    """
    request = control.ListStepsRequest(name=operation_name(name), page_size=PAGE)
    await show_steps(session, session.channel.calls.list_steps, request)
    if not session.json:
        await _show_jobs(session, request.name)


async def show_logs(
    session: Session, rpc: UnaryRpc[Any, Any], request: Any, limit: int | None,
    check: Callable[[Any], None] = lambda _: None,
) -> None:  # fmt: skip
    """Print the log of an operation, a job or an instance, or its `limit` latest lines. `check` may raise for what a
    page says."""
    count = 0
    # The server has them from the first to the last. A log is bounded, and so is what is looked at in vain.
    latest = deque[LogLine](maxlen=limit)
    while True:
        page = await session.channel.invoke(rpc, request)
        check(page)
        if count == 0 and page.dropped_lines and not session.json:
            click.echo(f"the first {page.dropped_lines} lines are not kept any more", err=True)
        if limit is None:
            for line in page.lines:
                _print_line(session, line)
        else:
            latest.extend(page.lines)
        count += len(page.lines)
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    for line in latest:
        _print_line(session, line)
    if session.json:
        return
    if not count:
        click.echo("no lines", err=True)
    elif latest and count > len(latest):
        click.echo(f"there are more than {len(latest)}: a greater --limit shows them", err=True)


async def show_steps(session: Session, rpc: UnaryRpc[Any, Any], request: Any) -> None:
    """Print all pages of outcomes of steps, of an operation or of a job."""
    count = 0
    while True:
        page = await session.channel.invoke(rpc, request)
        for step in page.steps:
            _print_step(session, step)
        count += len(page.steps)
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    if not count and not session.json:
        click.echo("no steps", err=True)


async def _show_jobs(session: Session, operation: str) -> None:
    """Print the jobs that work behind an operation, the oldest first, and which of them it ends with."""
    request = ListJobsRequest(filter=f'operation="{operation}"', page_size=PAGE, order_by="create_time")
    page = await call(session, "ListJobs", request, ListJobsResponse)
    for job in page.jobs:
        ends = ", the operation ends with it" if any(name == job.operation for name in job.attached) else ""
        click.echo(shown(f"{word(job, 'state').lower():<9}  {job.name} of {job.queue.removeprefix('queues/')}{ends}"))
    if page.next_page_token:
        click.echo(f"there are more: longshore jobs ls --filter {shlex.quote(request.filter)} --all", err=True)


def _print_line(session: Session, line: LogLine) -> None:
    level, data = _NAMES.get(line.level, str(line.level)), json.loads(line.data)
    if session.json:
        print_json({
            "number": line.number, "time": _time(line.time), "attempt": line.attempt, "level": level, "step": line.step,
            "message": line.message, "data": data, **({"run": line.run} if line.run else {}),
        })  # fmt: skip
        return
    text = "  ".join([line.message, *(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in data.items())])
    where = f"{line.attempt}/{line.step}" if line.step else str(line.attempt)
    if line.run:
        where = f"{line.run}:{where}"
    click.echo(f"{_time(line.time)}  {click.style(f'{level:<5}', fg=_COLORS.get(level))}  {shown(f'{where}  {text}')}")


def _print_step(session: Session, step: StepOutcome) -> None:
    completed = step.state == StepOutcome.STATE_COMPLETED
    state = "completed" if completed else "failed"
    seconds = (step.end_time.ToMicroseconds() - step.start_time.ToMicroseconds()) / 1_000_000
    timed = step.HasField("start_time")
    if session.json:
        print_json({
            "step": step.step, "attempt": step.attempt, "state": state, "tries": step.tries, "kept": step.kept,
            "start_time": _time(step.start_time) if timed else None, "end_time": _time(step.end_time),
            "error": step.error,
        })  # fmt: skip
        return
    said = [f"{step.tries} {'try' if step.tries == 1 else 'tries'}"]
    if timed:
        said.append(elapsed(seconds))
    said.append("kept from the operation that it repeats" if step.kept else f"attempt {step.attempt}")
    if step.error:
        said.append(f"last error {step.error}")
    head, text = click.style(f"{state:<9}", fg="green" if completed else "red"), ", ".join(said)
    click.echo(f"{head}  {shown(step.step)}: {shown(text)}")


def _time(time: Timestamp) -> str:
    return stamp(time.ToDatetime(UTC))
