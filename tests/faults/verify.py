"""Holds what callers saw against what is stored, and what is stored against what was promised."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from longshore.v1 import operation_pb2
from tests.faults.history import TERMINAL, History
from tests.faults.process import SERVICE, STEERED, Effect
from tests.faults.stored import Stored, uid_text
from tests.faults.verify_jobs import JobChecks
from tests.faults.verify_steered import SteeredChecks

State = operation_pb2.OperationSnapshot.State
STEPPED = ("Steps", "Sleeps", "Named", "Falter", "Endure", "Keep")
KEEP = f"{STEERED}/Keep"
HAND = f"{SERVICE}/Hand"
NAMED = {f"{SERVICE}/Named": "torture-", KEEP: "kept-"}
"""The types with a template, and how their names begin."""
MAY_FAIL = (f"{STEERED}/Falter", f"{STEERED}/Defer")


class Verdict:
    """Findings, and how much was looked at: a verdict over nothing is none."""

    def __init__(self, stored: Stored, history: History, shown: Mapping[str, Any]) -> None:
        """`shown`: the snapshots of all operations as the wire shows them in the end, by uid."""
        self.stored = stored
        self.history = history
        self.shown = shown
        self.wrong: list[str] = list(history.violations)
        self.counts: Counter[str] = Counter(history.counts)
        self.kept = {start.uid for start in history.starts if start.type == KEEP}
        """What goes by itself, a second after its end."""

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
        SteeredChecks(self).all()
        JobChecks(self).all()

    def gone(self, uid: str) -> bool:
        """Whether it is not stored any more, for a reason."""
        if uid in self.stored.operations:
            return False
        return uid in self.history.deletes or uid in self.kept

    def that(self, condition: object, what: str) -> None:
        """One promise."""
        if not condition:
            self.wrong.append(what)

    def check_log(self, uid: str) -> None:
        """Gapless from 1, one terminal event and it is last, nothing goes back, and the row is what the log led to."""
        row, events = self.stored.operations[uid], self.stored.events.get(uid, [])
        kinds = self.stored.kinds(uid)
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
        failed = [event.attempt for event in events if event.HasField("attempt_failed")]
        self.that(failed == list(range(1, len(failed) + 1)), f"{uid}: attempts that failed: {failed}")
        self.that(row["attempt"] - len(failed) in (0, 1), f"{uid}: {len(failed)} of {row['attempt']} attempts failed")
        self.counts["completed"] += row["state"] == State.STATE_COMPLETED
        if row["type"] in MAY_FAIL:
            return
        # No other handler fails by itself: whatever was not cancelled has to come to its result.
        cancelled = row["cancel_requested"] is not None
        self.that(row["state"] == State.STATE_COMPLETED or cancelled, f"{uid} {row['type']}: {events[-1]}")
        self.that(row["state"] != State.STATE_FAILED, f"{uid}: failed: {events[-1]}")
        if row["state"] == State.STATE_COMPLETED:
            # What is handed over is completed by an attempt of its job.
            own = row["type"] == HAND or self.stored.result(uid).attempt == row["attempt"]
            self.that(own, f"{uid}: completed by another attempt")

    def check_effects(self, uid: str) -> None:
        """A step has one key, its effect is made until it is recorded and not after, its result is the recorded one."""
        row, steps = self.stored.operations[uid], self.check_steps(uid)
        kind = row["type"].rpartition("/")[2]
        if row["state"] == State.STATE_COMPLETED and kind in STEPPED:
            tokens = [json.loads(steps[name]["outcome"]) for name in sorted(steps)]
            self.that(list(self.stored.result(uid).tokens) == tokens, f"{uid}: the result's steps")
        for entry in self.stored.journal[uid]:
            if entry["kind"] == "sleep" and row["state"] == State.STATE_COMPLETED:
                self.counts["sleeps"] += 1
                self.that(json.loads(entry["outcome"]) <= row["ended"], f"{uid}: ended in its sleep")

    def check_steps(self, uid: str) -> dict[str, Any]:
        """The same of an operation or a job: the entries of its steps, by name."""
        ledger = self.stored.effects[uid]
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
        return steps

    def check_children(self, uid: str) -> None:
        """Every child start made one operation, whatever became of the attempt that made it."""
        row = self.stored.operations[uid]
        if row["type"] != f"{SERVICE}/Family":
            return
        recorded = [uid_text(e["outcome"]) for e in self.stored.journal[uid] if e["kind"] == "child"]
        real = self.stored.children[f"operations/{row['id']}"]
        self.that(sorted(recorded) == sorted(real), f"{uid}: children recorded {recorded}, real {real}")
        self.counts["children"] += len(real)
        if row["state"] == State.STATE_COMPLETED:
            tokens = self.stored.result(uid).tokens
            self.that(sorted(tokens) == sorted(real), f"{uid}: children in its result: {tokens}, real {real}")

    def check_starts(self) -> None:
        """What was acknowledged is stored; a key made one operation at a time; nothing is there that nobody sent."""
        operations = self.stored.operations
        uids: dict[str, dict[str, int]] = defaultdict(dict)
        for start in self.history.starts:
            self.counts["starts acknowledged"] += 1
            row = operations.get(start.uid)
            found_type = self.gone(start.uid) or (row is not None and row["type"] == start.type)
            self.that(found_type, f"start of {start} is not stored")
            key = start.request_id or start.key
            if key:
                made = uids[key]
                made[start.uid] = made.get(start.uid, 0) + start.created
            if row is None or not key:
                continue
            found = self.stored.requests.get((start.type, start.request_id)) if start.request_id else None
            found = found or self.stored.names.get(row["id"])
            self.that(found == start.uid, f"{start} is stored as {found}")
        for key, several in uids.items():
            left = [uid for uid in several if not self.gone(uid)]
            self.that(len(left) <= 1, f"{key} started {left}")
            for uid, created in several.items():
                self.that(created <= 1, f"{key}: {uid} was created {created} times")
        self.counts["starts answered with what existed"] = sum(not s.created for s in self.history.starts)
        keyed = Counter(r["request_id"] for r in operations.values() if r["request_id"])
        self.that(set(keyed.values()) <= {1}, "a request id has several operations")
        self.that(set(keyed) <= self.history.request_ids, "request ids that nobody sent")
        named = Counter(r["id"] for r in operations.values() if r["type"] in NAMED)
        self.that(set(named.values()) <= {1}, "a name has several operations")
        sent = {prefix + key for key in self.history.keys for prefix in NAMED.values()}
        self.that(set(named) <= sent, "names that nobody sent")
        anonymous = sum(not r["request_id"] and not r["parent"] and r["type"] not in NAMED for r in operations.values())
        self.that(anonymous <= self.history.anonymous_tries, f"{anonymous} anonymous operations")

    def check_seen(self) -> None:
        """Every event that any watcher saw is stored, byte for byte."""
        for uid, events in self.history.events.items():
            if self.gone(uid):
                continue
            bodies = self.stored.bodies.get(uid, [])
            for sequence, body in events.items():
                self.counts["different events seen"] += 1
                kept = bodies[sequence - 1] if sequence <= len(bodies) else None
                self.that(kept == body, f"{uid}: event {sequence} was seen as {body!r}, stored is {kept!r}")

    def check_snapshots(self) -> None:
        """Every snapshot that anyone saw is what the log led to at its sequence."""
        for snapshot in self.history.snapshots:
            if self.gone(snapshot.uid):
                continue
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
                if last.HasField("failed"):
                    outcome = last.failed.error
                shown: Any = snapshot.result if last.HasField("completed") else snapshot.error
                self.that(snapshot.sequence == len(events), f"{snapshot.uid}: ended, and then went on")
                self.that(shown == outcome, f"{snapshot.uid}: its end was shown as {shown}, stored is {outcome}")
                snapshot.ClearField("input")  # only some calls show it
                final = self.shown.get(snapshot.uid, snapshot)
                self.that(snapshot == final, f"{snapshot.uid}: had ended as {snapshot}, and is {final}")

    def check_cancels(self) -> None:
        """An acknowledged request is in the log, and where the contract is cooperative it won."""
        for cancel in self.history.cancels:
            self.counts["cancels acknowledged"] += 1
            if self.gone(cancel.uid):
                continue
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
