"""The staged files of uploads, as those need them who send and who commit: opened, read again, removed.

What the disk does not give is a refusal; what it has lost ends the upload.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from longshore_server.errors import Reason, ServiceError
from longshore_server.lifecycle import UploadState
from longshore_server.store.mutations import FailUpload
from longshore_server.store.mutations.transfer import upload_refusal
from longshore_server.store.record import OperationRecord
from longshore_server.store.store import Store
from longshore_server.store.transfers import UploadRecord, upload_name
from longshore_server.transfers import staging
from longshore_server.transfers.sending import failed
from longshore_server.transfers.staging import Digests, LostError, StagedPart
from longshore_server.transfers.stores import Store as ByteStore
from longshore_server.transfers.threads import in_thread
from longshore_server.transfers.turns import Turns

log = logging.getLogger(__name__)


class Files:
    """Those of one server.

    Args:
        stores: by name, started.
        folder: where uploads to stores without a staging folder of their own are staged.
        load: an operation by its uid, live or ended.
        turns: of all calls.
    """

    def __init__(
        self, store: Store, stores: Mapping[str, ByteStore], folder: Path,
        load: Callable[[bytes], Awaitable[OperationRecord]], turns: Turns,
    ) -> None:  # fmt: skip
        self._store = store
        self._stores = stores
        self._folder = folder
        self._load = load
        self._turns = turns

    def folder(self, store: str) -> Path:
        """Where uploads to a store are staged."""
        found = self._stores[store].staging
        return self._folder if found is None else found

    def part(self, uid: bytes, store: str, part: int) -> StagedPart:
        """The file of a part, not open."""
        return StagedPart(staging.part_path(self.folder(store), uid, part))

    async def open(self, uid: bytes, file: StagedPart, size: int) -> None:
        """Open a part after `size` bytes. Raises `ServiceError`; bytes that are gone end the upload."""
        try:
            await in_thread(file.open, size)
        except BaseException as error:
            # Also where the caller has gone while it was opened.
            file.close()
            if isinstance(error, (OSError, LostError)):
                raise await self._unread(uid, error) from error
            raise

    async def digests(self, uid: bytes, upload: UploadRecord, file: StagedPart, *, is_open: bool) -> Digests:
        """Of all bytes of an upload; several parts are put together. Raises `ServiceError`, as `open` does.

        `file` is its first part, and `is_open` says whether somebody has it open.
        """
        async with self._turns.again:
            try:
                if len(upload.parts) > 1:
                    return await self._turns.run(staging.join, self.folder(upload.store), uid, upload.parts)
                if not is_open:
                    await self.open(uid, file, upload.parts[0])
                try:
                    return await self._turns.run(file.digests)
                finally:
                    if not is_open:
                        file.close()
            except (OSError, LostError) as error:
                raise await self._unread(uid, error) from error

    async def remove(self, uid: bytes, store: str) -> None:
        """Remove all that there is of an upload. Repeatable."""
        await in_thread(staging.remove, self.folder(store), uid)

    async def _unread(self, uid: bytes, error: OSError | LostError) -> ServiceError:
        """What a call is told of a file that could not be read."""
        upload = (await self._load(uid)).upload
        assert upload is not None
        if upload.state is UploadState.FAILED:
            return upload_refusal(uid, upload)  # it was given up meanwhile, and its files with it
        if isinstance(error, LostError):
            # Acknowledged, and gone: nothing that comes after it could make the object whole.
            log.critical("%s has lost bytes: %s", upload_name(uid), error)
            await self._store.writer.submit(FailUpload(uid, Reason.OBJECT_CORRUPT))
        else:
            log.error("%s: %s", upload_name(uid), error)
        return failed(uid, error)
