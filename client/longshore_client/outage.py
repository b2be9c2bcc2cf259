"""Whether the server answers, as seen by all calls of one channel: told once when it stops and once when it is back."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from longshore_client.errors import CallError

_log = logging.getLogger("longshore_client")

CANNOT_WRITE = frozenset({"STORE_FULL", "STORE_UNAVAILABLE"})
"""What a server says that answers all the time and cannot write: it would be lost and back with every try."""


class Listener(Protocol):
    """Who is told about outages."""

    def lost(self, target: str, error: CallError) -> None:
        """The first call met trouble and will be made again: no answer came, or one that is in `CANNOT_WRITE`."""

    def back(self, target: str, seconds: float) -> None:
        """An answer came, and no call waits for one any longer."""


class LogListener:
    """Writes to the logger `longshore_client`: a warning for the begin of an outage, an info for its end."""

    def lost(self, target: str, error: CallError) -> None:
        what = "cannot write" if error.reason in CANNOT_WRITE else "does not answer"
        _log.warning("%s %s, trying again: %s (%s)", target, what, error.message, error.reason or error.code.name)

    def back(self, target: str, seconds: float) -> None:
        _log.info("%s answers again after %.1f s", target, seconds)


class Outage:
    """The trouble that the calls of one channel share.

    Args:
        target: The server, for what is told.
        monotonic: The clock, in seconds.
    """

    def __init__(self, target: str, monotonic: Callable[[], float]) -> None:
        self.contacted = False
        """Whether the server has ever answered."""
        self.listener: Listener = LogListener()
        self._target = target
        self._monotonic = monotonic
        self._failing: set[object] = set()
        self._since: float | None = None

    def lost(self, call: object, error: CallError) -> None:
        """`call` failed and will be made again."""
        self._failing.add(call)
        if self._since is None:
            self._since = self._monotonic()
            self.listener.lost(self._target, error)

    def answered(self, call: object) -> None:
        """The server answered `call`."""
        self.contacted = True
        if self._since is None:
            return
        self._failing.discard(call)
        # A server that answers some calls and refuses others would be lost and back with every one of them.
        if not self._failing:
            since, self._since = self._since, None
            self.listener.back(self._target, self._monotonic() - since)

    def left(self, call: object) -> None:
        """`call` is over, whatever came of it."""
        self._failing.discard(call)
