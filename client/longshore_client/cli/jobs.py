"""`longshore jobs`: what the operators of a service see of its jobs, and what they do about them."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

import click
from google.rpc.error_details_pb2 import ErrorInfo

from longshore.v1 import jobs_service_pb2 as pb
from longshore_client.cli import queues
from longshore_client.cli.as_json import print_json
from longshore_client.cli.connection import connection_before
from longshore_client.cli.plain import learn, plain, word
from longshore_client.cli.records import LEVELS, PAGE, show_logs, show_steps, which_lines
from longshore_client.cli.session import Session, with_session
from longshore_client.cli.table import Cell, print_rows
from longshore_client.cli.text import age, counted, elapsed, shown
from longshore_client.codec import to_datetime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.rpc.status_pb2 import Status

CommandT = TypeVar("CommandT", bound="Callable[..., Any]")

_COLORS = {
    "ACTIVE": "cyan", "CANCELLING": "yellow", "STALE": "yellow", "COMPLETED": "green", "FAILED": "red",
    "CANCELLED": "yellow", "EXPIRED": "red", "DEAD": "red",
}  # fmt: skip
_FILTER = click.option(
    "--filter",
    "filter_",
    default="",
    metavar="EXPR",
    help="Comparisons joined by AND over queue, state, stand, key, operation, reason, priority, create_time, "
    "start_time, update_time, end_time and due_time.",
)
_DEAD = "state=DEAD"


@click.group(
    "jobs",
    epilog="""\b
Examples:
  longshore jobs ls --filter 'queue=reserve AND state=QUEUED'
  longshore jobs get jobs/0199d2f0-5b6e-7a3c-9d0e-1f2a3b4c5d6e
  longshore jobs dead
  longshore jobs replay --filter 'queue=reserve AND reason=TIMEOUT'
  longshore jobs pause reserve
