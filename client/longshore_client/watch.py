"""Follows one operation's events across broken connections and restarts of the server.

A `Follower` remembers the last sequence that it gave out. Whenever the stream breaks it asks for what comes after
that, so its reader sees every event once and in order. A stream that keeps silent longer than three heartbeats is
taken for dead, since a lost connection need not say so.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc.aio

from longshore.v1 import operations_service_pb2 as pb
from longshore_client.channel import error_of
from longshore_client.codec import TERMINAL, duration
from longshore_client.errors import CallError, Code, DataLoss, Unavailable
from longshore_client.state import State
from longshore_client.stream import MISSED_HEARTBEATS, SilentError, Stream, silent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from longshore.v1.operation_pb2 import EventType, OperationEvent, OperationSnapshot
    from longshore_client.calls import StreamCall
    from longshore_client.channel import Channel

# `accepted` and `started`: an operation that is no further has sent nothing that a reader of its reports could miss.
_NOTHING_REPORTED = 2


class _EarlyEndError(Exception):
    """The stream ended well, but not with the last event."""


class Follower:
    """The events of one operation, from after a sequence to the last.

    Args:
        channel: Where the server is.
        name: The operation to watch; empty when `start` is given.
        uid: Its uid, if known: guards against another operation of the same name.
        after: The sequence after which events are wanted; 0: all.
        start: What to start with the first call, instead of watching what exists.
        types: The kinds of events that are wanted, and always the terminal one. Empty: all.
        conflate: Let the server skip progress that is no longer the latest.
        named: Called once, with the snapshot, as soon as what `start` started is known.
    """

    def __init__(
        self,
        channel: Channel,
        name: str,
        *,
        uid: str = "",
        after: int = 0,
        start: pb.RunRequest | None = None,
        types: Sequence[EventType.ValueType] = (),
        conflate: bool = False,
        named: Callable[[OperationSnapshot], None] | None = None,
    ) -> None:
        self.name = name
        self.uid = uid
        self.last = after
        self._channel = channel
        self._start = start
        self._types = types
        self._conflate = conflate
        self._named = named
        self._heartbeat = duration(channel.heartbeat_interval)
        if start is not None:
            start.event_types.extend(types)
            start.conflate = conflate
            start.heartbeat_interval.CopyFrom(self._heartbeat)

    async def events(self) -> AsyncGenerator[OperationEvent | OperationSnapshot, None]:
        """Yield events until the terminal one.

        A snapshot stands for events that the server no longer keeps; the last thing to come if the end is among them.

        Raises:
            CallError: The server refused, or could not be reached for as long as the channel's retry says.
        """
        backoff = self._channel.retry.attempts()
        limit = self._channel.heartbeat_interval * MISSED_HEARTBEATS
        while True:
            calls = self._channel.calls
            call = self._open()
            self._channel.streams.add(call)
            stream = Stream(call, limit)
            try:
                while True:
                    response = await stream.read()
                    if response is None:
                        await self._check_over()
                        return
                    backoff.reset()
                    self._channel.outage.answered(backoff)
                    kind = response.WhichOneof("message")
                    if kind == "event":
                        event = response.event
                        if self._is_new(event):
                            yield event
                            if event.WhichOneof("event") in TERMINAL:
                                # Let the stream end by itself: the status is usually here already.
                                await stream.read()
                                return
                    elif kind == "heartbeat":
                        # What it covers and was not sent was left out on purpose.
                        self.last = max(self.last, response.heartbeat.sequence)
                    elif kind == "snapshot":
                        if not self._take(response.snapshot):
                            break
                        if response.reset:
                            yield response.snapshot
                            if response.snapshot.state >= State.COMPLETED:
                                await stream.read()
                                return
                continue
            except grpc.aio.AioRpcError as error:
                self._channel.check_open()
                failure = error_of(error)
            except asyncio.CancelledError:
                self._channel.check_open()
                raise
            except _EarlyEndError:
                failure = Unavailable(
                    f"{self._channel.target} ended the watch of {self.name} before its last event",
                    reason="EARLY_END",
                    code=Code.UNAVAILABLE,
                    domain="longshore",
                )
            except SilentError:
                failure = silent(self._channel, calls, limit, "sent nothing, not even a heartbeat,")
            finally:
                stream.close()
                self._channel.streams.discard(call)
                self._channel.outage.left(backoff)
            if not await self._channel.pause(backoff, failure):
                raise failure

    def _open(self) -> StreamCall[pb.WatchResponse]:
        if self._start is not None:
            return self._channel.calls.run(self._start, metadata=self._channel.metadata)
        request = pb.WatchRequest(
            name=self.name,
            after_sequence=self.last,
            uid=self.uid,
            event_types=self._types,
            conflate=self._conflate,
            heartbeat_interval=self._heartbeat,
        )
        return self._channel.calls.watch(request, metadata=self._channel.metadata)

    async def _check_over(self) -> None:
        """Make sure that a stream without a terminal event is one that was asked for what follows the end."""
        snapshot = await self._channel.invoke(self._channel.calls.get, pb.GetRequest(name=self.name))
        if snapshot.state < State.COMPLETED or snapshot.sequence > self.last:
            raise _EarlyEndError

    def _take(self, snapshot: OperationSnapshot) -> bool:
        """Note what a snapshot says. False: this stream would miss events, open a watch from the first one instead."""
        self.name, self.uid = snapshot.name, snapshot.uid
        if self._start is None:
            # A snapshot in a resumed watch stands for events that the server no longer keeps.
            self.last = max(self.last, snapshot.sequence)
            return True
        self._start = None
        if self._named is not None:
            self._named(snapshot)
        if snapshot.sequence > _NOTHING_REPORTED or snapshot.state >= State.COMPLETED:
            return False
        self.last = snapshot.sequence
        return True

    def _is_new(self, event: OperationEvent) -> bool:
        if event.sequence <= self.last:
            return False
        if event.sequence != self.last + 1 and not self._types and not self._conflate:
            raise _gap(self.name, self.last, event.sequence)
        self.last = event.sequence
        return True


def _gap(name: str, last: int, got: int) -> CallError:
    return DataLoss(
        f"{name}: event {got} came after event {last}; what is between is lost",
        reason="SEQUENCE_GAP",
        code=Code.DATA_LOSS,
        domain="longshore",
    )
