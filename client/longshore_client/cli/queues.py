"""`longshore jobs queues`, `pause`, `resume` and `workers`: where jobs wait, and who runs them."""

from __future__ import annotations

from typing import TypeVar

import click

from longshore.v1 import jobs_service_pb2 as pb
from longshore_client.cli.as_json import print_json
from longshore_client.cli.plain import plain
from longshore_client.cli.session import Session, with_session
from longshore_client.cli.table import Cell, print_rows
from longshore_client.cli.text import age, shown
from longshore_client.codec import to_datetime

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

SERVICE = "/longshore.v1.JobsService/"
_HEADS = ("QUEUE", ">READY", ">BLOCKED", ">DELAYED", ">ACTIVE", ">STALE", ">DEAD", ">SLOTS", "")


@click.command("queues", short_help="Show what waits and runs in each queue.")
@with_session
async def queues(session: Session) -> None:
    """Show the queues of the server: what waits in them and for what, what runs, and dead letters."""
    found = (await call(session, "ListQueues", pb.ListQueuesRequest(), pb.ListQueuesResponse)).queues
    if session.json:
        for queue in found:
            print_json(plain(queue, session.types))
    elif found:
        print_rows(_HEADS, [_row(queue) for queue in found], whole=True)
    else:
        click.echo("the server has no queues", err=True)


@click.command("pause", short_help="Let no attempt of a queue begin.")
@click.argument("queue")
@with_session
async def pause(session: Session, queue: str) -> None:
    """Let no attempt of QUEUE begin until it is resumed. What runs goes on, and new jobs are accepted."""
    _print_change(session, await call(session, "PauseQueue", pb.PauseQueueRequest(name=_name(queue)), pb.Queue))


@click.command("resume", short_help="Let the attempts of a queue begin again.")
@click.argument("queue")
@with_session
async def resume(session: Session, queue: str) -> None:
    """Let the attempts of QUEUE begin again."""
    _print_change(session, await call(session, "ResumeQueue", pb.ResumeQueueRequest(name=_name(queue)), pb.Queue))


@click.command("workers")
@with_session
async def workers(session: Session) -> None:
    """Show the processes that run jobs, and what they run."""
    found = (await call(session, "ListWorkers", pb.ListWorkersRequest(), pb.ListWorkersResponse)).workers
    for worker in found:
        if session.json:
            print_json(plain(worker, session.types))
            continue
        since = age(to_datetime(worker.start_time))
        click.echo(shown(f"{worker.name}  {worker.host} pid {worker.pid}, for {since}, {worker.running} running"))
        for run in worker.runs:
            queue = run.queue.removeprefix("queues/")
            click.echo(shown(f"  {run.job}  {queue}, attempt {run.attempt}, for {age(to_datetime(run.start_time))}"))


async def call(session: Session, method: str, request: RequestT, response: type[ResponseT]) -> ResponseT:
    """Call a method of JobsService."""
    return await session.channel.invoke(session.channel.calls.unary(SERVICE + method, type(request), response), request)


def _name(text: str) -> str:
    """Accept `queues/x` and plain `x`."""
    return text if text.startswith("queues/") else f"queues/{text}"


def _row(queue: pb.Queue) -> list[Cell]:
    counts = queue.counts
    numbers = (
        counts.ready, counts.blocked, counts.delayed, counts.active + counts.cancelling, counts.stale, counts.dead
    )  # fmt: skip
    slots, paused = f"{queue.running}/{queue.settings.concurrency}", "paused" if queue.paused else ""
    return [
        Cell(queue.name.removeprefix("queues/")), *(Cell(str(number)) for number in numbers), Cell(slots),
        Cell(paused, "yellow"),
    ]  # fmt: skip


def _print_change(session: Session, queue: pb.Queue) -> None:
    if session.json:
        print_json(plain(queue, session.types))
    else:
        click.echo(shown(f"{queue.name.removeprefix('queues/')} is {'paused' if queue.paused else 'resumed'}"))
