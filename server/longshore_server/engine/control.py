"""The provider's side: what may be done to an operation from outside of its handler, and the checks before that.

It works on every operation that has not ended, deferred or not, in whatever process its handler ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from longshore_server.clock import resolve
from longshore_server.contract import rules, validation
from longshore_server.contract.details import known_type
from longshore_server.contract.types import URL_PREFIX, OperationType
from longshore_server.engine.engine import Engine
from longshore_server.engine.live import Live
from longshore_server.engine.requests import not_found
from longshore_server.errors import CANCELLED, DOMAIN, Code, Reason, ServiceError, invalid
from longshore_server.handler import planned
from longshore_server.handler.deferral import working
from longshore_server.handler.offers import Terms, draw_up
from longshore_server.handler.planned import Planned
from longshore_server.lifecycle import Move
from longshore_server.store.mutations import (
    AcknowledgeCancel,
    ConsumeSignal,
    Mutation,
    OfferDownload,
    ProviderCancel,
    Report,
    RevokeDownload,
    Settle,
    TakeOver,
)
from longshore_server.store.queries import StoredSignal
from longshore_server.store.record import OperationRecord

T = TypeVar("T")
SIGNALS = 100
"""How many signals are read at once unless the caller says so."""


def waiting_after(record: OperationRecord, name: str, after: int) -> bool:
    """Whether a signal waits after this number, of one name or, where that is empty, of any."""
    return any(waiting.number > after and name in ("", waiting.name) for waiting in record.pending)


class Control:
    """Drives the operations of one engine.

    What changes an operation is durable when it returns, and returns the operation after it. All of it raises
    `ServiceError`: OPERATION_ENDED, ILLEGAL_MOVE, STORE_UNAVAILABLE, and what the method says.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def type_of(self, live: Live) -> OperationType:
        """The contract. Raises `ServiceError` (OPERATION_ENDED) for one of a type that is not served any more."""
        type = self._engine.types.get(live.record.type)
        if type is None:
            # A server does not start while operations live whose type it does not serve.
            message = f"{live.record.name} has ended, and its type is not served any more."
            raise ServiceError(Reason.OPERATION_ENDED, message, resource=live.record.name)
        return type

    async def started(self, live: Live) -> OperationRecord:
        """Take over an operation whose handler has not begun, so that it never will. Repeatable."""
        return await self._change(live, TakeOver(live.record.uid))

    async def attach(self, live: Live) -> OperationRecord:
        """Take over an operation for good: no handler begins it or runs it again, and one that runs is interrupted.

        Repeatable. A handler does not take it from itself: `op.attach` and `op.defer` are how it hands it over.
        """
        work = working.get()
        own = work is not None and work.uid == live.record.uid
        return await self._change(live, TakeOver(live.record.uid, running=not own))

    async def progress(self, live: Live, value: Message, jobs: Sequence[Planned] = ()) -> OperationRecord:
        """Report progress: a message of the contract's type. Raises `ServiceError`: INVALID_ARGUMENT or too large.

        `jobs`, here and in what follows: are created by the same change; see `handler.planned.submit`.
        """
        packed = self._packed("progress", value)
        await self._change(live, Report(live.record.uid, None, Move.PROGRESS, packed), jobs)
        return live.record

    async def output(self, live: Live, value: Message) -> OperationRecord:
        """Send output. Like `progress`."""
        packed = self._packed("output", value)
        await self._change(live, Report(live.record.uid, None, Move.OUTPUT, packed))
        return live.record

    async def complete(self, live: Live, result: Message, jobs: Sequence[Planned] = ()) -> OperationRecord:
        """End it with a result of the contract's type; in CANCELLING it ends as CANCELLED. Raises as `progress`."""
        return await self.settle(live, Move.COMPLETE, self._packed("result", result), jobs)

    async def fail(self, live: Live, error: status_pb2.Status) -> OperationRecord:
        """End it with an error as callers will see it; in CANCELLING it ends as CANCELLED.

        Raises `ServiceError`: INVALID_ARGUMENT for a status that is none, INPUT_TOO_LARGE.
        """
        return await self.settle(live, Move.FAIL, self._checked(live, error).SerializeToString())

    async def settle(self, live: Live, move: Move, payload: bytes, jobs: Sequence[Planned] = ()) -> OperationRecord:
        """End it: COMPLETE with a serialized Any, FAIL with a serialized Status, both already checked."""
        return await self._end(live, Settle(live.record.uid, None, move, payload), jobs)

    async def cancel(self, live: Live, reason: str) -> OperationRecord:
        """Cancel it as its provider: at once, or while a handler runs within its grace. Repeatable."""
        validation.check_reason(reason)
        return await self._end(live, ProviderCancel(live.record.uid, reason))

    async def acknowledge_cancel(self, live: Live) -> OperationRecord:
        """Answer a caller's cancel request. Repeatable. Raises `ServiceError` (NO_CANCEL_REQUEST)."""
        return await self._end(live, AcknowledgeCancel(live.record.uid))

    async def signals(
        self, live: Live, name: str = "", until: int | None = None, *, after: int = 0, limit: int = SIGNALS
    ) -> Sequence[StoredSignal]:
        """The first signals that wait, of one name or of all, in the order of their acceptance.

        `after`: only those after this number. `limit`: at most so many; there are fewer when they are large.
        When there is none: once there is one, the operation has ended or it is `until`. None: at once.
        Raises `ServiceError` (UNKNOWN_SIGNAL, OPERATION_NOT_FOUND), and SERVER_DRAINING while it waits.
        """
        if name:
            self._engine.requests.signal_type(live, name)
        while True:
            if waiting_after(live.record, name, after):
                found = await self._engine.store.waiting_signals(live.record.uid, name, after, limit)
                if found:
                    return found
                if self._engine.table.get(live.record.uid) is not live:
                    raise not_found(live.record.name)  # deleted, so that its record will never tell of it
                continue  # consumed while they were read
            if until is None or live.record.terminal or self._engine.clock.now() >= until:
                return ()
            await self.change(live, until)

    async def change(self, live: Live, until: int) -> None:
        """Return once something about the operation has changed, or at `until`. Raises `ServiceError` in a drain."""
        if self._engine.draining:
            raise self._engine.not_accepting()
        future = live.changed()
        live.join(future)  # woken when the server drains, too
        timer = self._engine.clock.call_at(until, lambda: resolve(future))
        try:
            await future
        finally:
            timer.cancel()
            live.forget(future)

    async def consume(self, live: Live, number: int) -> OperationRecord:
        """Be done with one signal, so that nobody gets it again. Raises `ServiceError` (SIGNAL_CONSUMED)."""
        return await self._change(live, ConsumeSignal(live.record.uid, number))

    async def offer(self, live: Live, terms: Terms) -> OperationRecord:
        """Offer an object to its callers: the last of its downloads then. Raises as `offers.draw_up`, too."""
        engine = self._engine
        download = await draw_up(self.type_of(live), engine.transfers.objects, terms, engine.clock.now())
        return await self._change(live, OfferDownload(live.record.uid, download, None))

    async def revoke(self, live: Live, number: int) -> OperationRecord:
        """Take one of its downloads back, also once it has ended. Repeatable."""
        return await self._change(live, RevokeDownload(live.record.uid, number))

    async def _change(self, live: Live, mutation: Mutation[T], jobs: Sequence[Planned] = ()) -> T:
        return await planned.submit(self._engine.store.writer, mutation, jobs, live.record.uid)

    async def _end(
        self, live: Live, mutation: Mutation[OperationRecord], jobs: Sequence[Planned] = ()
    ) -> OperationRecord:
        work = working.get()
        if work is None or work.uid != live.record.uid:
            return await self._change(live, mutation, jobs)
        # Its own work ends it: that may go on to its own end and is not interrupted, as it would be otherwise.
        work.ending = True
        try:
            record = await self._change(live, mutation, jobs)
        except Exception:
            work.ending = False
            raise
        work.ending = record.terminal
        return record

    def _packed(self, field: str, value: Message) -> bytes:
        data = value.SerializeToString()
        self._check_size(field, len(data))
        if rules.has_rules(value.DESCRIPTOR.file):
            rules.check_rules(value, len(data))
        return AnyMessage(type_url=URL_PREFIX + value.DESCRIPTOR.full_name, value=data).SerializeToString()

    def _check_size(self, field: str, size: int) -> None:
        # Stored, it would make the log of the operation unreadable for everyone, for ever.
        validation.check_size(field, size, self._engine.executor.max_payload)

    def _checked(self, live: Live, error: status_pb2.Status) -> status_pb2.Status:
        """The error with a reason in its first detail. Callers unpack the details that they know: those must parse."""
        if not 1 <= error.code <= 16:
            raise invalid("error.code", f"must be a canonical status code other than OK, not {error.code}")
        if error.code == Code.CANCELLED:
            raise invalid("error.code", f"{CANCELLED}: choose another, such as ABORTED, or call CancelOperation")
        if not error.message:
            raise invalid("error.message", "must say in a sentence why there is no result")
        self._check_size("error", error.ByteSize())
        first = None
        for position, packed in enumerate(error.details):
            field = f"error.details[{position}]"
            if "/" not in packed.type_url:
                raise invalid(field, f"{packed.type_url[:200]!r} is no type URL")
            kind = known_type(packed.type_url.rpartition("/")[2], self._engine.types.get(live.record.type))
            if kind is None:
                continue
            try:
                detail = kind.FromString(packed.value)
            except DecodeError:
                problem = f"is not a serialized {kind.DESCRIPTOR.full_name}"
                raise invalid(f"{field}.value", problem, reason=Reason.MALFORMED_REQUEST) from None
            if isinstance(detail, error_details_pb2.ErrorInfo):
                if not detail.reason:
                    raise invalid(f"{field}.reason", "must be a word for machines, for example CARD_DECLINED")
                first = position if first is None else first
        details = list(error.details)
        if first is None:
            reason = AnyMessage()
            reason.Pack(error_details_pb2.ErrorInfo(reason=Reason.FAILED.name, domain=DOMAIN))
            details.insert(0, reason)
        else:
            details.insert(0, details.pop(first))
        checked = status_pb2.Status(code=error.code, message=error.message, details=details)
        self._check_size("error", checked.ByteSize())
        return checked
