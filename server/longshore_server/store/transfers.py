"""Uploads and downloads as rows and as messages. They belong to operations: a head holds its own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from longshore.v1 import operation_pb2
from longshore_server.ids import uid_text
from longshore_server.lifecycle import UploadState

MAX_CHUNK = 1 << 20
"""The most bytes of one chunk of an upload."""
MAX_PARTS = 64
"""The most parts of one upload."""
MAX_DOWNLOADS = 64
"""The most downloads that one operation offers: its snapshot holds them all."""


class UploadRecord(NamedTuple):
    """The bytes that a caller sends. Times and durations in microseconds."""

    store: str
    key: str
    content_type: str
    metadata: Mapping[str, str]
    max_bytes: int
    """0: no bound is declared."""
    expiry: int
    """How long it may go without a byte."""
    require_checksum: bool
    refuse_existing: bool
    drop_mismatch: bool
    """Whether a commit that does not fit the bytes ends it."""
    owned: bool
    """Whether the object is deleted with the operation."""
    expires: int | None
    """None: it takes no more bytes."""
    state: UploadState = UploadState.OPEN
    parts: tuple[int, ...] = (0,)
    """How many bytes of each part are durable."""
    total: int | None = None
    """How many bytes the object has; None: nobody has said it yet."""
    sha256: bytes = b""
    """Empty before the commit."""
    crc32c: int = 0
    reason: str = ""
    """Why it has failed: the name of a `Reason`."""
    progress: bytes = b""
    """How far putting it in its place has come, in the store's own terms."""
    ended: int | None = None
    turn: int = 0
    """Uploads to one key come to their places in this order, that of their commits; 0: not committed."""

    @property
    def committed(self) -> int:
        """How many bytes are durable."""
        return sum(self.parts)

    @property
    def ended_well(self) -> bool:
        """Whether it is committed, if not in its place yet."""
        return self.state in (UploadState.COMMITTING, UploadState.COMMITTED)

    def failed(self, reason: str, now: int) -> UploadRecord:
        """The upload once it has failed."""
        return self._replace(state=UploadState.FAILED, reason=reason, expires=None, ended=now)


class DownloadRecord(NamedTuple):
    """Bytes that an operation offers."""

    number: int
    """From 1, within the operation."""
    store: str
    key: str
    filename: str
    content_type: str
    size: int | None
    """None: the object was not there yet."""
    sha256: bytes
    """Empty: the store does not know it."""
    crc32c: int | None
    url: str
    """Where the store gives it to whoever has this; empty: nowhere."""
    expires: int
    max_uses: int
    """0: as many as one likes."""
    revoked: bool = False


class Garbage(NamedTuple):
    """What the upload of a deleted operation may have left in its store."""

    id: int
    store: str
    key: str
    uid: bytes
    """The operation's, and its upload's."""
    owned: bool
    """Whether the object goes with its operation."""
    progress: bytes
    """How far putting it in its place had come; empty: nothing is under way."""


# As messages.


def upload_name(uid: bytes) -> str:
    """`uploads/{uid}`."""
    return f"uploads/{uid_text(uid)}"


def download_name(uid: bytes, number: int) -> str:
    """`downloads/{uid}.{number}`."""
    return f"downloads/{uid_text(uid)}.{number}"


def upload_grant(uid: bytes, upload: UploadRecord) -> operation_pb2.UploadGrant:
    """The upload as callers see it."""
    grant = operation_pb2.UploadGrant(
        name=upload_name(uid), state=operation_pb2.UploadGrant.State.ValueType(upload.state),
        committed_size=upload.committed, max_chunk_bytes=MAX_CHUNK, max_bytes=upload.max_bytes, total_size=upload.total,
        reason=upload.reason, part_sizes=upload.parts, require_checksum=upload.require_checksum,
    )  # fmt: skip
    if upload.expires is not None:
        grant.expire_time.FromMicroseconds(upload.expires)
    if upload.sha256:
        grant.digests.sha256, grant.digests.crc32c = upload.sha256, upload.crc32c
    return grant


def download_grant(uid: bytes, download: DownloadRecord) -> operation_pb2.DownloadGrant:
    """The download as callers see it."""
    grant = operation_pb2.DownloadGrant(
        name=download_name(uid, download.number), size=download.size, content_type=download.content_type,
        max_uses=download.max_uses, filename=download.filename, url=download.url, revoked=download.revoked,
    )  # fmt: skip
    grant.expire_time.FromMicroseconds(download.expires)
    if download.sha256:
        grant.digests.sha256 = download.sha256
    if download.crc32c is not None:
        grant.digests.crc32c = download.crc32c
    return grant


def transfer_event(uid: bytes, upload: UploadRecord) -> bytes:
    """The content of a `transfer` event."""
    return operation_pb2.OperationEvent.Transfer(upload=upload_grant(uid, upload)).SerializeToString()


