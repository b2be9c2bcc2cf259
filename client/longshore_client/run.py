"""Start an operation, hand its reports to callbacks, and end with its result or because the caller aborts."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic

from longshore.v1.operation_pb2 import EventType, OperationSnapshot
from longshore_client.errors import (
    Code,
    OperationCancelled,
    StillRunning,
    operation_cancelled,
    operation_failed,
)
from longshore_client.meter import tell
from longshore_client.state import OutputT, ProgressT, ResultT
from longshore_client.watch import Follower

if TYPE_CHECKING:
    from collections.abc import Callable

    from longshore.v1 import operations_service_pb2 as pb
    from longshore.v1.operation_pb2 import OperationEvent, UploadGrant
    from longshore_client.channel import Channel
    from longshore_client.codec import Codec
    from longshore_client.meter import Callback
    from longshore_client.operation import OperationHandle


async def run_following(
    channel: Channel,
    codec: Codec[ProgressT, OutputT, ResultT],
    start: pb.RunRequest,
    attach: Callable[[str], OperationHandle[ProgressT, OutputT, ResultT]],
    *,
    on_progress: Callback[ProgressT] | None,
    on_output: Callback[OutputT] | None,
    abort: asyncio.Event | None,
    timeout: float | None,
    abort_timeout: float,
) -> ResultT:
    """Run an operation over one stream. The arguments and errors are those of `OperationMethod.run`."""
    if abort is not None and abort.is_set():
        raise _aborted("the call was aborted before the operation was started", "")
    run = _Run(channel, codec, start, attach, on_progress, on_output)
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            if abort is None:
                return await run.follow()
            return await _until_aborted(run, abort, abort_timeout)
    except TimeoutError as error:
        # Only our own clock: a callback may raise TimeoutError for reasons of its own.
        if not limit.expired() or isinstance(error, StillRunning):
            raise
        raise StillRunning(run.name or f"{start.type} {start.request_id}", timeout or 0.0) from None


class _Run(Generic[ProgressT, OutputT, ResultT]):
    def __init__(
        self,
        channel: Channel,
        codec: Codec[ProgressT, OutputT, ResultT],
        start: pb.RunRequest,
        attach: Callable[[str], OperationHandle[ProgressT, OutputT, ResultT]],
        on_progress: Callback[ProgressT] | None,
        on_output: Callback[OutputT] | None,
    ) -> None:
        self.name = ""
        self.named = asyncio.Event()
        self._codec = codec
        self._attach = attach
        self._on_progress = on_progress
        self._on_output = on_output
        wanted = [
            *([EventType.EVENT_TYPE_PROGRESS] if on_progress is not None else []),
            *([EventType.EVENT_TYPE_OUTPUT] if on_output is not None else []),
        ]
        # With an abort signal and no callback nothing but the end is of interest; a filter cannot say "none".
        types = wanted or [EventType.EVENT_TYPE_COMPLETED]
        self._follower = Follower(channel, "", start=start, types=types, named=self._note)

    def handle(self) -> OperationHandle[ProgressT, OutputT, ResultT]:
        """A handle on what was started."""
        return self._attach(f"operations/{self._follower.uid}")

    async def follow(self) -> ResultT:
        """Report everything, then return the result or raise how it ended instead."""
        last = await report(self._follower, self._codec, self._on_progress, self._on_output)
        return await outcome(self.handle(), self._codec, last, self.name)

    def _note(self, snapshot: OperationSnapshot) -> None:
        self.name = snapshot.name
        self.named.set()


async def report(
    follower: Follower,
    codec: Codec[ProgressT, OutputT, ResultT],
    on_progress: Callback[ProgressT] | None,
    on_output: Callback[OutputT] | None = None,
    on_upload: Callback[UploadGrant] | None = None,
) -> OperationEvent | None:
    """Hand an operation's reports to callbacks; return its last event, None if the log no longer holds it."""
    last: OperationEvent | None = None
    async with aclosing(follower.events()) as stream:
        # To the very end, past the terminal event: leaving earlier would cancel a call that is about to end.
        async for event in stream:
            if isinstance(event, OperationSnapshot):
                # What it stands for is gone; how it ended is asked for by `outcome`, if that is part of it.
                continue
            kind = event.WhichOneof("event")
            if kind == "progress" and on_progress is not None:
                await tell(on_progress, codec.progress(event.progress.value))
            elif kind == "output" and on_output is not None:
                await tell(on_output, codec.output(event.output.value))
            elif kind == "transfer" and on_upload is not None:
                await tell(on_upload, event.transfer.upload)
            else:
                last = event
    return last


async def outcome(
    handle: OperationHandle[ProgressT, OutputT, ResultT, Any],
    codec: Codec[ProgressT, OutputT, ResultT],
    last: OperationEvent | None,
    name: str,
) -> ResultT:
    """Return the result of an operation whose last event this is, or raise how it ended instead."""
    if last is not None:
        if last.HasField("completed"):
            return codec.result(last.completed.result)
        if last.HasField("failed"):
            raise operation_failed(last.failed.error, name)
        if last.HasField("cancelled"):
            raise operation_cancelled(last.cancelled.error, name)
    # The log no longer holds the terminal event.
    return await handle.wait()


async def _until_aborted(run: _Run[ProgressT, OutputT, ResultT], abort: asyncio.Event, abort_timeout: float) -> ResultT:
    follow = asyncio.create_task(run.follow())
    cancel = asyncio.create_task(_cancel_when(run, abort, abort_timeout))
    try:
        await asyncio.wait((follow, cancel), return_when=asyncio.FIRST_COMPLETED)
        # An operation that ended on its own goes before an abort that came at the same moment.
        if follow.done():
            return follow.result()
        await cancel
        raise AssertionError("the abort ends by raising")
    finally:
        for task in (follow, cancel):
            task.cancel()
        await asyncio.gather(follow, cancel, return_exceptions=True)


async def _cancel_when(run: _Run[ProgressT, OutputT, ResultT], abort: asyncio.Event, abort_timeout: float) -> None:
    """Wait for the signal and cancel; raise when the operation has not settled in time after it."""
    await abort.wait()
    try:
        async with asyncio.timeout(abort_timeout):
            # What cannot be named cannot be cancelled, and it may have been started.
            await run.named.wait()
            await run.handle().cancel("aborted by the caller")
            await asyncio.Event().wait()
    except TimeoutError:
        state = "was asked to cancel and has not ended yet" if run.name else "may have been started, nobody answered"
        raise _aborted(f"{run.name or 'the operation'} {state}; the call was aborted", run.name) from None


def _aborted(message: str, operation: str) -> OperationCancelled:
    return OperationCancelled(message, operation=operation, reason="ABORTED", code=Code.CANCELLED, domain="longshore")
