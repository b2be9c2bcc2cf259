"""Downloads that the service offers to its callers: what it says of one, and what the caller is given."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from longshore_server import keys
from longshore_server.clock import SECOND
from longshore_server.contract.durations import LONGEST
from longshore_server.contract.transfers import EXPIRY, Transfer
from longshore_server.contract.types import OperationType
from longshore_server.contract.validation import check_text
from longshore_server.errors import DOMAIN, OperationError, Reason
from longshore_server.store.record import OperationRecord
from longshore_server.store.transfers import DownloadRecord, download_name

MAX_FILENAME = 255
"""Characters of what a person would call a file."""

MAX_USES = (1 << 31) - 1
"""What the field of a grant can say."""


class TransferError(OperationError):
    """The bytes did not come, or a store cannot do what was asked of it.

    A handler that does not catch it fails its operation with exactly this: `reason` is one of `Reason`, for example
    UPLOAD_EXPIRED or OBJECT_NOT_FOUND, in the domain `longshore`. `final` where another attempt would only meet it
    again: an upload that has failed stays so.
    """

    def __init__(self, reason: Reason, message: str = "", *, final: bool = False) -> None:
        super().__init__(reason.name, message or reason.meaning, code=reason.code, domain=DOMAIN, final=final)


class ObjectFacts(Protocol):
    """What a store knows of an object."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def sha256(self) -> str:
        """In hexadecimal; empty: unknown."""

    @property
    def crc32c(self) -> int | None:
        """None: unknown."""

    @property
    def content_type(self) -> str:
        """Empty: none."""


class Objects(Protocol):
    """The stores of the server. Each raises `TransferError`, and `ValueError` for a store that there is not."""

    async def stat(self, store: str, key: str) -> ObjectFacts:
        """What is known of an object."""

    def open(self, store: str, key: str, offset: int) -> AsyncGenerator[bytes]:
        """Its bytes from `offset` on."""

    async def presign(self, store: str, key: str, seconds: float) -> str:
        """A URL from which anybody can read it for so long."""


@dataclass(frozen=True)
class Offer:
    """Bytes that callers may fetch."""

    name: str
    """`downloads/{uid}.{number}`: what `TransfersService.Download` takes."""
    size: int | None
    """Bytes; None: the object was not there yet when it was offered."""
    sha256: str
    """In hexadecimal; empty: the store does not know it."""
    filename: str
    content_type: str
    expires: datetime
    """In UTC."""
    max_uses: int
    """How often it may be fetched; 0: as often as one likes."""
    url: str
    """Where the store itself gives it to whoever has this; empty: nowhere."""

    @classmethod
    def of(cls, record: OperationRecord, number: int) -> Offer:
        """One of the downloads of an operation, by its number."""
        found = record.downloads[number - 1]
        return cls(
            download_name(record.uid, number), found.size, found.sha256.hex(), found.filename, found.content_type,
            datetime.fromtimestamp(found.expires / SECOND, UTC), found.max_uses, found.url,
        )  # fmt: skip


class Terms(NamedTuple):
    """What the service's code says of an offer. None: it leaves that to the contract, or to the store."""

    key: str
    store: str | None
    filename: str
    content_type: str | None
    expires_in: float | None
    """Seconds."""
    max_uses: int | None
    url: bool

    @classmethod
    def said(
        cls, key: str, store: str | None, filename: str, content_type: str | None,
        expires_in: float | timedelta | None, max_uses: int | None, url: bool,
    ) -> Terms:  # fmt: skip
        """As the arguments of a call. Raises `ValueError` for what is no time, number, file name or content type, and
        `TypeError` for what is no text."""
        if isinstance(expires_in, timedelta):
            expires_in = expires_in.total_seconds()
        if expires_in is not None and (type(expires_in) not in (int, float) or not 0 < expires_in <= LONGEST):
            raise ValueError(f"cannot offer {key!r} for {expires_in} seconds: more than 0, at most {LONGEST:,}")
        check_text("filename", filename)
        if max_uses is not None and (type(max_uses) is not int or max_uses > MAX_USES):
            raise ValueError(f"cannot offer {key!r} for {max_uses!r} uses: a number up to {MAX_USES:,}, or 0 for any")
        no_name = filename in (".", "..") or "/" in filename or "\\" in filename
        if no_name or len(filename) > MAX_FILENAME or not filename.isprintable():
            raise ValueError(
                f"{filename[:40]!r} is no file name: at most {MAX_FILENAME} characters, none of them a slash"
            )
        if content_type is not None:
            keys.check_content_type(check_text("content_type", content_type))
        return cls(key, store, filename, content_type, expires_in, max_uses, url)


def transfer_of(type: OperationType) -> Transfer:
    """What the contract says of bytes. Raises `RuntimeError` where it says nothing."""
    if type.transfer is None:
        raise RuntimeError(f"the contract of {type.name} declares no transfer")
    return type.transfer


async def draw_up(type: OperationType, objects: Objects, terms: Terms, now: int) -> DownloadRecord:
    """The download that is offered on `terms`; its number is still open.

    Raises `TransferError` (OBJECT_NOT_FOUND, NOT_SUPPORTED, STORE_UNAVAILABLE), and `ValueError` for a key or a store
    that is none, and for terms that the contract or a URL does not allow.
    """
    transfer = transfer_of(type)
    most = transfer.max_uses
    uses = most if terms.max_uses is None else terms.max_uses
    if uses < 0 or (most and not 1 <= uses <= most):
        raise ValueError(f"cannot offer {uses} uses: the contract of {type.name} allows {most or 'any number'}")
    if terms.url and uses:
        raise ValueError(f"cannot count the uses of a URL: offer {terms.key!r} without max_uses, or without url")
    store = transfer.store if terms.store is None else terms.store
    # The expiry of a contract that takes bytes is that of its upload.
    expiry = EXPIRY if transfer.sends else transfer.expiry
    if terms.expires_in is not None:
        expiry = int(terms.expires_in * SECOND)
    facts = await objects.stat(store, terms.key)
    url = await objects.presign(store, terms.key, expiry / SECOND) if terms.url else ""
    return DownloadRecord(
        number=0, store=store, key=terms.key, filename=terms.filename or terms.key.rpartition("/")[2],
        content_type=facts.content_type if terms.content_type is None else terms.content_type,
        size=facts.size, sha256=bytes.fromhex(facts.sha256), crc32c=facts.crc32c, url=url, expires=now + expiry,
        max_uses=uses,
    )  # fmt: skip


def number_of(record: OperationRecord, name: str) -> int:
    """The number in the name of one of its downloads. Raises `ValueError` for any other name."""
    for download in record.downloads:
        if name == download_name(record.uid, download.number):
            return download.number
    raise ValueError(f"{name!r} is no download that {record.name} offers")
