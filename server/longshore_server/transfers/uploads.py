"""Uploads: who sends what, what is recorded of it, and what becomes of those that nobody goes on with.

An upload has one call a part at a time. A new one ends the one before, once what that has sent is recorded. Timers are
those of the upload's expiry alone, and everything else follows what commits bring (`follow`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from pathlib import Path

from longshore_server.clock import Clock, Timer
from longshore_server.errors import Reason, ServiceError, invalid
from longshore_server.lifecycle import UploadState
from longshore_server.store.mutations import FailUpload
from longshore_server.store.mutations.transfer import open_upload, upload_refusal
from longshore_server.store.record import OperationRecord
from longshore_server.store.store import Store
from longshore_server.store.transfers import MAX_CHUNK, MAX_PARTS, UploadRecord, upload_name
from longshore_server.transfers import committing, staging
from longshore_server.transfers.files import Files
from longshore_server.transfers.placing import Placing
from longshore_server.transfers.sending import Sending
from longshore_server.transfers.staging import StagedPart
from longshore_server.transfers.stores import Store as ByteStore
from longshore_server.transfers.threads import in_thread
from longshore_server.transfers.turns import TELL, Pace, Turns

log = logging.getLogger(__name__)


class _Open:
    """What the server remembers of an upload that takes bytes."""

    __slots__ = ("pace", "parts", "sendings", "timer", "turn")

    def __init__(self) -> None:
        self.parts: dict[int, StagedPart] = {}
        """Those that somebody has sent to in this process, with the digests of what they hold."""
        self.sendings: dict[int, Sending] = {}
        self.timer: Timer | None = None
        self.pace = Pace(TELL)
        """Of the events of byte progress, for all calls of it."""
        self.turn = asyncio.Lock()
        """Calls take a part over one after the other."""


class Uploads:
    """All uploads of one server.

    Args:
        stores: by name, started.
        folder: where uploads to stores without a staging folder of their own are staged.
        load: an operation by its uid, live or ended.
    """

    def __init__(
        self, store: Store, clock: Clock, stores: Mapping[str, ByteStore], folder: Path,
        load: Callable[[bytes], Awaitable[OperationRecord]],
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self._stores = stores
        self._load = load
        self._open: dict[bytes, _Open] = {}
        self._turns = Turns(store, clock)
        self._files = Files(store, stores, folder, load, self._turns)
        self.placing = Placing(store, clock, stores, self._files.folder, load)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped: ServiceError | None = None
        self._started = asyncio.Event()
        self.bytes: Counter[str] = Counter()
        """How many have come since the start, by store."""

    @property
    def open(self) -> int:
        """How many uploads take bytes."""
        return len(self._open)

    async def start(self, pending: Iterable[bytes]) -> None:
        """Go on with what the last server left: `pending` are the operations whose uploads have not ended."""
        uids = []
        for uid in pending:
            try:
                record = await self._load(uid)
            except ServiceError as error:
                if error.reason is not Reason.OPERATION_NOT_FOUND:
                    raise
                continue  # deleted just now: callers come while the server starts, too
            self.follow(record)
            uids.append(uid)
        # Afterwards: of one that fails meanwhile, `follow` removes the files that this keeps.
        for folder in {self._files.folder(name) for name in self._stores}:
            await in_thread(staging.sweep, folder, uids)
        self._started.set()
        self.placing.start(uids)

    # What calls do.

    @contextlib.asynccontextmanager
    async def sending(self, record: OperationRecord, part: int, total: int | None) -> AsyncIterator[Sending]:
        """Take a part over for the call whose task this is, until the block is left. Raises `ServiceError`.

        Whatever ends the call, what has come of it is written and recorded: that goes on when the block is left.
        """
        sending = await self._begin(record, part, total)
        try:
            yield sending
        except asyncio.CancelledError:
            if sending.refusal is None:
                raise
            # Not the caller has gone: it was ended from here, and is to be told why.
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            raise sending.refusal from None
        except ServiceError:
            # Told once everything before it is recorded: whoever is refused may ask at once how much that is.
            await sending.close()
            raise
        finally:
            sending.detach()
            self._spawn(self._end(sending, record.uid, part))

    def sender(self, uid: bytes, part: int) -> Sending | None:
        """The call that has this part."""
        entry = self._open.get(uid)
        return None if entry is None else entry.sendings.get(part)

    async def _begin(self, record: OperationRecord, part: int, total: int | None) -> Sending:
        """Take a part over, for the call whose task this is. Raises `ServiceError`."""
        if not 0 <= part < MAX_PARTS:
            raise invalid("header.part", f"must be 0 to {MAX_PARTS - 1}")
        upload = open_upload(record)
        uid = record.uid
        if total is not None:
            self._check_size(uid, upload, total)
            if total < upload.committed:
                raise ServiceError(
                    Reason.SIZE_MISMATCH, f"{upload_name(uid)} has {upload.committed} bytes, and will have {total}?",
                    resource=upload_name(uid), metadata={"committed_size": str(upload.committed)},
                )  # fmt: skip
        if upload.refuse_existing and not upload.committed:
            # Said before the bytes come, and not only after.
            await self.placing.check_free(uid, upload)
        while True:
            # Only of what takes bytes something is remembered: nothing would end it otherwise.
            open_upload(await self._load(uid))
            # Another call may have ended, and this been forgotten, while this one waited for its turn.
            entry = self._open.setdefault(uid, _Open())
            async with entry.turn:
                if self._stopped is not None:
                    raise self._stopped
                upload = open_upload(await self._load(uid))
                before = entry.sendings.get(part)
                if before is not None:
                    await self._take_over(entry, uid, before)
                    upload = open_upload(await self._load(uid))
                if self._open.get(uid) is not entry:
                    continue
                file = self._part(entry, uid, upload.store, part)
                size = upload.parts[part] if part < len(upload.parts) else 0
                await self._files.open(uid, file, size)
                if self._open.get(uid) is not entry:
                    # It has failed meanwhile: nobody would end this call, and the file may be there anew.
                    await in_thread(file.close)
                    await self._remove(uid, upload.store, ())
                    continue
                sending = entry.sendings[part] = Sending(
                    self._store.writer, self._clock, uid, part, file, entry.pace, total, self._turns
                )
                return sending

    async def write(
        self, record: OperationRecord, sending: Sending, offset: int, data: bytes, crc32c: int | None
    ) -> None:
        """Take a chunk, once there is room. Raises `ServiceError`, for what was wrong with one before, too."""
        upload, name, size = _upload(record), upload_name(record.uid), len(data)
        if size > MAX_CHUNK:
            raise invalid("chunk.data", f"must not be larger than {MAX_CHUNK} bytes; send several chunks")
        if upload.require_checksum and crc32c is None:
            raise ServiceError(
                Reason.CHECKSUM_REQUIRED, f"{name}: every chunk must come with its CRC32C.", resource=name
            )
        if offset != sending.position:
            await sending.settle()
            raise ServiceError(
                Reason.WRONG_OFFSET, f"{name}: the chunk begins at {offset}, and {sending.position} is next.",
                resource=name, metadata={"committed_size": str(sending.position)},
            )  # fmt: skip
        others = sum(upload.parts[: sending.part]) + sum(upload.parts[sending.part + 1 :])
        self._check_size(record.uid, upload, others + sending.position + size)
        await sending.write(data, crc32c)
        self.bytes[upload.store] += size

    async def _end(self, sending: Sending, uid: bytes, part: int) -> None:
        """The call is over: what has come of it is written and recorded."""
        await sending.close()
        entry = self._open.get(uid)
        if entry is not None:
            if entry.sendings.get(part) is sending:
                del entry.sendings[part]

    async def commit(self, uid: bytes, own: Sending | None, total: int, sha256: bytes) -> OperationRecord:
        """The bytes are complete: check them, and put the object in its place. Repeatable. Raises `ServiceError`.

        `own`: the call that says so; others, if there are any, are stale by now.
        """
        record = await self._load(uid)
        upload = _upload(record)
        if upload.state is UploadState.OPEN:
            committing.check_wanted(uid, upload, sha256)
            if own is not None:
                await own.settle()
                own.detach()
            # Without one, it has ended by now.
            entry = self._open.get(uid) or _Open()
            async with entry.turn:
                for sending in list(entry.sendings.values()):
                    if sending is not own:
                        await self._take_over(entry, uid, sending)
                record = await self._load(uid)
                upload = _upload(record)
                if upload.state is UploadState.OPEN:
                    # Parts that came at the same time did not know of each other.
                    self._check_size(uid, upload, upload.committed)
                    record = await committing.commit(
                        self._store, self._files, uid, upload, self._part(entry, uid, upload.store, 0), total, sha256,
                        is_open=0 in entry.sendings, given_up=lambda: self._open.get(uid) is not entry,
                    )  # fmt: skip
        if upload.state is not UploadState.OPEN:
            committing.check_same(uid, upload, total, sha256)
        if _upload(record).state is UploadState.COMMITTING:
            # Until then nobody sees to what the last server has left.
            await self._started.wait()
            if self._stopped is not None:
                raise self._stopped
            record = await self.placing.outcome(uid) or await self._load(uid)
        if _upload(record).state is not UploadState.COMMITTED:
            raise upload_refusal(uid, _upload(record))
        return record

    async def query(self, uid: bytes) -> OperationRecord:
        """The upload as it is, with what has come by now recorded, as far as that can be done."""
        entry = self._open.get(uid)
        for sending in list(entry.sendings.values()) if entry is not None else ():
            with contextlib.suppress(ServiceError):
                await sending.record()
        return await self._load(uid)

    async def abort(self, uid: bytes) -> OperationRecord:
        """Give it up. One that has ended stays as it is. Raises `ServiceError` (UPLOAD_COMMITTED) for one that is on
        its way to its place."""
        record = await self._store.writer.submit(FailUpload(uid, Reason.UPLOAD_ABORTED))
        if _upload(record).state is UploadState.COMMITTING:
            raise upload_refusal(uid, _upload(record))
        return record

    # What commits bring.

    def follow(self, record: OperationRecord) -> None:
        """The operation's upload is as `record` says: what has to follow is set off."""
        upload, uid = _upload(record), record.uid
        if upload.state is UploadState.OPEN:
            entry = self._open.get(uid)
            if entry is None:
                entry = self._open[uid] = _Open()
            if entry.timer is None and self._stopped is None:
                entry.timer = self._clock.call_at(upload.expires or 0, lambda: self._due(uid))
            return
        if upload.state is UploadState.COMMITTING and self._stopped is None:
            self.placing.begin(record)
        entry = self._open.pop(uid, None)
        if entry is None:
            return
        if entry.timer is not None:
            entry.timer.cancel()
        refusal = upload_refusal(uid, upload)
        for sending in entry.sendings.values():
            sending.stop(refusal)
        if upload.state is UploadState.FAILED:
            self._spawn(self._remove(uid, upload.store, list(entry.sendings.values())))

    def stop(self, refusal: ServiceError) -> None:
        """The server drains: calls end with `refusal`, and what they have sent is recorded."""
        self._stopped = refusal
        self._started.set()
        for entry in self._open.values():
            if entry.timer is not None:
                entry.timer.cancel()
            for sending in entry.sendings.values():
                sending.stop(refusal)

    def abandon(self) -> None:
        """For tests: record nothing more, as if the process had been killed."""
        self._stopped = ServiceError(Reason.SERVER_DRAINING, Reason.SERVER_DRAINING.meaning)
        for entry in self._open.values():
            if entry.timer is not None:
                entry.timer.cancel()
            for sending in entry.sendings.values():
                sending.abandon()
        self.placing.abandon()
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """What calls have sent is recorded. After `stop`."""
        for entry in list(self._open.values()):
            for sending in list(entry.sendings.values()):
                await sending.close()
        assert self._stopped is not None
        await self.placing.close(self._stopped)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def end(self) -> None:
        """Let go of what `close` and `abandon` leave: no call is under way any more."""
        self._turns.end()

    def _due(self, uid: bytes) -> None:
        entry = self._open.get(uid)
        if entry is not None:
            entry.timer = None
            self._spawn(self._expire(uid))

    async def _expire(self, uid: bytes) -> None:
        """Its time is up, unless bytes have come that are not recorded yet."""
        entry = self._open.get(uid)
        if entry is None:
            return
        try:
            async with entry.turn:
                # A commit that is under way comes first: its bytes are all there.
                record = await self.query(uid)
                if _upload(record).state is UploadState.OPEN:
                    # With bytes since, it has a new time, and changes nothing.
                    self.follow(await self._store.writer.submit(FailUpload(uid, Reason.UPLOAD_EXPIRED, overdue=True)))
        except ServiceError as error:
            if error.reason is not Reason.OPERATION_NOT_FOUND:
                log.warning("%s has not been let go of: %s", upload_name(uid), error.message)

    async def _remove(self, uid: bytes, store: str, sendings: Iterable[Sending]) -> None:
        """Drop the bytes of an upload that has failed, once nobody writes to them any more."""
        for sending in sendings:
            await sending.close()
        await self._files.remove(uid, store)

    async def _take_over(self, entry: _Open, uid: bytes, sending: Sending) -> None:
        """End the call that has a part, once what it has sent is recorded. Until then it has the part, whatever
        becomes of who takes it over."""
        name = upload_name(uid)
        problem = f"Another call has taken over part {sending.part} of {name}."
        sending.stop(ServiceError(Reason.UPLOAD_PREEMPTED, problem, resource=name))
        await sending.close()
        if entry.sendings.get(sending.part) is sending:
            del entry.sendings[sending.part]

    def _part(self, entry: _Open, uid: bytes, store: str, part: int) -> StagedPart:
        if part not in entry.parts:
            entry.parts[part] = self._files.part(uid, store, part)
        return entry.parts[part]

    def _check_size(self, uid: bytes, upload: UploadRecord, size: int) -> None:
        limit = self._stores[upload.store].max_object_bytes
        if upload.max_bytes:
            limit = min(limit, upload.max_bytes)
        if size > limit:
            raise ServiceError(
                Reason.UPLOAD_TOO_LARGE, f"{upload_name(uid)} may have {limit} bytes, and not {size}.",
                resource=upload_name(uid), metadata={"limit": str(limit)},
            )  # fmt: skip

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _upload(record: OperationRecord) -> UploadRecord:
    if record.upload is None:
        name = upload_name(record.uid)
        raise ServiceError(Reason.UPLOAD_NOT_FOUND, f"There is no {name}.", resource=name)
    return record.upload
