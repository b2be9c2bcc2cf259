"""Sidecars: what a local store knows of a file beside its bytes.

One file for each object, named by its key and its inode: a move keeps the inode, so that what is written before the
bytes come to their key belongs to them from that moment on, and to nothing else. While a file comes or goes there is a
mark of the same name: of many sidecars the next start looks at those alone that a crash may have left without a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from longshore_server.transfers.objects import ObjectInfo


class Sidecar(msgspec.Struct, frozen=True):
    """The facts of one object."""

    key: str
    size: int
    mtime: int
    """Of the file, in nanoseconds: with the size it tells that nobody else has written to it."""
    sha256: str
    crc32c: int | None
    content_type: str
    metadata: Mapping[str, str]
    staged: str
    """The name of the file that the bytes were staged in, by which an adoption knows its own work again."""
    replaces: int
    """The inode whose place the bytes take; 0: none."""


class Sidecars:
    """Those of one store.

    Args:
        folder: where they are.
        marks: where the marks are.
        incoming: a folder on the same file system, which is emptied at every start.
    """

    def __init__(self, folder: Path, marks: Path, incoming: Path) -> None:
        self._folder = folder
        self._marks = marks
        self._incoming = incoming

    def write(self, sidecar: Sidecar, inode: int) -> None:
        """Durable, and whole or not at all, before the file comes. Raises `OSError`."""
        self.mark(sidecar.key, inode)
        write(self._path(sidecar.key, inode), msgspec.json.encode(sidecar), self._incoming / secrets.token_hex(16))

    def read(self, key: str, file: os.stat_result) -> Sidecar | None:
        """That of a file; None: it has none, or has been written to by somebody else. Raises `OSError`."""
        try:
            found = msgspec.json.decode(self._path(key, file.st_ino).read_bytes(), type=Sidecar)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        return found if (found.key, found.size, found.mtime) == (key, file.st_size, file.st_mtime_ns) else None

    def remove(self, key: str, inode: int) -> None:
        """Once the file has gone. Raises `OSError`."""
        self._path(key, inode).unlink(missing_ok=True)
        self.settle(key, inode)

    def mark(self, key: str, inode: int) -> None:
        """A file is about to come, or to go. Raises `OSError`."""
        # Not durable: after a power cut a sidecar too many may stay, which matches no file.
        self._mark(key, inode).write_text(key, "utf-8")

    def settle(self, key: str, inode: int) -> None:
        """A file has come, and with it its sidecar. Raises `OSError`."""
        self._mark(key, inode).unlink(missing_ok=True)

    def sweep(self, look: Callable[[str], os.stat_result]) -> None:
        """At the start: remove what a crash has left without its file. `look` gives that of a key. Raises `OSError`."""
        for mark in list(self._marks.iterdir()):
            key, inode = mark.read_text("utf-8"), int(mark.name.rpartition("-")[2])
            try:
                file = look(key) if key else None
            except (FileNotFoundError, NotADirectoryError):
                file = None
            except OSError:
                continue  # whether it is there another start will see
            if file is None or file.st_ino != inode:
                self._path(key, inode).unlink(missing_ok=True)
            elif (sidecar := self.read(key, file)) is not None and sidecar.replaces:
                self._path(key, sidecar.replaces).unlink(missing_ok=True)
            mark.unlink()

    def _path(self, key: str, inode: int) -> Path:
        return self._folder / f"{_name(key, inode)}.json"

    def _mark(self, key: str, inode: int) -> Path:
        return self._marks / _name(key, inode)


def _name(key: str, inode: int) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}-{inode}"


def describe(key: str, file: os.stat_result, sidecar: Sidecar | None) -> ObjectInfo:
    """An object from its file and its sidecar."""
    updated = file.st_mtime_ns // 1000
    if sidecar is None:
        return ObjectInfo(key, file.st_size, updated=updated)
    return ObjectInfo(
        key, file.st_size, sidecar.sha256, sidecar.crc32c, sidecar.content_type, sidecar.metadata, updated
    )


def write(path: Path, data: bytes, draft: Path) -> None:
    """Make or replace a file durably, whole or not at all. `draft` is on the same file system. Raises `OSError`."""
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Make what was made, moved and removed in the folder durable. Raises `OSError`."""
    with contextlib.ExitStack() as stack:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, file)
        os.fsync(file)
