"""The life of a durable instance (recurring, debounce, task), once, as data: its statuses, the moves, who makes them.

`docs/lifecycle.md` and its diagram are generated from the table below, and every pair (status, move) is tested.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from longshore_server.named import Named


class Kind(Named):
    """What an instance is an instance of."""

    RECURRING = 1
    DEBOUNCE = 2
    TASK = 3


class Status(Named):
    """Where an instance stands. The numbers are those of `longshore.v1.InstanceStatus`."""

    ACTIVE = 1
    PAUSED = 2
    FAILED = 3
    TERMINATED = 4
    NOT_FOUND = 5
    """There is none of this id. An answer only: no row says so."""


class Move(enum.Enum):
    """What can be done to an instance."""

    ACCEPT = "accept"
    TRIGGER = "trigger"
    BEGIN = "begin"
    FINISH = "finish"
    RETRY = "retry"
    EXHAUST = "exhaust"
    PAUSE = "pause"
    RESUME = "resume"
    TERMINATE = "terminate"
    RENEW = "renew"
    FORGET = "forget"


class Rule(NamedTuple):
    """One allowed move: from a status to a status, and who makes it."""

    source: Status
    move: Move
    target: Status
    by: str


S, M = Status, Move
RULES: tuple[Rule, ...] = (
    Rule(S.ACTIVE, M.ACCEPT, S.ACTIVE, "caller (start, add, send)"),
    Rule(S.ACTIVE, M.TRIGGER, S.ACTIVE, "caller (trigger, flush)"),
    Rule(S.ACTIVE, M.BEGIN, S.ACTIVE, "scheduler"),
    Rule(S.ACTIVE, M.FINISH, S.ACTIVE, "handler"),
    Rule(S.ACTIVE, M.RETRY, S.ACTIVE, "runner, recovery"),
    Rule(S.ACTIVE, M.EXHAUST, S.FAILED, "runner, recovery"),
    Rule(S.ACTIVE, M.PAUSE, S.PAUSED, "admin"),
    Rule(S.ACTIVE, M.RESUME, S.ACTIVE, "admin"),
    Rule(S.ACTIVE, M.TERMINATE, S.TERMINATED, "handler, admin"),
    Rule(S.ACTIVE, M.FORGET, S.ACTIVE, "sweeper (a dead letter)"),
    # What is accepted meanwhile waits; a handler that was under way comes to its end.
    Rule(S.PAUSED, M.ACCEPT, S.PAUSED, "caller (start, add, send)"),
    Rule(S.PAUSED, M.FINISH, S.PAUSED, "handler"),
    Rule(S.PAUSED, M.RETRY, S.PAUSED, "runner, recovery"),
    Rule(S.PAUSED, M.EXHAUST, S.FAILED, "runner, recovery"),
    Rule(S.PAUSED, M.PAUSE, S.PAUSED, "admin"),
    Rule(S.PAUSED, M.RESUME, S.ACTIVE, "admin"),
    Rule(S.PAUSED, M.TERMINATE, S.TERMINATED, "handler, admin"),
    Rule(S.PAUSED, M.FORGET, S.PAUSED, "sweeper (a dead letter)"),
    Rule(S.FAILED, M.ACCEPT, S.FAILED, "caller (start, add, send)"),
    Rule(S.FAILED, M.RESUME, S.ACTIVE, "admin"),
    Rule(S.FAILED, M.TERMINATE, S.TERMINATED, "admin"),
    Rule(S.FAILED, M.FORGET, S.FAILED, "sweeper (a dead letter)"),
    Rule(S.TERMINATED, M.RENEW, S.ACTIVE, "caller (start, add, send)"),
)
"""Every allowed move. What is not here is refused, or answered by the status."""

_TABLE = {(rule.source, rule.move): rule for rule in RULES}


def rule(status: Status, move: Move) -> Rule | None:
    """The rule by which `move` is made at `status`, or None where it is not allowed."""
    return _TABLE.get((status, move))


def diagram() -> str:
    """The table as the text of a Mermaid diagram, made from `RULES`."""
    lines = ["stateDiagram-v2", "    [*] --> ACTIVE : start, add, send"]
    edges: dict[tuple[Status, Status], list[str]] = {}
    for r in RULES:
        edges.setdefault((r.source, r.target), []).append(r.move.value)
    lines += [f"    {a.name} --> {b.name} : {', '.join(moves)}" for (a, b), moves in edges.items()]
    lines.append(f"    {Status.TERMINATED.name} --> [*] : purge, retention")
    return "\n".join(lines)


def table() -> str:
    """`RULES` as the text of a Markdown table."""
    lines = ["| from | move | to | made by |", "|---|---|---|---|"]
    lines += [f"| {r.source.name} | {r.move.value} | {r.target.name} | {r.by} |" for r in RULES]
    return "\n".join(lines)
