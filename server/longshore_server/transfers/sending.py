"""One call that sends the bytes of one part: it takes chunks while a thread writes the ones before.

    chunk -> queue -> [CRC32C, write, hash, in a thread] -> sync -> record (a commit of the store) -> acknowledged

So many bytes wait for the disk as `Turns` allow: beyond that the call is not read, and the sender's window closes.
"""

from __future__ import annotations

import asyncio
import errno
import logging

from longshore_server.clock import Clock
from longshore_server.errors import Reason, ServiceError
from longshore_server.store.mutations import AdvanceUpload
from longshore_server.store.record import OperationRecord
from longshore_server.store.transfers import upload_name
from longshore_server.store.writer import Writer
from longshore_server.transfers.staging import Chunk, CorruptError, LostError, StagedPart
from longshore_server.transfers.threads import in_thread
from longshore_server.transfers.turns import Pace, Turns

log = logging.getLogger(__name__)

SYNC = 16 << 20
"""After so many bytes the disk is told to begin: one large sync would hold up everybody else's commits."""
OVERHEAD = 256
"""What a chunk counts besides its bytes: an empty one takes memory too."""


class Sending:
    """The one call that has a part. Made in the task of that call.

    Args:
        file: the part, open.
        pace: of the upload's byte progress.
        total: how many bytes the caller says that the object will have, if it does.
        turns: of all calls.
    """

    def __init__(
        self, writer: Writer, clock: Clock, uid: bytes, part: int, file: StagedPart, pace: Pace, total: int | None,
        turns: Turns,
    ) -> None:  # fmt: skip
        self._writer = writer
        self._clock = clock
        self._uid = uid
        self.part = part
        self._file = file
        self._total = total
        self._turns = turns
        self._pace = pace
        self.position = file.size
        """Where the next byte belongs."""
        self.refusal: ServiceError | None = None
        """Why it may send no more."""
        self.succeeded = False
        """Whether another call has its place already, and is about to take the part over."""
        self._task = asyncio.current_task()
        self._recorded = file.size
        self._looked = 0  # when something was last recorded
        self._queue: list[Chunk] = []
        self._waiting = 0
        self._begun = file.size  # up to where a sync has begun
        self._syncing: asyncio.Task[None] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._failure: Exception | None = None
        self._told = False
        self._recording = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None
        self._closed = False
        turns.calls += 1

    @property
    def idle(self) -> bool:
        """Whether nothing has come since what is recorded."""
        return self.position == self._recorded

    async def write(self, data: bytes, crc32c: int | None) -> None:
        """Take the next bytes, once there is room. Raises `ServiceError` for what went wrong before."""
        self._check()
        self._queue.append(Chunk(data, crc32c))
        self._waiting += len(data) + OVERHEAD
        self.position += len(data)
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._write())
        while self._waiting > self._turns.ahead and self._failure is None:
            self._room.clear()
            await self._room.wait()

    async def settle(self) -> OperationRecord | None:
        """Everything that has come is durable and recorded; None: it was before. Raises `ServiceError`.

        What came before something that went wrong is recorded all the same.
        """
        while self._pump is not None:
            await asyncio.shield(self._pump)
        record = await self.record()
        self._check()
        return record

    async def record(self) -> OperationRecord | None:
        """What is written is durable and recorded; None: it was before. Raises `ServiceError`."""
        async with self._recording:
            size = self._file.size
            if self._closed or (size == self._recorded and self._total is None):
                return None
            try:
                await self._turns.run(self._file.sync)
            except OSError as error:
                self._tell(error)
                raise failed(self._uid, error) from error
            total, self._total = self._total, None
            tell = size > self._recorded and self._pace.due(self._clock.now())
            record = await self._writer.submit(AdvanceUpload(self._uid, self.part, size, tell, total))
            self._recorded = size
            self._looked = self._clock.now()
            return record

    def stop(self, refusal: ServiceError) -> None:
        """The call may send no more: it ends with `refusal` as soon as it would read on."""
        if self.refusal is None:
            self.refusal = refusal
            if self._task is not None and self._task is not asyncio.current_task():
                self._task.cancel()

    def detach(self) -> None:
        """The call reads no more: nothing has to interrupt it."""
        self._task = None

    def abandon(self) -> None:
        """For tests: write nothing more, as if the process had been killed."""
        self._task = None
        for task in (self._pump, self._syncing, self._closing):
            if task is not None:
                task.cancel()

    async def close(self) -> None:
        """Write and record what has come, as far as that goes, and let go of the file. Repeatable."""
        self._task = None
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            await self.settle()
        except ServiceError:
            pass  # whoever was to be told is gone, or knows it
        finally:
            if self._syncing is not None:
                await asyncio.wait([self._syncing])
            async with self._recording:
                # Whoever asks from here on is told what is recorded: another call may have the file.
                self._closed = True
                self._turns.calls -= 1
                await in_thread(self._file.close)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                chunks, self._queue = self._queue, []
                async with self._turns.turn():
                    await self._turns.run(self._file.write, chunks)
                self._waiting -= sum(len(chunk.data) + OVERHEAD for chunk in chunks)
                self._room.set()
                if self._file.size - self._begun >= SYNC and (self._syncing is None or self._syncing.done()):
                    self._begun = self._file.size
                    self._syncing = loop.create_task(self._sync())
                elif self._turns.may_record(self._looked):
                    await self.record()
        except Exception as error:  # noqa: BLE001 - told to whoever sends, by `_check`
            if isinstance(error, OSError):
                self._tell(error)
            # Kept until the call ends: not with every frame that it has passed, and what these hold.
            error.__traceback__ = error.__context__ = error.__cause__ = None
            self._failure = error
            self._queue.clear()
            self._waiting = 0
        finally:
            self._pump = None
            self._room.set()

    async def _sync(self) -> None:
        """The disk begins with what is written, while more is. Its failure is found by the sync that counts."""
        try:
            await self._turns.run(self._file.sync)
        except OSError:
            return

    def _tell(self, error: OSError) -> None:
        """Tell operators, once a call: callers can do no more than come again."""
        if not self._told:
            self._told = True
            log.error("%s: %s cannot be written: %s", upload_name(self._uid), self._file.path, error.strerror or error)

    def _check(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        if self._failure is not None:
            raise failed(self._uid, self._failure)


def failed(uid: bytes, error: Exception) -> ServiceError:
    """What a caller is told when its bytes cannot be kept."""
    name = upload_name(uid)
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, CorruptError):
        return ServiceError(
            Reason.CHUNK_CORRUPT,
            f"{name}: a chunk's CRC32C does not fit its bytes; they were changed on their way.", resource=name,
        )  # fmt: skip
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ServiceError(
            Reason.STORE_FULL, f"{name}: there is no room for more bytes; what is committed is kept.", resource=name,
            retry_after=5.0,
        )  # fmt: skip
    if isinstance(error, LostError):
        return ServiceError(Reason.OBJECT_CORRUPT, f"{name} has lost bytes that were acknowledged.", resource=name)
    if isinstance(error, OSError):
        return ServiceError(
            Reason.STORE_UNAVAILABLE, f"{name}: its bytes cannot be written or read now.", resource=name,
            retry_after=5.0,
        )  # fmt: skip
    raise error