""",
)
@connection_before(hidden=True)
def jobs() -> None:
    """Show and steer the private jobs behind operations, and their queues.

    Callers need the capability longshore.admin, or longshore.provider.
    """


def _list(command: CommandT) -> CommandT:
    """The options of what lists jobs."""
    order = click.option("--order", type=click.Choice(["newest", "oldest"]), default="newest", show_default=True,
                         help="Which come first.")  # fmt: skip
    limit = click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True,
                         help="The most jobs to show.")  # fmt: skip
    everything = click.option("--all", "everything", is_flag=True, help="Show all, however many.")
    return _FILTER(order(limit(everything(command))))


@jobs.command("ls")
@_list
@with_session
async def ls(session: Session, filter_: str, order: str, limit: int, everything: bool) -> None:
    """List jobs, newest first."""
    await _show_jobs(session, filter_, order, None if everything else limit)


@jobs.command("dead", short_help="List dead letters, newest first.")
@_list
@with_session
async def dead(session: Session, filter_: str, order: str, limit: int, everything: bool) -> None:
    """List dead letters: jobs whose attempts are used up, kept until somebody replays or dismisses them."""
    await _show_jobs(session, _dead(filter_), order, None if everything else limit)


@jobs.command("get", short_help="Show all that is known of a job.")
@click.argument("name")
@with_session
async def get(session: Session, name: str) -> None:
    """Show all that is known of the job NAME: its payload, its attempts, its result or its last error."""
    job = await _call(session, "GetJob", pb.GetJobRequest(name=job_name(name)), pb.JobSnapshot)
    await learn(session.types, job)
    attempts = await _attempts(session, job.name)
    if session.json:
        print_json({**plain(job, session.types), "attempts": [plain(item, session.types) for item in attempts]})
        return
    for field, value in _facts(session, job):
        click.echo(f"{field:<14} {shown(value)}")
    for attempt in attempts:
        click.echo(shown(_attempt(attempt)))


@jobs.command("logs", short_help="Show what a job's code has logged.")
@click.argument("name")
@which_lines
@with_session
async def logs(session: Session, name: str, level: str, limit: int | None) -> None:
    """Show what the code of the job NAME has logged, its latest lines, in order."""
    request = pb.ListJobLogsRequest(name=job_name(name), level=LEVELS[level], page_size=PAGE)
    rpc = session.channel.calls.unary(queues.SERVICE + "ListJobLogs", pb.ListJobLogsRequest, pb.ListJobLogsResponse)
    await show_logs(session, rpc, request, limit)


@jobs.command("steps", short_help="Show what became of a job's steps.")
@click.argument("name")
@with_session
async def steps(session: Session, name: str) -> None:
    """Show what became of the steps of the job NAME, in each attempt, in the order in which they ended."""
    request = pb.ListJobStepsRequest(name=job_name(name), page_size=PAGE)
    rpc = session.channel.calls.unary(queues.SERVICE + "ListJobSteps", pb.ListJobStepsRequest, pb.ListJobStepsResponse)
    await show_steps(session, rpc, request)


@jobs.command("retry", short_help="Run jobs again that have ended.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--fresh", is_flag=True, help="Do everything anew; else it goes on from the step that failed.")
@click.option("--from-step", default="", metavar="STEP", help="Do this step again, and what was done after it.")
@with_session
async def retry(session: Session, names: tuple[str, ...], fresh: bool, from_step: str) -> None:
    """Run jobs again that have FAILED, are CANCELLED, EXPIRED, DEAD or STALE."""
    for name in map(job_name, names):
        _print_change(session, await _retry(session, name, fresh=fresh, from_step=from_step))


@jobs.command("cancel", short_help="Cancel jobs.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--reason", default="", metavar="TEXT", help="Why, for people.")
@with_session
async def cancel(session: Session, names: tuple[str, ...], reason: str) -> None:
    """Cancel jobs: at once, or within the grace of their queue while an attempt runs."""
    for name in map(job_name, names):
        request = pb.CancelJobRequest(name=name, reason=reason)
        _print_change(session, await _call(session, "CancelJob", request, pb.JobSnapshot))


def _dead_letters(command: CommandT) -> CommandT:
    """What says which dead letters are meant."""
    everything = click.option("--all", "everything", is_flag=True, help="All dead letters.")
    return click.argument("names", metavar="[NAME]...", nargs=-1)(_FILTER(everything(command)))


@jobs.command("replay", short_help="Run dead letters again.")
@_dead_letters
@click.option("--fresh", is_flag=True, help="Do everything anew; else they go on from the step that failed.")
@with_session
async def replay(session: Session, names: tuple[str, ...], filter_: str, everything: bool, fresh: bool) -> None:
    """Run dead letters again: those of these names, all for which a filter holds, or all."""
    _check_dead(names, filter_, everything=everything)
    for name in map(job_name, names):
        _print_change(session, await _retry(session, name, fresh=fresh))
    if not names:
        bulk = pb.ReplayDeadLettersRequest(
            filter=_dead(filter_), fresh=fresh, page_size=PAGE, request_id=str(uuid.uuid4())
        )
        await _in_bulk(session, "ReplayDeadLetters", bulk, pb.ReplayDeadLettersResponse, "replayed")


@jobs.command("dismiss", short_help="Be done with dead letters.")
@_dead_letters
@with_session
async def dismiss(session: Session, names: tuple[str, ...], filter_: str, everything: bool) -> None:
    """Be done with dead letters: those of these names, all for which a filter holds, or all."""
    _check_dead(names, filter_, everything=everything)
    for name in map(job_name, names):
        request = pb.DismissJobRequest(name=name)
        _print_change(session, await _call(session, "DismissJob", request, pb.JobSnapshot))
    if not names:
        bulk = pb.DismissDeadLettersRequest(filter=_dead(filter_), page_size=PAGE)
        await _in_bulk(session, "DismissDeadLetters", bulk, pb.DismissDeadLettersResponse, "dismissed")


for _command in (queues.queues, queues.pause, queues.resume, queues.workers):
    jobs.add_command(_command)

_call = queues.call


def job_name(text: str) -> str:
    """Accept `jobs/x` and plain `x`."""
    return text if text.startswith("jobs/") else f"jobs/{text}"


def _dead(filter_: str) -> str:
    return f"{_DEAD} AND {filter_}" if filter_.strip() else _DEAD


def _check_dead(names: tuple[str, ...], filter_: str, *, everything: bool) -> None:
    if (bool(names), bool(filter_.strip()), everything).count(True) != 1:
        raise click.UsageError("say which dead letters: give names, or --filter, or --all")


async def _retry(session: Session, name: str, *, fresh: bool, from_step: str = "") -> pb.JobSnapshot:
    # An id, because a call whose answer is lost is made again.
    request = pb.RetryJobRequest(name=name, fresh=fresh, from_step=from_step, request_id=str(uuid.uuid4()))
    return await _call(session, "RetryJob", request, pb.JobSnapshot)


async def _in_bulk(session: Session, method: str, request: Any, response: type[Any], done: str) -> None:
    """Call as often as there is more, and say how many there were."""
    count = 0
    while True:
        page = await _call(session, method, request, response)
        count += page.count
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    if session.json:
        print_json({"count": count})
    else:
        click.echo(f"{counted(count, 'dead letter')} {done}")


async def _attempts(session: Session, name: str) -> list[pb.JobAttempt]:
    request = pb.ListJobAttemptsRequest(name=name, page_size=PAGE)
    page = await _call(session, "ListJobAttempts", request, pb.ListJobAttemptsResponse)
    return list(page.attempts)


async def _show_jobs(session: Session, filter_: str, order: str, limit: int | None) -> None:
    count, token = 0, ""
    while True:
        request = pb.ListJobsRequest(
            filter=filter_, page_size=PAGE if limit is None else min(PAGE, limit - count), page_token=token,
            order_by="create_time" if order == "oldest" else "create_time desc",
        )  # fmt: skip
        page = await _call(session, "ListJobs", request, pb.ListJobsResponse)
        if session.json:
            for job in page.jobs:
                await learn(session.types, job)
                print_json(plain(job, session.types))
        else:
            rows = [_row(job) for job in page.jobs]
            # Commands take such names, too.
            narrow = [[Cell(row[0].text.removeprefix("jobs/")), *row[1:]] for row in rows]
            print_rows(_HEADS, rows, header=count == 0, narrow=narrow)
        count += len(page.jobs)
        token = page.next_page_token
        if not token or count == limit:
            break
    if not session.json:
        if count == 0:
            click.echo("no jobs" + (" match the filter" if filter_ else ""), err=True)
        elif token:
            click.echo(f"there are more than {count}: --limit N or --all shows them", err=True)


_HEADS = ("NAME", "QUEUE", "STATE", ">ATTEMPT", ">AGE", "WHAT")


def _row(job: pb.JobSnapshot) -> list[Cell]:
    return [
        Cell(job.name), Cell(job.queue.removeprefix("queues/")),
        Cell(_state(job), _COLORS.get(word(job, "state"))), Cell(str(job.attempt)),
        Cell(age(to_datetime(job.create_time))), Cell("  ".join(part for part in (job.key, _error(job)) if part)),
    ]  # fmt: skip


def _state(job: pb.JobSnapshot) -> str:
    """The state and, of one that waits, for what."""
    return word(job, "state") + (f" {word(job, 'stand').lower()}" if job.stand else "")


def _error(job: pb.JobSnapshot) -> str:
    """The last error of a job, unless it has come to a good end since."""
    good = job.state == pb.JobSnapshot.STATE_COMPLETED or not job.HasField("last_error")
    return "" if good else _said(job.last_error, job.problem)


def _said(status: Status, problem: str) -> str:
    """An error for operators: what the code raised, or else what callers would be told."""
    info = ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            break
    return f"{problem or status.message}{f' ({info.reason})' if info.reason else ''}"


def _facts(session: Session, job: pb.JobSnapshot) -> Iterable[tuple[str, str]]:
    """What there is to say of a job, line by line."""
    yield "name", job.name
    yield "queue", job.queue.removeprefix("queues/")
    yield "state", _state(job)
    facts = plain(job, session.types)
    for field in _TEXTS:
        if field in facts:
            yield field.removesuffix("_time").replace("_", " "), facts[field]
    for target in job.attached:
        yield "ends", target
    for field in ("payload", "progress", "result"):
        if field in facts:
            yield field, json.dumps(facts[field], ensure_ascii=False)
    if error := _error(job):
        yield "error", error


_TEXTS = (
    "key", "operation", "parent", "create_time", "due_time", "deadline", "end_time", "expire_time", "cancel_reason"
)  # fmt: skip


def _attempt(attempt: pb.JobAttempt) -> str:
    parts = [f"attempt {attempt.attempt}: {word(attempt, 'outcome').lower()}"]
    if attempt.HasField("end_time"):
        spent = attempt.end_time.ToMicroseconds() - attempt.start_time.ToMicroseconds()
        parts.append(f"after {elapsed(spent / 1_000_000)}")
    if attempt.HasField("error"):
        parts.append(_said(attempt.error, attempt.problem))
    return ", ".join(parts)


def _print_change(session: Session, job: pb.JobSnapshot) -> None:
    if session.json:
        print_json(plain(job, session.types))
    else:
        click.echo(shown(f"{job.name} is {_state(job)}"))
