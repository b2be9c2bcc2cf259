"""What callers ask of one operation: to cancel, to stop, to start it once more, to delete it; and their signals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError, Message

from longshore_server.contract import validation
from longshore_server.contract.signals import SignalType
from longshore_server.contract.types import OperationType
from longshore_server.engine import deploys, signals
from longshore_server.engine.live import Live
from longshore_server.engine.starts import Terms
from longshore_server.errors import Reason, ServiceError, invalid
from longshore_server.ids import uid_text
from longshore_server.lifecycle import Move
from longshore_server.store.mutations import BY_HOST, Delete, RequestCancel, RequestStop, SignalAccepted
from longshore_server.store.record import OperationRecord
from longshore_server.store.store import Store


class Started(NamedTuple):
    """The answer to a start."""

    live: Live
    created: bool


class Requests:
    """What may be asked of an operation once it is found. What it changes is durable when it returns.

    `start` starts operations as the engine does.
    """

    def __init__(
        self, types: Mapping[str, OperationType], store: Store,
        start: Callable[[OperationType, Message, Terms], Awaitable[Started]], *, max_payload: int,
    ) -> None:  # fmt: skip
        self._types = types
        self._store = store
        self._start = start
        self._max_payload = max_payload

    async def cancel(self, live: Live, reason: str = "") -> OperationRecord:
        """Ask to cancel, durably. Repeatable. Raises `ServiceError` (NOT_CANCELLABLE)."""
        validation.check_reason(reason)
        record = live.record
        if record.terminal:
            return record
        type = self._types[record.type]
        if not type.cancellable:
            raise ServiceError(
                Reason.NOT_CANCELLABLE,
                f"{record.type} declares no cancellation: its operations end by themselves.",
                resource=record.name,
            )
        move = Move.REQUEST_CANCEL if type.cooperative else Move.FLAG_CANCEL
        return await self._store.writer.submit(RequestCancel(record.uid, reason, move))

    async def stop(self, live: Live, reason: str = "") -> OperationRecord:
        """Ask to stop and to keep what there is, durably. Repeatable."""
        validation.check_reason(reason)
        record = live.record
        return record if record.terminal else await self._store.writer.submit(RequestStop(record.uid, reason))

    async def retry(self, live: Live, terms: Terms, *, keep_steps: bool = False) -> Started:
        """Start an operation that has ended once more: a new one with its input, on `terms`.

        `keep_steps`: with the steps that it has recorded.

        Raises `ServiceError`: OPERATION_RUNNING, NOT_RETRIABLE, UNKNOWN_TYPE, WRONG_INPUT_TYPE, and as `start` does.
        """
        record = live.record
        if not record.terminal:
            raise ServiceError(
                Reason.OPERATION_RUNNING,
                f"{record.name} is {record.state.name}: only what has ended can be started once more.",
                resource=record.name,
            )
        if record.deferred and any(entry.kind == BY_HOST for entry in await self._store.journal(record.uid)):
            # Neither may its handler run what was never the handler's, nor would anybody know of one that waits.
            raise ServiceError(
                Reason.NOT_RETRIABLE,
                f"{record.name} was accepted by the service's own code, which alone can accept and drive another.",
                resource=record.name,
            )
        type, body = self._types.get(record.type), await self._store.input(record.uid)
        if body is None:
            raise not_found(record.name)
        if type is None:
            raise invalid("name", f"{record.type} is not served here any more", reason=Reason.UNKNOWN_TYPE)
        await deploys.check_input(self._store, type, record)
        try:
            input = type.input.FromString(body)
        except DecodeError:
            expected = type.input.DESCRIPTOR.full_name
            problem = f"its input cannot be read as the {expected} of today; start a new one with another"
            raise invalid("name", problem, reason=Reason.WRONG_INPUT_TYPE) from None
        terms = terms._replace(
            retried_from=f"operations/{uid_text(record.uid)}", steps_of=record.uid if keep_steps else None
        )
        return await self._start(type, input, terms)

    async def signal(self, live: Live, sending: signals.Sending) -> SignalAccepted:
        """Send a signal, durably. One with the id of an accepted one is that one, also after the end.

        Raises `ServiceError`: INVALID_ARGUMENT, ALREADY_EXISTS, FAILED_PRECONDITION or RESOURCE_EXHAUSTED.
        """
        declared = self.signal_type(live, sending.name)
        return await self._store.writer.submit(signals.check(declared, live.record.uid, sending, self._max_payload))

    def signal_type(self, live: Live, name: str) -> SignalType:
        """The signal that the operation's contract declares by this name. Raises `ServiceError` (UNKNOWN_SIGNAL)."""
        return signals.declared(self._types, live.record, name)

    async def delete(self, live: Live) -> None:
        """Remove an ended operation. Raises `ServiceError` (OPERATION_RUNNING)."""
        await self._store.writer.submit(Delete(live.record.uid))


def not_found(name: str) -> ServiceError:
    """The refusal of a name that nothing has, or nothing that the caller may see."""
    return ServiceError(
        Reason.OPERATION_NOT_FOUND, f"There is no {name}: it never existed, or it was deleted.", resource=name
    )
