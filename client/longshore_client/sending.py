"""Sends the bytes of an upload, through whatever breaks: what the server has counted is never sent again.

Every part has a call of its own. One that breaks is followed, after the back-off of all calls, by the question how much
is durable, and by another call from there on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Self

import grpc
import grpc.aio

from longshore.v1 import transfers_service_pb2 as pb
from longshore.v1.operation_pb2 import UploadGrant
from longshore_client.channel import error_of
from longshore_client.errors import Aborted, CallError, Code, DataLoss, FailedPrecondition, InternalError
from longshore_client.outage import CANNOT_WRITE
from longshore_client.sources import CHUNK, Chunk, Digest, Passing, Stored, digest_all
from longshore_client.stream import MISSED_HEARTBEATS, Alarm, silent

if TYPE_CHECKING:
    from collections.abc import Callable

    from longshore.v1.operation_pb2 import OperationSnapshot
    from longshore_client.channel import Channel
    from longshore_client.meter import Meter
    from longshore_client.retry import Backoff
    from longshore_client.sources import Body, Data, Readable

MAX_PARTS = 64
_QUERY = 20.0  # seconds that a server may take to write down what has come


class _Sender:
    """Sends one part.

    Args:
        channel: Where the server is.
        upload: The upload's name.
        part: Which part of it.
        body: The part's bytes.
        meter: Who is told how far it has come.
        total: How many bytes the whole object has, if that is known.
        commit: Whether they are the last of the object, and are to be committed.
    """

    def __init__(
        self, channel: Channel, upload: str, part: int, body: Body, meter: Meter, total: int | None, *, commit: bool
    ) -> None:
        self._channel = channel
        self._upload = upload
        self._part = part
        self._body = body
        self._meter = meter
        self._total = total
        self._commit = commit

    async def send(self, at: int) -> UploadGrant:
        """Send what follows `at`, and return the last answer.

        Raises:
            CallError: The server refused, or could not be reached for as long as the channel's retry says.
        """
        backoff = self._channel.retry.attempts()
        await self._meter.sent(self._part, at)
        try:
            while True:
                answer = await self._call(at)
                if isinstance(answer, CallError):
                    found = await self._found(answer, backoff, at)
                else:
                    self._channel.outage.answered(backoff)
                    await self._meter.committed(answer.committed_size)
                    if self._body.ended:
                        return answer
                    found = _size_of(answer, self._part)
                if found > at:
                    backoff.reset()
                at = found
        finally:
            self._channel.outage.left(backoff)

    async def _found(self, failure: CallError, backoff: Backoff, at: int) -> int:
        """How much of the part is durable after a failure; raises the failure if it is final."""
        if not await self._channel.pause(backoff, failure, resumable=resumable(failure)):
            raise failure
        request = pb.QueryUploadRequest(name=self._upload)
        grant = await self._channel.invoke(self._channel.calls.query_upload, request, wait=_QUERY)
        if failure.reason not in CANNOT_WRITE:
            # It answers again; its answer to the bytes comes after the last of them.
            self._channel.outage.answered(backoff)
        if grant.state == UploadGrant.STATE_FAILED:
            # Its bytes are gone; the next call is told why.
            return at
        if grant.state == UploadGrant.STATE_COMMITTING:
            # It is at work: to wait for it is no failure.
            backoff.reset()
        await self._meter.committed(grant.committed_size)
        return _size_of(grant, self._part)

    async def _call(self, at: int) -> UploadGrant | CallError:
        """Make one call, and return its answer or what it failed with; raise what ends the sending."""
        channel = self._channel
        limit = channel.heartbeat_interval * MISSED_HEARTBEATS
        calls, feed = channel.calls, _Feed()
        call = calls.upload(feed, metadata=channel.metadata)

        def over(_: object) -> None:
            # It may be refused while its sender waits, for bytes or for somebody to take them.
            self._body.wake()
            feed.end()

        call.add_done_callback(over)
        channel.streams.add(call)
        alarm = Alarm(limit, call.cancel)
        try:
            await self._write(feed, alarm, at)
            alarm.begin()
            return (await call).upload
        except grpc.aio.AioRpcError as error:
            channel.check_open()
            return error_of(error)
        except asyncio.CancelledError:
            channel.check_open()
            if alarm.guilty:
                return silent(channel, calls, limit, "took no bytes and gave no answer")
            raise
        finally:
            alarm.close()
            feed.end()
            channel.streams.discard(call)
            if not call.done():
                call.cancel()

    async def _write(self, feed: _Feed, alarm: Alarm, at: int) -> None:
        async with aclosing(self._requests(at, lambda: feed.over)) as requests:
            async for request in requests:
                if feed.over:
                    return
                alarm.begin()
                await feed.put(request)
                alarm.end()
        await feed.put(None)

    async def _requests(self, at: int, over: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        header = pb.UploadHeader(upload=self._upload, part=self._part, total_size=self._total)
        yield pb.UploadRequest(header=header).SerializeToString()
        async with aclosing(self._body.chunks(at, over)) as chunks:
            async for chunk in chunks:
                yield _encode(chunk)
                await self._meter.sent(self._part, chunk.offset + len(chunk.data))
        if self._commit and self._body.ended:
            digest = await self._body.digested()
            commit = pb.UploadCommit(total_size=digest.size, sha256=digest.sha256)
            yield pb.UploadRequest(commit=commit).SerializeToString()


class _Feed:
    """The requests of one call, for gRPC to take.

    Not by `write`: the interceptors that others put around a call may have none before it is over.
    """

    def __init__(self) -> None:
        self.over = False
        """Whether nobody takes any more."""
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = asyncio.Event()

    async def put(self, request: bytes | None) -> None:
        """Hand over the next, None after the last, as soon as the one before has been taken."""
        while self._queue.qsize() and not self.over:
            self._room.clear()
            await self._room.wait()
        self._queue.put_nowait(request)

    def end(self) -> None:
        """Keep neither side waiting. Repeatable."""
        self.over = True
        self._room.set()
        self._queue.put_nowait(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        request = await self._queue.get()
        self._room.set()
        if request is None:
            raise StopAsyncIteration
        return request


async def send(
    channel: Channel, grant: UploadGrant, source: Readable | AsyncIterator[Data], parts: int, meter: Meter
) -> UploadGrant:
    """Send what the server does not have yet, commit it, and return what the server answers to that.

    Args:
        channel: Where the server is.
        grant: The upload.
        source: The bytes of the whole object.
        parts: How many of its parts are sent at the same time; more than one only of what can be read again.
        meter: Who is told how far it has come.

    Raises:
        CallError: The server refused, or could not be reached for as long as the channel's retry says.
        OSError: The file cannot be read.
        Exception: Whatever the source raises, or the callback that is told.
    """
    if isinstance(source, AsyncIterator):
        answer, digest = await _send_passing(channel, grant, source, meter)
    else:
        answer, digest = await _send_stored(channel, grant, source, parts, meter)
    await meter.done(digest.size)
    if answer.digests.sha256 != digest.sha256 or answer.digests.crc32c != digest.crc32c:
        raise DataLoss(
            f"{grant.name}: the server has stored other bytes than were sent: their digests differ",
            reason="DIGEST_MISMATCH",
            code=Code.DATA_LOSS,
            domain="longshore",
        )
    return answer


async def grant_of(channel: Channel, snapshot: OperationSnapshot, *, fresh: bool) -> UploadGrant:
    """The upload of an operation, as it is now: somebody may be sending to one that is not fresh.

    Raises:
        FailedPrecondition: There is none (reason NO_UPLOAD).
        PermissionDenied: The operation is somebody else's.
    """
    if not snapshot.HasField("upload"):
        raise _refused("NO_UPLOAD", f"{snapshot.name} takes no bytes: its contract declares no upload")
    if fresh:
        return snapshot.upload
    return await channel.invoke(channel.calls.query_upload, pb.QueryUploadRequest(name=snapshot.upload.name))


def check(grant: UploadGrant, source: Readable | AsyncIterator[Data], parts: int) -> None:
    """See whether a source can go on where an upload stands.

    Raises:
        FailedPrecondition: It cannot (reason SOURCE_MISMATCH).
    """
    if isinstance(source, AsyncIterator):
        if grant.committed_size:
            raise _mismatch(grant, "bytes that come only once, as from a pipe, cannot go on from there: send a file")
        return
    if grant.state != UploadGrant.STATE_OPEN:
        return
    planned = [end - start for start, end in _layout(source.size, parts)]
    sizes = grant.part_sizes
    if grant.committed_size > source.size:
        raise _mismatch(grant, f"there are only {source.size} to send: they are those of another object")
    if len(sizes) > len(planned) or any(size > plan for size, plan in zip(sizes, planned, strict=False)):
        raise _mismatch(grant, "it was begun in another number of parts: give the same number again")


async def _send_stored(
    channel: Channel, grant: UploadGrant, source: Readable, parts: int, meter: Meter
) -> tuple[UploadGrant, Digest]:
    digest, total = Digest(), source.size
    layout = _layout(total, parts)
    if grant.state != UploadGrant.STATE_OPEN:
        # Of what is committed already there is nothing to send, whatever its parts were.
        end = at = total
    elif len(layout) == 1:
        end, at = total, _size_of(grant, 0)
    else:
        async with _group() as group:
            group.create_task(digest_all(source, digest))
            for part, (begin, until) in enumerate(layout):
                body = Stored(source, begin, until, None)
                sender = _Sender(channel, grant.name, part, body, meter, total, commit=False)
                group.create_task(sender.send(_size_of(grant, part)))
        end = at = layout[0][1]
    last = _Sender(channel, grant.name, 0, Stored(source, 0, end, digest), meter, total, commit=True)
    return await last.send(at), digest


async def _send_passing(
    channel: Channel, grant: UploadGrant, source: AsyncIterator[Data], meter: Meter
) -> tuple[UploadGrant, Digest]:
    body = Passing(source)
    async with _group() as group:
        group.create_task(body.receive())
        sending = group.create_task(_Sender(channel, grant.name, 0, body, meter, None, commit=True).send(0))
    return sending.result(), await body.digested()


@asynccontextmanager
async def _group() -> AsyncGenerator[asyncio.TaskGroup, None]:
    """Tasks of which the first that fails ends the others, with its own error."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _layout(size: int, parts: int) -> list[tuple[int, int]]:
    """Where each part begins and ends; fewer parts than that where there are not so many chunks."""
    step = max(1, -(-size // (parts * CHUNK))) * CHUNK
    return [(start, min(start + step, size)) for start in range(0, size, step)] or [(0, 0)]


def _size_of(grant: UploadGrant, part: int) -> int:
    """How many bytes of a part are durable."""
    return grant.part_sizes[part] if part < len(grant.part_sizes) else 0


def resumable(failure: CallError) -> bool:
    """Whether another call can go on after this failure, which would be final for other calls."""
    if failure.domain == "longshore":
        return failure.reason in ("WRONG_OFFSET", "CHUNK_CORRUPT")
    # Broken on the way: nobody of ours has said it. UNKNOWN has no class of its own.
    return isinstance(failure, (Aborted, InternalError, DataLoss)) or type(failure) is CallError


def _encode(chunk: Chunk) -> bytes:
    """`UploadRequest(chunk=...)` in bytes, with the CRC32C before the data.

    By hand: protobuf would copy the data twice more, and would put the CRC32C after it, where it is lost, and nothing
    checked, if bytes are inserted on the way.
    """
    offset, data, crc32c = chunk
    before = b"".join((b"\x08", _varint(offset), b"\x1d", crc32c.to_bytes(4, "little"), b"\x12", _varint(len(data))))
    return b"".join((b"\x12", _varint(len(before) + len(data)), before, data))


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _mismatch(grant: UploadGrant, why: str) -> FailedPrecondition:
    return _refused("SOURCE_MISMATCH", f"{grant.committed_size} bytes of {grant.name} are durable already, and {why}")


def _refused(reason: str, message: str) -> FailedPrecondition:
    return FailedPrecondition(message, reason=reason, code=Code.FAILED_PRECONDITION, domain="longshore")
