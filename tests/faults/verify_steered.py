"""Holds what was promised to those who steer operations against what is stored: signals, control, retries, stops."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2
from torture.v1.torture_pb2 import WorkProgress

from longshore.v1 import channels_pb2, operation_pb2
from tests.faults.process import STEERED

if TYPE_CHECKING:
    from tests.faults.verify import Verdict

State = operation_pb2.OperationSnapshot.State
SECOND = 1_000_000
MAX_ATTEMPTS = 4
"""Of `Falter`."""
RETENTION = SECOND
"""Of `Keep`."""
CLOCKS = 5_000
"""By how many microseconds the clocks of two processes may differ."""
SWEEPING = 10 * SECOND
"""How late the sweeper may come, restarts included."""


class SteeredChecks:
    """The checks of one verdict."""

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict
        self._that = verdict.that
        self._stored = verdict.stored
        self._history = verdict.history
        self._counts = verdict.counts

    def all(self) -> None:
        """Every check."""
        for uid, row in self._stored.operations.items():
            self._check_attempts(uid, row)
            self._check_signals(uid, row)
            self._check_stop(uid, row)
            method = row["type"].removeprefix(f"{STEERED}/")
            if method == "Listen":
                self._check_listener(uid, row)
            elif method == "Defer":
                self._check_deferred(uid, row)
            elif method == "Falter":
                self._check_falter(uid, row)
        self._check_acknowledged_signals()
        self._check_controls()
        self._check_stops()
        self._check_retries()
        self._check_deletions()
        self._check_retention()
        for snapshot in self._history.snapshots:
            if snapshot.uid in self._stored.operations:
                self._check_snapshot(snapshot)

    # Attempts.

    def _check_attempts(self, uid: str, row: Any) -> None:
        """Failures and crashes are counted apart, each as often as the log says."""
        reasons = [reason for _, reason in self._failures(uid)]
        interrupted = reasons.count("INTERRUPTED")
        self._that(row["failures"] == len(reasons) - interrupted, f"{uid}: {row['failures']} failures: {reasons}")
        # A cancel request settles what a crash has interrupted, without an event of its own.
        most = interrupted + (row["state"] == State.STATE_CANCELLED)
        self._that(row["crashes"] <= most, f"{uid}: {row['crashes']} crashes: {reasons}")
        self._counts["failures of attempts"] += row["failures"]

    def _check_falter(self, uid: str, row: Any) -> None:
        """It fails as often as its input says and the contract allows; no attempt comes before its time, or twice."""
        request, failures = self._stored.inputs[uid], self._failures(uid)
        last = self._stored.events[uid][-1]
        allowed = min(request.count, MAX_ATTEMPTS - 1)
        stopped = row["stop_requested"] is not None
        if row["state"] == State.STATE_COMPLETED:
            self._that(row["failures"] == request.count, f"{uid}: completed after {row['failures']} failures")
            self._that(request.count <= allowed and not request.script, f"{uid}: completed, with {request}")
        elif row["state"] == State.STATE_FAILED:
            reason = reason_of(last.failed.error)
            flaky = request.count > row["failures"]
            self._that(reason == ("FLAKY" if flaky else "BROKEN"), f"{uid}: failed with {reason}, with {request}")
            self._that(row["failures"] == allowed or stopped, f"{uid}: failed after {row['failures']}, with {request}")
        ran = {note.attempt: note.token.split() for note in self._stored.notes[uid]}
        self._that(len(ran) == len(self._stored.notes[uid]), f"{uid}: an attempt ran twice: {self._stored.notes[uid]}")
        before = 0
        for event, reason in failures:
            before += reason != "INTERRUPTED"
            following = ran.get(event.attempt + 1)
            if following is None:
                continue
            self._that(
                following[0] == str(before), f"{uid}: attempt {event.attempt + 1} knew of {following[0]} failures"
            )
            again = int(following[1])
            if reason != "INTERRUPTED":
                elsewhere = self._stored.restarted(event.time.ToMicroseconds(), again)
                self._counts["failed attempts made again"] += 1
                self._counts["failed attempts made again by another server"] += elsewhere
            if not stopped:
                early = due(event) - again
                self._that(early <= CLOCKS, f"{uid}: attempt {event.attempt + 1} came {early} us early")

    def _failures(self, uid: str) -> list[tuple[operation_pb2.OperationEvent, str]]:
        return [
            (event, reason_of(event.attempt_failed.error))
            for event in self._stored.events[uid]
            if event.HasField("attempt_failed")
        ]

    # Signals.

    def _check_signals(self, uid: str, row: Any) -> None:
        """They are numbered in the order of the log; each is consumed by one journal entry or controller, or waits."""
        signals = self._stored.signals[uid]
        logged = [e.signal for e in self._stored.events[uid] if e.HasField("signal")]
        self._counts["signals stored"] += len(signals)
        self._that([s["number"] for s in signals] == list(range(1, row["signals"] + 1)), f"{uid}: signals misnumbered")
        self._that(
            [(s["number"], s["name"], s["id"], s["payload"]) for s in signals]
            == [(e.number, e.name, e.signal_id, e.payload.SerializeToString()) for e in logged],
            f"{uid}: the signals are not those of the log",
        )
        self._that({s["id"] for s in signals} <= self._history.signal_ids[uid], f"{uid}: signals that nobody sent")
        refused = {s["id"] for s in signals} & self._history.refused_signals[uid]
        self._that(not refused, f"{uid}: signals were refused, and are stored: {refused}")
        taken = [int(e["outcome"]) for e in self._stored.journal[uid] if e["kind"] == "signal" and e["outcome"]]
        self._that(len(set(taken)) == len(taken), f"{uid}: a signal was consumed twice: {taken}")
        consumed = {s["number"] for s in signals if s["consumed"] is not None}
        mine, others = set(taken), self._history.consumed[uid]
        self._that(mine <= consumed <= mine | others, f"{uid}: {consumed} are consumed, in the journal {mine}")
        waiting = [(s["number"], s["name"], s["id"]) for s in signals if s["consumed"] is None]
        self._counts["signals consumed at another server"] += sum(
            self._stored.restarted(s["accepted"], s["consumed"]) for s in signals
        )
        self._that(row["pending"] == len(waiting), f"{uid}: {row['pending']} signals are said to wait: {waiting}")
        if uid in self._verdict.shown:
            shown = [(s.number, s.name, s.signal_id) for s in self._verdict.shown[uid].pending_signals]
            self._that(shown == waiting, f"{uid}: signals {waiting} wait, and {shown} are shown")
        self._counts["signals consumed"] += len(taken)
        self._counts["signals that wait for ever"] += len(waiting)

    def _check_listener(self, uid: str, row: Any) -> None:
        """The handler got the signals of each name in order, in every attempt the same ones by the same calls."""
        request, signals = self._stored.inputs[uid], self._stored.signals[uid]
        entries = {
            (e["name"], e["occurrence"]): e["outcome"] for e in self._stored.journal[uid] if e["kind"] == "signal"
        }
        expected: list[str] = []
        for call in range(request.count):
            label, occurrence = "word", call
            if request.script == "any":
                label = ""
            elif request.script == "each":
                label, occurrence = ("word", "shout")[call % 2], call // 2
            outcome = entries.get((label, occurrence))
            if outcome is None:
                break
            expected.append(self._token(signals, int(outcome)) if outcome else "late")
        self._that(len(expected) == len(entries), f"{uid}: the journal has other calls than the handler: {entries}")
        for name in ("word", "shout") if request.script != "any" else ("",):
            given = [token for token in expected if token != "late" and name in ("", token.split()[1])]
            first = [self._token(signals, s["number"]) for s in signals if name in ("", s["name"])][: len(given)]
            self._that(given == first, f"{uid}: signals {given} were consumed before {first}")
        for note in self._stored.notes[uid]:
            call = int(note.name.removeprefix("call "))
            wanted = expected[call] if call < len(expected) else None
            self._that(note.token == wanted, f"{uid}: {note} was given, and recorded is {wanted}")
            self._counts["signals given again"] += call < len(expected) and note.attempt > 1
        if row["state"] == State.STATE_COMPLETED:
            tokens = list(self._stored.result(uid).tokens)
            self._that(tokens == expected and len(tokens) == request.count, f"{uid}: {tokens}, recorded {expected}")

    def _token(self, signals: list[Any], number: int) -> str:
        """What the handler writes down of a signal."""
        signal = next(s for s in signals if s["number"] == number)
        payload = WorkProgress()
        AnyMessage.FromString(signal["payload"]).Unpack(payload)
        return f"{number} {signal['name']} {signal['id']} {payload.number}"

    def _check_acknowledged_signals(self) -> None:
        """Each is stored under its number, once, whatever was sent how often."""
        accepted: dict[tuple[str, str], int] = defaultdict(int)
        for signal in self._history.signals:
            self._counts["signals acknowledged"] += 1
            self._counts["signals acknowledged as duplicates"] += signal.duplicate
            accepted[signal.uid, signal.id] += not signal.duplicate
            rows = [s for s in self._stored.signals[signal.uid] if s["number"] == signal.number]
            found = [(s["name"], s["id"], s["payload"]) for s in rows]
            self._that(
                self._verdict.gone(signal.uid) or found == [(signal.name, signal.id, signal.payload)],
                f"{signal} was acknowledged, stored is {found}",
            )
        for (uid, id), times in accepted.items():
            self._that(times <= 1, f"{uid}: signal {id} was accepted {times} times")

    # Deferral and control.

    def _check_deferred(self, uid: str, row: Any) -> None:
        """Once it is handed over no attempt begins; it ends by control, cancel, deadline or what is attached."""
        notes, request = self._stored.notes[uid], self._stored.inputs[uid]
        handed = [note.attempt for note in notes if note.name == "handed over"]
        self._that(len(handed) <= 1, f"{uid}: handed over in the attempts {handed}")
        ran = [note.attempt for note in notes if note.name == "ran"]
        self._that(len(set(ran)) == len(ran), f"{uid}: an attempt ran twice: {ran}")
        if handed or row["deferred"]:
            self._counts["deferred operations"] += 1
            self._counts["deferred operations ended at another server"] += self._stored.restarted(
                row["started"], row["ended"]
            )
            self._that(row["deferred"], f"{uid}: was handed over, and is not deferred")
            self._that(handed in ([], [row["attempt"]]), f"{uid}: handed over in {handed}, and has {row['attempt']}")
            self._that(max(ran, default=0) <= row["attempt"], f"{uid}: ran in {ran} of {row['attempt']} attempts")
            failed = [event.attempt for event, _ in self._failures(uid)]
            self._that(len(failed) == row["attempt"] - 1, f"{uid}: {failed} failed of {row['attempt']} attempts")
        tried, last = self._history.endings[uid], self._stored.events[uid][-1]
        if row["state"] == State.STATE_COMPLETED:
            text = self._stored.result(uid).text
            attached = request.script == "attach" and text == "attached"
            self._that(attached or ("complete", text) in tried, f"{uid}: completed with {text!r}, tried were {tried}")
            self._counts["ended by attached work"] += attached
        elif row["state"] == State.STATE_FAILED:
            error = last.failed.error
            overdue = reason_of(error) == "DEADLINE_EXCEEDED"
            self._counts["ended by deadline"] += overdue
            self._that(overdue or ("fail", error.message) in tried, f"{uid}: failed with {error}, tried were {tried}")
            self._that(not overdue or row["ended"] >= row["deadline"], f"{uid}: failed before its deadline")
        else:
            self._that(row["cancel_requested"] is not None, f"{uid}: cancelled, and nobody asked")
        for text, times in self._history.reports[uid].items():
            self._that(self._reported(uid).count(text) <= times, f"{uid}: {text} was sent {times} times")
        unknown = set(self._reported(uid)) - set(self._history.reports[uid]) - {request.text}
        self._that(not unknown, f"{uid}: reports that nobody sent: {unknown}")

    def _check_controls(self) -> None:
        """What was acknowledged to a controller is there."""
        for uid, text in self._history.reported:
            self._counts["reports of controllers"] += 1
            self._that(text in self._reported(uid), f"{uid}: {text} was acknowledged, and is not in the log")
        for uid, number in self._history.consumptions:
            self._counts["signals consumed by controllers"] += 1
            consumed = [s["consumed"] is not None for s in self._stored.signals[uid] if s["number"] == number]
            self._that(consumed == [True], f"{uid}: the consumption of signal {number} is lost")
        for ended in self._history.ended:
            self._counts["ended by control"] += 1
            row, events = self._stored.operations.get(ended.uid), self._stored.events.get(ended.uid, [])
            if row is None or not events:
                self._that(False, f"{ended} was acknowledged, and is not stored")
                continue
            # A provider's cancel gives a handler that runs its grace; of what has ended it changes nothing.
            state = State.STATE_CANCELLED if ended.state == State.STATE_CANCELLING else ended.state
            self._that(row["state"] == state, f"{ended}, stored is {events[-1]}")
            if ended.verb == "complete" and state == State.STATE_COMPLETED:
                text = self._stored.result(ended.uid).text
                self._that(text == ended.text, f"{ended}, and completed with {text!r}")
            elif ended.verb == "fail" and state == State.STATE_FAILED:
                message = events[-1].failed.error.message
                self._that(message == ended.text, f"{ended}, and failed with {message!r}")

    def _reported(self, uid: str) -> list[str]:
        """The texts of its progress and its output."""
        texts = []
        for event in self._stored.events[uid]:
            progress, output = WorkProgress(), channels_pb2.DiagnosticOutput()
            if event.progress.value.Unpack(progress):
                texts.append(progress.text)
            elif event.output.value.Unpack(output):
                texts.append(output.message)
        return texts

    # Stops.

    def _check_stop(self, uid: str, row: Any) -> None:
        """A stop is one event, and what completes after it is marked; what endures ends by nothing else."""
        stopping = self._stored.kinds(uid).count("stopping")
        self._that(stopping == (row["stop_requested"] is not None), f"{uid}: {stopping} stops in the log")
        if row["state"] == State.STATE_COMPLETED:
            marked = self._stored.events[uid][-1].completed.stopped
            self._that(marked == bool(row["stopped"]) == bool(stopping), f"{uid}: stopped {stopping}, marked {marked}")
            endless = row["type"] == f"{STEERED}/Endure"
            self._that(stopping or not endless, f"{uid}: ended, and nobody had stopped it")
            self._counts["completed by a stop"] += endless
            self._counts["completed by a stop at another server"] += self._stored.restarted(
                row["stop_requested"], row["ended"]
            )

    def _check_stops(self) -> None:
        """An acknowledged request is in the log, unless a cancel request or the end had come first."""
        for stop in self._history.stops:
            self._counts["stops acknowledged"] += 1
            row = self._stored.operations.get(stop.uid)
            if row is None:
                self._that(self._verdict.gone(stop.uid), f"{stop} was acknowledged, and is not stored")
            elif stop.state >= State.STATE_COMPLETED:
                self._that(row["state"] == stop.state, f"{stop.uid}: ended as {stop.state}, then {row['state']}")
            elif stop.state != State.STATE_CANCELLING:
                self._that(row["stop_requested"] is not None, f"{stop.uid}: the stop is forgotten")

    # Retry and Delete.

    def _check_retries(self) -> None:
        """An acknowledged retry is one new operation, of the same type and input, and says what it repeats."""
        retries = {(start.request_id, start.uid, start.retried) for start in self._history.starts if start.retried}
        sent = defaultdict(set)
        for request_id, uid, retried in retries:
            sent[retried].add(uid)
            self._counts["retries acknowledged"] += 1
            self._that(uid != retried, f"{uid}: was retried as itself")
            row, old = self._stored.operations.get(uid), self._stored.operations.get(retried)
            if row is None:
                self._that(False, f"{uid}: the retry of {retried} is not stored")
                continue
            self._that(row["retried_from"] == f"operations/{retried}", f"{uid}: retries {row['retried_from']}")
            self._that(row["request_id"] == request_id, f"{uid}: has the request id {row['request_id']}")
            if old is not None:
                same = (row["type"], row["labels"]) == (old["type"], old["labels"])
                same = same and self._stored.inputs[uid] == self._stored.inputs[retried]
                self._that(same, f"{uid}: is another operation than {retried}, which it repeats")
        for uid, row in self._stored.operations.items():
            retried = row["retried_from"].removeprefix("operations/")
            self._that(not retried or sent[retried] == {uid}, f"{uid}: retries {retried}, as do {sent[retried]}")

    def _check_deletions(self) -> None:
        """What is deleted stays deleted, with all that belongs to it; nothing else is missing, or too early."""
        self._counts["deletes acknowledged"] += len(self._history.deleted)
        left = self._stored.traces - set(self._stored.operations)
        self._that(not left, f"rows of what is deleted: {sorted(left)[:9]}")
        for uid in self._history.deleted:
            self._that(uid not in self._stored.operations, f"{uid}: was deleted, and is stored")
        for uid, seen in self._history.missing.items():
            self._that(uid not in self._stored.operations, f"{uid}: was not found, and is stored")
            self._that(self._verdict.gone(uid), f"{uid}: was not found, and nobody deleted it")
            if uid in self._verdict.kept and uid not in self._history.deletes:
                self._counts["swept operations looked for"] += 1
                self._that(seen + CLOCKS >= accepted(uid) + RETENTION, f"{uid}: was swept away too early")

    def _check_retention(self) -> None:
        """What was to be swept is, and nothing before its time."""
        for uid in self._verdict.kept:
            row = self._stored.operations.get(uid)
            if row is None:
                self._counts["swept away"] += uid not in self._history.deletes
                continue
            self._that(row["expires"] == row["ended"] + RETENTION, f"{uid}: goes at {row['expires']}")
            late = self._stored.stopped - row["expires"]
            self._that(late < SWEEPING, f"{uid}: was to be swept away {late} us ago")
        for uid, snapshot in {s.uid: s for s in self._history.snapshots if s.HasField("end_time")}.items():
            seen = self._history.missing.get(uid)
            if uid in self._verdict.kept and uid not in self._history.deletes and seen is not None:
                end = snapshot.end_time.ToMicroseconds()
                self._that(seen + CLOCKS >= end + RETENTION, f"{uid}: was swept away {seen - end} us after its end")

    # What was shown on the way.

    def _check_snapshot(self, snapshot: Any) -> None:
        """Each snapshot shows what the log led to: signals that wait, failures, the next attempt, a stop, deferral."""
        uid = snapshot.uid
        row, events = self._stored.operations[uid], self._stored.events[uid][: snapshot.sequence]
        waiting = {signal.number for signal in snapshot.pending_signals}
        sent = {event.signal.number for event in events if event.HasField("signal")}
        used = {s["number"] for s in self._stored.signals[uid] if s["consumed"] is not None}
        self._that(waiting <= sent, f"{uid}: signals {waiting} waited, {sent} had been sent")
        self._that(sent - waiting <= used, f"{uid}: signals {sent - waiting} waited no more, {used} are consumed")
        stopped = any(event.HasField("stopping") for event in events)
        self._that(snapshot.HasField("stop_request_time") == stopped, f"{uid}: stopped {stopped}: {snapshot}")
        failed = [event for event in events if event.HasField("attempt_failed")]
        failures = [event for event in failed if reason_of(event.attempt_failed.error) != "INTERRUPTED"]
        self._that(snapshot.failures == len(failures), f"{uid}: {len(failures)} failures: {snapshot}")
        if snapshot.HasField("next_attempt_time") and not stopped:
            self._counts["next attempts seen"] += 1
            shown = snapshot.next_attempt_time.ToMicroseconds()
            self._that(failed and shown == due(failed[-1]), f"{uid}: is due at another time: {snapshot}")
        if snapshot.deferred:
            self._that(row["deferred"] and row["attempt"] == snapshot.attempt, f"{uid}: ran again: {snapshot}")


def due(event: operation_pb2.OperationEvent) -> int:
    """When the attempt after one that failed is due, by its event: microseconds since the epoch."""
    delay = event.attempt_failed.retry_delay.ToMicroseconds()
    return event.time.ToMicroseconds() + delay


def accepted(uid: str) -> int:
    """When an operation was accepted, by its uid: microseconds since the epoch, less than a millisecond too early."""
    return int(uid.replace("-", "")[:12], 16) * 1000


def reason_of(status: Any) -> str:
    """The reason in the first detail of an error."""
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason
