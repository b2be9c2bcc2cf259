"""Puts committed uploads in their places: the staged file becomes an object, and the upload has come to its end.

From the commit on this cannot be refused any more, only be late: a store that is away or full is tried again, here and
at the next start, and every try finds what the last one has done. Uploads to one key go one after the other, in the
order of their commits, over restarts too: while the first one waits for the store the others wait, so that none takes
the place of one that was committed after it. Only one whose operation is deleted leaves the queue: it is put nowhere
any more, and what it may have left in the store by then is garbage, of which `Collector` knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from longshore_server.clock import SECOND, Clock, resolve
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
"""How many objects are put in their places at once in one store."""
FIRST, LONGEST = SECOND, 60 * SECOND
"""How long it waits before it tries again: at first, and at most. Twice as long every time."""
_LATER = frozenset({Reason.STORE_FULL, Reason.STORE_UNAVAILABLE})


class _Queue:
    """The uploads that are on their way to one key, the first one first."""

    def __init__(self) -> None:
        self.uids: list[bytes] = []
        self._pause: asyncio.Future[None] | None = None
        self.left = False
        """Whether one of them was given up during a try, which may not have noticed."""

    async def pause(self, clock: Clock, duration: int) -> None:
        """Wait so long, or until `again`; not at all where one was given up meanwhile."""
        if self.left:
            self.left = False
            return
        self._pause = asyncio.get_running_loop().create_future()
        timer = clock.call_at(clock.now() + duration, self.again)
        try:
            await self._pause
        finally:
            timer.cancel()
            self._pause = None

    def again(self) -> None:
        """Wait no longer: something is new."""
        if self._pause is not None:
            resolve(self._pause)

    def leave(self) -> None:
        """One of them is given up."""
        self.left = self._pause is None
        self.again()


class Placing:
    """All uploads between their commit and their end.

    Args:
        staged: the folder in which uploads to a store are staged.
        load: an operation by its uid, live or ended.
    """

    def __init__(
        self, store: Store, clock: Clock, stores: Mapping[str, ByteStore], staged: Callable[[str], Path],
        load: Callable[[bytes], Awaitable[OperationRecord]],
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self._stores = stores
        self._staged = staged
        self._load = load
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._of: dict[bytes, _Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tries: dict[bytes, asyncio.Future[OperationRecord]] = {}  # the one under way, or else the last one
        self._started = asyncio.Event()
        self._room = {name: asyncio.Semaphore(AT_ONCE) for name in stores}

    def start(self, order: Sequence[bytes]) -> None:
        """Put objects in their places from now on: first what the last server left, in this order."""
        turns = {uid: turn for turn, uid in enumerate(order)}
        for queue in self._queues.values():
            # It has begun as recovery, and callers who asked once more, have come to it.
            queue.uids.sort(key=lambda uid: turns.get(uid, len(turns)))
        self._started.set()

    def begin(self, record: OperationRecord) -> None:
        """See to it, unless somebody does already."""
        uid, upload = record.uid, record.upload
        if uid in self._of:
            return
        assert upload is not None
        loop = asyncio.get_running_loop()
        place = upload.store, upload.key
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = _Queue()
            task = loop.create_task(self._work(place, queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        queue.uids.append(uid)
        self._of[uid] = queue
        self._tries[uid] = loop.create_future()
        queue.again()

    def leave(self, uid: bytes) -> None:
        """Its operation is deleted: it is put nowhere any more, unless that is under way."""
        queue = self._of.get(uid)
        if queue is not None:
            queue.leave()

    def has(self, uid: bytes) -> bool:
        """Whether it may still change anything in its store."""
        return uid in self._of

    async def outcome(self, uid: bytes) -> OperationRecord | None:
        """What comes of the try that is under way, or came of the last one; None: there is none.

        Raises `ServiceError` if another one follows, or its operation is deleted.
        """
        trying = self._tries.get(uid)
        return None if trying is None else await asyncio.shield(trying)

    async def check_free(self, uid: bytes, upload: UploadRecord) -> None:
        """Raises `ServiceError` (OBJECT_EXISTS) where something has the key already, or (STORE_...) if nobody knows."""
        name, reason = upload_name(uid), Reason.OBJECT_EXISTS
        try:
            await self._stores[upload.store].stat(upload.key)
        except ObjectError as error:
            if error.reason is Reason.OBJECT_NOT_FOUND:
                return
            log.warning("%s: nobody knows whether its key is free: %s", name, error)
            reason = error.reason
        later = 5.0 if reason in _LATER else None
        raise ServiceError(reason, f"{name}: {reason.meaning}", resource=name, retry_after=later)

    def abandon(self) -> None:
        """For tests: do nothing more, as if the process had been killed."""
        for task in self._tasks:
            task.cancel()

    async def close(self, refusal: ServiceError) -> None:
        """Leave what is not done to the next server; `refusal` tells whoever waits for it."""
        for uid in self._tries:
            self._tell(uid, refusal)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _work(self, place: tuple[str, str], queue: _Queue) -> None:
        """Until nothing is on its way to this key."""
        store, delay, uids = place[0], FIRST, queue.uids
        try:
            await self._started.wait()
            while uids:
                uid, reason = uids[0], Reason.INTERNAL
                try:
                    async with self._room[store]:
                        outcome = await self._try(uid, store)
                except ServiceError as error:
                    reason = error.reason
                except Exception:
                    log.exception("%s is not in its place yet", upload_name(uid))
                else:
                    self._tell(uid, outcome)
                    del uids[0]
                    del self._of[uid], self._tries[uid]
                    delay = FIRST
                    continue
                for waiting in uids:
                    self._tell(waiting, _late(waiting, reason))
                await queue.pause(self._clock, delay)
                delay = min(delay * 2, LONGEST)
                for waiting in uids:
                    if self._tries[waiting].done():
                        self._tries[waiting] = asyncio.get_running_loop().create_future()
        finally:
            del self._queues[place]
            for uid in uids:
                del self._of[uid], self._tries[uid]

    def _tell(self, uid: bytes, outcome: OperationRecord | ServiceError) -> None:
        trying = self._tries[uid]
        if trying.done():
            return
        if isinstance(outcome, OperationRecord):
            trying.set_result(outcome)
        else:
            trying.set_exception(outcome)
            trying.exception()  # perhaps nobody waits

    async def _try(self, uid: bytes, store: str) -> OperationRecord | ServiceError:
        """The upload once it has ended, or that it is gone. Raises `ServiceError` when it is not in its place yet."""
        done: OperationRecord | ServiceError
        try:
            record = await self._load(uid)
            done = await self._store.writer.submit(await self._adopt(record))
        except ServiceError as error:
            if error.reason is not Reason.OPERATION_NOT_FOUND:
                raise
            done = error
        await in_thread(staging.remove, self._staged(store), uid)
        return done

    async def _adopt(self, record: OperationRecord) -> FinishUpload | FailUpload:
        """Put the object in its place: how the upload ends. Raises `ServiceError` when it is not there yet."""
        uid, upload = record.uid, record.upload
        assert upload is not None

        async def save(progress: bytes) -> None:
            await self._store.writer.submit(PlaceUpload(uid, progress))

        try:
            await self._stores[upload.store].adopt(
                staging.staged_path(self._staged(upload.store), uid, len(upload.parts)), upload.key,
                size=upload.committed, sha256=upload.sha256.hex(), crc32c=upload.crc32c,
                content_type=upload.content_type, metadata=upload.metadata, overwrite=not upload.refuse_existing,
                state=upload.progress, save=save,
            )  # fmt: skip
        except ObjectError as error:
            name = upload_name(uid)
            if error.reason in _LATER:
                if error.lasting:
                    log.error("%s waits until somebody mends the store %s: %s", name, upload.store, error)
                else:
                    log.warning("%s is not in its place yet: %s", name, error)
                raise _late(uid, error.reason) from None
            if error.reason is Reason.OBJECT_CORRUPT:
                log.error("%s was acknowledged, and its bytes are lost: %s", name, error)
            else:
                log.warning("%s fails: %s", name, error)
            return FailUpload(uid, error.reason, frozenset({UploadState.COMMITTING}))
        return FinishUpload(uid)


def _late(uid: bytes, reason: Reason) -> ServiceError:
    """What callers are told: not what the store answered, which may name what is the service's own."""
    name = upload_name(uid)
    if reason not in _LATER:
        return ServiceError(reason, reason.meaning, resource=name)
    problem = f"{name} is committed, and comes to its place once its store can take it."
    return ServiceError(reason, problem, resource=name, retry_after=5.0)
