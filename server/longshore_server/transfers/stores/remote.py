"""Objects in S3, Google Cloud Storage and Azure."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import obstore
from obstore import exceptions
from obstore.store import from_url

from longshore_server import keys
from longshore_server.reasons import Reason
from longshore_server.store.database import StoreError
from longshore_server.transfers.objects import ObjectError, ObjectInfo
from longshore_server.transfers.stores.base import (
    MAX_OBJECT,
    NO_METADATA,
    Save,
    Store,
    came_from,
    check_limit,
    check_range,
)  # fmt: skip
from longshore_server.transfers.stores.reader import Reader
from longshore_server.transfers.threads import in_thread

PART = 8 << 20
"""Bytes that are sent or fetched in one request; what is larger goes in several."""
AT_ONCE = 4
"""How many parts of one object are sent at once."""
COPY = 5 << 30
"""Bytes that a bucket copies by itself."""
RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
"""No longer than this: callers wait for what is asked, and those who put bytes try again by themselves."""
_ACCESS = {"gs": "GOOGLE_APPLICATION_CREDENTIALS", "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"}
"""What the provider's own tools read, by the URL's scheme."""
MAX_PRESIGN = 7 * 24 * 3600
"""Seconds for which a URL is good at most."""
_PLAIN = re.compile(r"[A-Za-z0-9:/._-]+")
FACTS = "longshore"
"""The attribute of an object that holds `Facts`, as JSON in ASCII: names of attributes lose their capitals on the way,
and their values may not be everything."""


class Facts(msgspec.Struct, frozen=True):
    """What we know of an object beyond its size."""

    sha256: str = ""
    crc32c: int | None = None
    content_type: str = ""
    metadata: Mapping[str, str] = NO_METADATA
    staged: str = ""
    """The name of the file that was staged, by which an adoption knows its own work again."""


class Aside(msgspec.Struct, frozen=True):
    """A large object that is not to take the place of another, on its way to its own, as it is kept over restarts."""

    aside: str
    """The key under which it is put first."""


class RemoteStore(Store):
    """Objects in a bucket, below the prefix of the URL. Keys and region come from where the service's own tools look.

    Args:
        url: `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`; for S3 see `S3Store`.
        max_object_bytes: the largest object that the store takes.
    """

    def __init__(self, url: str, *, max_object_bytes: int = MAX_OBJECT) -> None:
        super().__init__(max_object_bytes=max_object_bytes)
        self._url = url
        self._bucket: Any = None

    async def start(self, name: str, folder: Path, mark: str = "") -> str:
        """Find out how it is reached. Whether it can be is not asked: that may be otherwise a minute later."""
        place = await super().start(name, folder, mark)
        try:
            self._bucket = await self._connect()
        except (exceptions.BaseError, ValueError) as error:
            where = _ACCESS.get(self._url.partition(":")[0]) if isinstance(error, exceptions.BaseError) else None
            hint = f"; look at {where} in the server's environment" if where else ""
            raise StoreError(f"store {name}: {self._url}: {first_line(error).removesuffix('.')}{hint}") from error
        return place

    async def _connect(self) -> Any:
        return from_url(self._url, retry_config=RETRIES)

    async def adopt(
        self, staged: Path, key: str, *, size: int, sha256: str, crc32c: int, content_type: str = "",
        metadata: Mapping[str, str] = NO_METADATA, overwrite: bool = True, state: bytes = b"",
        save: Save | None = None,
    ) -> ObjectInfo:  # fmt: skip
        """Send the file, then remove it."""
        keys.check(key)
        info = ObjectInfo(key, size, sha256, crc32c, content_type, dict(metadata))
        async with self._changing(key):
            found, by = await self._look(key)
            if by == staged.name:
                # An earlier try has done it, and not lived to say so, nor to remove what it needed for that.
                await self.give_up(key, state)
            else:
                if not await in_thread(staged.exists):
                    await self.give_up(key, state)
                    if found is not None and found.sha256 == sha256:
                        return found
                    raise ObjectError(Reason.OBJECT_CORRUPT, f"{key}: what was staged for it is neither there nor here")
                if found is not None and not overwrite:
                    await self.give_up(key, state)
                    raise ObjectError(Reason.OBJECT_EXISTS, f"{key}: there is an object with this key")
                try:
                    await self._send(staged, info, overwrite=overwrite, state=state, save=save)
                except ObjectError:
                    # The answer that it is done may have been lost on the way, and the request made once more.
                    if (await self._look(key))[1] != staged.name:
                        raise
                found, by = await self._look(key)
            await in_thread(staged.unlink, missing_ok=True)
            return replace(info, updated=found.updated if found is not None and by == staged.name else 0)

    async def stat(self, key: str) -> ObjectInfo:
        """From the object's own attributes."""
        keys.check(key)
        found, _ = await self._look(key)
        if found is None:
            raise ObjectError(Reason.OBJECT_NOT_FOUND, f"{key}: there is no object with this key")
        return found

    @contextlib.asynccontextmanager
    async def reader(self, key: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[Reader]:
        """In requests of `PART` bytes, so that a slow reader holds no connection. An object that loses its place on
        the way cannot be read to its end: OBJECT_NOT_FOUND."""
        check_range(offset, length)
        size = (await self.stat(key)).size
        end = size if length is None else min(size, offset + length)
        yield _RemoteReader(self._bucket, key, size, offset, end)

    async def list(self, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        """As the bucket does it."""
        check_limit(limit)
        found: list[ObjectInfo] = []
        # What is asked for is a folder; a prefix may end within a name.
        folder = prefix.rpartition("/")[0] or None
        with refusing_remote(prefix):
            async for objects in obstore.list(self._bucket, folder, offset=after or None):
                for meta in objects:
                    key = meta["path"]
                    if key.startswith(prefix) and key > after and keys.is_key(key):
                        found.append(ObjectInfo(key, meta["size"], updated=_microseconds(meta)))
                        if len(found) == limit:
                            return found
                    elif key > prefix and not key.startswith(prefix):
                        return found
        return found

    async def copy(self, source: str, target: str, *, overwrite: bool = True) -> ObjectInfo:
        """Inside the bucket, where it can do that."""
        keys.check(target)
        info = await self.stat(source)
        if source == target or not overwrite or info.size > COPY:
            return await super().copy(source, target, overwrite=overwrite)
        async with self._changing(target):
            with refusing_remote(source):
                await obstore.copy_async(self._bucket, source, target)
        return await self.stat(target)

    async def delete(self, key: str, *, only: str = "") -> bool:
        """Buckets do not say whether there was one: that is asked before."""
        keys.check(key)
        async with self._changing(key):
            found, by = await self._look(key)
            if found is None or not came_from(by, only):
                return False
            with refusing_remote(key), contextlib.suppress(FileNotFoundError):
                await obstore.delete_async(self._bucket, key)
            return True

    async def presign(self, key: str, expires_in: float) -> str:
        """Signed with the credentials of the service, for 1 second to 7 days: what S3 and Google take."""
        keys.check(key)
        if not 1 <= expires_in <= MAX_PRESIGN:
            raise ValueError(f"a URL is good for 1 to {MAX_PRESIGN} seconds, not for {expires_in:g}")
        if self._url.startswith("az:") and not _PLAIN.fullmatch(f"{self._url}/{key}"):
            # The library signs the key as the URL has it, escaped; Azure wants it as it is, and would refuse the URL.
            raise ObjectError(Reason.NOT_SUPPORTED, f"{key}: for such a key nobody can make a URL that Azure takes")
        with refusing_remote(key):
            return await obstore.sign_async(self._bucket, "GET", key, timedelta(seconds=expires_in))

    async def _look(self, key: str) -> tuple[ObjectInfo | None, str]:
        """What is at a key; and the name of the file that was staged for it, if it came from us."""
        try:
            with refusing_remote(key):
                answer = await obstore.get_async(self._bucket, key, options={"head": True})
        except ObjectError as error:
            if error.reason is not Reason.OBJECT_NOT_FOUND:
                raise
            return None, ""
        meta, found = answer.meta, answer.attributes
        try:
            facts = msgspec.json.decode(found.get(FACTS, "{}"), type=Facts)
        except msgspec.MsgspecError:
            facts = Facts()
        # A bucket makes one up for what was put without.
        content_type = facts.content_type if facts.staged else found.get("Content-Type", "")
        info = ObjectInfo(
            key, meta["size"], facts.sha256, facts.crc32c, content_type, facts.metadata, _microseconds(meta)
        )
        return info, facts.staged

    async def give_up(self, key: str, state: bytes) -> None:
        """Remove what was put aside."""
        if state:
            with refusing_remote(key), contextlib.suppress(FileNotFoundError):
                await obstore.delete_async(self._bucket, msgspec.json.decode(state, type=Aside).aside)

    async def _send(self, staged: Path, info: ObjectInfo, *, overwrite: bool, state: bytes, save: Save | None) -> None:
        if overwrite or info.size <= PART:
            await self._put(staged, info.key, attributes(staged, info), overwrite=overwrite)
            return
        # A condition is possible for what goes in one request, and for a copy.
        aside = f"{keys.RESERVED}/{staged.name}"
        kept = msgspec.json.encode(Aside(aside))
        if save is not None and not state:
            await save(kept)  # before there is anything: nobody else would remove it after a crash
        try:
            await self._put(staged, aside, attributes(staged, info), overwrite=True)
            with refusing_remote(info.key, absent=Reason.STORE_UNAVAILABLE):
                await obstore.copy_async(self._bucket, aside, info.key, overwrite=False)
        finally:
            await self.give_up(info.key, kept)

    async def _put(self, staged: Path, key: str, described: Any, *, overwrite: bool) -> None:
        with refusing_remote(key, absent=Reason.STORE_UNAVAILABLE):
            await obstore.put_async(
                self._bucket, key, staged, attributes=described, mode="overwrite" if overwrite else "create",
                chunk_size=PART, max_concurrency=AT_ONCE,
            )  # fmt: skip


class _RemoteReader(Reader):
    """Of an object of `size` bytes, from `offset` to `end`."""

    def __init__(self, bucket: Any, key: str, size: int, offset: int, end: int) -> None:
        super().__init__()
        self._bucket = bucket
        self._key = key
        self._size = size
        self._offset = offset
        self._end = end
        self._same: dict[str, Any] = {}

    async def _fetch(self) -> memoryview:
        if self._offset >= self._end:
            return memoryview(b"")
        options: Any = {"range": (self._offset, min(self._offset + PART, self._end)), **self._same}
        with refusing_remote(self._key):
            answer = await obstore.get_async(self._bucket, self._key, options=options)
            self._same = {"if_match": answer.meta["e_tag"]}
            data = memoryview(await answer.bytes_async())
        if answer.meta["size"] != self._size:
            raise ObjectError(Reason.OBJECT_NOT_FOUND, f"{self._key}: another object has taken its place")
        self._offset += len(data)
        return data


def attributes(staged: Path, info: ObjectInfo) -> dict[str, str]:
    """Those with which a staged file becomes an object."""
    facts = {
        "sha256": info.sha256, "crc32c": info.crc32c, "content_type": info.content_type,
        "metadata": dict(info.metadata), "staged": staged.name,
    }  # fmt: skip
    found = {FACTS: json.dumps(facts)}
    return {**found, "Content-Type": info.content_type} if info.content_type else found


@contextlib.contextmanager
def refusing_remote(key: str, *, absent: Reason = Reason.OBJECT_NOT_FOUND) -> Iterator[None]:
    """Raises `ObjectError` for what a remote store refuses inside the block.

    Args:
        key: what it was about.
        absent: what it means when something is not there. Default: the object; where one is put it is the bucket.
    """
    try:
        yield
    except FileNotFoundError as error:
        missing = absent is not Reason.OBJECT_NOT_FOUND
        text = first_line(error) if missing else "there is no object with this key"
        raise ObjectError(absent, f"{key}: {text}", lasting=missing) from error
    except exceptions.AlreadyExistsError as error:
        raise ObjectError(Reason.OBJECT_EXISTS, f"{key}: there is an object with this key") from error
    except exceptions.PreconditionError as error:
        raise ObjectError(Reason.OBJECT_NOT_FOUND, f"{key}: another object has taken its place") from error
    except exceptions.BaseError as error:
        lasting = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
        raise ObjectError(Reason.STORE_UNAVAILABLE, f"{key}: {first_line(error)}", lasting=lasting) from error


def first_line(error: Exception) -> str:
    """What follows is for who wrote the library."""
    return str(error).partition("\n")[0]


def _microseconds(meta: Any) -> int:
    return int(meta["last_modified"].timestamp() * 1_000_000)
