"""Uploads and downloads: bytes that became durable elsewhere, told here.

An upload may come to its end after its operation has: that is no part of the operation's revisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from longshore_server.errors import Reason, ServiceError
from longshore_server.lifecycle import Move, UploadState
from longshore_server.store import transfers
from longshore_server.store.mutations.base import Mutation, current, not_ended
from longshore_server.store.record import JournalEntry, OperationRecord
from longshore_server.store.transaction import Transaction
from longshore_server.store.transfers import DownloadRecord, UploadRecord, download_name, upload_name


def upload_refusal(uid: bytes, upload: UploadRecord) -> ServiceError:
    """Why an upload that is not open takes no bytes."""
    name = upload_name(uid)
    if upload.state is UploadState.FAILED:
        reason = Reason[upload.reason]
        return ServiceError(reason, f"{name} has failed: {reason.meaning}", resource=name)
    return ServiceError(Reason.UPLOAD_COMMITTED, f"{name} takes no more bytes: it is committed.", resource=name)


def open_upload(head: OperationRecord) -> UploadRecord:
    """The operation's upload, which takes bytes. Raises `ServiceError` with why it takes none."""
    name, upload = upload_name(head.uid), head.upload
    if upload is None:
        raise ServiceError(Reason.UPLOAD_NOT_FOUND, f"There is no {name}.", resource=name)
    if upload.state is not UploadState.OPEN:
        raise upload_refusal(head.uid, upload)
    return upload


def _ending(tx: Transaction, head: OperationRecord, upload: UploadRecord) -> OperationRecord:
    """The upload has come to its end: an event, unless its operation had come to its own before."""
    return tx.amend(head, upload=upload) if head.terminal else tx.make(head, Move.TRANSFER, upload=upload)


@dataclass(slots=True)
class AdvanceUpload(Mutation[OperationRecord]):
    """So many bytes of a part are durable. `tell`: with an event. `total`: what the caller says that there will be."""

    uid: bytes
    part: int
    size: int
    tell: bool
    total: int | None = None

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        upload = open_upload(head)
        parts = [*upload.parts, *[0] * (self.part + 1 - len(upload.parts))]
        # Only bytes give it more time.
        expires = tx.now + upload.expiry if self.size > parts[self.part] else upload.expires
        parts[self.part] = max(parts[self.part], self.size)
        total = upload.total if self.total is None else self.total
        facts: dict[str, Any] = {"upload": upload._replace(parts=tuple(parts), expires=expires, total=total)}
        return tx.make(head, Move.TRANSFER, **facts) if self.tell else tx.note(head, **facts)


@dataclass(slots=True)
class CommitUpload(Mutation[OperationRecord]):
    """The bytes are complete, checked and durable: what remains is the object's way to its place."""

    uid: bytes
    parts: Sequence[int]
    sha256: bytes
    crc32c: int

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        upload = open_upload(head)
        return tx.note(
            head,
            upload=upload._replace(
                state=UploadState.COMMITTING, parts=tuple(self.parts), total=sum(self.parts), sha256=self.sha256,
                crc32c=self.crc32c, expires=None, turn=transfers.next_turn(tx.connection),
            ),
        )  # fmt: skip


@dataclass(slots=True)
class PlaceUpload(Mutation[OperationRecord]):
    """How far putting the object in its place has come, in its store's own terms."""

    uid: bytes
    progress: bytes

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        assert head.upload is not None
        return tx.amend(head, upload=head.upload._replace(progress=self.progress))


@dataclass(slots=True)
class FinishUpload(Mutation[OperationRecord]):
    """The object is durable in its store. Repeatable."""

    uid: bytes

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        upload = head.upload
        if upload is None or upload.state is not UploadState.COMMITTING:
            return head
        done = upload._replace(state=UploadState.COMMITTED, progress=b"", ended=max(tx.now, head.updated))
        return _ending(tx, head, done)


