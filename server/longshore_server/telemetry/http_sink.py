"""Sends lifecycle events to an HTTP endpoint, as batches of JSON."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.error import HTTPError

from longshore_server.telemetry.sinks import BATCH, EventSink, EventsRefusedError, LifecycleEvent

TIMEOUT = 10.0
"""Seconds that the endpoint may be silent."""
NOT_NOW = frozenset({401, 403, 404, 405, 407, 408, 410, 421, 425, 429})
"""Which 4xx are about the endpoint, the credentials or the moment, and may pass; all others are about what was sent."""


class HttpSink(EventSink):
    """Posts `{"events": [...]}`; whatever answers with 2xx has taken them all, with 4xx for what they are takes none.

    Args:
        url: where to. Redirects are not followed.
        headers: of each request, such as `Authorization`.
        env: part of each event, as `env`; empty: not.
        service_key: part of each event, as `serviceKey`; empty: not.
        batch_size: how many events one request has, at most.
        payloads: whether inputs, states and results are part of them.
    """

    def __init__(
        self, url: str, *, headers: Mapping[str, str] | None = None, env: str = "", service_key: str = "",
        batch_size: int = BATCH, payloads: bool = False,
    ) -> None:  # fmt: skip
        self._url = url
        self._headers = {**(headers or {}), "Content-Type": "application/json"}
        given = {"env": env, "serviceKey": service_key}
        self._added = {name: value for name, value in given.items() if value}
        self.batch_size = batch_size
        self.payloads = payloads

    async def deliver(self, events: Sequence[LifecycleEvent]) -> None:
        body = json.dumps({"events": [{**event.to_json(), **self._added} for event in events]}).encode()
        # In a thread: the library of Python's own blocks. One that hangs there ends by its own time.
        await asyncio.to_thread(self._post, body)

    def _post(self, body: bytes) -> None:
        request = urllib.request.Request(self._url, body, self._headers, method="POST")  # noqa: S310 - see SinkSettings
        try:
            with _opener.open(request, timeout=TIMEOUT):
                pass
        except HTTPError as refusal:
            with refusal:  # it is the answer, too, and holds the connection
                said = f"the endpoint answered {refusal.code} {refusal.reason}"
            if 400 <= refusal.code < 500 and refusal.code not in NOT_NOW:
                raise EventsRefusedError(said) from None
            raise OSError(said) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Headers hold secrets: they go where the operator said, or nowhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)
