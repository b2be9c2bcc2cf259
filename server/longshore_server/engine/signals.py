"""Signals on their way in: checked against the contract, then handed to the writer, which puts them in order."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import NamedTuple

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from longshore_server.contract import rules
from longshore_server.contract.signals import SignalType
from longshore_server.contract.types import URL_PREFIX, OperationType
from longshore_server.contract.validation import check_size
from longshore_server.errors import Reason, ServiceError, invalid
from longshore_server.store.mutations import SendSignal
from longshore_server.store.record import OperationRecord

MAX_ID = 128
"""The longest id of a signal, in bytes."""


class Sending(NamedTuple):
    """A signal that somebody wants to send."""

    name: str
    payload: Message
    """Of the type that the contract declares."""
    sender: str
    """The principal."""
    id: str = ""
    """Idempotency key; empty: a new one is made."""


def declared(types: Mapping[str, OperationType], record: OperationRecord, name: str) -> SignalType:
    """The contract's signal of this name. Raises `ServiceError`: UNKNOWN_SIGNAL, OPERATION_ENDED."""
    type = types.get(record.type)
    if type is None:
        # A server does not start while operations live whose type it does not serve.
        message = f"{record.name} has ended, and its type is not served any more."
        raise ServiceError(Reason.OPERATION_ENDED, message, resource=record.name)
    found = type.signals.get(name)
    if found is None:
        known = f"they are {', '.join(type.signals)}" if type.signals else "it declares none"
        problem = f"{name[:80]!r} is no signal of {type.name}: {known}" if name else f"is missing: {known}"
        raise invalid("signal", problem, reason=Reason.UNKNOWN_SIGNAL)
    return found


def check(type: SignalType, uid: bytes, sending: Sending, max_payload: int) -> SendSignal:
    """The change that a signal asks for. Raises `ServiceError` for what can be told without the store."""
    if len(sending.id.encode()) > MAX_ID:
        raise invalid("signal_id", f"must not be longer than {MAX_ID} bytes")
    body = sending.payload.SerializeToString(deterministic=True)
    # Accepted, it would make the log of the operation unreadable for everyone.
    check_size("payload", len(body), max_payload)
    if type.ruled:
        rules.check_rules(sending.payload, len(body))
    packed = AnyMessage(type_url=URL_PREFIX + type.payload.DESCRIPTOR.full_name, value=body)
    return SendSignal(
        uid, type.name, sending.id or str(uuid.uuid4()), packed.SerializeToString(), sending.sender, type.max_pending
    )
