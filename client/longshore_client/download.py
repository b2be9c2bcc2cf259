"""Fetches bytes that an operation offers, through whatever breaks: into a file, or chunk by chunk."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import sys
import time
import uuid
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import google_crc32c
import grpc.aio

from longshore.v1 import transfers_service_pb2 as pb
from longshore_client.arguments import called
from longshore_client.aside import aside
from longshore_client.channel import error_of
from longshore_client.codec import download_grant
from longshore_client.errors import CallError, Code, DataLoss, Unavailable
from longshore_client.grants import ReceiveProgress
from longshore_client.meter import Throttle, tell
from longshore_client.sending import resumable
from longshore_client.sources import BLOCK, Digest
from longshore_client.stream import MISSED_HEARTBEATS, SilentError, Stream, silent

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from longshore_client.channel import Channel
    from longshore_client.grants import DownloadGrant
    from longshore_client.meter import Callback

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems say that have none, as some over a network: bytes can be fetched there all the same."""
_STALE = frozenset({"DIGEST_MISMATCH", "DOWNLOAD_CHANGED", "OFFSET_OUT_OF_RANGE"})


class Fetch:
    """One download: its bytes from an offset on, over as many calls as it takes.

    Args:
        channel: Where the server is.
        name: `downloads/{uid}.{number}`.
        offset: Where to begin, in bytes.
        digest: Of the bytes before `offset`, which are to be checked together with those that come. Default: what comes
            is checked as a whole where nothing is before it.
        use: What its calls have in common, which are one use of the download. Default: a use of its own.
    """

    def __init__(
        self, channel: Channel, name: str, offset: int = 0, digest: Digest | None = None, use: str = ""
    ) -> None:
        self.grant: DownloadGrant | None = None
        """What it is, once the server has said it."""
        self._channel = channel
        self._name = name
        self._offset = offset
        self._digest = digest if digest is not None or offset else Digest()
        self.use = use or str(uuid.uuid4())

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes up to the last.

        Raises:
            CallError: The server refused, or could not be reached for as long as the channel's retry says.
            DataLoss: What came is not what was stored, or the bytes before it are not.
        """
        channel = self._channel
        backoff = channel.retry.attempts()
        limit = channel.heartbeat_interval * MISSED_HEARTBEATS
        while True:
            calls = channel.calls
            call = calls.download(self._request(), metadata=channel.metadata)
            channel.streams.add(call)
            stream = Stream(call, limit)
            begun, crc32c = self._offset, 0
            failure: CallError
            try:
                while (message := await stream.read()) is not None:
                    kind = message.WhichOneof("message")
                    if kind == "header":
                        channel.outage.answered(backoff)
                        self._note(download_grant(message.header.download))
                    elif kind == "chunk":
                        self._check_chunk(message.chunk)
                        data = message.chunk.data
                        crc32c = google_crc32c.extend(crc32c, data)
                        self._offset += len(data)
                        backoff.reset()
                        if self._digest is not None:
                            self._digest.update(data)
                        yield data
                    elif kind == "end":
                        if message.end != pb.DownloadEnd(length=self._offset - begun, crc32c=crc32c):
                            raise _corrupt(self._name, "its end does not fit what came before it")
                        self._check_whole()
                        # Let the stream end by itself: the status is usually here already.
                        await stream.read()
                        return
                failure = Unavailable(
                    f"{channel.target} ended {self._name} before its last byte",
                    reason="EARLY_END",
                    code=Code.UNAVAILABLE,
                    domain="longshore",
                )
            except grpc.aio.AioRpcError as error:
                channel.check_open()
                failure = error_of(error)
            except DataLoss as error:
                if not resumable(error):
                    raise
                failure = error
            except asyncio.CancelledError:
                channel.check_open()
                raise
            except SilentError:
                failure = silent(channel, calls, limit, f"sent nothing of {self._name}")
            finally:
                stream.close()
                channel.streams.discard(call)
                channel.outage.left(backoff)
            if not await channel.pause(backoff, failure, resumable=resumable(failure)):
                raise failure

    def _request(self) -> pb.DownloadRequest:
        sha256 = bytes.fromhex(self.grant.sha256) if self.grant is not None else b""
        return pb.DownloadRequest(name=self._name, offset=self._offset, use_id=self.use, if_sha256=sha256)

    def _note(self, grant: DownloadGrant) -> None:
        first, self.grant = self.grant is None, grant
        if first and self._offset and self._digest is not None and not grant.sha256 and grant.crc32c is None:
            raise _corrupt(self._name, "nobody knows its digest, so that it cannot go on with bytes from before")

    def _check_chunk(self, chunk: pb.DownloadChunk) -> None:
        if chunk.offset != self._offset:
            raise _corrupt(self._name, f"byte {chunk.offset} came in the place of {self._offset}", "CHUNK_CORRUPT")
        if chunk.crc32c != google_crc32c.value(chunk.data):
            raise _corrupt(self._name, "the CRC32C of a chunk does not fit its bytes", "CHUNK_CORRUPT")

    def _check_whole(self) -> None:
        digest, grant = self._digest, self.grant
        if digest is None or grant is None:
            return
        if grant.sha256:
            good = digest.sha256.hex() == grant.sha256
        else:
            good = grant.crc32c in (None, digest.crc32c)
        if not good:
            raise _corrupt(self._name, "its bytes have another digest than the object that was stored")


def check_taker(to: object) -> None:
    """Raises TypeError for what no bytes can be written to."""
    if not isinstance(to, str | os.PathLike) and not hasattr(to, "write"):
        raise TypeError(f"to is a path or a binary file, not {called(to)}")


async def save(
    channel: Channel,
    name: str,
    to: str | os.PathLike[str] | IO[bytes],
    *,
    resume: bool,
    on_transfer: Callback[ReceiveProgress] | None,
) -> DownloadGrant:
    """Fetch a download into a file; the arguments and errors are those of `OperationHandle.download`."""
    if not isinstance(to, str | os.PathLike):
        return await _write(Fetch(channel, name), to, 0, on_transfer)
    path = Path(to)
    if await asyncio.to_thread(lambda: path.exists() and not path.is_file()):
        # A pipe or a device, in whose place must come no file; and a folder, which cannot be opened.
        with await aside(lambda: path.open("wb", buffering=0)) as taker:
            return await _write(Fetch(channel, name), taker, 0, on_transfer)
    part = path.with_name(path.name + ".part")
    file = await asyncio.to_thread(_open, part, resume)
    try:
        digest = await asyncio.to_thread(_digest, file)
        before = digest.size
        fetch = Fetch(channel, name, before, digest)
        try:
            grant = await _write(fetch, file, before, on_transfer)
        except CallError as error:
            if not before or error.reason not in _STALE:
                raise
            # What was there before is of another object, or of nobody knows which: begin again.
            await asyncio.to_thread(_empty, file)
            grant = await _write(Fetch(channel, name, use=fetch.use), file, 0, on_transfer)
        await asyncio.to_thread(_publish, file, part, path)
    except DataLoss:
        part.unlink()
        raise
    finally:
        file.close()
    return grant


async def _write(
    fetch: Fetch, file: IO[bytes] | io.RawIOBase, received: int, on_transfer: Callback[ReceiveProgress] | None
) -> DownloadGrant:
    throttle = Throttle(time.monotonic)
    async with aclosing(fetch.chunks()) as chunks:
        async for chunk in chunks:
            await _put(file, chunk)
            received += len(chunk)
            if on_transfer is not None and throttle.ready():
                await tell(on_transfer, _progress(fetch, received))
    assert fetch.grant is not None
    if on_transfer is not None:
        await tell(on_transfer, _progress(fetch, received))
    return fetch.grant


async def _put(file: IO[bytes] | io.RawIOBase, data: bytes) -> None:
    if not isinstance(file, io.RawIOBase):
        await asyncio.to_thread(file.write, data)
        return
    rest = memoryview(data)
    while rest:
        # It may be a pipe, which takes as much as there is room, and nothing for as long as nobody reads.
        taken = await aside(partial(file.write, rest))
        if taken is None:
            raise BlockingIOError(errno.EWOULDBLOCK, "it takes nothing now")
        rest = rest[taken:]


def _progress(fetch: Fetch, received: int) -> ReceiveProgress:
    return ReceiveProgress(received, (fetch.grant.size if fetch.grant is not None else None) or received)


def _open(part: Path, resume: bool) -> IO[bytes]:
    """The part, for nobody else. Raises `BlockingIOError`: two who write to it would make a file of neither's bytes."""
    while True:
        file = part.open("a+b")
        try:
            _lock(file)
            if _is(file, part):
                break
        except BlockingIOError:
            file.close()
            why = "another download writes to it; wait until that has ended, or fetch into another file"
            raise BlockingIOError(errno.EWOULDBLOCK, why, str(part)) from None
        # It became the whole file, or was deleted, between the two: there is another part, or none.
        file.close()
    if not resume:
        _empty(file)
    return file


def _lock(file: IO[bytes]) -> None:
    """Until it is closed. Raises `BlockingIOError`."""
    if sys.platform != "win32":  # where who writes a file keeps others from renaming it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise


def _is(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _digest(file: IO[bytes]) -> Digest:
    digest = Digest()
    file.seek(0)
    while data := file.read(BLOCK):
        digest.update(data)
    return digest


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()


def _publish(file: IO[bytes], part: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _corrupt(name: str, why: str, reason: str = "DIGEST_MISMATCH") -> DataLoss:
    return DataLoss(f"{name}: {why}", reason=reason, code=Code.DATA_LOSS, domain="longshore")
