"""The asyncio client's handles, for callers that block.

Written by client/write_blocking.py. Do not edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, cast

from typing_extensions import TypeVar

from longshore_client import method, operation, upload
from longshore_client.blocking.portal import Blocking
from longshore_client.state import OutputT, ProgressT, ResultT, SignalT, State

if TYPE_CHECKING:
    import os
    from collections import Counter
    from collections.abc import Callable, Generator, Iterable, Mapping
    from typing import IO

    from longshore_client.events import Event, EventBase
    from longshore_client.grants import DownloadGrant, ReceiveProgress, SendProgress, UploadGrant
    from longshore_client.operation import SentSignal
    from longshore_client.snapshot import Snapshot
    from longshore_client.sources import Source

InputT = TypeVar("InputT")
HandleT = TypeVar(
    "HandleT", bound="OperationHandle[Any, Any, Any, Any]", default="OperationHandle[ProgressT, OutputT, ResultT]"
)


class OperationHandle(
    Blocking[operation.OperationHandle[ProgressT, OutputT, ResultT, SignalT]],
    Generic[ProgressT, OutputT, ResultT, SignalT],
):
    """One operation. Holds no connection of its own and may be dropped at any time: the operation goes on."""

    @property
    def name(self) -> str:
        """`operations/{id}`: all that another process needs to attach to it."""
        return self._inner.name

    @property
    def uid(self) -> str:
        """The server-made unique id; empty on an attached handle before the first answer."""
        return self._inner.uid

    @property
    def created(self) -> bool:
        """Whether the start that made this handle created the operation; False if it existed, or was attached to."""
        return self._inner.created

    def get(self) -> Snapshot[ProgressT, ResultT]:
        """Return where the operation stands now.

        Raises:
            NotFound: There is no such operation, or no longer.
        """
        return self._portal.run(self._inner.get)

    def wait(self, timeout: float | None = None) -> ResultT:
        """Return the result when the operation has completed.

        Args:
            timeout: The longest wait, in seconds. Default: as long as it takes.

        Raises:
            OperationFailed: It ended with an error.
            OperationCancelled: It was cancelled.
            StillRunning: It had not ended when the time was up. It goes on.
        """
        return self._portal.run(self._inner.wait, timeout=timeout)

    def watch(
        self, after: int = 0, *, conflate: bool = False, types: Iterable[type[EventBase]] = ()
    ) -> Generator[Event[ProgressT, OutputT, ResultT, SignalT], None, None]:
        """Yield every event once and in order, the terminal one last, whatever happens to the connection.

        Where the server's log no longer reaches back far enough, one `Reset` stands for what is missing, and is the
        last if the terminal event is among it. After the last event of an operation that has ended nothing comes.

        Args:
            after: The sequence after which to begin. Default 0: from the first event.
            conflate: Skip progress that is no longer the latest when this caller is slow.
            types: Only these kinds of events, as classes, and always the terminal one and `Reset`. Default: all.

        Raises:
            CallError: The server refused, or could not be reached for as long as the channel's retry says.
        """
        return self._portal.iterate(self._inner.watch(after=after, conflate=conflate, types=types))

    def cancel(self, reason: str = "") -> Snapshot[ProgressT, ResultT]:
        """Ask to cancel, and return where the operation stands then. Repeating it does no harm.

        Args:
            reason: Why, for people; at most 1024 bytes.

        Raises:
            FailedPrecondition: The contract does not let callers cancel (reason NOT_CANCELLABLE).
        """
        return self._portal.run(self._inner.cancel, reason=reason)

    def stop(self, reason: str = "") -> Snapshot[ProgressT, ResultT]:
        """Ask to stop and to keep what there is, and return where the operation stands then.

        What the handler then returns is the result, with `stopped` set. Repeating it does no harm.

        Args:
            reason: Why, for people; at most 1024 bytes.
        """
        return self._portal.run(self._inner.stop, reason=reason)

    def retry(self, *, request_id: str | None = None, keep_steps: bool = False) -> Self:
        """Start an operation that has ended once more, and return a handle on the new one.

        Args:
            request_id: Idempotency key of the new one. Default: a new key, which makes the retries of this call safe.
            keep_steps: Do not do again what its handler has completed in steps: go on at the one that failed.

        Raises:
            FailedPrecondition: It has not ended (reason OPERATION_RUNNING), or no handler ran it (NOT_RETRIABLE).
            ResourceExhausted: Too many operations wait, and did for as long as the channel's retry says.
        """
        return type(self)(
            self._portal, self._portal.run(self._inner.retry, request_id=request_id, keep_steps=keep_steps)
        )

    def delete(self) -> None:
        """Delete an operation that has ended. Repeating it does no harm.

        Raises:
            FailedPrecondition: It has not ended (reason OPERATION_RUNNING).
            NotFound: There is no such operation, and this handle has never seen it.
        """
        self._portal.run(self._inner.delete)

    def signal(self, name: str, payload: SignalT | None = None, *, signal_id: str | None = None) -> SentSignal:
        """Send a signal. It is durable when this returns; the handler consumes it once, in the order of acceptance.

        Args:
            name: The signal, as the contract names it.
            payload: A message of the type that the contract declares for it. Default: an empty one.
            signal_id: The same id is the same signal, also after the end. Default: a new one, which makes the retries
                of this call safe.

        Raises:
            TypeError: The payload is another message than this program's contract says, or none.
            InvalidArgument: The contract declares no such signal, or another payload, or a rule of it is broken.
            FailedPrecondition: The operation has ended (reason OPERATION_ENDED).
            AlreadyExists: The id was used for another signal of this operation.
            ResourceExhausted: As many signals of this name wait as the contract allows; `retry_after` says when to try
                again.
        """
        return self._portal.run(self._inner.signal, name=name, payload=payload, signal_id=signal_id)

    def upload(self, source: Source, *, parts: int = 1) -> PreparedTransfer[ProgressT, OutputT, ResultT, Self]:
        """Say which bytes to send to this operation, from where its upload stands. Nothing is sent before `start`.

        For who has started it without bytes, and for who goes on in the place of a program that is gone: a file and
        bytes go on after what is durable, whoever has sent that. The call that sends meanwhile, if any, is ended.

        Args:
            source: As for `transfer` of a start. What comes only once can be sent only where nothing is durable yet.
            parts: As for `transfer` of a start; the same number as before.
        """
        return PreparedTransfer(self._portal, self._inner.upload(source=source, parts=parts))

    def downloads(self) -> tuple[DownloadGrant, ...]:
        """Return what the operation has offered to callers by now, in that order."""
        return self._portal.run(self._inner.downloads)

    def download(
        self,
        to: str | os.PathLike[str] | IO[bytes],
        download: int | str = 1,
        *,
        resume: bool = True,
        on_transfer: Callable[[ReceiveProgress], object] | None = None,
    ) -> DownloadGrant:
        """Fetch bytes that the operation offers, through whatever breaks, and return what they are.

        A path is written as `NAME.part` beside it, which is synced to the disk and then renamed: there is never a part
        of the bytes under the name itself.

        Args:
            to: The path of a file, in whose place it comes if there is one, or of a pipe or a device, which is written
                to; or a binary file that is written from where it stands.
            download: Which of the downloads: its number, from 1, or its name `downloads/{uid}.{number}`.
            resume: Go on with the `.part` that an earlier try has left, if the digest of the whole is known.
            on_transfer: Called with how far it has come, at most ten times a second; in a thread of the client's.

        Raises:
            NotFound: It offers no such download.
            FailedPrecondition: That has expired or was revoked (DOWNLOAD_EXPIRED, DOWNLOAD_REVOKED).
            DataLoss: What came is not what was stored; the `.part` is gone.
            BlockingIOError: Another download writes to that `.part` now.
            OSError: The file cannot be written.
        """
        return self._portal.run(
            self._inner.download,
            to=to,
            download=download,
            resume=resume,
            on_transfer=on_transfer and self._portal.callback(on_transfer),
        )

    def open(self, download: int | str = 1, *, offset: int = 0) -> Generator[bytes, None, None]:
        """Yield bytes that the operation offers, in chunks, through whatever breaks.

        Args:
            download: Which of the downloads: its number, from 1, or its name `downloads/{uid}.{number}`.
            offset: Where to begin.

        Raises:
            CallError: As `download` does.
            DataLoss: What came is not what was stored; known after the last chunk, and of the whole object only.
        """
        return self._portal.iterate(self._inner.open(download=download, offset=offset))


class PreparedUpload(
    Blocking[upload.PreparedUpload[ProgressT, OutputT, ResultT, Any]], Generic[ProgressT, OutputT, ResultT, HandleT]
):
    """An operation that takes bytes, not started yet: say which with `transfer`."""

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
        return PreparedTransfer(self._portal, self._inner.transfer(source=source, parts=parts))

    def start_without_bytes(self) -> HandleT:
        """Start it and send nothing: `upload` of the handle, or somebody else, sends the bytes before it expires."""
        return cast("HandleT", OperationHandle(self._portal, self._portal.run(self._inner.start_without_bytes)))


class PreparedTransfer(
    Blocking[upload.PreparedTransfer[ProgressT, OutputT, ResultT, Any]], Generic[ProgressT, OutputT, ResultT, HandleT]
):
    """Bytes that are ready to be sent with `start`."""

    def on_transfer(self, callback: Callable[[SendProgress], object]) -> Self:
        """Have a function called with how far the bytes have come: at most ten times a second.

        What it raises ends the sending and is raised by `Upload.wait`.
        """
        self._inner.on_transfer(callback=self._portal.callback(callback))
        return self

    def on_progress(self, callback: Callable[[ProgressT], object]) -> Self:
        """Have a function called with each progress of the operation, in order."""
        self._inner.on_progress(callback=self._portal.callback(callback))
        return self

    def start(self) -> Upload[ProgressT, OutputT, ResultT, HandleT]:
        """Open the source, start the operation, begin to send, and return as soon as the operation is durable.

        Raises:
            OSError: The file cannot be opened. Nothing was started.
            ValueError: The source comes only once, and cannot be sent in parts. Nothing was started.
            FailedPrecondition: The operation existed, and takes no bytes (reason NO_UPLOAD), or this source cannot go
                on where its upload stands (SOURCE_MISMATCH).
            CallError: The start was refused, as for any other operation.
        """
        return Upload(self._portal, self._portal.run(self._inner.start))


class Upload(Blocking[upload.Upload[ProgressT, OutputT, ResultT, Any]], Generic[ProgressT, OutputT, ResultT, HandleT]):
    """An operation whose bytes are on their way. They are sent whether or not somebody waits for them."""

    @property
    def operation(self) -> HandleT:
        """The operation. It goes on whatever becomes of this object."""
        return cast("HandleT", OperationHandle(self._portal, self._inner.operation))

    @property
    def found(self) -> UploadGrant:
        """The upload as it stood when this began. Of one that was committed nothing is sent: `sent` compares."""
        return self._inner.found

    @property
    def name(self) -> str:
        """`operations/{id}`: all that another process needs to attach to it."""
        return self._inner.name

    def sent(self) -> UploadGrant:
        """Return what the server has, once the object is durable in its store; its digests are those of what was sent.

        Raises:
            CallError: The server refused the bytes, or could not be reached for as long as the channel's retry says.
            DataLoss: It has stored other bytes than were sent.
            OSError: The file cannot be read.
            Exception: Whatever the source raises, or the callback that is told.
        """
        return self._portal.run(self._inner.sent)

    def wait(self, timeout: float | None = None) -> ResultT:
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
        return self._portal.run(self._inner.wait, timeout=timeout)


class OperationMethod(
    Blocking[method.OperationMethod[InputT, ProgressT, OutputT, ResultT, Any]],
    Generic[InputT, ProgressT, OutputT, ResultT, HandleT],
):
    """One operation type at one server. Generated clients have one as attribute for each method of the contract."""

    @property
    def type(self) -> str:
        """The operation type, for example `acme.orders.v1.OrdersService/Process`."""
        return self._inner.type

    def attach(self, name: str) -> HandleT:
        """Return a handle on an operation that exists, by its name. Nothing is sent.

        Raises:
            TypeError: The name is no text.
        """
        return cast("HandleT", OperationHandle(self._portal, self._inner.attach(name=name)))

    def list(
        self, filter: str = "", *, oldest_first: bool = False
    ) -> Generator[Snapshot[ProgressT, ResultT], None, None]:
        """Yield where each operation of this type stands that the caller may see.

        Args:
            filter: Only these, for example `state=RUNNING AND labels.tenant="acme"`. Default: all.
            oldest_first: In the order of their acceptance. Default: the newest first.

        Raises:
            InvalidArgument: The filter is not one that the server understands (reason INVALID_FILTER).
        """
        return self._portal.iterate(self._inner.list(filter=filter, oldest_first=oldest_first))

    def count(self, filter: str = "") -> Counter[State]:
        """Return how many operations of this type there are in each state; of very many only the newest count.

        Args:
            filter: Only these, as for `list`.
        """
        return self._portal.run(self._inner.count, filter=filter)

    def __call__(
        self,
        request: InputT,
        *,
        request_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> HandleT:
        """Start an operation and return a handle as soon as it is durable.

        Args:
            request: The input.
            request_id: Idempotency key: the same key with the same input gives the same operation.
                Default: the input's own field `request_id`, or a new one, which makes the retries of this call safe.
            labels: Facts to find it by later.
            timeout: Seconds after which no further try is made when the server cannot be reached.

        Raises:
            TypeError: The input is another message than the contract says, or none; a key or a label is no text.
            InvalidArgument: The input breaks a rule; `field_violations` says which. Nothing was started.
            AlreadyExists: The request id or the operation's name was used with another input.
            ResourceExhausted: Too many operations wait, and did for as long as the channel's retry says.
        """
        return cast(
            "HandleT",
            OperationHandle(
                self._portal,
                self._portal.run(self._inner, request=request, request_id=request_id, labels=labels, timeout=timeout),
            ),
        )

    def run(
        self,
        request: InputT,
        *,
        on_progress: Callable[[ProgressT], object] | None = None,
        on_output: Callable[[OutputT], object] | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> ResultT:
        """Start an operation and return its result.

        Args:
            request: The input.
            on_progress: Called with each progress, in order; in a thread of the client's.
            on_output: The same for output.
            timeout: The longest wait, in seconds. Default: as long as it takes.
            request_id: As for a start.
            labels: As for a start.

        Raises:
            TypeError: The input is another message than the contract says, or none; a key or a label is no text.
            OperationFailed: It ended with an error.
            OperationCancelled: It was cancelled.
            StillRunning: It had not ended when the time was up. It goes on.
            Exception: Whatever a callback raises. The operation goes on.
        """
        return self._portal.run(
            self._inner.run,
            request=request,
            on_progress=on_progress and self._portal.callback(on_progress),
            on_output=on_output and self._portal.callback(on_output),
            timeout=timeout,
            request_id=request_id,
            labels=labels,
        )


class UploadMethod(
    Blocking[method.UploadMethod[InputT, ProgressT, OutputT, ResultT, Any]],
    Generic[InputT, ProgressT, OutputT, ResultT, HandleT],
):
    """One operation type whose callers send bytes with it."""

    @property
    def type(self) -> str:
        """The operation type, for example `acme.orders.v1.OrdersService/Process`."""
        return self._inner.type

    def attach(self, name: str) -> HandleT:
        """Return a handle on an operation that exists, by its name. Nothing is sent.

        Raises:
            TypeError: The name is no text.
        """
        return cast("HandleT", OperationHandle(self._portal, self._inner.attach(name=name)))

    def list(
        self, filter: str = "", *, oldest_first: bool = False
    ) -> Generator[Snapshot[ProgressT, ResultT], None, None]:
        """Yield where each operation of this type stands that the caller may see.

        Args:
            filter: Only these, for example `state=RUNNING AND labels.tenant="acme"`. Default: all.
            oldest_first: In the order of their acceptance. Default: the newest first.

        Raises:
            InvalidArgument: The filter is not one that the server understands (reason INVALID_FILTER).
        """
        return self._portal.iterate(self._inner.list(filter=filter, oldest_first=oldest_first))

    def count(self, filter: str = "") -> Counter[State]:
        """Return how many operations of this type there are in each state; of very many only the newest count.

        Args:
            filter: Only these, as for `list`.
        """
        return self._portal.run(self._inner.count, filter=filter)

    def __call__(
        self,
        request: InputT,
        *,
        request_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> PreparedUpload[ProgressT, OutputT, ResultT, HandleT]:
        """Prepare a start: it needs the bytes, by `transfer`, before anything is sent.

        Args:
            request: The input.
            request_id: As for any operation. With the same key a program that was restarted goes on where it was.
            labels: Facts to find it by later.
            timeout: Seconds after which no further try to start it is made when the server cannot be reached.

        Raises:
            TypeError: The input is another message than the contract says, or none; a key or a label is no text.
        """
        return PreparedUpload(
            self._portal, self._inner(request=request, request_id=request_id, labels=labels, timeout=timeout)
        )
