"""What callers hold of one operation: a handle by which it is followed, told things, and sent or asked for bytes."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self

from google.protobuf.message import Message

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1.operation_pb2 import EventType, OperationSnapshot
from longshore_client import events
from longshore_client.arguments import (
    called,
    check_flag,
    check_function,
    check_message,
    check_seconds,
    check_text,
    check_whole,
    request_of,
)
from longshore_client.channel import Channel
from longshore_client.codec import Codec, duration, to_any
from longshore_client.download import Fetch, check_taker, save
from longshore_client.errors import DeadlineExceeded, NotFound, StillRunning
from longshore_client.events import Event, EventBase
from longshore_client.state import OutputT, ProgressT, ResultT, SignalT, State
from longshore_client.upload import Begin, PreparedTransfer
from longshore_client.watch import Follower

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator
    from typing import IO

    from longshore_client.grants import DownloadGrant, ReceiveProgress
    from longshore_client.meter import Callback
    from longshore_client.snapshot import Snapshot
    from longshore_client.sources import Source

_EVENT_TYPES: dict[type[EventBase], EventType.ValueType] = {
    events.Accepted: EventType.EVENT_TYPE_ACCEPTED,
    events.Started: EventType.EVENT_TYPE_STARTED,
    events.Progress: EventType.EVENT_TYPE_PROGRESS,
    events.Output: EventType.EVENT_TYPE_OUTPUT,
    events.AttemptFailed: EventType.EVENT_TYPE_ATTEMPT_FAILED,
    events.Cancelling: EventType.EVENT_TYPE_CANCELLING,
    events.Stopping: EventType.EVENT_TYPE_STOPPING,
    events.Signalled: EventType.EVENT_TYPE_SIGNAL,
    events.Transfer: EventType.EVENT_TYPE_TRANSFER,
    events.Offered: EventType.EVENT_TYPE_OFFERED,
    events.Completed: EventType.EVENT_TYPE_COMPLETED,
    events.Failed: EventType.EVENT_TYPE_FAILED,
    events.Cancelled: EventType.EVENT_TYPE_CANCELLED,
    # Comes unasked, as the terminal event does: to ask for it alone is to ask for no more than that.
    events.Reset: EventType.EVENT_TYPE_COMPLETED,
}


@dataclass(frozen=True, slots=True)
class SentSignal:
    """What became of a signal."""

    number: int
    """Position among all signals of the operation, from 1."""
    signal_id: str
    duplicate: bool
    """It had been accepted before."""


class OperationHandle(Generic[ProgressT, OutputT, ResultT, SignalT]):
    """One operation. Holds no connection of its own and may be dropped at any time: the operation goes on."""

    def __init__(
        self,
        channel: Channel,
        codec: Codec[ProgressT, OutputT, ResultT],
        name: str,
        *,
        started: OperationSnapshot | None = None,
        created: bool = False,
    ) -> None:
        self._channel = channel
        self._codec = codec
        self._name = name
        self._uid = ""
        self._ended: OperationSnapshot | None = None
        self._created = created
        if started is not None:
            self._note(started)

    @property
    def name(self) -> str:
        """`operations/{id}`: all that another process needs to attach to it."""
        return self._name

    @property
    def uid(self) -> str:
        """The server-made unique id; empty on an attached handle before the first answer."""
        return self._uid

    @property
    def created(self) -> bool:
        """Whether the start that made this handle created the operation; False if it existed, or was attached to."""
        return self._created

    def __repr__(self) -> str:
        return f"<OperationHandle {self._name}>"

    async def get(self) -> Snapshot[ProgressT, ResultT]:
        """Return where the operation stands now.

        Raises:
            NotFound: There is no such operation, or no longer.
        """
        _, snapshot = await self._shown()
        return self._codec.snapshot(snapshot)

    async def wait(self, timeout: float | None = None) -> ResultT:
        """Return the result when the operation has completed.

        Args:
            timeout: The longest wait, in seconds. Default: as long as it takes.

        Raises:
            OperationFailed: It ended with an error.
            OperationCancelled: It was cancelled.
            StillRunning: It had not ended when the time was up. It goes on.
        """
        deadline = None if timeout is None else self._channel.monotonic() + check_seconds("timeout", timeout)
        while self._ended is None:
            span = self._channel.max_wait
            if deadline is not None:
                span = min(span, deadline - self._channel.monotonic())
            if span <= 0:
                raise StillRunning(self._name, timeout or 0.0)
            request, call = pb.WaitRequest(name=self._address, timeout=duration(span)), self._channel.calls.wait
            try:
                self._note(await self._channel.invoke(call, request, wait=span, again=self._at_once, deadline=deadline))
            except DeadlineExceeded:
                # Only our own: the server answers before it, unless it is in trouble, which changes nothing.
                raise StillRunning(self._name, timeout or 0.0) from None
        return self._codec.outcome(self._ended)

    async def watch(
        self, after: int = 0, *, conflate: bool = False, types: Iterable[type[EventBase]] = ()
    ) -> AsyncGenerator[Event[ProgressT, OutputT, ResultT, SignalT], None]:
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
        follower = Follower(
            self._channel,
            self._address,
            uid=self._uid,
            after=check_whole("after", after),
            types=_event_types(types),
            conflate=check_flag("conflate", conflate),
        )
        async with aclosing(follower.events()) as stream:
            async for wire in stream:
                if isinstance(wire, OperationSnapshot):
                    self._note(wire)
                    yield self._codec.reset(wire)
                    continue
                if wire.HasField("accepted"):
                    # From here on a resumed watch cannot end up at another operation of the same name.
                    self._uid = follower.uid = wire.accepted.uid
                event = self._codec.event(wire, self._name)
                if event is not None:
                    yield event

    async def cancel(self, reason: str = "") -> Snapshot[ProgressT, ResultT]:
        """Ask to cancel, and return where the operation stands then. Repeating it does no harm.

        Args:
            reason: Why, for people; at most 1024 bytes.

        Raises:
            FailedPrecondition: The contract does not let callers cancel (reason NOT_CANCELLABLE).
        """
        request = request_of(pb.CancelRequest, name=self._address, reason=reason)
        snapshot = await self._channel.invoke(self._channel.calls.cancel, request)
        self._note(snapshot)
        return self._codec.snapshot(snapshot)

    async def stop(self, reason: str = "") -> Snapshot[ProgressT, ResultT]:
        """Ask to stop and to keep what there is, and return where the operation stands then.

        What the handler then returns is the result, with `stopped` set. Repeating it does no harm.

        Args:
            reason: Why, for people; at most 1024 bytes.
        """
        request = request_of(pb.StopRequest, name=self._address, reason=reason)
        snapshot = await self._channel.invoke(self._channel.calls.stop, request)
        self._note(snapshot)
        return self._codec.snapshot(snapshot)

    async def retry(self, *, request_id: str | None = None, keep_steps: bool = False) -> Self:
        """Start an operation that has ended once more, and return a handle on the new one.

        Args:
            request_id: Idempotency key of the new one. Default: a new key, which makes the retries of this call safe.
            keep_steps: Do not do again what its handler has completed in steps: go on at the one that failed.

        Raises:
            FailedPrecondition: It has not ended (reason OPERATION_RUNNING), or no handler ran it (NOT_RETRIABLE).
            ResourceExhausted: Too many operations wait, and did for as long as the channel's retry says.
        """
        request_id = request_id or str(uuid.uuid4())
        request = request_of(pb.RetryRequest, name=self._address, request_id=request_id, keep_steps=keep_steps)
        started = await self._channel.invoke(self._channel.calls.retry, request)
        created = started.disposition == pb.StartResponse.DISPOSITION_CREATED
        name = started.operation.name
        return type(self)(self._channel, self._codec, name, started=started.operation, created=created)

    async def delete(self) -> None:
        """Delete an operation that has ended. Repeating it does no harm.

        Raises:
            FailedPrecondition: It has not ended (reason OPERATION_RUNNING).
            NotFound: There is no such operation, and this handle has never seen it.
        """
        try:
            await self._channel.invoke(self._channel.calls.delete, pb.DeleteRequest(name=self._address))
        except NotFound:
            # It was there when its uid was learnt: gone is what was asked for, by this call or one before it.
            if not self._uid:
                raise

    async def signal(self, name: str, payload: SignalT | None = None, *, signal_id: str | None = None) -> SentSignal:
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
        wanted = self._codec.signal_type(check_text("name", name)) or Message
        request = request_of(
            pb.SignalRequest,
            name=self._address,
            signal=name,
            payload=None if payload is None else to_any(check_message(payload, wanted, f"the signal {name}")),
            signal_id=signal_id or str(uuid.uuid4()),
        )
        response = await self._channel.invoke(self._channel.calls.signal, request)
        self._note(response.operation)
        return SentSignal(response.number, response.signal_id, response.duplicate)

    def upload(self, source: Source, *, parts: int = 1) -> PreparedTransfer[ProgressT, OutputT, ResultT, Self]:
        """Say which bytes to send to this operation, from where its upload stands. Nothing is sent before `start`.

        For who has started it without bytes, and for who goes on in the place of a program that is gone: a file and
        bytes go on after what is durable, whoever has sent that. The call that sends meanwhile, if any, is ended.

        Args:
            source: As for `transfer` of a start. What comes only once can be sent only where nothing is durable yet.
            parts: As for `transfer` of a start; the same number as before.
        """
        return PreparedTransfer(Begin(self._channel, self._codec, self._shown), source, parts)

    async def downloads(self) -> tuple[DownloadGrant, ...]:
        """Return what the operation has offered to callers by now, in that order."""
        return (await self.get()).downloads

    async def download(
        self,
        to: str | os.PathLike[str] | IO[bytes],
        download: int | str = 1,
        *,
        resume: bool = True,
        on_transfer: Callback[ReceiveProgress] | None = None,
    ) -> DownloadGrant:
        """Fetch bytes that the operation offers, through whatever breaks, and return what they are.

        A path is written as `NAME.part` beside it, which is synced to the disk and then renamed: there is never a part
        of the bytes under the name itself.

        Args:
            to: The path of a file, in whose place it comes if there is one, or of a pipe or a device, which is written
                to; or a binary file that is written from where it stands.
            download: Which of the downloads: its number, from 1, or its name `downloads/{uid}.{number}`.
            resume: Go on with the `.part` that an earlier try has left, if the digest of the whole is known.
            on_transfer: Called with how far it has come, at most ten times a second; a coroutine function is awaited.

        Raises:
            NotFound: It offers no such download.
            FailedPrecondition: That has expired or was revoked (DOWNLOAD_EXPIRED, DOWNLOAD_REVOKED).
            DataLoss: What came is not what was stored; the `.part` is gone.
            BlockingIOError: Another download writes to that `.part` now.
            OSError: The file cannot be written.
        """
        check_taker(to)
        if on_transfer is not None:
            check_function("on_transfer", on_transfer)
        name = await self._download_name(download)
        return await save(self._channel, name, to, resume=resume, on_transfer=on_transfer)

    async def open(self, download: int | str = 1, *, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield bytes that the operation offers, in chunks, through whatever breaks.

        Args:
            download: Which of the downloads: its number, from 1, or its name `downloads/{uid}.{number}`.
            offset: Where to begin.

        Raises:
            CallError: As `download` does.
            DataLoss: What came is not what was stored; known after the last chunk, and of the whole object only.
        """
        check_whole("offset", offset)
        fetch = Fetch(self._channel, await self._download_name(download), offset)
        async with aclosing(fetch.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _download_name(self, download: int | str) -> str:
        if isinstance(download, str):
            return download
        if type(download) is not int:
            raise TypeError(f"download is the number of one, or its name, not {called(download)}")
        if not self._uid:
            await self.get()
        return f"downloads/{self._uid}.{download}"

    async def _shown(self) -> tuple[Self, OperationSnapshot]:
        snapshot = await self._channel.invoke(self._channel.calls.get, pb.GetRequest(name=self._address))
        self._note(snapshot)
        return self, snapshot

    def _at_once(self) -> pb.WaitRequest:
        return pb.WaitRequest(name=self._address, timeout=duration(0))

    @property
    def _address(self) -> str:
        # A template name may come to mean another operation; the uid never does.
        return f"operations/{self._uid}" if self._uid else self._name

    def _note(self, snapshot: OperationSnapshot) -> None:
        self._uid = snapshot.uid
        if snapshot.state >= State.COMPLETED:
            self._ended = snapshot


def _event_types(kinds: Iterable[type[EventBase]]) -> list[EventType.ValueType]:
    if not isinstance(kinds, Iterable):
        raise TypeError(f"types is a list of classes of events, such as [Progress], not {called(kinds)}")
    found = []
    for kind in kinds:
        if not isinstance(kind, type) or kind not in _EVENT_TYPES:
            raise TypeError(f"types is a list of classes of events, such as [Progress]; there is {called(kind)} in it")
        found.append(_EVENT_TYPES[kind])
    return found
