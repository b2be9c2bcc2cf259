"""Pages of operations: how many, how many bytes, and the tokens that lead from one to the next."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from google.longrunning import operations_pb2
from google.protobuf.message import Message

from longshore.v1 import operations_service_pb2
from longshore_server.engine.engine import Engine
from longshore_server.errors import Reason, ServiceError, Violation, invalid
from longshore_server.rpc import filters
from longshore_server.store.pages import Scope
from longshore_server.store.record import OperationRecord

MessageT = TypeVar("MessageT", bound=Message)

PAGE_SIZE = 50
"""How many operations a page has unless the caller says so."""
MAX_PAGE_SIZE = 1000
"""How many it has at most, whatever the caller says."""
MAX_PAGE_BYTES = 3_500_000
"""A page that would be larger is cut short: stock clients receive 4 MiB at most."""
_OVERHEAD = 8  # of a message in a repeated field: its tag and its length


class Query(NamedTuple):
    """What a page token belongs to."""

    filter: str
    ascending: bool = False


async def read_page(
    engine: Engine,
    scope: Scope | None,
    request: operations_service_pb2.ListRequest | operations_pb2.ListOperationsRequest,
    message: Callable[[OperationRecord], Awaitable[MessageT]],
    *,
    ascending: bool = False,
) -> tuple[list[MessageT], str]:
    """One page as messages, and the token of the next page, empty after the last.

    `scope`: which operations the caller may see; None: all. `ascending`: the oldest operation first, else the newest.

    Raises `ServiceError` (INVALID_ARGUMENT, INVALID_FILTER, INVALID_PAGE_TOKEN).
    """
    if request.page_size < 0:
        raise invalid("page_size", "must not be negative")
    conditions = filters.parse(request.filter)
    query = Query(request.filter, ascending)
    after = read_token(request.page_token, query) if request.page_token else None
    size = min(request.page_size or PAGE_SIZE, MAX_PAGE_SIZE)
    records, following = await engine.list(conditions, after, size, ascending=ascending, scope=scope)
    messages: list[MessageT] = []
    weight, last = 0, None
    for record in records:
        shown = await message(record)
        weight += shown.ByteSize() + _OVERHEAD
        if weight > MAX_PAGE_BYTES and last is not None:
            following = last.uid
            break
        messages.append(shown)
        last = record
    return messages, "" if following is None else make_token(following, query)


def make_token(uid: bytes, query: Query) -> str:
    """The page token that goes on after `uid`, for this query only."""
    return base64.urlsafe_b64encode(uid + _seal(uid, query)).decode("ascii")


def read_token(token: str, query: Query) -> bytes:
    """The uid of a page token. Raises `ServiceError` (INVALID_PAGE_TOKEN)."""
    try:
        data = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        data = b""
    if len(data) != 24 or _seal(data[:16], query) != data[16:]:
        problem = "is not a next_page_token of a list with this filter and order"
        raise ServiceError(
            Reason.INVALID_PAGE_TOKEN, f"page_token {problem}.", violations=[Violation("page_token", problem)]
        )
    return data[:16]


def _seal(uid: bytes, query: Query) -> bytes:
    return hashlib.blake2b(uid + repr(query).encode(), digest_size=8, person=b"longshorelist").digest()
