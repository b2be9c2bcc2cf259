"""What deleted operations have left in stores: objects that they own, and what was under way to their places.

It goes once the deletion is durable, and only where the store itself says that it came from that upload: another object
with the same key, even with the same bytes, is nobody's garbage.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from longshore_server.clock import SECOND, Clock, Timer
from longshore_server.errors import ServiceError
from longshore_server.ids import uid_text
from longshore_server.store.mutations import ForgetGarbage
from longshore_server.store.store import Store
from longshore_server.store.transfers import Garbage
from longshore_server.transfers.objects import ObjectError
from longshore_server.transfers.stores import Store as ByteStore

log = logging.getLogger(__name__)

BATCH = 100
"""The most objects between two commits."""
AGAIN = 60 * SECOND
"""How long after a store that was away it is tried again."""


class Collector:
    """Deletes objects whose operations are gone. What it cannot delete now it deletes later, or at the next start.

    Args:
        placing: whether an upload may still be put in its place.
    """

    def __init__(
        self, store: Store, clock: Clock, stores: Mapping[str, ByteStore], placing: Callable[[bytes], bool]
    ) -> None:
        self._placing = placing
        self._store = store
        self._clock = clock
        self._stores = stores
        self._task: asyncio.Task[None] | None = None
        self._timer: Timer | None = None
        self._more = False
        self._stopped = False

    def wake(self) -> None:
        """There may be something: an operation with bytes was deleted, or the server starts."""
        if self._stopped or not self._stores:
            return
        self._more = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Delete nothing more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        later = False
        try:
            while self._more:
                self._more = False
                after = 0
                while rows := await self._store.garbage(after, BATCH):
                    after = rows[-1].id
                    gone = [row.id for row in rows if await self._delete(row)]
                    later = later or len(gone) < len(rows)
                    if gone:
                        await self._store.writer.submit(ForgetGarbage(gone))
        except ServiceError as error:
            log.warning("objects of deleted operations stay for now: %s", error.message)
            later = True
        finally:
            self._task = None
        if later and not self._stopped and self._timer is None:
            self._timer = self._clock.call_at(self._clock.now() + AGAIN, self._again)

    def _again(self) -> None:
        self._timer = None
        self.wake()

    async def _delete(self, row: Garbage) -> bool:
        """Whether nothing is left to do about it."""
        store = self._stores.get(row.store)
        if store is None:
            log.warning("%r of the store %r, which is not declared, is left behind", row.key, row.store)
            return True
        try:
            if row.progress:
                await store.give_up(row.key, row.progress)
            if self._placing(row.uid):
                return False
            if row.owned:
                await store.delete(row.key, only=uid_text(row.uid))
        except ObjectError as error:
            log.warning("%r of the store %r is not deleted yet: %s", row.key, row.store, error)
            return False
        return True
