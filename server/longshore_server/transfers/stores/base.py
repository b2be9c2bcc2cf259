"""What every store can do, and how bytes get into one."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import hashlib
import os
import secrets
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import google_crc32c

from longshore_server import keys
from longshore_server.reasons import Reason
from longshore_server.transfers.objects import ObjectError, ObjectInfo
from longshore_server.transfers.stores.failures import refusing
from longshore_server.transfers.stores.reader import Reader
from longshore_server.transfers.threads import in_thread

CHUNK = 1 << 20
"""Bytes that are read or written at a time."""
MAX_OBJECT = 5 << 40
"""Bytes of the largest object, where nobody says less: what S3 takes."""
NO_METADATA: Mapping[str, str] = MappingProxyType({})

Data = bytes | Path | AsyncIterable[bytes]
"""What can be put into a store: bytes, a file, or a stream."""
Save = Callable[[bytes], Awaitable[None]]
"""Keeps how far a push has come, durably."""


class Store(abc.ABC):
    """A named place for objects, inside the service: callers get bytes only through grants.

    Every method that takes a key raises `ValueError` for one that `keys.check` refuses, and `ObjectError` when the
    store cannot do it.

    Args:
        max_object_bytes: the largest object that the store takes.
    """

    def __init__(self, *, max_object_bytes: int = MAX_OBJECT) -> None:
        self.max_object_bytes = max_object_bytes
        self.name = ""
        """What contracts call it; known once it has started."""
        self._incoming = Path()
        # One change of a key at a time: each sees the object whose place it takes, or that it deletes.
        self._changes: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @property
    def staging(self) -> Path | None:
        """Where uploads to this store have to be staged, so that `adopt` only moves them. None: anywhere."""
        return None

    async def start(self, name: str, folder: Path, mark: str = "") -> str:  # noqa: ARG002 - for those with a place
        """Make it ready.

        Args:
            name: what contracts call it.
            folder: its own in the data directory; made if the store needs it.
            mark: what the place bears where its objects were. Default: there were none.

        Returns what the place bears where its objects are, 32 characters; empty: it has none that could be away
        unnoticed. Raises `StoreError` when it cannot be used, as when its place is another than before.
        """
        self.name = name
        self._incoming = folder / "incoming"
        await in_thread(_empty, self._incoming)
        return ""

    async def stop(self) -> None:  # noqa: B027 - most have nothing
        """Let go of everything that `start` took. Repeatable."""

    async def put(
        self, key: str, data: Data, *, content_type: str = "", metadata: Mapping[str, str] = NO_METADATA,
        overwrite: bool = True,
    ) -> ObjectInfo:  # fmt: skip
        """Store an object whole or not at all; durable on return. A large one never stands in memory.

        Args:
            key: its name; see `keys.check`.
            data: its bytes.
            content_type: of its bytes, at most 255 printable ASCII characters. Default: none.
            metadata: further facts, at most 1024 bytes as JSON in ASCII.
            overwrite: whether it may take the place of another. If not, and there is one, OBJECT_EXISTS is raised.

        Raises `ObjectError`, `ValueError` for a key, content type, metadata or size that the store never takes, and
        `TypeError` for what is none; nothing has changed then.
        """
        keys.check(key)
        keys.check_content_type(content_type)
        keys.check_metadata(metadata)
        if not isinstance(data, bytes | Path | AsyncIterable):
            raise TypeError(f"data is bytes, a pathlib.Path or an async iterator of bytes, not {type(data).__name__}")
        staged = self._incoming / secrets.token_hex(16)
        try:
            with contextlib.ExitStack() as stack:
                writer = await in_thread(_Writer, key, staged, stack)
                async for chunk in _pieces(data):
                    if writer.size + len(chunk) > self.max_object_bytes:
                        raise ValueError(f"{key}: an object has at most {self.max_object_bytes} bytes here")
                    await in_thread(writer.write, chunk)
                await in_thread(writer.finish)
            return await self.adopt(
                staged, key, size=writer.size, sha256=writer.sha256.hexdigest(), crc32c=writer.crc32c,
                content_type=content_type, metadata=metadata, overwrite=overwrite,
            )  # fmt: skip
        finally:
            await in_thread(staged.unlink, missing_ok=True)

    @abc.abstractmethod
    async def adopt(
        self, staged: Path, key: str, *, size: int, sha256: str, crc32c: int, content_type: str = "",
        metadata: Mapping[str, str] = NO_METADATA, overwrite: bool = True, state: bytes = b"",
        save: Save | None = None,
    ) -> ObjectInfo:  # fmt: skip
        """Make a staged file an object; durable on return. The file is gone then.

        Can be repeated after a crash at any point, with the same arguments: it finds what was done already, and
        does the rest.

        Args:
            staged: the file, whole and synced, below `staging` if that is set. Its name is never used again.
            size, sha256, crc32c: of its bytes.
            state: what `save` was last called with for this file; empty: nothing.
            save: keeps how far it has come. None: nobody will repeat it.
        """

    @abc.abstractmethod
    async def stat(self, key: str) -> ObjectInfo:
        """What is known of an object. Raises `ObjectError` OBJECT_NOT_FOUND when there is none."""

    async def open(self, key: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        """The bytes of an object from `offset` on, `length` of them or, by default, all, in chunks of 1 MiB at most.

        They are those of one object, even if another takes its place meanwhile. Beyond its end there are none. Close
        it (`contextlib.aclosing`) where it is not read to the end.
        """
        async with self.reader(key, offset, length) as reader:
            room = memoryview(bytearray(CHUNK))
            while True:
                if size := reader.at_once(room):
                    yield bytes(room[:size])
                elif not await reader.more():
                    return

    @abc.abstractmethod
    def reader(
        self, key: str, offset: int = 0, length: int | None = None
    ) -> contextlib.AbstractAsyncContextManager[Reader]:
        """As `open`, for who knows where the bytes are to go."""

    @abc.abstractmethod
    async def list(self, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        """Objects in the order of their keys, with key, size and time; `stat` knows the rest.

        Args:
            prefix: what their keys begin with.
            after: the last key of the page before.
            limit: how many at most.
        """

    async def copy(self, source: str, target: str, *, overwrite: bool = True) -> ObjectInfo:
        """Store the bytes of one key under another too, with content type and metadata."""
        keys.check(target)
        info = await self.stat(source)
        async with contextlib.aclosing(self.open(source)) as data:
            return await self.put(
                target, data, content_type=info.content_type, metadata=info.metadata, overwrite=overwrite
            )

    async def give_up(self, key: str, state: bytes) -> None:  # noqa: B027 - most have nothing
        """Leave nothing of an adoption that will not be repeated, and how far it had come: see `adopt`. Repeatable."""

    @abc.abstractmethod
    async def delete(self, key: str, *, only: str = "") -> bool:
        """Delete an object, durably. Returns whether there was one.

        Args:
            only: the uid of the operation whose upload it must have come from, as the store itself knows. Default:
                from anywhere.
        """

    async def presign(self, key: str, expires_in: float) -> str:  # noqa: ARG002 - for those that can
        """A URL from which anybody can read the object for `expires_in` seconds.

        Raises `ObjectError` NOT_SUPPORTED where the store has no such thing.
        """
        keys.check(key)
        raise ObjectError(Reason.NOT_SUPPORTED, f"the store {self.name} has no URLs of its own")

    @contextlib.asynccontextmanager
    async def _changing(self, key: str) -> AsyncGenerator[None]:
        lock = self._changes.setdefault(key, asyncio.Lock())
        async with lock:
            yield


def came_from(staged: str, only: str) -> bool:
    """Whether the bytes that were staged in a file of this name are those that `Store.delete` means."""
    return not only or staged.startswith(f"{only}.")


def check_range(offset: int, length: int | None) -> None:
    """Raises `ValueError`, and `TypeError` for what is no number."""
    if type(offset) is not int or type(length) not in (int, type(None)):
        raise TypeError(f"offset and length are whole numbers, not {offset!r} and {length!r}")
    if offset < 0 or (length is not None and length < 0):
        raise ValueError("offset and length must not be negative")


def check_limit(limit: int) -> None:
    """Raises `ValueError`, and `TypeError` for what is no number."""
    if type(limit) is not int:
        raise TypeError(f"limit is a whole number, not {limit!r}")
    if limit < 1:
        raise ValueError("limit must be at least 1")


class _Writer:
    """A new file, and the digests of what is written to it."""

    def __init__(self, key: str, path: Path, stack: contextlib.ExitStack) -> None:
        self._key = key
        with refusing(key):
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        stack.callback(os.close, self._file)
        self.size = 0
        self.sha256 = hashlib.sha256()
        self.crc32c = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self.sha256.update(data)
        self.crc32c = google_crc32c.extend(self.crc32c, data)
        rest = memoryview(data)
        with refusing(self._key):
            while rest:
                rest = rest[os.write(self._file, rest) :]

    def finish(self) -> None:
        with refusing(self._key):
            os.fsync(self._file)


async def _pieces(data: Data) -> AsyncIterator[bytes]:
    """`data` in pieces of `CHUNK` bytes: one hop into a thread for each of a stream's tiny ones would be dear."""
    if isinstance(data, bytes):
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]
    elif isinstance(data, Path):
        with contextlib.ExitStack() as stack:
            file = await in_thread(lambda: stack.enter_context(data.open("rb")))
            while piece := await in_thread(file.read, CHUNK):
                yield piece
    else:
        held = bytearray()
        async for chunk in data:
            held += chunk
            whole = len(held) - len(held) % CHUNK
            for start in range(0, whole, CHUNK):
                yield bytes(held[start : start + CHUNK])
            del held[:whole]
        if held:
            yield bytes(held)


def _empty(folder: Path) -> None:
    """Make the folder, or remove what was being put into the store when the last server ended."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
