"""Pages: how many items, how many bytes, and the tokens that lead from one to the next."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeAlias, TypeVar

from google.protobuf.message import Message

from longshore_server.errors import Reason, ServiceError, Violation, invalid
from longshore_server.store.search import RowT

MessageT = TypeVar("MessageT", bound=Message)
Found: TypeAlias = "tuple[Iterable[RowT], bytes | None]"

PAGE_SIZE = 50
"""How many items a page has unless the caller says so."""
MAX_PAGE_SIZE = 1000
"""How many it has at most, whatever the caller says."""
MAX_PAGE_BYTES = 3_500_000
"""A page that would be larger is cut short: stock clients receive 4 MiB at most."""
_OVERHEAD = 8  # of a message in a repeated field: its tag and its length


class Asked(Protocol):
    """A request for a page."""

    page_size: int
    page_token: str


async def read_page(
    key: bytes, request: Asked, query: object, find: Callable[[bytes | None, int], Awaitable[Found[RowT]]],
    message: Callable[[RowT], Awaitable[MessageT]],
) -> tuple[list[MessageT], str]:  # fmt: skip
    """One page as messages, and the token of the next page, empty after the last.

    `find`: so many rows after a uid, and the uid to go on after. `query`: see `make_token`.

    Raises `ServiceError` (INVALID_ARGUMENT, INVALID_PAGE_TOKEN).
    """
    size = read_size(request.page_size)
    after = read_token(key, request.page_token, query) if request.page_token else None
    records, following = await find(after, size)
    messages: list[MessageT] = []
    fit, last = Fit(), None
    for record in records:
        shown = await message(record)
        if not fit.takes(shown):
            assert last is not None
            following = last.uid
            break
        messages.append(shown)
        last = record
    return messages, "" if following is None else make_token(key, following, query)


class Fit:
    """How much of a page is taken."""

    def __init__(self) -> None:
        self._weight = 0

    def takes(self, message: Message) -> bool:
        """Whether one more goes into the page; the first always does."""
        first = not self._weight
        self._weight += message.ByteSize() + _OVERHEAD
        return first or self._weight <= MAX_PAGE_BYTES


def read_size(page_size: int) -> int:
    """How many a page may have. Raises `ServiceError` (INVALID_ARGUMENT)."""
    if page_size < 0:
        raise invalid("page_size", "must not be negative")
    return min(page_size or PAGE_SIZE, MAX_PAGE_SIZE)


def make_token(key: bytes, position: bytes, query: object) -> str:
    """The page token that goes on after a position, for this query only; `repr(query)` tells queries apart.

    A position, of 16 bytes, may be that of an operation which the caller may not see: nobody can read it, or make
    another one, without `key`.
    """
    seal = _seal(key, position, query)
    return base64.urlsafe_b64encode(seal + _covered(key, seal, position)).decode("ascii")


def read_token(key: bytes, token: str, query: object) -> bytes:
    """The position of a page token. Raises `ServiceError` (INVALID_PAGE_TOKEN)."""
    try:
        data = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        data = b""
    seal = data[:16]
    position = _covered(key, seal, data[16:])
    if len(data) != 32 or not hmac.compare_digest(_seal(key, position, query), seal):
        problem = "is no next_page_token of this list, with the same names, filter and order"
        raise ServiceError(
            Reason.INVALID_PAGE_TOKEN, f"page_token {problem}.", violations=[Violation("page_token", problem)]
        )
    return position


def _seal(key: bytes, position: bytes, query: object) -> bytes:
    data = position + repr(query).encode()
    return hashlib.blake2b(data, digest_size=16, key=key, person=b"longshorelist").digest()


def _covered(key: bytes, seal: bytes, position: bytes) -> bytes:
    """The position covered, or uncovered: no two positions have the same cover, for theirs is made of the seal."""
    cover = hashlib.blake2b(seal, digest_size=16, key=key, person=b"longshorecover").digest()
    return bytes(one ^ other for one, other in zip(position, cover, strict=False))
