"""The bytes of an operation as its snapshot shows them: those that its caller sends, and those that it offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from longshore_client.wire_enum import WireEnum

if TYPE_CHECKING:
    from datetime import datetime


class UploadState(WireEnum):
    """Where an upload stands; the numbers are those of `longshore.v1.UploadGrant.State`."""

    UNSPECIFIED = 0
    OPEN = 1
    """It takes bytes."""
    COMMITTING = 2
    """Its bytes are checked and complete, and are being put in their place."""
    COMMITTED = 3
    """The object is durable in its store."""
    FAILED = 4
    """It has failed, and `reason` says why. Its bytes are gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadGrant:
    """The bytes that a caller sends for an operation. Times are in UTC."""

    name: str
    """`uploads/{uid}`."""
    state: UploadState
    committed_size: int
    """How many bytes are durable. Never decreases."""
    part_sizes: tuple[int, ...] = ()
    """The same for each part; one element where the upload has one part."""
    total_size: int | None = None
    """How many bytes the object has; None: nobody has said it yet."""
    max_bytes: int = 0
    """The most bytes that the object may have; 0: no bound is declared."""
    max_chunk_bytes: int = 0
    """The most bytes of one chunk."""
    expire_time: datetime | None = None
    """When it expires unless more bytes come; None: it has ended."""
    sha256: str = ""
    """In hexadecimal; empty before the commit."""
    crc32c: int | None = None
    """None before the commit."""
    reason: str = ""
    """Why it has failed, for example UPLOAD_EXPIRED."""
    require_checksum: bool = False
    """Chunks without a CRC32C and a commit without a SHA-256 are refused. This library sends both anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadGrant:
    """Bytes that callers may fetch. Times are in UTC."""

    name: str
    """`downloads/{uid}.{number}`."""
    expire_time: datetime
    size: int | None = None
    """Bytes; None: the object was not there yet when it was offered."""
    content_type: str = ""
    filename: str = ""
    """What a person would call the file."""
    sha256: str = ""
    """In hexadecimal; empty: the store does not know it."""
    crc32c: int | None = None
    """None: the store does not know it."""
    max_uses: int = 0
    """How often it may be fetched; 0: as often as one likes."""
    url: str = ""
    """Where the same bytes can be fetched by HTTP GET without credentials; empty: nowhere."""
    revoked: bool = False
    """It can be fetched no more."""


class SendProgress(NamedTuple):
    """How far the bytes have come that are being sent. None of the numbers ever decreases."""

    sent: int
    """Bytes that have left this program, or were durable before."""
    committed: int
    """Bytes of which the server has said that they are durable; of those that are sent it says so now and then."""
    total: int | None
    """How many there are; None: the source does not say it."""


class ReceiveProgress(NamedTuple):
    """How far the bytes have come that are being fetched."""

    received: int
    """Bytes from the beginning of the object, those included that were there before."""
    total: int
