"""Lifecycle events as log records of OpenTelemetry, where the program has set its logs up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from opentelemetry import _logs as api
from opentelemetry._logs import LogRecord, SeverityNumber

from longshore_server.telemetry.sinks import EventSink, LifecycleEvent

_SEVERITIES = {10: SeverityNumber.DEBUG, 20: SeverityNumber.INFO, 40: SeverityNumber.ERROR}


class OtelSink(EventSink):
    """Emits each event by the logger `longshore` of the program's own provider, which says where it goes.

    Args:
        provider: default the program's own, if it has set one.
        payloads: whether inputs, states and results are part of them.
    """

    def __init__(self, provider: api.LoggerProvider | None = None, *, payloads: bool = False) -> None:
        self._provider = provider
        self.payloads = payloads

    async def deliver(self, events: Sequence[LifecycleEvent]) -> None:
        provider = self._provider or api.get_logger_provider()
        logger = provider.get_logger("longshore")
        if isinstance(logger, api.NoOpLogger) or type(provider).__name__ == "ProxyLoggerProvider":
            raise RuntimeError("the program has set up no logs of OpenTelemetry: set_logger_provider(...)")
        for event in events:
            logger.emit(_record(event))
        flush = getattr(provider, "force_flush", None)
        # What the provider keeps in memory alone would be lost with the process.
        if flush is not None and await asyncio.to_thread(flush) is False:
            raise RuntimeError("the provider could not send its records in time")


def _record(event: LifecycleEvent) -> LogRecord:
    nanoseconds = int(event.time.timestamp() * 1_000_000) * 1000
    return LogRecord(
        timestamp=nanoseconds,
        observed_timestamp=nanoseconds,
        severity_number=_SEVERITIES[event.level],
        body=event.to_json(),
        attributes={
            "longshore.event_id": event.id, "longshore.subject": event.subject, "longshore.kind": event.kind,
            "longshore.definition": event.definition,
        },
        event_name=event.type,
    )  # fmt: skip
