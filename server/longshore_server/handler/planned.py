"""Durable work, a job, that is to begin with the change of an operation that calls for it: both or neither."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from longshore_server.store.mutations import Mutation

if TYPE_CHECKING:
    from longshore_server.store.writer import Writer

T = TypeVar("T")
Settled = Callable[[T | Exception], None]


class Planned(abc.ABC):
    """Work that there is not yet."""

    @abc.abstractmethod
    def begin_with(
        self, change: Mutation[T], plans: Sequence[Planned], operation: bytes, settled: Settled[T] | None
    ) -> asyncio.Future[T]:
        """Make a change of an operation and create all that is planned with it, as `submit`."""


def check(plans: Sequence[object]) -> None:
    """Raises `TypeError` for what is not planned."""
    if not isinstance(plans, Iterable):
        raise TypeError(f"jobs: give a list of those that are planned, not {plans!r}")
    for plan in plans:
        if not isinstance(plan, Planned):
            raise TypeError(f"jobs: {plan!r} is none that is planned: write queue.plan(payload)")


def submit(
    writer: Writer, change: Mutation[T], plans: Sequence[Planned], operation: bytes, settled: Settled[T] | None = None
) -> asyncio.Future[T]:
    """Make a change of an operation, and create what is planned in the same transaction; see `Writer.submit`.

    One that is being cancelled creates nothing any more. Raises (through the future) what the change does, and what
    keeps the work from being created; then nothing has changed.
    """
    check(plans)
    return plans[0].begin_with(change, plans, operation, settled) if plans else writer.submit(change, settled)
