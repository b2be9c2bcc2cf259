"""The bytes of an upload on their way: one file a part, cut to what is recorded whenever it is opened.

All of it blocks, and runs in threads, one call of a part at a time. Nothing here is told to anybody: what is durable is
what was synced and then recorded in the store.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import google_crc32c

from longshore_server.ids import parse_uid, uid_text
from longshore_server.transfers.checksums import joined

COPY = 1 << 20
"""How many bytes are read at once where a file is read again."""
JOINED, ALIKE = 16 << 10, 32
"""From so many bytes on, and after so many chunks as large as it, a chunk is not gone through a second time for its
CRC32C: to prepare that takes as long as those have taken."""
_VECTORS = 512
"""The most buffers of one system call; the kernel takes 1024."""


class CorruptError(Exception):
    """A chunk's CRC32C does not fit its bytes. Those before it are written."""


class LostError(Exception):
    """A file is gone, or shorter than what was recorded of it: the disk has lost what it had acknowledged."""


class Chunk(NamedTuple):
    """Bytes as they came, with the CRC32C that the caller gave, if it did."""

    data: bytes
    crc32c: int | None


class Digests(NamedTuple):
    """Of all bytes of an object."""

    sha256: bytes
    crc32c: int


class StagedPart:
    """A part of an upload as a file. `size` is how many bytes are written; digests are kept of all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file = -1
        self._sha256 = hashlib.sha256()
        self._crc32c = 0
        self._hashed = 0
        self._usual = 0  # the size of the chunk before
        self._alike = 0  # how many of that size have come in a row
        self._named = False  # whether its folder is synced since it is there
        self._syncing = threading.Lock()
        self._unsynced: OSError | None = None

    def open(self, size: int) -> None:
        """Go on after `size` bytes, which are recorded; what there is beyond them never was. Raises `LostError`."""
        if size and self.path.parent.is_dir() and not self.path.exists():
            raise LostError(f"{self.path} is gone")
        self._unsynced = None
        self.close()  # whoever has opened it may have been cancelled
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        if os.fstat(self._file).st_size < size:
            raise LostError(f"{self.path} is shorter than the {size} bytes that were recorded")
        os.ftruncate(self._file, size)
        # Not only where it is new: whoever has made it may not have come to syncing the folder.
        self._named = size > 0
        self.size = size
        if self._hashed != size:
            # Left by another process, or cut: what was hashed is not what there is.
            self._sha256, self._crc32c, self._hashed = hashlib.sha256(), 0, 0

    def write(self, chunks: Sequence[Chunk]) -> None:
        """Append. Raises `CorruptError` or `OSError`; what came before is written and counted."""
        good: list[Chunk] = []
        try:
            for chunk in chunks:
                data, crc32c = chunk
                if crc32c is not None and google_crc32c.value(data) != crc32c:
                    raise CorruptError
                if data:
                    good.append(chunk)
        finally:
            for start in range(0, len(good), _VECTORS):
                self._append(good[start : start + _VECTORS])

    def _append(self, chunks: list[Chunk]) -> None:
        buffers = [chunk.data for chunk in chunks]
        wanted = sum(map(len, buffers))
        written = os.pwritev(self._file, buffers, self.size)
        while written < wanted:
            # Interrupted, or little room: what is left goes piece by piece, and says why if it cannot.
            rest = b"".join(buffers)[written:]
            written += os.pwrite(self._file, rest, self.size + written)
        if self._hashed == self.size:
            for data, crc32c in chunks:
                self._hash(data, crc32c)
        self.size += wanted

    def sync(self) -> None:
        """All that is written is durable. Raises `OSError`, and from then on always.

        The kernel tells of a failure once, and forgets that those bytes were to be written: a later sync succeeds
        without them. Only what is cut off by `open` and sent again can be durable then.
        """
        with self._syncing:
            if self._unsynced is not None:
                raise self._unsynced
            try:
                os.fdatasync(self._file)
                self._name()
            except OSError as error:
                self._unsynced = error
                raise

    def digests(self) -> Digests:
        """Of all that is written; what was hashed while it came is not read again. The file is there from now on, even
        if it is empty."""
        with self._syncing:
            self._name()
        while self._hashed < self.size:
            data = os.pread(self._file, min(COPY, self.size - self._hashed), self._hashed)
            if not data:
                raise LostError(f"{self.path} is shorter than the {self.size} bytes that were written")
            self._hash(data)
        return Digests(self._sha256.digest(), self._crc32c)

    def close(self) -> None:
        """Let go of the file. Repeatable."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _name(self) -> None:
        """Not when it is opened: where hundreds begin at once, nobody else would get at the disk meanwhile."""
        if not self._named:
            sync_folder(self.path.parent)
            self._named = True

    def _hash(self, data: bytes, crc32c: int | None = None) -> None:
        self._sha256.update(data)
        size = len(data)
        if crc32c is not None and size == self._usual >= JOINED and self._alike >= ALIKE:
            self._crc32c = joined(self._crc32c, crc32c, size)
        else:
            self._crc32c = google_crc32c.extend(self._crc32c, data)
        self._alike = self._alike + 1 if size == self._usual else 1
        self._usual = size
        self._hashed += size


def part_path(folder: Path, uid: bytes, part: int) -> Path:
    """The file of a part."""
    return folder / f"{uid_text(uid)}.{part}"


def staged_path(folder: Path, uid: bytes, parts: int) -> Path:
    """The file that becomes the object: the part itself where there is one alone."""
    return part_path(folder, uid, 0) if parts == 1 else folder / f"{uid_text(uid)}.whole"


def join(folder: Path, uid: bytes, sizes: Sequence[int]) -> Digests:
    """Put parts together, durably, in one file; or there is none. Raises `LostError` or `OSError`."""
    whole = staged_path(folder, uid, len(sizes))
    try:
        digests = _join(whole, [part_path(folder, uid, part) for part in range(len(sizes))], sizes)
        sync_folder(folder)
    except BaseException:
        whole.unlink(missing_ok=True)
        raise
    return digests


def _join(whole: Path, parts: Sequence[Path], sizes: Sequence[int]) -> Digests:
    sha256, crc32c = hashlib.sha256(), 0
    with whole.open("wb") as target:
        for path, size in zip(parts, sizes, strict=True):
            if not size:
                continue  # nothing was ever sent of it
            left = size
            with path.open("rb") as source:
                while left and (data := source.read(min(COPY, left))):
                    sha256.update(data)
                    crc32c = google_crc32c.extend(crc32c, data)
                    target.write(data)
                    left -= len(data)
            if left:
                raise LostError(f"{path} is shorter than the {size} bytes that were recorded")
        target.flush()
        os.fsync(target.fileno())
    return Digests(sha256.digest(), crc32c)


def remove(folder: Path, uid: bytes) -> None:
    """Remove all files of an upload. Repeatable."""
    for path in folder.glob(f"{uid_text(uid)}.*"):
        path.unlink(missing_ok=True)


def sweep(folder: Path, kept: Iterable[bytes]) -> int:
    """Make the folder, and remove what belongs to no upload that goes on. Returns how many files those were."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted, removed = frozenset(kept), 0
    for path in folder.iterdir():
        uid = parse_uid(path.name.rpartition(".")[0])
        if uid is not None and uid not in wanted:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def sync_folder(folder: Path) -> None:
    """What was made, renamed or removed in the folder is durable."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
