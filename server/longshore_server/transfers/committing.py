"""Commits: who has sent everything says so, what has come is checked against that, and the upload takes no more bytes.

From here on it is on its way to its place, see `placing`. A commit can be repeated, and is answered as it was.
"""

from __future__ import annotations

from collections.abc import Callable

from longshore_server.errors import Reason, ServiceError
from longshore_server.lifecycle import UploadState
from longshore_server.store.mutations import CommitUpload, FailUpload
from longshore_server.store.mutations.transfer import upload_refusal
from longshore_server.store.record import OperationRecord
from longshore_server.store.store import Store
from longshore_server.store.transfers import UploadRecord, upload_name
from longshore_server.transfers.files import Files
from longshore_server.transfers.staging import StagedPart


def check_wanted(uid: bytes, upload: UploadRecord, sha256: bytes) -> None:
    """Raises `ServiceError` (CHECKSUM_REQUIRED) for a commit without the SHA-256 that its contract requires."""
    if upload.require_checksum and not sha256:
        raise ServiceError(
            Reason.CHECKSUM_REQUIRED, f"{upload_name(uid)}: the commit must name the object's SHA-256.",
            resource=upload_name(uid),
        )  # fmt: skip


async def commit(
    store: Store, files: Files, uid: bytes, upload: UploadRecord, file: StagedPart, total: int, sha256: bytes,
    *, is_open: bool, given_up: Callable[[], bool],
) -> OperationRecord:  # fmt: skip
    """Check the bytes of an upload to which nobody sends, and take no more. Raises `ServiceError`.

    Args:
        file: its first part, and `is_open` says whether somebody has it open.
        total: how many bytes there should be.
        sha256: of all of them; empty: not known to who commits.
        given_up: whether it has failed by now.
    """
    name = upload_name(uid)
    if upload.committed != total:
        problem = ServiceError(
            Reason.SIZE_MISMATCH, f"{name}: {upload.committed} bytes have come, and the commit says {total}.",
            resource=name, metadata={"committed_size": str(upload.committed)},
        )  # fmt: skip
    else:
        digests = await files.digests(uid, upload, file, is_open=is_open)
        if not sha256 or sha256 == digests.sha256:
            try:
                return await store.writer.submit(CommitUpload(uid, upload.parts, digests.sha256, digests.crc32c))
            except ServiceError:
                if given_up():
                    # While its parts were put together.
                    await files.remove(uid, upload.store)
                raise
        problem = ServiceError(
            Reason.DIGEST_MISMATCH, f"{name}: the bytes that have come have another SHA-256 than the commit says.",
            resource=name, metadata={"sha256": digests.sha256.hex()},
        )  # fmt: skip
    if upload.drop_mismatch:
        await store.writer.submit(FailUpload(uid, problem.reason))
    raise problem


def check_same(uid: bytes, upload: UploadRecord, total: int, sha256: bytes) -> None:
    """A commit once more: of the same bytes. Raises `ServiceError`."""
    name = upload_name(uid)
    if upload.state is UploadState.FAILED:
        raise upload_refusal(uid, upload)
    if upload.total != total:
        raise ServiceError(
            Reason.SIZE_MISMATCH, f"{name} is committed with {upload.total} bytes, not {total}.", resource=name,
            metadata={"committed_size": str(upload.committed)},
        )  # fmt: skip
    if sha256 and sha256 != upload.sha256:
        raise ServiceError(
            Reason.DIGEST_MISMATCH, f"{name} is committed with another SHA-256.", resource=name,
            metadata={"sha256": upload.sha256.hex()},
        )  # fmt: skip
