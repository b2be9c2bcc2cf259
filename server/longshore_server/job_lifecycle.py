"""The life of a job, once, as data: its states, the moves between them, and who makes each move.

`docs/jobs_lifecycle.md` and its diagram are generated from the table below, and every pair (state, move) is tested.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from longshore_server.lifecycle import draw
from longshore_server.named import Named


class JobState(Named):
    """Where a job is in its life."""

    QUEUED = 1
    ACTIVE = 2
    CANCELLING = 3
    STALE = 4
    COMPLETED = 5
    FAILED = 6
    CANCELLED = 7
    EXPIRED = 8
    REPLACED = 9
    DEAD = 10
    DISMISSED = 11


ENDED = frozenset(state for state in JobState if state >= JobState.COMPLETED)
"""The states in which nothing runs and nothing is waited for."""


class Stand(Named):
    """What a queued job waits for. In this order its key counts them."""

    NONE = 0
    """It is not queued."""
    READY = 1
    """For a runner alone; its place among the active ones of its key is taken."""
    BLOCKED = 2
    """For its key."""
    DELAYED = 3
    """For its time."""


class JobMove(enum.Enum):
    """What can be done to a job."""

    CLAIM = "claim"
    PROGRESS = "progress"
    COMPLETE = "complete"
    FAIL = "fail"
    REQUEUE = "requeue"
    BURY = "bury"
    LOSE = "lose"
    REQUEST_CANCEL = "request_cancel"
    CANCEL = "cancel"
    EXPIRE = "expire"
    REPLACE = "replace"
    RETRY = "retry"
    DISMISS = "dismiss"


class JobRule(NamedTuple):
    """One allowed move: from a state to a state, and who makes it."""

    source: JobState
    move: JobMove
    target: JobState
    by: str


S, M = JobState, JobMove
RULES: tuple[JobRule, ...] = (
    JobRule(S.QUEUED, M.CLAIM, S.ACTIVE, "scheduler"),
    JobRule(S.QUEUED, M.CANCEL, S.CANCELLED, "service, admin, operation"),
    JobRule(S.QUEUED, M.EXPIRE, S.EXPIRED, "deadline"),
    JobRule(S.QUEUED, M.REPLACE, S.REPLACED, "newer job of its key"),
    JobRule(S.ACTIVE, M.PROGRESS, S.ACTIVE, "runner"),
    JobRule(S.ACTIVE, M.COMPLETE, S.COMPLETED, "runner, attached job"),
    JobRule(S.ACTIVE, M.FAIL, S.FAILED, "runner, heartbeat, attached job"),
    JobRule(S.ACTIVE, M.REQUEUE, S.QUEUED, "runner (retry), heartbeat, recovery"),
    JobRule(S.ACTIVE, M.BURY, S.DEAD, "runner (exhausted), heartbeat, recovery"),
    JobRule(S.ACTIVE, M.LOSE, S.STALE, "heartbeat"),
    JobRule(S.ACTIVE, M.REQUEST_CANCEL, S.CANCELLING, "service, admin, operation"),
    JobRule(S.ACTIVE, M.CANCEL, S.CANCELLED, "runner, attached job"),
    JobRule(S.ACTIVE, M.EXPIRE, S.EXPIRED, "deadline"),
    JobRule(S.CANCELLING, M.PROGRESS, S.CANCELLING, "runner"),
    JobRule(S.CANCELLING, M.CANCEL, S.CANCELLED, "runner, grace, deadline, recovery, attached job"),
    JobRule(S.STALE, M.CANCEL, S.CANCELLED, "service, admin, operation"),
    JobRule(S.STALE, M.EXPIRE, S.EXPIRED, "deadline"),
    JobRule(S.STALE, M.RETRY, S.QUEUED, "admin"),
    JobRule(S.FAILED, M.RETRY, S.QUEUED, "admin"),
    JobRule(S.CANCELLED, M.RETRY, S.QUEUED, "admin"),
    JobRule(S.EXPIRED, M.RETRY, S.QUEUED, "admin"),
    JobRule(S.DEAD, M.RETRY, S.QUEUED, "admin"),
    JobRule(S.DEAD, M.DISMISS, S.DISMISSED, "admin"),
)
"""Every allowed move. What is not here is refused."""

# By state, then by the move's word: the hash of an enum's member is computed in Python, that of a string is kept.
_TABLE = [{rule.move.value: rule for rule in RULES if rule.source == number} for number in range(len(JobState) + 1)]


def rule(state: JobState, move: JobMove) -> JobRule | None:
    """The rule by which `move` is made in `state`, or None where it is not allowed."""
    return _TABLE[state].get(move.value)


def diagram() -> str:
    """The state machine as the text of a Mermaid diagram, made from `RULES`."""
    beginnings = ["[*] --> QUEUED : create", "[*] --> ACTIVE : create, with a free slot"]
    moves = ((r.source, r.move, r.target) for r in RULES)
    return draw(beginnings, moves, [f"{state.name} --> [*]" for state in sorted(ENDED)])


def table() -> str:
    """`RULES` as the text of a Markdown table."""
    lines = ["| from | move | to | made by |", "|---|---|---|---|"]
    lines += [f"| {r.source.name} | {r.move.value} | {r.target.name} | {r.by} |" for r in RULES]
    return "\n".join(lines)
