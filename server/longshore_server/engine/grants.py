"""What a start grants of bytes: the upload that it waits for, the download that it offers."""

from __future__ import annotations

from google.protobuf.message import Message

from longshore_server.contract.transfers import Transfer
from longshore_server.store.transfers import DownloadRecord, UploadRecord


def grants(
    transfer: Transfer | None, input: Message, now: int
) -> tuple[UploadRecord | None, tuple[DownloadRecord, ...]]:
    """By the contract. Raises `ServiceError` (INVALID_ARGUMENT) for an input that says a bad key."""
    if transfer is None:
        return None, ()
    declared, expires = transfer.declared(input), now + transfer.expiry
    if transfer.sends:
        upload = UploadRecord(
            store=transfer.store, key=declared.key, content_type=declared.content_type, metadata=declared.metadata,
            max_bytes=transfer.max_bytes, expiry=transfer.expiry, require_checksum=transfer.require_checksum,
            refuse_existing=transfer.refuse_existing, drop_mismatch=transfer.drop_mismatch, owned=transfer.owned,
            expires=expires,
        )  # fmt: skip
        return upload, ()
    if not declared.key:
        return None, ()
    download = DownloadRecord(
        number=1, store=transfer.store, key=declared.key, filename=declared.key.rpartition("/")[2],
        content_type=declared.content_type, size=None, sha256=b"", crc32c=None, url="", expires=expires,
        max_uses=transfer.max_uses,
    )  # fmt: skip
    return None, (download,)
