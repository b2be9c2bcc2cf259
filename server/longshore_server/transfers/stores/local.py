"""Objects as plain files in a folder, written and synced by us."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path

from longshore_server import keys
from longshore_server.reasons import Reason
from longshore_server.store.database import DirectoryLock, StoreError
from longshore_server.transfers.objects import ObjectError, ObjectInfo
from longshore_server.transfers.stores.base import (
    CHUNK,
    MAX_OBJECT,
    NO_METADATA,
    Save,
    Store,
    came_from,
    check_limit,
    check_range,
)  # fmt: skip
from longshore_server.transfers.stores.failures import CHANGING, READING, refusing
from longshore_server.transfers.stores.folders import Folders
from longshore_server.transfers.stores.reader import Reader
from longshore_server.transfers.stores.sidecars import Sidecar, Sidecars, describe, sync, write
from longshore_server.transfers.threads import in_thread

_TRIES = 100
"""How often deletions may remove the folder of a key, which is empty, before an object comes into it."""

# Linux alone has it.
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class LocalStore(Store):
    """Objects as files at their keys below a folder. What the store itself needs is in `.longshore` there.

    Files that others put there are objects too; files that others change lose what the store knew of them. Links are
    never followed.

    Args:
        path: the folder; made if it is not there. Default: `stores/NAME` in the data directory.
        max_object_bytes: the largest object that the store takes.
    """

    def __init__(self, path: Path | str | None = None, *, max_object_bytes: int = MAX_OBJECT) -> None:
        super().__init__(max_object_bytes=max_object_bytes)
        self._path = None if path is None else Path(path)
        self._own = Path()
        self._lock: DirectoryLock | None = None

    @property
    def staging(self) -> Path:
        """On the file system of the objects."""
        return self._own / "staging"

    async def start(self, name: str, folder: Path, mark: str = "") -> str:
        """Make the folder, mark it, and lock it against a second server.

        Where objects were, the folder must be the same: while its disk is away there is an empty one in its place, and
        what was committed to it would count as lost.
        """
        root = (self._path or folder).absolute()
        self._own = root / keys.RESERVED
        self._folders = Folders(root)
        self._sidecars = Sidecars(self._own / "meta", self._own / "changing", self._own / "incoming")
        try:
            found = await in_thread(self._prepare, name, root, mark)
            await super().start(name, self._own)
        except OSError as error:
            await self.stop()
            raise StoreError(f"store {name}: {root}: {error.strerror}") from error
        return found

    async def stop(self) -> None:
        """Let another server have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def adopt(
        self, staged: Path, key: str, *, size: int, sha256: str, crc32c: int, content_type: str = "",
        metadata: Mapping[str, str] = NO_METADATA, overwrite: bool = True,
        state: bytes = b"", save: Save | None = None,  # noqa: ARG002 - a move is done or not
    ) -> ObjectInfo:  # fmt: skip
        """Move the file to its key; what is known of it goes before."""
        keys.check(key)
        info = ObjectInfo(key, size, sha256, crc32c, content_type, dict(metadata))
        async with self._changing(key):
            return await in_thread(self._adopt, staged, info, overwrite)

    async def stat(self, key: str) -> ObjectInfo:
        """From the file and what the store knows of it."""
        keys.check(key)
        return await in_thread(self._stat, key)

    @contextlib.asynccontextmanager
    async def reader(self, key: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[Reader]:
        """Of the file that is at the key now."""
        keys.check(key)
        check_range(offset, length)
        with contextlib.ExitStack() as stack:
            file = await in_thread(self._open, key, stack)
            yield _FileReader(key, file, offset, MAX_OBJECT if length is None else length)

    async def list(self, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        """By walking the folders."""
        check_limit(limit)
        return await in_thread(self._list, prefix, after, limit)

    async def delete(self, key: str, *, only: str = "") -> bool:
        """Remove the file, and folders that hold nothing then."""
        keys.check(key)
        async with self._changing(key):
            return await in_thread(self._delete, key, only)

    def _prepare(self, name: str, root: Path, mark: str) -> str:
        path = self._own / "id"
        found = path.read_text("ascii").strip() if path.exists() else ""
        if mark and found != mark:
            raise StoreError(
                f"store {name}: {root} is not the folder that its objects were in: mount the disk that it was on; if "
                f"that is gone for good, or this folder takes its place, write {mark} into {path}"
            )
        for folder in (self.staging, self._own / "meta", self._own / "changing"):
            _make(folder)
        self._lock = DirectoryLock(self._own, f"folder {root} of the store {name}", f"--store {name}=PATH")
        if not found:
            found = secrets.token_hex(16)
            write(path, f"{found}\n".encode(), path.with_suffix(".new"))
        self._sidecars.sweep(self._folders.look)
        return found

    def _adopt(self, staged: Path, info: ObjectInfo, overwrite: bool) -> ObjectInfo:
        with self._there(info.key, CHANGING):
            for left in reversed(range(_TRIES)):
                try:
                    source = staged.lstat()
                except FileNotFoundError:
                    break  # a crash came after it was moved
                if source.st_size != info.size:
                    problem = f"{info.key}: {staged} has {source.st_size} bytes, not {info.size}"
                    raise ObjectError(Reason.OBJECT_CORRUPT, problem)
                try:
                    with self._folders.parent(info.key, make=True) as (folder, name):
                        self._move(staged, source, folder, name, info, overwrite)
                except FileNotFoundError:
                    if not left:
                        raise
            return self._adopted(staged, info)

    def _move(
        self, staged: Path, source: os.stat_result, folder: int, name: str, info: ObjectInfo, overwrite: bool
    ) -> None:
        try:
            target = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            target = None
        if target is None or not os.path.samestat(target, source):
            if target is not None and not stat.S_ISREG(target.st_mode):
                raise IsADirectoryError(errno.EISDIR, "not a file")
            if target is not None and not overwrite:
                raise FileExistsError(errno.EEXIST, "a file")
            sidecar = Sidecar(
                key=info.key, size=info.size, mtime=source.st_mtime_ns, sha256=info.sha256, crc32c=info.crc32c,
                content_type=info.content_type, metadata=info.metadata, staged=staged.name,
                replaces=0 if target is None else target.st_ino,
            )  # fmt: skip
            self._sidecars.write(sidecar, source.st_ino)
            if overwrite:
                os.rename(staged, name, dst_dir_fd=folder)
                return
            os.link(staged, name, dst_dir_fd=folder, follow_symlinks=False)
        # A rename would do nothing: both are the same file.
        os.fsync(folder)
        staged.unlink()

    def _adopted(self, staged: Path, info: ObjectInfo) -> ObjectInfo:
        """What remains once the file is at its key, or what a crash has left of that."""
        key, sidecar = info.key, None
        with contextlib.suppress(FileNotFoundError), self._folders.parent(key) as (folder, name):
            file = os.stat(name, dir_fd=folder, follow_symlinks=False)
            os.fsync(folder)
            sidecar = self._sidecars.read(key, file)
        if sidecar is None or sidecar.sha256 != info.sha256:
            raise ObjectError(Reason.OBJECT_CORRUPT, f"{key}: what was staged for it is neither there nor here")
        sync(staged.parent)
        if sidecar.replaces:
            self._sidecars.remove(key, sidecar.replaces)
        self._sidecars.settle(key, file.st_ino)
        return describe(key, file, sidecar)

    def _stat(self, key: str) -> ObjectInfo:
        with contextlib.ExitStack() as stack, self._there(key, READING):
            _, file = self._folders.open(key, stack)
            return describe(key, file, self._sidecars.read(key, file))

    def _open(self, key: str, stack: contextlib.ExitStack) -> int:
        with self._there(key, READING):
            return self._folders.open(key, stack)[0]

    def _list(self, prefix: str, after: str, limit: int) -> Sequence[ObjectInfo]:
        with self._there(prefix):
            found = itertools.islice(self._folders.walk(prefix, after, limit), limit)
            return [describe(key, file, None) for key, file in found]

    def _delete(self, key: str, only: str) -> bool:
        with self._there(key):
            try:
                with self._folders.parent(key) as (folder, name):
                    file = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if not stat.S_ISREG(file.st_mode):
                        return False
                    if only:
                        sidecar = self._sidecars.read(key, file)
                        if sidecar is None or not came_from(sidecar.staged, only):
                            return False
                    self._sidecars.mark(key, file.st_ino)
                    os.unlink(name, dir_fd=folder)
                    os.fsync(folder)
            except (FileNotFoundError, NotADirectoryError):
                return False
            self._sidecars.remove(key, file.st_ino)
            self._folders.prune(key)
            return True

    @contextlib.contextmanager
    def _there(self, key: str, meanings: Mapping[int, tuple[Reason, str]] | None = None) -> Iterator[None]:
        """As `refusing`; STORE_UNAVAILABLE where not an object is missing, but the disk that has them all."""
        away = ObjectError(Reason.STORE_UNAVAILABLE, f"{key}: {self._own} is not there")
        if not self._own.is_dir():
            raise away
        try:
            with refusing(key, meanings):
                yield
        except ObjectError as error:
            if self._own.is_dir():
                raise
            raise away from error


class _FileReader(Reader):
    """Of an open file, `length` bytes from `offset` on."""

    def __init__(self, key: str, file: int, offset: int, length: int) -> None:
        super().__init__()
        self._key = key
        self._file = file
        self._offset = offset
        self._left = length

    def _cached(self, room: memoryview) -> int:
        """A hop into a thread costs several times as much as the copy."""
        if not _NOWAIT:
            return 0
        try:
            return self._moved(os.preadv(self._file, [room[: self._left]], self._offset, _NOWAIT))
        except OSError:
            return 0

    async def _fetch(self) -> memoryview:
        data = await in_thread(self._read, min(CHUNK, self._left))
        self._moved(len(data))
        return memoryview(data)

    def _read(self, size: int) -> bytes:
        with refusing(self._key):
            return os.pread(self._file, size, self._offset)

    def _moved(self, size: int) -> int:
        self._offset += size
        self._left -= size
        return size


def _make(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)
