"""Sidecars: what a local store knows of a file beside its bytes.

One file for each object, named by its key and its inode: a move keeps the inode, so that what is written before the
bytes come to their key belongs to them from that moment on, and to nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Mapping
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
        incoming: a folder on the same file system, which is emptied at every start.
    """

    def __init__(self, folder: Path, incoming: Path) -> None:
        self._folder = folder
        self._incoming = incoming

    def write(self, sidecar: Sidecar, inode: int) -> None:
        """Durable, and whole or not at all. Raises `OSError`."""
        write(self._path(sidecar.key, inode), msgspec.json.encode(sidecar), self._incoming / secrets.token_hex(16))

    def read(self, key: str, file: os.stat_result) -> Sidecar | None:
        """That of a file; None: it has none, or has been written to by somebody else. Raises `OSError`."""
        try:
            found = msgspec.json.decode(self._path(key, file.st_ino).read_bytes(), type=Sidecar)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        return found if (found.key, found.size, found.mtime) == (key, file.st_size, file.st_mtime_ns) else None

    def remove(self, key: str, inode: int) -> None:
        """Nothing depends on its being gone: what is left after a crash matches no file. Raises `OSError`."""
        self._path(key, inode).unlink(missing_ok=True)

    def _path(self, key: str, inode: int) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}-{inode}.json"


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
