"""Where lifecycle events go: what a sink is, and those that need nothing: the log, and OpenTelemetry's logs."""

from __future__ import annotations

import abc
import base64
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from google.protobuf import json_format

from longshore_server.clock import SECOND
from longshore_server.handler import codec
from longshore_server.ids import uid_text
from longshore_server.store.outbox import EventType, StoredEvent

BATCH = 100
"""How many events a sink gets at once, at most."""
_logger = logging.getLogger("longshore.events")
_FAILURES = frozenset({EventType.FAILED, EventType.EXHAUSTED})
_DETAILS = frozenset({EventType.SCHEDULED, EventType.BATCH_STARTED})
_VALUES = {EventType.STARTED: "input", EventType.EXECUTED: "state", EventType.FAILED: "state"}


@dataclass(frozen=True)
class LifecycleEvent:
    """Something that has happened to a job, or to a recurring, debounce or task."""

    id: str
    """A UUIDv7. An event may be delivered more than once, always with the same id."""
    type: str
    """`job.started`, `job.executed`, `job.failed`, `job.retryExhausted`, `job.terminated`, `debounce.started`,
    `debounce.flushed` or `task.scheduled`."""
    time: datetime
    """When it became true."""
    subject: str
    """What it is about, by its full name: `jobs/{id}`, `tasks/{definition}/instances/{id}` and so on."""
    kind: str
    """`job`, `recurring`, `debounce` or `task`."""
    definition: str
    """The name of the definition, or of the job's queue."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What the guide on telemetry says of the type; JSON values."""

    @property
    def level(self) -> int:
        """How much it matters, as a level of `logging`."""
        if self.type in _FAILURES:
            return logging.ERROR
        return logging.DEBUG if self.type in _DETAILS else logging.INFO

    def to_json(self) -> dict[str, Any]:
        """The event as one flat JSON object."""
        return {
            "eventId": self.id, "type": self.type, "timestamp": self.time.isoformat(timespec="milliseconds"),
            "source": "longshore", "subject": self.subject, "kind": self.kind, "definition": self.definition,
            **self.data,
        }  # fmt: skip


class EventsRefusedError(Exception):
    """What a sink raises where it will never take events as they are: they are not delivered to it again.

    Of several it gets the halves then, until it is clear which ones are meant.
    """


class EventSink(abc.ABC):
    """Something that takes lifecycle events: derive from it, and give the server one by `Server(sinks={"name": ...})`.

    Its name stands for how far it has got: keep it over restarts.
    """

    payloads: bool = False
    """Whether inputs, states and results are part of what it gets. They may hold secrets."""
    batch_size: int = BATCH
    """How many events it gets at once, at most."""

    @abc.abstractmethod
    async def deliver(self, events: Sequence[LifecycleEvent]) -> None:
        """Take events, in their order. Once this has returned they are not delivered again.

        `EventsRefusedError` means: never. All else that it raises means: not now; the same events, and those that came
        since, are delivered after a while. Where it takes longer than 30 seconds it is cancelled, with that meaning.
        """


class LogSink(EventSink):
    """Writes a line of the log for each event, to the logger `longshore.events`.

    `levels`: of the least that is written, by kind and definition; the others' is that of failures alone.
    """

    def __init__(self, levels: Mapping[tuple[str, str], int], *, payloads: bool = False) -> None:
        self._levels = levels
        self.payloads = payloads

    async def deliver(self, events: Sequence[LifecycleEvent]) -> None:
        for event in events:
            if event.level >= self._levels.get((event.kind, event.definition), logging.ERROR):
                _logger.log(event.level, "%s %s", event.type, event.subject, extra={"data": event.to_json()})


def readable(event: StoredEvent, *, payloads: bool) -> LifecycleEvent:
    """An event of the outbox as sinks get it."""
    kind = event.subject.partition("/")[0].removesuffix("s")
    data = dict(event.data)
    if payloads and event.value is not None:
        name = "result" if kind == "job" and event.type is EventType.EXECUTED else _VALUES[event.type]
        data[name] = _plain(codec.Encoded(*event.value))
    time = datetime.fromtimestamp(event.time / SECOND, UTC)
    return LifecycleEvent(uid_text(event.id), str(event.type), time, event.subject, kind, event.definition, data)


def _plain(stored: codec.Encoded) -> Any:
    """A stored value as JSON; what this program cannot read, as its bytes."""
    kind, _, name = stored.codec.partition(":")
    try:
        return json_format.MessageToDict(codec.decode(stored)) if kind == "proto" else json.loads(stored.data)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, the event must not wait for ever
        return {"@type": name or kind, "value": base64.b64encode(stored.data).decode()}
