"""Calls that last, and the alarm for those whose connection is lost, since a lost connection need not say so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic

from typing_extensions import TypeVar

from longshore_client.errors import Code, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from longshore_client.calls import Calls, StreamCall
    from longshore_client.channel import Channel

ResponseT = TypeVar("ResponseT")

MISSED_HEARTBEATS = 3


class SilentError(Exception):
    """Nothing came of the other side, not even a sign of life."""


class Alarm:
    """Rings once when something on the other side has been waited for longer than `limit` seconds.

    Only the time between `begin` and `end` counts: while this side is busy elsewhere, the other is not silent.
    """

    def __init__(self, limit: float, ring: Callable[[], object]) -> None:
        self._limit = limit
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        # One timer for the life of the call that looks back when it fires, rather than one for each message.
        self._timer = self._loop.call_later(limit, self._check)
        self._rang = False

    def begin(self) -> None:
        """The other side has to do something from now on."""
        self._since = self._loop.time()

    def end(self) -> None:
        """It has."""
        self._since = None

    def close(self) -> None:
        """It rings no more."""
        self._timer.cancel()

    @property
    def guilty(self) -> bool:
        """Whether it was the alarm that cancelled an await, and not whoever cancels the task."""
        task = asyncio.current_task()
        return self._rang and not (task is not None and task.cancelling())

    def _check(self) -> None:
        now = self._loop.time()
        since = self._since if self._since is not None else now
        if now - since >= self._limit:
            self._rang = True
            self._ring()
        else:
            self._timer = self._loop.call_at(since + self._limit, self._check)


class Stream(Generic[ResponseT]):
    """One connection's worth of messages, with an alarm for silence."""

    def __init__(self, call: StreamCall[ResponseT], limit: float) -> None:
        self._call = call
        self._messages = call.__aiter__()
        self._alarm = Alarm(limit, call.cancel)

    async def read(self) -> ResponseT | None:
        """Return the next message, or None when the server ended the stream with OK.

        Raises:
            SilentError: None came for as long as the limit says.
        """
        self._alarm.begin()
        try:
            return await anext(self._messages, None)
        except asyncio.CancelledError:
            if self._alarm.guilty:
                raise SilentError from None
            raise
        finally:
            self._alarm.end()

    def close(self) -> None:
        """Let go of the call."""
        self._alarm.close()
        if not self._call.done():
            self._call.cancel()


def silent(channel: Channel, calls: Calls, seconds: float, what: str) -> Unavailable:
    """What a call of `calls` has failed with that was silent for so long. Further ones take another connection."""
    channel.leave(calls)
    return Unavailable(
        f"{channel.target} {what} for {seconds:g} s",
        reason="NO_HEARTBEAT",
        code=Code.UNAVAILABLE,
        domain="longshore",
    )
