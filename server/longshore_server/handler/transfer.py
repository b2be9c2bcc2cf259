"""`op.transfer`: the bytes of an operation, as its handler sees them: those that come, and those that it offers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import google_crc32c

from longshore_server.clock import Clock
from longshore_server.contract.types import OperationType
from longshore_server.errors import Reason
from longshore_server.handler import offers
from longshore_server.handler.durable import outlasting
from longshore_server.handler.journal import Asked, Journal, place
from longshore_server.handler.offers import Objects, Offer, Terms, TransferError
from longshore_server.handler.signals import Published
from longshore_server.lifecycle import UploadState
from longshore_server.store.mutations import OfferDownload, RevokeDownload
from longshore_server.store.record import OperationRecord
from longshore_server.store.transfers import UploadRecord, upload_name

if TYPE_CHECKING:
    from longshore_server.store.writer import Writer

KIND = "offer"
"""The kind of journal entries: which download a call has made."""


@dataclass(frozen=True)
class ReceivedObject:
    """An object that a caller has sent: durable in its store."""

    store: str
    """The store's name, as in `server.stores[name]`."""
    key: str
    size: int
    """Bytes."""
    sha256: str
    """In hexadecimal."""
    crc32c: int
    content_type: str
    """Empty: the caller said none."""
    metadata: dict[str, str]


class ByteProgress(NamedTuple):
    """How far an upload has come."""

    transferred: int
    """How many bytes are durable."""
    total: int | None
    """How many there will be; None: nobody has said it yet."""


