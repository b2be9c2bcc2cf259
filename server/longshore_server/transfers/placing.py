"""Puts committed uploads in their places: the staged file becomes an object, and the upload has come to its end.

From the commit on this cannot be refused any more, only be late: a store that is away or full is tried again, here and
at the next start, and every try finds what the last one has done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from longshore_server.clock import SECOND, Clock, sleep_until
from longshore_server.errors import Reason, ServiceError
from longshore_server.lifecycle import UploadState
from longshore_server.store.mutations import FailUpload, FinishUpload, PlaceUpload
from longshore_server.store.record import OperationRecord
from longshore_server.store.store import Store
from longshore_server.store.transfers import UploadRecord, upload_name
from longshore_server.transfers import staging
from longshore_server.transfers.objects import ObjectError
from longshore_server.transfers.stores import Store as ByteStore
from longshore_server.transfers.threads import in_thread

log = logging.getLogger(__name__)

AT_ONCE = 8
"""How many objects are put in their places at once."""
FIRST, LONGEST = SECOND, 60 * SECOND
"""How long it waits before it tries again: at first, and at most. Twice as long every time."""
_LATER = frozenset({Reason.STORE_FULL, Reason.STORE_UNAVAILABLE})


class Placing:
    """All uploads between their commit and their end.

    Args:
        staged: the folder in which uploads to a store are staged.
    """

    def __init__(
        self, store: Store, clock: Clock, stores: Mapping[str, ByteStore], staged: Callable[[str], Path]
    ) -> None:
        self._store = store
        self._clock = clock
        self._stores = stores
        self._staged = staged
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._tries: dict[bytes, asyncio.Future[OperationRecord]] = {}  # the one under way, or else the last one
        self._room = asyncio.Semaphore(AT_ONCE)

    def begin(self, record: OperationRecord) -> None:
        """See to it, unless somebody does already."""
        if record.uid not in self._tasks:
            loop = asyncio.get_running_loop()
            self._tries[record.uid] = loop.create_future()
            self._tasks[record.uid] = loop.create_task(self._place(record))

    async def outcome(self, uid: bytes) -> OperationRecord | None:
        """What comes of the try that is under way, or came of the last one; None: there is none.

        Raises `ServiceError` if another one follows.
        """
        trying = self._tries.get(uid)
        return None if trying is None else await asyncio.shield(trying)

    async def check_free(self, uid: bytes, upload: UploadRecord) -> None:
        """Raises `ServiceError` (OBJECT_EXISTS) where something has the key already, or (STORE_...) if nobody knows."""
        try:
            await self._stores[upload.store].stat(upload.key)
        except ObjectError as error:
            if error.reason is Reason.OBJECT_NOT_FOUND:
                return
            raise _refusal(uid, error) from None
        raise _refusal(uid, ObjectError(Reason.OBJECT_EXISTS, f"{upload.key!r} has an object already"))

    def abandon(self) -> None:
        """For tests: do nothing more, as if the process had been killed."""
        for task in self._tasks.values():
            task.cancel()

    async def close(self, refusal: ServiceError) -> None:
        """Leave what is not done to the next server; `refusal` tells whoever waits for it."""
        for uid in self._tries:
            self._tell(uid, refusal)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _place(self, record: OperationRecord) -> None:
        uid, delay = record.uid, FIRST
        try:
            while True:
                try:
                    async with self._room:
                        done = await self._try(record)
                except ServiceError as error:
                    log.warning("%s is not in its place yet: %s", upload_name(uid), error.message)
                    self._tell(uid, error)
                except Exception:
                    log.exception("%s is not in its place yet", upload_name(uid))
                    self._tell(uid, ServiceError(Reason.INTERNAL, Reason.INTERNAL.meaning))
                else:
                    self._tell(uid, done)
                    return
                await sleep_until(self._clock, self._clock.now() + delay)
                delay = min(delay * 2, LONGEST)
                self._tries[uid] = asyncio.get_running_loop().create_future()
        finally:
            del self._tasks[uid], self._tries[uid]

    def _tell(self, uid: bytes, outcome: OperationRecord | ServiceError) -> None:
        trying = self._tries[uid]
        if trying.done():
            return
        if isinstance(outcome, OperationRecord):
            trying.set_result(outcome)
        else:
            trying.set_exception(outcome)
            trying.exception()  # perhaps nobody waits

    async def _try(self, record: OperationRecord) -> OperationRecord:
        uid, upload = record.uid, record.upload
        assert upload is not None
        store, folder = self._stores[upload.store], self._staged(upload.store)
        saved = upload.progress

        async def save(progress: bytes) -> None:
            nonlocal saved
            saved = progress
            await self._store.writer.submit(PlaceUpload(uid, progress))

        try:
            await store.adopt(
                staging.staged_path(folder, uid, len(upload.parts)), upload.key, size=upload.committed,
                sha256=upload.sha256.hex(), crc32c=upload.crc32c, content_type=upload.content_type,
                metadata=upload.metadata, overwrite=not upload.refuse_existing, state=saved, save=save,
            )  # fmt: skip
        except ObjectError as error:
            if error.reason in _LATER:
                raise _refusal(uid, error) from None
            log.warning("%s fails: %s", upload_name(uid), error)
            done = await self._end(FailUpload(uid, error.reason, frozenset({UploadState.COMMITTING})), record)
        else:
            done = await self._end(FinishUpload(uid), record)
        await in_thread(staging.remove, folder, uid)
        return done

    async def _end(self, mutation: FinishUpload | FailUpload, record: OperationRecord) -> OperationRecord:
        try:
            return await self._store.writer.submit(mutation)
        except ServiceError as error:
            if error.reason is not Reason.OPERATION_NOT_FOUND:
                raise
        # Its operation was deleted meanwhile, and with it what would have the object deleted.
        upload = record.upload
        if upload is not None and upload.owned and isinstance(mutation, FinishUpload):
            await self._stores[upload.store].delete(upload.key)
        return record


def _refusal(uid: bytes, error: ObjectError) -> ServiceError:
    name = upload_name(uid)
    later = 5.0 if error.reason in _LATER else None
    return ServiceError(error.reason, f"{name}: {error}.", resource=name, retry_after=later)
