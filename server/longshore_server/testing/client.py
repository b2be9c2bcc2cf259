"""The client library on a server of the same process: its own classes, with another way to the server."""

from __future__ import annotations

from collections.abc import Mapping

import longshore_client
from longshore_client.credentials import Token
from longshore_client.retry import Timing
from longshore_server.auth.identity import Principal
from longshore_server.clock import SECOND
from longshore_server.testing.port import LocalChannel, Port

HEARTBEAT = 300.0
"""Seconds, the most that a watch may ask for. No connection is to be noticed as dead, and a clock that leaps by a month
stops at each heartbeat."""


class LocalClient(longshore_client.Channel):
    """A channel of `longshore_client` to the server behind a port.

    Its deadlines and the pauses between its tries are of the port's clock. A pause ends early when a server begins to
    run: what a crash has broken goes on with the next server, without any time that has to pass.
    """

    max_wait = 86_400.0  # as for HEARTBEAT, and nobody bounds it

    def __init__(
        self, port: Port, caller: Principal | None, *, token: Token | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        timing = Timing(sleep=port.pause, monotonic=lambda: port.clock.now() / SECOND, random=lambda: 1.0)
        super().__init__(
            "in-process", credentials=None, token=token, metadata=metadata, retry=longshore_client.Retry(timing=timing),
            call_timeout=30.0, heartbeat_interval=HEARTBEAT, options=(), tracer_provider=None,
        )  # fmt: skip
        self._port = port
        self._caller = caller

    def dial(self) -> LocalChannel:
        """A connection that is no connection."""
        return LocalChannel(self._port, self._caller)