def offered_event(uid: bytes, download: DownloadRecord) -> bytes:
    """The content of an `offered` event."""
    return operation_pb2.OperationEvent.Offered(download=download_grant(uid, download)).SerializeToString()


# As rows. Each function takes a sqlite3 connection and runs in its thread.

_UPLOAD = """store, key, content_type, metadata, max_bytes, expiry, require_checksum, refuse_existing, drop_mismatch,
             owned, expires, state, parts, total, sha256, crc32c, reason, progress, ended, turn"""
_DOWNLOAD = "number, store, key, filename, content_type, size, sha256, crc32c, url, expires, max_uses, revoked"


def load(connection: sqlite3.Connection, uid: bytes) -> tuple[UploadRecord | None, tuple[DownloadRecord, ...]]:
    """What the operation has of either."""
    row = connection.execute(f"SELECT {_UPLOAD} FROM uploads WHERE uid = ?", (uid,)).fetchone()  # noqa: S608
    upload = None
    if row is not None:
        found = UploadRecord(*row)
        upload = found._replace(
            metadata=json.loads(row[3]), require_checksum=bool(found.require_checksum), owned=bool(found.owned),
            refuse_existing=bool(found.refuse_existing), drop_mismatch=bool(found.drop_mismatch),
            state=UploadState(found.state), parts=tuple(json.loads(row[12])),
        )  # fmt: skip
    rows = connection.execute(f"SELECT {_DOWNLOAD} FROM downloads WHERE uid = ? ORDER BY number", (uid,))  # noqa: S608
    downloads = tuple(DownloadRecord(*row)._replace(revoked=bool(row[-1])) for row in rows)
    return upload, downloads


def save(
    connection: sqlite3.Connection, uid: bytes, upload: UploadRecord | None, downloads: Iterable[DownloadRecord]
) -> None:
    """Write what the operation has now, over what it had."""
    if upload is not None:
        values = (
            *upload[:3], json.dumps(dict(upload.metadata)), *upload[4:11], int(upload.state), json.dumps(upload.parts),
            *upload[13:],
        )  # fmt: skip
        connection.execute(
            f"INSERT INTO uploads (uid, {_UPLOAD}) VALUES ({', '.join('?' * (len(values) + 1))})"  # noqa: S608
            " ON CONFLICT (uid) DO UPDATE SET expires = excluded.expires, state = excluded.state,"
            " parts = excluded.parts, total = excluded.total, sha256 = excluded.sha256, crc32c = excluded.crc32c,"
            " reason = excluded.reason, progress = excluded.progress, ended = excluded.ended, turn = excluded.turn",
            (uid, *values),
        )
    connection.executemany(
        f"INSERT INTO downloads (uid, {_DOWNLOAD}) VALUES ({', '.join('?' * 13)})"  # noqa: S608
        " ON CONFLICT (uid, number) DO UPDATE SET revoked = excluded.revoked",
        ((uid, *download) for download in downloads),
    )


def pending(connection: sqlite3.Connection) -> list[bytes]:
    """The operations whose uploads have not come to their end, ended operations among them; committed ones in the
    order of their commits."""
    rows = connection.execute("SELECT uid FROM uploads WHERE state <= 2 ORDER BY turn, expires, uid")
    return [bytes(row[0]) for row in rows]


def next_turn(connection: sqlite3.Connection) -> int:
    """That of an upload which is committed now. Those of one transaction share it: none of them is answered yet."""
    (last,) = connection.execute("SELECT max(turn) FROM uploads WHERE state = 2").fetchone()
    return int(last or 0) + 1


def use(connection: sqlite3.Connection, uid: bytes, number: int, use_id: str, most: int) -> bool:
    """Count a use of a download, unless it is counted already. False: it is used up."""
    key = (uid, number, use_id)
    where = "FROM download_uses WHERE uid = ? AND number = ?"
    if connection.execute(f"SELECT 1 {where} AND use_id = ?", key).fetchone() is not None:
        return True
    (used,) = connection.execute(f"SELECT count(*) {where}", key[:2]).fetchone()
    if used >= most:
        return False
    connection.execute("INSERT INTO download_uses (uid, number, use_id) VALUES (?, ?, ?)", key)
    return True


def garbage(connection: sqlite3.Connection, after: int, limit: int) -> list[Garbage]:
    """The oldest of it, after a number."""
    sql = "SELECT id, store, key, uid, owned, progress FROM garbage WHERE id > ? ORDER BY id LIMIT ?"
    rows = connection.execute(sql, (after, limit))
    return [Garbage(*row)._replace(owned=bool(row[4])) for row in rows]


def marks(connection: sqlite3.Connection) -> dict[str, str]:
    """What the places bear in which stores keep their objects, by store."""
    return dict(connection.execute("SELECT store, mark FROM places"))
