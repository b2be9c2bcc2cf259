"""What callers pack into an `Any`: a message of the type that the contract declares, or a refusal."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

from longshore_server.contract.validation import check_size
from longshore_server.errors import Reason, invalid


def unpack(packed: Any, expected: type[Message], field: str, taker: str, reason: Reason, limit: int) -> Message:
    """The message in an Any. Raises `ServiceError`: `reason` where it is of another type, INPUT_TOO_LARGE where it has
    more than `limit` bytes, or MALFORMED_REQUEST.

    `field`: where in the request it is. `taker`: what it is for, which begins the sentence.
    """
    name = expected.DESCRIPTOR.full_name
    found = packed.type_url.rpartition("/")[2]
    if found != name:
        raise invalid(field, f"{taker} takes {name}, not {found[:200] or 'no type'}", reason=reason)
    check_size(field, len(packed.value), limit)
    try:
        return expected.FromString(packed.value)
    except DecodeError:
        raise invalid(f"{field}.value", f"is not a serialized {name}", reason=Reason.MALFORMED_REQUEST) from None
