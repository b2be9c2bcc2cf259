"""Downloads: which object one means, whether it may be fetched now, and its bytes.

A download is looked at when it begins: neither its expiry nor another object at its key ends one that is under way.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from longshore_server.clock import Clock
from longshore_server.errors import Reason, ServiceError, invalid
from longshore_server.ids import parse_uid
from longshore_server.store.ledger import Published
from longshore_server.store.mutations import RevokeDownload, UseDownload
from longshore_server.store.mutations.transfer import download_of
from longshore_server.store.record import OperationRecord
from longshore_server.store.store import Store as Operations
from longshore_server.store.transfers import DownloadRecord, download_name
from longshore_server.transfers.checksums import Checksums
from longshore_server.transfers.messages import Framing, Messages
from longshore_server.transfers.objects import ObjectError, ObjectInfo
from longshore_server.transfers.stores import Store

log = logging.getLogger(__name__)

_NAME = re.compile(r"downloads/([0-9a-f-]{36})\.([1-9][0-9]{0,8})")


class Asked(NamedTuple):
    """What of a download a caller wants."""

    offset: int
    limit: int
    """0: all that follows."""
    use_id: str
    """Empty: it is a use of its own."""
    sha256: bytes
    """Of the object that it must be; empty: any."""


def parse(name: str, field: str = "name") -> tuple[bytes, int]:
    """The uid and the number in a download's name, which the request has in `field`.

    Raises `ServiceError` (INVALID_NAME).
    """
    match = _NAME.fullmatch(name)
    uid = None if match is None else parse_uid(match[1])
    if match is None or uid is None:
        problem = f"{name[:200]!r} is not of the form downloads/{{uid}}.{{number}}"
        raise invalid(field, problem, reason=Reason.INVALID_NAME)
    return uid, int(match[2])


def not_found(name: str) -> ServiceError:
    """The refusal of a name that nothing has, or nothing that the caller may see."""
    return ServiceError(Reason.DOWNLOAD_NOT_FOUND, f"There is no {name}.", resource=name)


class Downloads:
    """All downloads of this server.

    Args:
        stores: where objects are, by name.
        operations: where uses and revocations are recorded.
        clock: tells which have expired.
    """

    def __init__(self, stores: Mapping[str, Store], operations: Operations, clock: Clock) -> None:
        self._stores = stores
        self._operations = operations
        self._clock = clock
        self._open: dict[bytes, set[Reading]] = {}
        self._draining: ServiceError | None = None
        self.bytes: Counter[str] = Counter()
        """How many have gone out since the start, by store."""

    def publish(self, commit: Mapping[bytes, Published]) -> None:
        """End what is under way of downloads that a commit has revoked, or has deleted with their operation."""
        for uid in self._open.keys() & commit.keys():
            record = commit[uid].record
            for reading in self._open[uid]:
                if record is None:
                    reading.end(not_found(reading.name))
                elif record.downloads[reading.number - 1].revoked:
                    reading.end(_revoked(reading.name))

    def end(self, reason: ServiceError) -> None:
        """End every download, and every later one, with `reason`."""
        self._draining = reason
        for readings in self._open.values():
            for reading in readings:
                reading.end(reason)

    async def revoke(self, uid: bytes, number: int) -> OperationRecord:
        """Take an offer back, durably. Repeatable. Raises `ServiceError` (DOWNLOAD_NOT_FOUND)."""
        return await self._operations.writer.submit(RevokeDownload(uid, number))

    @contextlib.asynccontextmanager
    async def open(
        self, record: OperationRecord, number: int, asked: Asked, framing: Framing, end: Callable[[ServiceError], None]
    ) -> AsyncIterator[Reading]:
        """Begin a download of an operation as it is published at this moment, in messages of that form; its use is
        counted.

        `end` ends the call that it is for, also where its caller takes nothing of what is sent.

        Raises `ServiceError`: DOWNLOAD_NOT_FOUND, DOWNLOAD_REVOKED, DOWNLOAD_EXPIRED, OBJECT_NOT_FOUND,
        DOWNLOAD_CHANGED, OFFSET_OUT_OF_RANGE, DOWNLOAD_USED_UP or UNAVAILABLE.
        """
        download = download_of(record, number)
        name = download_name(record.uid, number)
        if self._draining is not None:
            raise self._draining
        if download.revoked:
            raise _revoked(name)
        if self._clock.now() >= download.expires:
            raise ServiceError(Reason.DOWNLOAD_EXPIRED, f"{name} has expired.", resource=name)
        store = self._stores.get(download.store)
        if store is None:
            raise _gone(name)
        # Before the first await: what is published from here on reaches it.
        reading = Reading(name, download, asked, framing, store, end)
        readings = self._open.setdefault(record.uid, set())
        readings.add(reading)
        try:
            await reading.begin()
            if download.max_uses:
                use = UseDownload(record.uid, number, asked.use_id or secrets.token_hex(16))
                await self._operations.writer.submit(use)
            yield reading
        finally:
            self.bytes[download.store] += reading.sent
            readings.discard(reading)
            if not readings:
                self._open.pop(record.uid, None)
            await reading.close()


class Reading:
    """One download that is under way. It reads no further than its store fetches at once, and makes one message.

    Nothing else is read ahead: systems and stores do that, and a task for it would cost more than what is in memory.
    """

    def __init__(
        self, name: str, download: DownloadRecord, asked: Asked, framing: Framing, store: Store,
        end: Callable[[ServiceError], None],
    ) -> None:  # fmt: skip
        self.name = name
        self.download = download
        self.info: ObjectInfo
        """The object, once it has begun."""
        self.length = 0
        """How many bytes there are to send, once it has begun."""
        self._asked = asked
        self._framing = framing
        self._store = store
        self._checksums = Checksums()
        self._held = contextlib.AsyncExitStack()
        self._messages: Messages | None = None
        self._first = b""
        self.end = end

    @property
    def number(self) -> int:
        """Which download of its operation it is."""
        return self.download.number

    @property
    def sent(self) -> int:
        """How many bytes have gone out."""
        return 0 if self._messages is None else self._messages.taken

    @property
    def crc32c(self) -> int:
        """Of what is sent, once it has been."""
        return self._checksums.whole

    async def begin(self) -> None:
        """Find the object and hold on to its bytes. Raises `ServiceError`."""
        key = self.download.key
        with _refusing(self.name):
            while True:
                self.info = await self._store.stat(key)
                self.length = self._check(self.info)
                self._first, self._messages, self._checksums = b"", None, Checksums()
                if not self.length:
                    return
                offset, length = self._asked.offset, self.length
                reader = await self._held.enter_async_context(self._store.reader(key, offset, length))
                messages = self._messages = Messages(reader, self._framing, offset, length, self._checksums)
                self._first = await messages.next()
                # What it holds on to is what was checked, unless another has taken the key between the two.
                if await self._store.stat(key) == self.info:
                    return
                await self._held.aclose()

    async def batches(self) -> AsyncIterator[Iterable[bytes]]:
        """Its messages, each made when it is taken: those whose bytes are in memory pass no generator one by one.

        Raises `ServiceError`: OBJECT_CORRUPT, or UNAVAILABLE when the store gives no more.
        """
        message, self._first = self._first, b""
        with _refusing(self.name):
            while message and self._messages is not None:
                yield [message]
                yield self._messages.at_hand()
                message = await self._messages.next()
        whole = self.length == self.info.size
        if self.sent != self.length or (whole and self.info.crc32c not in (None, self.crc32c)):
            log.error("the object %s of store %s is corrupt", self.download.key, self.download.store)
            raise ServiceError(
                Reason.OBJECT_CORRUPT, f"{self.name}: {Reason.OBJECT_CORRUPT.meaning}", resource=self.name
            )

    async def close(self) -> None:
        """Let go of the object. Repeatable."""
        await self._held.aclose()

    def _check(self, info: ObjectInfo) -> int:
        """How many bytes of the object are wanted. Raises `ServiceError` when it is not the one that is meant."""
        for meant in (self._asked.sha256, self.download.sha256):
            if meant and meant.hex() != info.sha256:
                raise ServiceError(
                    Reason.DOWNLOAD_CHANGED, f"{self.name}: another object has its key by now.", resource=self.name
                )
        rest = info.size - self._asked.offset
        if not 0 <= rest <= info.size:
            raise ServiceError(
                Reason.OFFSET_OUT_OF_RANGE, f"{self.name} has {info.size} bytes.", resource=self.name,
                metadata={"size": str(info.size)},
            )  # fmt: skip
        return min(rest, self._asked.limit) if self._asked.limit else rest


def _revoked(name: str) -> ServiceError:
    return ServiceError(Reason.DOWNLOAD_REVOKED, f"{name} was taken back.", resource=name)


def _gone(name: str) -> ServiceError:
    return ServiceError(Reason.OBJECT_NOT_FOUND, f"{name}: no object has its key.", resource=name)


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """What a store could not do, as callers are told: without the key, which is the service's own."""
    try:
        yield
    except ObjectError as error:
        if error.reason is not Reason.STORE_UNAVAILABLE:
            raise _gone(name) from None
        log.warning("%s cannot be read: %s", name, error)
        raise ServiceError(
            Reason.STORE_UNAVAILABLE, f"{name}: its store cannot be read now; try again.", resource=name,
            retry_after=5.0,
        ) from None  # fmt: skip
