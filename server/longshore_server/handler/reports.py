"""What a handler reports, progress and output: queued in order, and bounded while it waits to be durable."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from longshore.v1 import channels_pb2
from longshore_server.contract.types import OperationType
from longshore_server.errors import Reason, ServiceError
from longshore_server.lifecycle import Move
from longshore_server.store.mutations import Report
from longshore_server.store.record import OperationRecord

if TYPE_CHECKING:
    from longshore_server.store.writer import Writer

MAX_UNACKNOWLEDGED = 1024
"""How many reports of one operation may wait to be durable."""
UNACKNOWLEDGED_BYTES = 65_536
"""A report counts once more for each so many bytes of it."""


def counter(name: str, current: int, total: int | None, message: str) -> channels_pb2.CounterProgress:
    """Progress in numbers. Raises `TypeError` or `ValueError`, which begin with `name`, for what it cannot say."""
    if not isinstance(message, str):
        raise TypeError(f"{name}: the message of progress is a text, not {type(message).__name__}")
    if total is not None and type(total) is not int:
        raise TypeError(f"{name}: the total of progress is a whole number, not {type(total).__name__}")
    try:
        return channels_pb2.CounterProgress(current=current, total=total, message=message)
    except ValueError as error:
        raise ValueError(f"{name}: progress: {error}") from None


class Reports:
    """The reports of one attempt."""

    __slots__ = ("_max_payload", "_record", "_type", "_unacknowledged", "_writer")

    def __init__(self, type: OperationType, record: OperationRecord, writer: Writer, max_payload: int) -> None:
        self._type = type
        self._record = record
        self._writer = writer
        self._max_payload = max_payload
        self._unacknowledged = 0

    def submit(self, move: Move, expected: type[Message], url: str, value: Any) -> Awaitable[None]:
        """Queue one report; the result is done when it is durable. See `Operation.progress` for what this raises.

        `expected`: the class that the contract declares for this channel, and `url` its type URL.
        """
        if type(value) is not expected or self._type.void(expected):
            declared = "none" if self._type.void(expected) else expected.DESCRIPTOR.full_name
            raise TypeError(
                f"{self._type.name}: {move.value} of type {type(value).__name__}, but the contract declares {declared}"
            )
        data = value.SerializeToString()
        # A large report counts as many: what waits is bounded in bytes as well.
        weight = 1 + len(data) // UNACKNOWLEDGED_BYTES
        if self._unacknowledged and self._unacknowledged + weight > MAX_UNACKNOWLEDGED:
            raise ServiceError(
                Reason.TOO_MUCH_UNACKNOWLEDGED,
                f"{self._record.name}: {MAX_UNACKNOWLEDGED} reports wait to be durable: await some of them.",
            )
        if len(data) > self._max_payload:
            # Stored, it would make the log of the operation unreadable for everyone, for ever.
            raise ValueError(
                f"{self._type.name}: {move.value} of {len(data)} bytes, more than the {self._max_payload} that the "
                "server sends"
            )
        self._unacknowledged += weight
        packed = AnyMessage(type_url=url, value=data).SerializeToString()
        report = Report(self._record.uid, self._record.attempt, move, packed)
        return self._writer.submit(report, partial(self._acknowledge, weight))

    def _acknowledge(self, weight: int, _: object) -> None:
        self._unacknowledged -= weight
