"""Jobs that are created by a change of their operation; see `JobQueue.plan`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from longshore_server.handler.planned import Planned, Settled
from longshore_server.jobs.outcomes import JobNotEnqueuedError
from longshore_server.jobs.refs import JobRef
from longshore_server.store.mutations import Mutation
from longshore_server.store.mutations.job_creation import Admission, NewJob
from longshore_server.store.mutations.with_jobs import Joint

if TYPE_CHECKING:
    from longshore_server.jobs.host import Host

T = TypeVar("T")
ResultT = TypeVar("ResultT")


class Origin(NamedTuple):
    """Whose handler creates a job, and behind which operation."""

    parent: bytes | None = None
    operation: bytes | None = None


class PlannedJob(Planned, Generic[ResultT]):
    """A job that there is not yet."""

    def __init__(
        self, host: Callable[[], Host], make: Callable[[set[tuple[str, str]], Origin], NewJob],
        refer: Callable[[Admission], JobRef[ResultT]],
    ) -> None:  # fmt: skip
        self._host = host
        self._make = make
        self._refer = refer
        self.job: JobRef[ResultT] | None = None
        """The job, once the change is durable. None: an operation that was being cancelled has created none."""

    def begin_with(
        self, change: Mutation[T], plans: Sequence[Planned], operation: bytes, settled: Settled[T] | None
    ) -> asyncio.Future[T]:
        """For the engine: see `Planned`. Raises through the future `JobNotEnqueuedError`, and for a wrong plan."""
        host, used, origin = self._host(), set[tuple[str, str]](), Origin(operation, operation)
        jobs = [plan for plan in plans if isinstance(plan, PlannedJob)]
        future: asyncio.Future[T] = host.loop.create_future()

        def done(joint: Joint[T] | Exception) -> None:
            outcome: Any = joint if isinstance(joint, Exception) else joint.outcome
            for admission in () if isinstance(joint, Exception) else joint.jobs:
                plan = jobs[admission.position]
                try:
                    plan.job = plan._refer(admission)  # noqa: SLF001
                except JobNotEnqueuedError as error:
                    outcome = error
            if settled is not None:
                settled(outcome)
            if not future.done():
                _resolve(future, outcome)

        try:
            news = [plan._make(used, origin) for plan in jobs]
        except Exception as error:  # noqa: BLE001 - whatever it is, the change has come to nothing by it
            done(error)
        else:
            host.create_with(change, news, operation, done)
        return future


def _resolve(future: asyncio.Future[T], outcome: T | Exception) -> None:
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
        future.exception()  # looked at, so that asyncio does not report what nobody awaits
    else:
        future.set_result(outcome)