class Transfer:
    """The bytes of one operation, in one attempt."""

    def __init__(
        self, type: OperationType, record: OperationRecord, source: Published, journal: Journal, writer: Writer,
        clock: Clock, objects: Objects,
    ) -> None:  # fmt: skip
        self._type = type
        self._uid, self._attempt = record.uid, record.attempt
        self._source = source
        self._journal = journal
        self._writer = writer
        self._clock = clock
        self._objects = objects

    async def completed(self) -> ReceivedObject:
        """The object that the caller sends, once it is durable in its store. A re-run gets it again at once.

        Raises `TransferError` when the upload fails: UPLOAD_EXPIRED, UPLOAD_ABORTED (also by a request to cancel the
        operation), DIGEST_MISMATCH and others; `RuntimeError` when the contract has callers send nothing.
        """
        while (upload := self._upload()).ended is None:
            await self._change()
        if upload.state is UploadState.FAILED:
            reason = Reason[upload.reason]
            raise TransferError(reason, f"{upload_name(self._uid)} has failed: {reason.meaning}", final=True)
        return ReceivedObject(
            upload.store, upload.key, upload.committed, upload.sha256.hex(), upload.crc32c, upload.content_type,
            dict(upload.metadata),
        )  # fmt: skip

    async def updates(self) -> AsyncGenerator[ByteProgress]:
        """How far the upload has come: now, and whenever that has changed; whoever is slow misses what lies between.

        Ends with the upload, whether that is committed or has failed. Raises `RuntimeError` as `completed` does.
        """
        told: ByteProgress | None = None
        while True:
            upload = self._upload()
            found = ByteProgress(upload.committed, upload.total)
            if found != told:
                told = found
                yield found
            elif upload.ended is None:
                await self._change()
            else:
                return

    async def open(self, offset: int = 0) -> AsyncGenerator[bytes]:
        """The bytes of the object that the caller sends, once they are `completed`, in chunks of 1 MiB at most.

        Close it (`contextlib.aclosing`) where it is not read to its end.

        Args:
            offset: where to begin, in bytes; at most the size. Default: at the beginning.

        Raises `TransferError` as `completed` does; OBJECT_NOT_FOUND, STORE_UNAVAILABLE; OBJECT_CORRUPT when the key has
        another object by now, and at the end of all bytes when they are not those that were sent. `ValueError` for an
        offset that the object does not have.
        """
        received = await self.completed()
        if type(offset) is not int or not 0 <= offset <= received.size:
            raise ValueError(f"cannot begin at {offset!r}: the object has {received.size} bytes")
        crc32c = 0
        await self._check(received)
        async with contextlib.aclosing(self._objects.open(received.store, received.key, offset)) as chunks:
            first = await anext(chunks, b"")
            # What is held on to is what was checked, unless another has taken the key between the two.
            await self._check(received)
            if first:
                crc32c = google_crc32c.value(first)
                yield first
            async for chunk in chunks:
                crc32c = google_crc32c.extend(crc32c, chunk)
                yield chunk
        if offset == 0 and crc32c != received.crc32c:
            raise TransferError(Reason.OBJECT_CORRUPT)

    def offer(
        self, key: str, *, store: str | None = None, filename: str = "", content_type: str | None = None,
        expires_in: float | timedelta | None = None, max_uses: int | None = None, url: bool = False,
        name: str | None = None,
    ) -> Coroutine[Any, Any, Offer]:  # fmt: skip
        """Offer an object to the callers that may observe the operation; durable and visible when this returns.

        An entry of the journal: a re-run gets the offer that an earlier attempt made.

        Args:
            key: the object's.
            store: its store. Default: the contract's.
            filename: what a person would call it, without slashes. Default: the last part of the key.
            content_type: default: what the store knows.
            expires_in: how long, in seconds or as a timedelta. Default: as the contract says where it has callers
                fetch, else an hour.
            max_uses: how often, at most as often as the contract says; 0: as often as one likes. Default: as the
                contract says.
            url: with a URL of the store itself, for HTTP GET without credentials; its uses cannot be counted.
            name: tells several offers of one key in one handler apart. Default: the key.

        Raises `TransferError` (OBJECT_NOT_FOUND; NOT_SUPPORTED where the store has no URLs; STORE_UNAVAILABLE),
        `ServiceError` when the operation may offer nothing (any more), `ValueError` for terms that mean nothing,
        `DuplicateNameError` and `NonDeterministicError` as steps do.
        """
        terms = Terms.said(key, store, filename, content_type, expires_in, max_uses, url)
        # No coroutine itself: in a task of its own it would find only asyncio as its caller.
        return self._offer(terms, key if name is None else name, place(2))

    async def _offer(self, terms: Terms, name: str, where: str) -> Offer:
        claimed = await self._journal.claim(KIND, name, where)
        asked = Asked(*terms)
        entry = self._journal.recorded(claimed, asked)
        if entry is not None:
            return Offer.of(self._source.record, int(entry.outcome))
        made = self._journal.entry(claimed, self._attempt, asked, "number")
        drawing = asyncio.ensure_future(offers.draw_up(self._type, self._objects, terms, self._clock.now()))

        async def offered() -> OperationRecord:
            return await self._writer.submit(OfferDownload(self._uid, await drawing, made))

        try:
            record = await self._journal.write(
                claimed, offered(), lambda record: made._replace(outcome=str(len(record.downloads)).encode())
            )
        finally:
            # Whoever is cancelled waits for no store any more, and nobody after it: what is written is written.
            drawing.cancel()
        return Offer.of(record, len(record.downloads))

    async def revoke(self, name: str) -> None:
        """Take an offer of this operation back, durably: it can be fetched no more, and calls that fetch it end.

        Args:
            name: the offer's, `downloads/{uid}.{number}`. Any other raises `ValueError`.
        """
        await self._writer.submit(RevokeDownload(self._uid, offers.number_of(self._source.record, name)))

    async def _check(self, received: ReceivedObject) -> None:
        """Raises `TransferError` where the key has another object, or none."""
        if (await self._objects.stat(received.store, received.key)).sha256 != received.sha256:
            raise TransferError(Reason.OBJECT_CORRUPT)

    def _upload(self) -> UploadRecord:
        upload = self._source.record.upload
        if upload is None:
            raise RuntimeError(f"the contract of {self._type.name} has callers send nothing")
        return upload

    async def _change(self) -> None:
        future = self._source.changed()
        try:
            with outlasting():
                await future
        finally:
            self._source.forget(future)
