"""Uploads as a caller writes them: what to start, which bytes go with it, whom to tell, and how it ends.

upload = await documents.upload(request).transfer(Path("report.pdf")).on_transfer(bar).on_progress(show).start()
result = await upload.wait()
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, cast

from typing_extensions import TypeVar

from longshore.v1 import transfers_service_pb2 as pb
from longshore.v1.operation_pb2 import EventType
from longshore.v1.operation_pb2 import UploadGrant as WireGrant
from longshore_client import sending
from longshore_client.arguments import check_function, check_seconds, check_whole
from longshore_client.codec import upload_grant
from longshore_client.errors import CallError, LongshoreError, OperationFailed, StillRunning
from longshore_client.meter import Meter
from longshore_client.run import outcome, report
from longshore_client.sources import check_source, open_source
from longshore_client.state import OutputT, ProgressT, ResultT
from longshore_client.watch import Follower

if TYPE_CHECKING:
    from longshore.v1.operation_pb2 import OperationSnapshot
    from longshore_client.channel import Channel
    from longshore_client.codec import Codec
    from longshore_client.grants import SendProgress, UploadGrant
    from longshore_client.meter import Callback
    from longshore_client.operation import OperationHandle
    from longshore_client.sources import Data, Readable, Source

HandleT = TypeVar("HandleT", bound="OperationHandle[Any, Any, Any, Any]")


@dataclass(frozen=True, slots=True)
class Begin(Generic[ProgressT, OutputT, ResultT, HandleT]):
    """How an upload gets its operation: by a start, or because it is there.

    Attributes:
        operation: Starts the operation, or asks for it.
    """

    channel: Channel
    codec: Codec[ProgressT, OutputT, ResultT]
    operation: Callable[[], Awaitable[tuple[HandleT, OperationSnapshot]]]


class PreparedUpload(Generic[ProgressT, OutputT, ResultT, HandleT]):
    """An operation that takes bytes, not started yet: say which with `transfer`."""

    def __init__(self, begin: Begin[ProgressT, OutputT, ResultT, HandleT]) -> None:
        self._begin = begin

    def transfer(self, source: Source, *, parts: int = 1) -> PreparedTransfer[ProgressT, OutputT, ResultT, HandleT]:
        """Say which bytes go with it. Nothing is sent before `start`.

        Args:
            source: The path of a file, bytes, a binary file (from where it stands), an async iterator or an iterable of
                bytes. What can be read again goes on wherever a broken connection has left it; of the others 8 MiB
                at most are kept in memory. An iterable, and a file, is read in a thread.
            parts: How many parts of it are sent at the same time, 1 to 64; more than one only of a file or of bytes.

        Raises:
            TypeError: It is nothing of these.
            ValueError: There cannot be so many parts.
        """
        return PreparedTransfer(self._begin, source, parts)

    async def start_without_bytes(self) -> HandleT:
        """Start it and send nothing: `upload` of the handle, or somebody else, sends the bytes before it expires."""
        handle, _ = await self._begin.operation()
        return handle


class PreparedTransfer(Generic[ProgressT, OutputT, ResultT, HandleT]):
    """Bytes that are ready to be sent with `start`."""

    def __init__(self, begin: Begin[ProgressT, OutputT, ResultT, HandleT], source: Source, parts: int) -> None:
        check_source(source)
        if not 1 <= check_whole("parts", parts) <= sending.MAX_PARTS:
            raise ValueError(f"parts must be 1 to {sending.MAX_PARTS}, not {parts}")
        self._begin = begin
        self._source = source
        self._parts = parts
        self._on_transfer: Callback[SendProgress] | None = None
        self._on_progress: Callback[ProgressT] | None = None

    def on_transfer(self, callback: Callback[SendProgress]) -> Self:
        """Have a function, or coroutine function, called with how far the bytes have come: at most ten times a second.

        What it raises ends the sending and is raised by `Upload.wait`.
        """
        check_function("on_transfer", callback)
        self._on_transfer = callback
        return self

    def on_progress(self, callback: Callback[ProgressT]) -> Self:
        """Have a function, or coroutine function, called with each progress of the operation, in order."""
        check_function("on_progress", callback)
        self._on_progress = callback
        return self

    async def start(self) -> Upload[ProgressT, OutputT, ResultT, HandleT]:
        """Open the source, start the operation, begin to send, and return as soon as the operation is durable.

        Raises:
            OSError: The file cannot be opened. Nothing was started.
            ValueError: The source comes only once, and cannot be sent in parts. Nothing was started.
            FailedPrecondition: The operation existed, and takes no bytes (reason NO_UPLOAD), or this source cannot go
                on where its upload stands (SOURCE_MISMATCH).
            CallError: The start was refused, as for any other operation.
        """
        source = await open_source(self._source)
        if self._parts > 1 and isinstance(source, AsyncIterator):
            raise ValueError("what comes only once cannot be sent in parts: send a file, or bytes")
        try:
            handle, snapshot = await self._begin.operation()
            grant = await sending.grant_of(self._begin.channel, snapshot, fresh=handle.created)
            sending.check(grant, source, self._parts)
        except BaseException:
            if not isinstance(source, AsyncIterator):
                source.close()
            raise
        return Upload(self._begin, handle, grant, source, self._parts, self._on_transfer, self._on_progress)


class Upload(Generic[ProgressT, OutputT, ResultT, HandleT]):
    """An operation whose bytes are on their way. They are sent whether or not somebody waits for them."""

    def __init__(
        self,
        begin: Begin[ProgressT, OutputT, ResultT, HandleT],
        handle: HandleT,
        grant: WireGrant,
        source: Readable | AsyncIterator[Data],
        parts: int,
        on_transfer: Callback[SendProgress] | None,
        on_progress: Callback[ProgressT] | None,
    ) -> None:
        self.operation: HandleT = handle
        """The operation. It goes on whatever becomes of this object."""
        self.found: UploadGrant = upload_grant(grant)
        """The upload as it stood when this began. Of one that was committed nothing is sent: `sent` compares."""
        self._begin = begin
        self._name = grant.name
        total = None if isinstance(source, AsyncIterator) else source.size
        self._meter = Meter(on_transfer, begin.channel.monotonic, total)
        self._sending = _begun(self._send(grant, source, parts))
        self._ending: asyncio.Task[ResultT] | None = None
        if on_transfer is not None or on_progress is not None:
            self._ending = _begun(self._follow(on_transfer is not None, on_progress))

    @property
    def name(self) -> str:
        """`operations/{id}`: all that another process needs to attach to it."""
        return self.operation.name

    def __repr__(self) -> str:
        return f"<Upload {self._name} of {self.name}>"

    async def sent(self) -> UploadGrant:
        """Return what the server has, once the object is durable in its store; its digests are those of what was sent.

        Raises:
            CallError: The server refused the bytes, or could not be reached for as long as the channel's retry says.
            DataLoss: It has stored other bytes than were sent.
            OSError: The file cannot be read.
            Exception: Whatever the source raises, or the callback that is told.
        """
        return upload_grant(await asyncio.shield(self._sending))

    async def wait(self, timeout: float | None = None) -> ResultT:
        """Return the operation's result when it has completed, which may be long after the last byte was sent.

        Args:
            timeout: The longest wait, in seconds. Default: as long as it takes.

        Raises:
            CallError: The operation failed because its bytes did not come, and this is why; or they were refused, and
                it waits for others in vain.
            OperationFailed: It ended with an error.
            OperationCancelled: It was cancelled.
            StillRunning: It had not ended when the time was up. It goes on, and so does the sending.
            OSError: The file cannot be read. The operation goes on until its upload expires.
            Exception: Whatever the source raises, or a callback. The operation goes on.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        ending = self._ending = self._ending or _begun(cast("Coroutine[Any, Any, ResultT]", self.operation.wait()))
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                await asyncio.wait((ending, self._sending), return_when=asyncio.FIRST_COMPLETED)
                if not ending.done():
                    await self._check_sent()
                    await asyncio.wait((ending,))
                return await self._outcome(ending)
        except TimeoutError as error:
            # Only our own clock: a callback may raise TimeoutError for reasons of its own.
            if not limit.expired() or isinstance(error, StillRunning):
                raise
            raise StillRunning(self.name, timeout or 0.0) from None

    async def _send(self, grant: WireGrant, source: Readable | AsyncIterator[Data], parts: int) -> WireGrant:
        try:
            return await sending.send(self._begin.channel, grant, source, parts, self._meter)
        finally:
            if not isinstance(source, AsyncIterator):
                source.close()

    async def _follow(self, bytes_wanted: bool, on_progress: Callback[ProgressT] | None) -> ResultT:
        """Hand the operation's reports to the callbacks, to its end."""
        handle, codec = self.operation, self._begin.codec
        types = [
            *([EventType.EVENT_TYPE_TRANSFER] if bytes_wanted else []),
            *([EventType.EVENT_TYPE_PROGRESS] if on_progress is not None else []),
        ]
        follower = Follower(self._begin.channel, f"operations/{handle.uid}", uid=handle.uid, types=types)
        last = await report(follower, codec, on_progress, on_upload=self._note)
        return await outcome(handle, codec, last, handle.name)

    async def _note(self, grant: WireGrant) -> None:
        if grant.state == WireGrant.STATE_COMMITTED:
            # Told before the operation's end, although the answer to the commit may come after that.
            await self._meter.done(grant.committed_size)
        else:
            await self._meter.committed(grant.committed_size)

    async def _check_sent(self) -> None:
        """After the sending has ended: raise its error where the operation would wait for bytes that nobody sends."""
        error = self._sending.exception()
        if error is None:
            return
        if isinstance(error, LongshoreError) and error.reason == "UPLOAD_PREEMPTED":
            return
        if isinstance(error, CallError):
            # What has ended the upload is told to the operation, and that decides what becomes of it.
            channel, request = self._begin.channel, pb.QueryUploadRequest(name=self._name)
            grant = await channel.invoke(channel.calls.query_upload, request)
            if grant.state != WireGrant.STATE_OPEN:
                return
        raise error

    async def _outcome(self, ending: asyncio.Task[ResultT]) -> ResultT:
        try:
            return ending.result()
        except OperationFailed as failure:
            # The upload is over with its operation, and the sending with the upload.
            await asyncio.wait((self._sending,))
            error = self._sending.exception()
            if isinstance(error, CallError) and (error.reason, "longshore") == (failure.reason, failure.domain):
                raise error from failure
            raise


def _begun(work: Coroutine[Any, Any, ResultT]) -> asyncio.Task[ResultT]:
    """A task whose error is for those who ask; nobody need."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
