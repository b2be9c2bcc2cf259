"""Starts: a new operation, or the one that the same request started before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from longshore_server.errors import Reason, ServiceError
from longshore_server.store.mutations.base import Author, Mutation
from longshore_server.store.record import JournalEntry, OperationRecord
from longshore_server.store.transaction import RequestKey, Transaction

BY_HOST = "accepted"
"""The kind of the journal entry by which an operation is known that no handler was ever to run."""


class Accepted(NamedTuple):
    """What became of a start: the operation, and whether it is new."""

    record: OperationRecord
    created: bool


@dataclass(slots=True)
class Accept(Mutation[Accepted]):
    """Start an operation, or find the one that the same request started before.

    `refusal` is why no new operation may begin now (draining, too many): finding an old one is still possible.
    `visible` tells whether the caller may know of the one that has the name; None: of every one. `begin` makes it
    RUNNING in the same transaction: its handler has a free slot. `steps_of` is the uid of the ended operation
    with whose recorded steps it begins.
    """

    record: OperationRecord
    input: bytes
    digest: bytes
    template: bool
    renew: bool
    begin: bool
    refusal: ServiceError | None = None
    child: tuple[Author, JournalEntry] | None = None
    visible: Callable[[OperationRecord], bool] | None = None
    steps_of: bytes | None = None

    @property
    def patient(self) -> bool:
        return self.child is not None

    def apply(self, tx: Transaction) -> Accepted:
        record = self.record
        if self.child is not None:
            self.child[0].check(tx)
        existing = self._existing(tx)
        if existing is None:
            if self.refusal is not None:
                raise self.refusal
            record = self._insert(tx)
        else:
            record = existing
        if self.child is not None:
            parent, entry = self.child
            tx.note_journal(parent.uid, entry._replace(outcome=record.uid))
        return Accepted(record, existing is None)

    @property
    def request_key(self) -> RequestKey | None:
        """The idempotency key, in its scope."""
        record = self.record
        return (record.owner, record.type, record.request_id) if record.request_id else None

    @property
    def _request(self) -> bytes:
        """What the idempotency key stands for: a retry is another request than a start of the same input."""
        return self.digest + self.record.retried_from.encode() + (b"" if self.steps_of is None else b" with its steps")

    def _existing(self, tx: Transaction) -> OperationRecord | None:
        record, key = self.record, self.request_key
        if key is not None:
            claim = tx.request(key)
            if claim is not None:
                uid, request = claim
                if request != self._request:
                    raise ServiceError(
                        Reason.REQUEST_ID_REUSED,
                        f"request_id {record.request_id!r} already started an operation with another input or other "
                        "labels: use a new request id for a new request.",
                        metadata={"request_id": record.request_id},
                    )
                return self._seen(tx.head(uid))
        if self.template:
            claim = tx.name(record.id)
            if claim is not None:
                uid, digest = claim
                found = self._seen(tx.head(uid))
                if found.terminal and self.renew:
                    return None
                problem = ""
                if digest != self.digest:
                    problem = "was started with another input or other labels"
                elif record.retried_from not in ("", found.retried_from):
                    problem = "means another operation by now, which has not ended"
                if problem:
                    raise ServiceError(Reason.NAME_IN_USE, f"{record.name} {problem}.", resource=record.name)
                if key is not None:
                    tx.claim_request(key, (uid, self._request))
                return found
        return None

    def _seen(self, found: OperationRecord) -> OperationRecord:
        """Before anything else is told of it, such as whether it has ended or had the same input."""
        if self.visible is not None and not self.visible(found):
            raise ServiceError(
                Reason.NAME_IN_USE, f"{self.record.name} is taken: start another.", resource=self.record.name
            )
        return found

    def _insert(self, tx: Transaction) -> OperationRecord:
        if self.steps_of is not None:
            tx.head(self.steps_of)  # it may have been deleted meanwhile
        record = tx.insert(self.record, self.input, begin=self.begin)
        key = self.request_key
        if record.deferred:
            tx.note_journal(record.uid, JournalEntry(BY_HOST, "", 0, 1, b"", "", "", b""))
        if self.steps_of is not None:
            tx.keep_steps(record.uid, self.steps_of)
        if self.template:
            tx.claim_name(record.id, (record.uid, self.digest))
        if key is not None:
            tx.claim_request(key, (record.uid, self._request))
        return record
