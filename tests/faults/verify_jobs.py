"""Holds what was promised of jobs against what is stored: their steps, their times, and what ends with them."""

from __future__ import annotations

import bisect
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from longshore.v1 import operation_pb2
from longshore_server.job_lifecycle import JobState
from longshore_server.store.mutations.job_creation import read_back
from tests.faults.process import Effect
from tests.faults.stored import uid_text
from tests.faults.verify_steered import CLOCKS
from tests.faults.working import BACKOFF, failures

if TYPE_CHECKING:
    from tests.faults.verify import Verdict

State = operation_pb2.OperationSnapshot.State
SECOND = 1_000_000
OVERTAKERS = 3
"""So many younger jobs that begin before one that is due are no chance: the oldest that is ready is claimed first."""


class JobChecks:
    """The checks of one verdict."""

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict
        self._that = verdict.that
        self._stored = verdict.stored
        self._counts = verdict.counts
        self._children: dict[str, list[str]] = defaultdict(list)
        for uid, row in self._stored.jobs.items():
            self._children[uid_text(row["parent"])].append(uid)
        errands = [uid for uid, row in self._stored.jobs.items() if row["queue"] == "errand"]
        ran = {uid: [int(n.token) for n in self._stored.notes[uid] if n.name == "ran"] for uid in errands}
        self._begins = sorted((min(times), uid) for uid, times in ran.items() if times)
        """When which job of the queue began: its first attempt, as one that was in crashes is run before others."""

    def all(self) -> None:
        """Every check."""
        for uid, row in self._stored.jobs.items():
            self._check_job(uid, row)
            self._check_times(uid, row)
            self._check_creations(uid)
        for uid in self._stored.operations:
            self._check_creations(uid)
        for attachment in self._stored.attachments:
            self._check_attachment(attachment)

    def _check_job(self, uid: str, row: Any) -> None:
        """It has ended, well unless it was cancelled; its steps were recorded once, each as what it did."""
        self._counts["jobs"] += 1
        self._counts["jobs interrupted"] += row["attempt"] > row["failures"] + 1
        self._that(row["ended"] is not None, f"job {uid}: has not ended, state {row['state']}")
        steps = self._verdict.check_steps(uid)
        self._counts["steps of jobs"] += len(steps)
        if row["state"] != JobState.COMPLETED:
            cancelled = row["state"] == JobState.CANCELLED and row["cancel_requested"] is not None
            self._that(cancelled, f"job {uid}: ended as {JobState(row['state']).name}, and nobody cancelled it")
            return
        self._counts["jobs completed"] += 1
        if row["queue"] == "errand":
            request = self._stored.payloads[uid]
            self._that(row["failures"] == failures(request), f"job {uid}: completed after {row['failures']} failures")
            self._that(sorted(steps) == [f"s{n}" for n in range(request.count)], f"job {uid}: steps {sorted(steps)}")

    def _check_times(self, uid: str, row: Any) -> None:
        """No delay, no sleep and no backoff ended early; no attempt ran twice."""
        notes: dict[str, list[Effect]] = defaultdict(list)
        for note in self._stored.notes[uid]:
            notes[note.name].append(note)
        ran = {note.attempt: int(note.token) for note in notes["ran"]}
        self._that(len(ran) == len(notes["ran"]), f"job {uid}: an attempt ran twice: {notes['ran']}")
        delay = float(self._stored.payloads[uid].script or 0) if row["queue"] == "errand" else 0
        if delay and ran:
            self._counts["delayed jobs"] += 1
            self._counts["delayed jobs of another server"] += self._stored.restarted(row["created"], min(ran.values()))
            due = row["created"] + round(delay * SECOND)
            self._not_early(f"job {uid}: its delay", due, min(ran.values()))
            self._not_overtaken(uid, due, min(ran.values()))
        dues = {e["occurrence"]: json.loads(e["outcome"]) for e in self._stored.journal[uid] if e["kind"] == "sleep"}
        for occurrence, due in dues.items():
            for woken in notes[f"woke {occurrence - min(dues)}"]:
                self._counts["sleeps of jobs"] += 1
                self._not_early(f"job {uid}: sleep {occurrence}", due, int(woken.token))
        for failed in notes["failed"]:
            again = ran.get(failed.attempt + 1)
            # One that a crash kept from being recorded is made again at once.
            if again is not None and not self._stored.restarted(int(failed.token), again):
                self._counts["backoffs of jobs"] += 1
                due = int(failed.token) + round(BACKOFF * SECOND)
                self._not_early(f"job {uid}: attempt {failed.attempt + 1}", due, again)
                if failed.attempt == 1:  # it was in no crash that makes others go first
                    self._not_overtaken(uid, due, again)

    def _not_early(self, what: str, due: int, came: int) -> None:
        self._that(came - due >= -CLOCKS, f"{what} came {due - came} us early")

    def _not_overtaken(self, uid: str, due: int, came: int) -> None:
        """Once it is due, and a server runs, at most as many younger ones begin before it as chance explains.

        How long that takes says nothing: on a busy machine everything is late. What is kept waiting while others go on
        is late by more than the kills.
        """
        self._counts["jobs held against younger ones"] += 1
        since = max(due, self._stored.boots[bisect.bisect(self._stored.boots, came) - 1]) + SECOND
        window = self._begins[bisect.bisect(self._begins, (since, "")) : bisect.bisect(self._begins, (came, ""))]
        # Those that one transaction has begun write their first lines in any order.
        jobs = self._stored.jobs
        younger = {other for _, other in window if other > uid and jobs[other]["begun"] != jobs[uid]["begun"]}
        self._that(len(younger) < OVERTAKERS, f"job {uid}: was due at {due}, came at {came} after {sorted(younger)}")

    def _check_creations(self, uid: str) -> None:
        """Every call that created a job made one, whatever became of the attempt that made the call."""
        entries = [entry for entry in self._stored.journal[uid] if entry["kind"] == "job"]
        recorded = [uid_text(job) for e in entries for job, _ in read_back(e["outcome"]) if job is not None]
        real = self._children[uid]
        self._that(sorted(recorded) == sorted(real), f"{uid}: jobs recorded {recorded}, real {real}")

    def _check_attachment(self, attachment: Any) -> None:
        """What ends with a job has ended in the same transaction as that, unless it had before."""
        job, target = uid_text(attachment["uid"]), uid_text(attachment["target"])
        row, operation = self._stored.jobs[job], self._stored.operations.get(target)
        end = operation if attachment["kind"] == 1 else self._stored.jobs[target]
        if end is None:
            self._that(self._verdict.gone(target), f"job {job}: is attached to {target}, which is lost")
            return
        self._counts["jobs attached to jobs"] += attachment["kind"] == 2
        if row["state"] != JobState.COMPLETED:
            return
        completed = State.STATE_COMPLETED if operation is not None else JobState.COMPLETED
        together = end["state"] == completed and end["ended"] == row["ended"]
        self._counts["ended with their jobs"] += together
        cancelled = end["cancel_requested"] is not None and end["ended"] <= row["ended"]
        self._that(together or cancelled, f"job {job} ended at {row['ended']}, {target} at {end['ended']}")
