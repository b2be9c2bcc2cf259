"""`@server.job(...)`: how a server gets its queues."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

from longshore_server.handler.log import LogLevel
from longshore_server.jobs.context import Job
from longshore_server.jobs.definition import MAX_LIVE, Definition, JobRetry, Options, Rate, Span
from longshore_server.jobs.queue import JobQueue

PayloadT = TypeVar("PayloadT")
ResultT = TypeVar("ResultT")


class DeclaringJobs:
    """A server in so far as it has queues."""

    def __init__(self) -> None:
        super().__init__()
        self.queues: dict[str, JobQueue[Any, Any]] = {}
        """By name."""

    def job(
        self, name: str, *, key: str | None = None, max_active: int = 1, max_queued: int | None = 0,
        when_full: Literal["reject", "coalesce", "replace_oldest"] = "reject",
        on_stale: Literal["retry", "fail", "block"] = "retry", max_live: int = MAX_LIVE, concurrency: int = 16,
        rate: Rate | None = None,
        retry: JobRetry | None = None, timeout: Span | None = None, deadline: Span | None = None,
        heartbeat: Span | None = None, max_claims: int = 5, cancel_grace: Span | None = None,
        retention: Span | None = None, idempotency_ttl: Span | None = None,
        on_step_change: Literal["report", "fail"] = "report", log_level: LogLevel = "error",
    ) -> Callable[
        [Callable[[PayloadT, Job[ResultT]], Awaitable[ResultT]]], JobQueue[PayloadT, ResultT]
    ]:  # fmt: skip
        """Decorator: makes `async def f(payload: P, job: Job[R]) -> R` a queue of jobs that run it.

        Payloads and results are protobuf messages, JSON values, dataclasses or pydantic models, as the annotations
        say. Spans of time are seconds, timedeltas or texts such as `"30m"`.

        Args:
            name: of the queue; stays the same for as long as it has jobs.
            key: makes of a payload's fields what jobs have in common that must not run at once, such as `"{sku}"`.
            max_active: how many jobs of one key may be active.
            max_queued: how many more of it may wait; None: any number.
            when_full: what `submit` does with a job for which there is no room: it is refused, an older job stands for
                it, or it takes the place of the oldest that waits.
            on_stale: what becomes of an attempt that is not heard of within `heartbeat`: another one is made, the job
                fails, or it keeps its key as STALE until somebody retries or cancels it. Either way the attempt can
                change nothing any more.
            max_live: how many jobs of the queue there may be that have not ended; one more is refused (TOO_MANY_JOBS).
            concurrency: how many jobs of the queue run at once.
            rate: how many may begin in a time. Default: as many as there are slots.
            retry: whether a failed attempt is made again. Default: the job has FAILED then.
            timeout: the longest that one attempt may take. Default: as long as it takes.
            deadline: how long after its creation a job that has not ended is EXPIRED. Default: never.
            heartbeat: the longest time without `job.heartbeat()` or progress. Default: none is awaited.
            max_claims: after how many attempts in a row that a crash has ended, or that were not heard of, a job is
                DEAD.
            cancel_grace: how long an attempt may take to tidy up when it is cancelled. Default: 10 s.
            retention: how long an ended job is kept; a DEAD one is until it is dismissed. Default: as the server's
                configuration says for operations.
            idempotency_ttl: how long an idempotency key stands for its job. Default: as long as the job is kept.
            on_step_change: what becomes of a job whose function completes without having asked for a step that is
                recorded, removed or renamed by a deploy for example: the log says so, or it fails with reason
                NON_DETERMINISTIC.
            log_level: the least of the queue's lifecycle events that a sink `log:` writes: debug, info, warning, error
                (the default: failures alone) or off.

        Raises `TypeError` or `ValueError` for what makes no sense.
        """
        if not isinstance(name, str):
            raise TypeError(f"a queue has a name: write @server.job('...') above {name!r}")
        options = Options(
            key, max_active, max_queued, when_full, on_stale, max_live, concurrency, rate, retry, timeout, deadline,
            heartbeat, max_claims, cancel_grace, retention, idempotency_ttl, on_step_change, log_level,
        )  # fmt: skip

        def declare(
            function: Callable[[PayloadT, Job[ResultT]], Awaitable[ResultT]],
        ) -> JobQueue[PayloadT, ResultT]:
            definition = Definition(name, function, options)
            first = self.queues.get(name)
            if first is not None:
                places = f"{first.definition.place} and again {definition.place}"
                raise ValueError(f"job {name!r} is {places}: give each a name of its own")
            queue: JobQueue[PayloadT, ResultT] = JobQueue(definition)
            self.queues[name] = queue
            return queue

        return declare