@dataclass(slots=True)
class FailUpload(Mutation[OperationRecord]):
    """The upload comes to nothing, if it stands in one of `states`; `overdue`: if it has expired as well.

    `reason` is one of `Reason`. Changes nothing else where it has ended, or where bytes have come meanwhile.
    """

    uid: bytes
    reason: Reason
    states: frozenset[UploadState] = frozenset({UploadState.OPEN})
    overdue: bool = False

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        upload = head.upload
        if upload is None or upload.state not in self.states:
            return head
        if self.overdue and (upload.expires is None or upload.expires > tx.now):
            return head
        return _ending(tx, head, upload.failed(self.reason.name, max(tx.now, head.updated)))


@dataclass(slots=True)
class OfferDownload(Mutation[OperationRecord]):
    """The handler, by a journal entry of its attempt, or the provider, without one, offers bytes.

    `download.number` is decided here. The outcome of the entry is that number: a re-run gets the same offer.
    """

    uid: bytes
    download: DownloadRecord
    entry: JournalEntry | None

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        head = not_ended(head) if self.entry is None else current(head, self.entry.attempt)
        if len(head.downloads) >= transfers.MAX_DOWNLOADS:
            raise ServiceError(
                Reason.TOO_MANY_TRANSFERS, f"{head.name} offers {transfers.MAX_DOWNLOADS} downloads already.",
                resource=head.name, retry_after=1.0,
            )  # fmt: skip
        download = self.download._replace(number=len(head.downloads) + 1)
        record = tx.make(
            head, Move.OFFER, transfers.offered_event(self.uid, download), downloads=(*head.downloads, download)
        )
        if self.entry is not None:
            tx.note_journal(self.uid, self.entry._replace(outcome=str(download.number).encode()))
        return record


def download_of(head: OperationRecord, number: int) -> DownloadRecord:
    """One of what the operation offers. Raises `ServiceError` (DOWNLOAD_NOT_FOUND)."""
    if not 1 <= number <= len(head.downloads):
        name = download_name(head.uid, number)
        raise ServiceError(Reason.DOWNLOAD_NOT_FOUND, f"There is no {name}.", resource=name)
    return head.downloads[number - 1]


@dataclass(slots=True)
class RevokeDownload(Mutation[OperationRecord]):
    """An offer is taken back. Repeatable."""

    uid: bytes
    number: int

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        download = download_of(head, self.number)
        if download.revoked:
            return head
        downloads = list(head.downloads)
        downloads[self.number - 1] = download._replace(revoked=True)
        facts = {"downloads": tuple(downloads)}
        return tx.amend(head, **facts) if head.terminal else tx.note(head, **facts)


@dataclass(slots=True)
class UseDownload(Mutation[None]):
    """Count a use, where uses are counted. Raises `ServiceError` (DOWNLOAD_USED_UP)."""

    uid: bytes
    number: int
    use_id: str

    def apply(self, tx: Transaction) -> None:
        head = tx.head(self.uid)
        download = download_of(head, self.number)
        tx.flush()  # what it belongs to may not be a row yet
        if not transfers.use(tx.connection, self.uid, self.number, self.use_id, download.max_uses):
            name = download_name(head.uid, self.number)
            raise ServiceError(
                Reason.DOWNLOAD_USED_UP, f"{name} was fetched {download.max_uses} times, as often as it may be.",
                resource=name,
            )  # fmt: skip


@dataclass(slots=True)
class ForgetGarbage(Mutation[None]):
    """Of these, nothing is left in their stores."""

    ids: Sequence[int]

    @property
    def patient(self) -> bool:
        return True

    def apply(self, tx: Transaction) -> None:
        tx.connection.executemany("DELETE FROM garbage WHERE id = ?", [(id,) for id in self.ids])


@dataclass(slots=True)
class MarkPlace(Mutation[None]):
    """A store keeps its objects in the place that bears this mark."""

    store: str
    mark: str

    def apply(self, tx: Transaction) -> None:
        tx.connection.execute("INSERT INTO places (store, mark) VALUES (?, ?)", (self.store, self.mark))
