"""What the callers of a tortured server have seen: only this is held against its store afterwards."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb

TERMINAL = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Started:
    """An acknowledged start, or retry of the operation with the uid `retried`."""

    type: str
    request_id: str
    key: str
    name: str
    uid: str
    created: bool
    retried: str = ""


@dataclass(frozen=True)
class Asked:
    """An acknowledged request to cancel or to stop, and the state that the answer shows."""

    uid: str
    state: int


@dataclass(frozen=True)
class Signalled:
    """An acknowledged signal."""

    uid: str
    number: int
    name: str
    id: str
    payload: bytes
    duplicate: bool


@dataclass(frozen=True)
class Ended:
    """An acknowledged control call that ends: its verb, the text in its result or error, and the answer's state."""

    uid: str
    verb: str
    text: str
    state: int


class History:
    """Everything that was acknowledged or shown to any caller, and what they found wrong on the spot."""

    def __init__(self) -> None:
        self.starts: list[Started] = []
        self.anonymous_tries = 0
        """Starts without any key that were sent, acknowledged or not."""
        self.request_ids: set[str] = set()
        """Every request id that was sent, acknowledged or not."""
        self.keys: set[str] = set()
        """Every template key that was sent."""
        self.cancels: list[Asked] = []
        self.stops: list[Asked] = []
        self.snapshots: list[Any] = []
        self.events: dict[str, dict[int, bytes]] = defaultdict(dict)
        """Per uid and sequence the bytes of the event, as they came over the wire."""
        self.signals: list[Signalled] = []
        self.signal_ids: dict[str, set[str]] = defaultdict(set)
        """Per uid every signal id that was sent, acknowledged or not."""
        self.refused_signals: dict[str, set[str]] = defaultdict(set)
        """Per uid the ids of signals that came after the end."""
        self.consumed: dict[str, set[int]] = defaultdict(set)
        """Per uid the numbers of signals that a controller asked to consume, acknowledged or not."""
        self.consumptions: list[tuple[str, int]] = []
        """Those of them that were acknowledged, with the uid."""
        self.reports: dict[str, Counter[str]] = defaultdict(Counter)
        """Per uid how often a controller sent a report, by its text."""
        self.reported: list[tuple[str, str]] = []
        """Those of them that were acknowledged: uid and text."""
        self.endings: dict[str, set[tuple[str, str]]] = defaultdict(set)
        """Per uid what controllers tried to end it with, acknowledged or not: verb and text."""
        self.ended: list[Ended] = []
        self.deletes: set[str] = set()
        """The uids that somebody asked to delete, acknowledged or not."""
        self.deleted: set[str] = set()
        """Those of them that were acknowledged."""
        self.missing: dict[str, int] = {}
        """The uids that were answered with NOT_FOUND, and when that was first: microseconds since the epoch."""
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []

    def started(
        self, type: str, response: pb.StartResponse, *, request_id: str = "", key: str = "", retried: str = ""
    ) -> None:
        """An answer to Start or to Retry."""
        snapshot = response.operation
        created = response.disposition == pb.StartResponse.DISPOSITION_CREATED
        self.starts.append(Started(type, request_id, key, snapshot.name, snapshot.uid, created, retried))
        self.snapshot(snapshot)

    def snapshot(self, snapshot: Any) -> None:
        """A snapshot, whatever call it came from."""
        self.snapshots.append(snapshot)

    def event(self, uid: str, raw: bytes, message: Any) -> None:
        """A message of a watch that holds an event; `raw` is all of it."""
        body = event_bytes(raw)
        sequence = message.event.sequence
        before = self.events[uid].setdefault(sequence, body)
        self.counts["events seen"] += 1
        if before != body:
            self.wrong(f"{uid}: event {sequence} was seen as {before!r} and as {body!r}")

    def is_end(self, uid: str, sequence: int) -> bool:
        """Whether somebody has seen this event, and it was the terminal one."""
        body = self.events[uid].get(sequence)
        return body is not None and operation_pb2.OperationEvent.FromString(body).WhichOneof("event") in TERMINAL

    def wrong(self, what: str) -> None:
        """A promise that a caller saw broken."""
        self.violations.append(what)


def event_bytes(raw: bytes) -> bytes:
    """The bytes of the field `event` of a serialized `WatchResponse`, not what a parser makes of them."""
    if raw[0] != 0x12:
        raise AssertionError(f"the event is not the first field: {raw!r}")
    length, shift, position = 0, 0, 1
    while True:
        byte = raw[position]
        length |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return raw[position : position + length]
