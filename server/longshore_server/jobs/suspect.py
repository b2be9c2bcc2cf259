"""A job that may be what kills the server: begun apart from all others; see `longshore_server.engine.recovery`."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from longshore_server.errors import ServiceError
from longshore_server.ids import uid_text
from longshore_server.store.job_record import JobRecord

if TYPE_CHECKING:
    from longshore_server.jobs.host import Host

log = logging.getLogger(__name__)


class SuspectJob:
    """A job under way in crashes of the server."""

    def __init__(self, host: Host, record: JobRecord) -> None:
        self._host = host
        self.uid = record.uid
        self.queue = record.queue
        self.crashes = record.claims
        """How many there were in a row."""
        self._attempt: asyncio.Future[Any] = host.loop.create_future()

    async def begin(self) -> None:
        """Returns once its attempt has begun; or at once, where it does not wait for a runner, or not now.

        One whose begin the store refuses counts as ended: nobody waits for it, and its queue begins it later.
        """
        try:
            run = await self._host.isolate(self)
        except ServiceError as error:
            log.error("jobs/%s could not begin apart: %s", uid_text(self.uid), error.message)
            run = None
        if run is not None:
            self._attempt = run.task
        elif not self._attempt.done():
            self._attempt.set_result(None)

    def rejoin(self) -> None:
        """It waits as any other: the queue finds it once jobs are held no more."""

    def ended(self) -> asyncio.Future[Any]:
        """What is done once its attempt is over."""
        return self._attempt

    def forget(self, ended: asyncio.Future[Any]) -> None:
        """Nobody waits for that any more."""
