"""The bytes of all operations of one engine: what comes, what is fetched, and what is thrown away."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from longshore_server.clock import Clock
from longshore_server.engine.objects import Objects
from longshore_server.engine.quotas import Quota
from longshore_server.errors import ServiceError
from longshore_server.store.ledger import Published
from longshore_server.store.record import OperationRecord
from longshore_server.store.store import Store
from longshore_server.transfers import stores as objects
from longshore_server.transfers.downloads import Downloads
from longshore_server.transfers.garbage import Collector
from longshore_server.transfers.uploads import Uploads


class Transfers:
    """Uploads, downloads and the objects of deleted operations.

    Args:
        stores: the store resources, by name.
        folder: where uploads to stores without a staging folder of their own are staged.
        load: an operation by its uid, live or ended.
        quota: how many calls may send bytes at once, in either direction.
    """

    def __init__(
        self, store: Store, clock: Clock, stores: Mapping[str, objects.Store], folder: Path,
        load: Callable[[bytes], Awaitable[OperationRecord]], quota: Quota,
    ) -> None:  # fmt: skip
        self.stores = stores
        self.objects = Objects(stores)
        """As handlers see them."""
        self.uploads = Uploads(store, clock, stores, folder, load)
        self.downloads = Downloads(stores, store, clock)
        self.collector = Collector(store, clock, stores, self.uploads.placing.has)
        self._store = store
        self._quota = quota

    @property
    def count(self) -> int:
        """How many calls send bytes now."""
        return self._quota.count

    def place(self, owner: str) -> AbstractContextManager[None]:
        """The place of one call of this owner. Raises `ServiceError` (TOO_MANY_TRANSFERS)."""
        return self._quota.place(owner)

    @contextlib.contextmanager
    def place_after(self, owner: str, uid: bytes, part: int) -> Iterator[None]:
        """The place of a call that takes a part over: that of the call which has the part now, and then ends.

        Raises `ServiceError` (TOO_MANY_TRANSFERS) where no call has it, or another takes it over already, and there is
        no other place.
        """
        stale = self.uploads.sender(uid, part)
        if stale is None or stale.succeeded:
            with self._quota.place(owner):
                yield
            return
        stale.succeeded = True
        self._quota.take(owner)
        try:
            yield
        finally:
            self._quota.give(owner)
            stale.succeeded = False

    async def start(self) -> None:
        """Go on with what the last server left."""
        await self.uploads.start(await self._store.pending_uploads())
        self.collector.wake()

    def publish(self, commit: Mapping[bytes, Published]) -> None:
        """Follow what a commit has brought."""
        self.downloads.publish(commit)
        for uid, (record, _) in commit.items():
            if record is None:
                self.uploads.placing.leave(uid)
                self.collector.wake()
            elif record.upload is not None:
                self.uploads.follow(record)

    def drain(self, refusal: ServiceError) -> None:
        """Calls end with `refusal`; their callers go on at the next server."""
        self.downloads.end(refusal)
        self.uploads.stop(refusal)
        self.collector.stop()

    async def close(self) -> None:
        """What calls have sent is recorded. After `drain`."""
        await self.uploads.close()

    def end(self) -> None:
        """Nothing is under way any more. After `close` or `abandon`."""
        self.uploads.end()

    def abandon(self) -> None:
        """For tests: write nothing more, as if the process had been killed."""
        self.uploads.abandon()
        self.collector.stop()
