"""Sinks of lifecycle events as the configuration declares them, by name and URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from longshore_server.telemetry.http_sink import HttpSink
from longshore_server.telemetry.sinks import BATCH, EventSink, LogSink
from longshore_server.transfers.stores.settings import check_name

MAX_BATCH = 10_000
_HTTP_ONLY = ("headers", "env", "service_key")


@dataclass(frozen=True)
class SinkSettings:
    """What the configuration says of one sink.

    Raises `ValueError`, naming the option, when it means nothing.
    """

    name: str
    """What stands for how far it has got: keep it."""
    url: str = ""
    """`log:` the server's own log, `otlp:` the logs of OpenTelemetry, or the URL of an HTTP endpoint."""
    headers: tuple[str, ...] = ()
    """Of each request, `NAME: VALUE` each."""
    env: str = ""
    """Part of each event that an endpoint gets."""
    service_key: str = ""
    """The same."""
    batch_size: int = BATCH
    """How many events it gets at once, at most."""
    payloads: bool = False
    """Whether inputs, states and results are part of the events."""

    def __post_init__(self) -> None:
        check_name(self.name)
        http = self.url.startswith(("http://", "https://"))
        if not http and self.url not in ("log:", "otlp:"):
            raise ValueError(f"url: {self.url!r} is neither log: nor otlp: nor the http(s) URL of an endpoint")
        if http:
            try:
                host = urlsplit(self.url).hostname
            except ValueError:
                host = None
            if not host or not self.url.isascii() or not self.url.isprintable() or " " in self.url:
                raise ValueError(f"url: {self.url!r} names no host, or holds what a URL cannot")
        if not 1 <= self.batch_size <= MAX_BATCH:
            raise ValueError(f"batch_size: {self.batch_size} is not between 1 and {MAX_BATCH:,}")
        for option in _HTTP_ONLY:
            if getattr(self, option) and not http:
                raise ValueError(f"{option}: it means nothing without the URL of an HTTP endpoint")
        self._headers()

    def make(self, levels: Mapping[tuple[str, str], int]) -> EventSink:
        """The sink. `levels`: see `LogSink`. Raises `ImportError` when it needs packages that are not installed."""
        if self.url == "log:":
            sink: EventSink = LogSink(levels, payloads=self.payloads)
        elif self.url == "otlp:":
            from longshore_server.telemetry.otel_sink import OtelSink

            sink = OtelSink(payloads=self.payloads)
        else:
            return HttpSink(
                self.url, headers=self._headers(), env=self.env, service_key=self.service_key,
                batch_size=self.batch_size, payloads=self.payloads,
            )  # fmt: skip
        sink.batch_size = self.batch_size
        return sink

    def _headers(self) -> dict[str, str]:
        given: Sequence[object] = self.headers
        found = {}
        for header in given:
            name, colon, value = header.partition(":") if isinstance(header, str) else ("", "", "")
            value = value.strip()
            token = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
            if not (colon and token and value.isascii() and value.isprintable()):
                # Not shown: it may hold a secret.
                raise ValueError("headers: one of them is not of the form NAME: VALUE")
            found[name] = value
        return found
