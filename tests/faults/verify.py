"""Holds what callers saw against what is stored, and what is stored against what was promised."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from typing import Any

from torture.v1.torture_pb2 import WorkResult

from longshore.v1 import operation_pb2
from tests.faults.history import TERMINAL, History
from tests.faults.process import SERVICE, Effect, ServerProcess

State = operation_pb2.OperationSnapshot.State
STEPPED = ("Steps", "Sleeps", "Named")


def uid_text(uid: bytes) -> str:
    text = uid.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Stored:
    """All of a store, read from its file after the server has stopped."""

    def __init__(self, server: ServerProcess) -> None:
        self.bodies: dict[str, list[bytes]] = defaultdict(list)
        self.journal: dict[str, list[Any]] = defaultdict(list)
        with server.database() as database:
            self.health = [row[0] for row in database.execute("PRAGMA integrity_check")]
            self.orphans = database.execute("PRAGMA foreign_key_check").fetchall()
            self.operations = {uid_text(r["uid"]): r for r in database.execute("SELECT * FROM operations")}
            self.numbers: dict[str, list[int]] = defaultdict(list)
            for row in database.execute("SELECT uid, sequence, body FROM events ORDER BY uid, sequence"):
                self.bodies[uid_text(row["uid"])].append(row["body"])
                self.numbers[uid_text(row["uid"])].append(row["sequence"])
            for row in database.execute("SELECT * FROM journal"):
                self.journal[uid_text(row["uid"])].append(row)
            self.requests = {
                (r["type"], r["request_id"]): uid_text(r["uid"]) for r in database.execute("SELECT * FROM requests")
            }
            self.names = {r["id"]: uid_text(r["uid"]) for r in database.execute("SELECT * FROM names")}
        self.events = {
            uid: [operation_pb2.OperationEvent.FromString(body) for body in bodies]
            for uid, bodies in self.bodies.items()
        }
        self.ledger: dict[str, list[Effect]] = defaultdict(list)
        for effect in server.ledger():
            self.ledger[effect.uid].append(effect)


class Verdict:
    """Findings, and how much was looked at: a verdict over nothing is none."""

    def __init__(self, stored: Stored, history: History) -> None:
        self.stored = stored
        self.history = history
        self.wrong: list[str] = list(history.violations)
        self.counts: Counter[str] = Counter(history.counts)

    def all(self) -> None:
        """Every check."""
        if self.stored.health != ["ok"] or self.stored.orphans:
            self.wrong.append(f"the file is damaged: {self.stored.health} {self.stored.orphans}")
        for uid in self.stored.operations:
            self.check_log(uid)
            self.check_effects(uid)
            self.check_children(uid)
        self.check_starts()
        self.check_seen()
        self.check_snapshots()
        self.check_cancels()

    def that(self, condition: object, what: str) -> None:
        """One promise."""
        if not condition:
            self.wrong.append(what)

    def check_log(self, uid: str) -> None:
        """Gapless from 1, one terminal event and it is last, nothing goes back, and the row is what the log led to."""
        row, events = self.stored.operations[uid], self.stored.events.get(uid, [])
        kinds = [str(event.WhichOneof("event")) for event in events]
        self.counts["operations"] += 1
        self.counts["events stored"] += len(events)
        self.counts["operations interrupted"] += row["crashes"] > 0
        self.counts["most crashes of one operation"] = max(self.counts["most crashes of one operation"], row["crashes"])
        self.that(row["ended"] is not None, f"{uid}: has not ended, state {row['state']}")
        self.that(self.stored.numbers[uid] == list(range(1, row["sequence"] + 1)), f"{uid}: gaps in the log")
        self.that([e.sequence for e in events] == self.stored.numbers[uid], f"{uid}: events misnumbered")
        self.that([k in TERMINAL for k in kinds] == [False] * (len(kinds) - 1) + [True], f"{uid}: its end: {kinds}")
        self.that(kinds[:1] == ["accepted"] and kinds.count("accepted") == 1, f"{uid}: its beginning: {kinds}")
        self.that(kinds.count("started") <= 1, f"{uid}: started twice: {kinds}")
        for before, after in itertools.pairwise(events):
            ordered = before.revision < after.revision and before.attempt <= after.attempt
            self.that(
                ordered and before.time.ToNanoseconds() <= after.time.ToNanoseconds(), f"{uid}: goes back: {after}"
            )
        if not events:
            return
        self.that(events[-1].state == row["state"], f"{uid}: the row's state is not the last event's")
        # No handler here fails by itself: whatever was not cancelled has to come to its result.
        cancelled = row["cancel_requested"] is not None
        self.that(row["state"] == State.STATE_COMPLETED or cancelled, f"{uid} {row['type']}: {events[-1]}")
        self.that(row["state"] != State.STATE_FAILED, f"{uid}: failed: {events[-1]}")
        if row["state"] == State.STATE_COMPLETED:
            self.that(kinds.count("attempt_failed") == row["attempt"] - 1, f"{uid}: attempts and events: {kinds}")
            self.that(result(events).attempt == row["attempt"], f"{uid}: completed by another attempt")
            self.counts["completed"] += 1

    def check_effects(self, uid: str) -> None:
        """A step has one key, its effect is made until it is recorded and not after, its result is the recorded one."""
        row, ledger = self.stored.operations[uid], self.stored.ledger[uid]
        steps = {e["name"]: e for e in self.stored.journal[uid] if e["kind"] == "step"}
        effects: dict[str, list[Effect]] = defaultdict(list)
        for effect in ledger:
            effects[effect.name].append(effect)
        self.counts["effects"] += len(effects)
        self.counts["effects asked for again"] += len(ledger) - len(effects)
        for name, made in effects.items():
            self.that({e.key for e in made} == {f"{uid}/{name}"}, f"{uid}: keys of {name}: {made}")
            attempts = [e.attempt for e in made]
            self.that(len(set(attempts)) == len(attempts), f"{uid}: {name} twice in one attempt: {made}")
            if name in steps:
                self.that(max(attempts) == steps[name]["attempt"], f"{uid}: {name} was done again after its record")
        for name, entry in steps.items():
            tokens = [e.token for e in effects[name] if e.attempt == entry["attempt"]]
            self.that([json.loads(entry["outcome"])] == tokens, f"{uid}: {name} recorded something else than it did")
        kind = row["type"].rpartition("/")[2]
        if row["state"] == State.STATE_COMPLETED and kind in STEPPED:
            tokens = [json.loads(steps[name]["outcome"]) for name in sorted(steps)]
            self.that(list(result(self.stored.events[uid]).tokens) == tokens, f"{uid}: the result's steps")
        for entry in self.stored.journal[uid]:
            if entry["kind"] == "sleep" and row["state"] == State.STATE_COMPLETED:
                self.counts["sleeps"] += 1
                self.that(json.loads(entry["outcome"]) <= row["ended"], f"{uid}: ended in its sleep")

    def check_children(self, uid: str) -> None:
        """Every child start made one operation, whatever became of the attempt that made it."""
        row = self.stored.operations[uid]
        if row["type"] != f"{SERVICE}/Family":
            return
        recorded = [uid_text(e["outcome"]) for e in self.stored.journal[uid] if e["kind"] == "child"]
        real = [u for u, r in self.stored.operations.items() if r["parent"] == f"operations/{row['id']}"]
        self.that(sorted(recorded) == sorted(real), f"{uid}: children recorded {recorded}, real {real}")
        self.counts["children"] += len(real)
        if row["state"] == State.STATE_COMPLETED:
            tokens = result(self.stored.events[uid]).tokens
            self.that(sorted(tokens) == sorted(real), f"{uid}: children in its result: {tokens}, real {real}")

    def check_starts(self) -> None:
        """What was acknowledged is stored; a key made one operation; nothing is there that nobody asked for."""
        operations = self.stored.operations
        uids: dict[str, set[str]] = defaultdict(set)
        created: Counter[str] = Counter()
        for start in self.history.starts:
            self.counts["starts acknowledged"] += 1
            row = operations.get(start.uid)
            self.that(row is not None and row["type"] == start.type, f"start of {start} is not stored")
            key = start.request_id or start.key
            if row is None or not key:
                continue
            uids[key].add(start.uid)
            created[key] += start.created
            found = self.stored.requests.get((start.type, start.request_id)) if start.request_id else None
            found = found or self.stored.names.get(f"torture-{start.key}")
            self.that(found == start.uid, f"{start} is stored as {found}")
        for key, several in uids.items():
            self.that(len(several) == 1, f"{key} started {several}")
            self.that(created[key] <= 1, f"{key} was created {created[key]} times")
        self.counts["starts answered with what existed"] = sum(not s.created for s in self.history.starts)
        keyed = Counter(r["request_id"] for r in operations.values() if r["request_id"])
        self.that(set(keyed.values()) <= {1}, "a request id has several operations")
        self.that(set(keyed) <= self.history.request_ids, "request ids that nobody sent")
        named = Counter(r["id"] for r in operations.values() if r["type"] == f"{SERVICE}/Named")
        self.that(set(named.values()) <= {1}, "a name has several operations")
        self.that(set(named) <= {f"torture-{key}" for key in self.history.keys}, "names that nobody sent")
        anonymous = sum(
            not r["request_id"] and not r["parent"] and r["type"] != f"{SERVICE}/Named" for r in operations.values()
        )
        self.that(anonymous <= self.history.anonymous_tries, f"{anonymous} anonymous operations")

    def check_seen(self) -> None:
        """Every event that any watcher saw is stored, byte for byte."""
        for uid, events in self.history.events.items():
            bodies = self.stored.bodies.get(uid, [])
            for sequence, body in events.items():
                self.counts["different events seen"] += 1
                kept = bodies[sequence - 1] if sequence <= len(bodies) else None
                self.that(kept == body, f"{uid}: event {sequence} was seen as {body!r}, stored is {kept!r}")

    def check_snapshots(self) -> None:
        """Every snapshot that anyone saw is what the log led to at its sequence."""
        for snapshot in self.history.snapshots:
            self.counts["snapshots seen"] += 1
            events = self.stored.events.get(snapshot.uid, [])
            if not 1 <= snapshot.sequence <= len(events):
                self.wrong.append(f"{snapshot.uid}: snapshot at {snapshot.sequence}, stored are {len(events)} events")
                continue
            event = events[snapshot.sequence - 1]
            self.that(snapshot.state == event.state, f"{snapshot.uid}: snapshot's state {snapshot.state}: {event}")
            self.that(snapshot.revision >= event.revision, f"{snapshot.uid}: snapshot's revision")
            for later in events[snapshot.sequence : snapshot.sequence + 1]:
                self.that(snapshot.revision < later.revision, f"{snapshot.uid}: snapshot's revision, next {later}")
            reported = [e.progress.value for e in events[: snapshot.sequence] if e.HasField("progress")]
            same = snapshot.progress == reported[-1] if reported else not snapshot.HasField("progress")
            self.that(same, f"{snapshot.uid}: snapshot's progress")
            if snapshot.HasField("end_time"):
                self.counts["ends seen"] += 1
                last = events[-1]
                outcome: Any = last.completed.result if last.HasField("completed") else last.cancelled.error
                shown: Any = snapshot.result if last.HasField("completed") else snapshot.error
                self.that(snapshot.sequence == len(events), f"{snapshot.uid}: ended, and then went on")
                self.that(shown == outcome, f"{snapshot.uid}: its end was shown as {shown}, stored is {outcome}")

    def check_cancels(self) -> None:
        """An acknowledged request is in the log, and where the contract is cooperative it won."""
        for cancel in self.history.cancels:
            self.counts["cancels acknowledged"] += 1
            row = self.stored.operations.get(cancel.uid)
            if row is None:
                self.wrong.append(f"{cancel.uid}: cancelled, and not stored")
                continue
            if cancel.state >= State.STATE_COMPLETED:
                self.that(row["state"] == cancel.state, f"{cancel.uid}: ended as {cancel.state}, then {row['state']}")
                continue
            kinds = [e.WhichOneof("event") for e in self.stored.events[cancel.uid]]
            self.counts["cancels that came in time"] += 1
            self.that(row["cancel_requested"] is not None, f"{cancel.uid}: the cancel request is lost")
            self.that(kinds.count("cancelling") == 1, f"{cancel.uid}: cancelled while it ran: {kinds}")
            if cancel.state == State.STATE_CANCELLING:
                self.that(row["state"] == State.STATE_CANCELLED, f"{cancel.uid}: CANCELLING, then {row['state']}")


def result(events: list[operation_pb2.OperationEvent]) -> WorkResult:
    """The result in the last event."""
    found = WorkResult()
    events[-1].completed.result.Unpack(found)
    return found
