"""The life of an operation, once, as data: its states, the moves between them, who makes each move and what it logs.

`docs/lifecycle.md` and its diagram are generated from the table below, and every pair (state, move) is tested.
The numbers are those of `longshore.v1.OperationSnapshot.State` and `longshore.v1.EventType`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from longshore_server.named import Named


class State(Named):
    """Where an operation stands."""

    PENDING = 1
    RUNNING = 2
    CANCELLING = 3
    COMPLETED = 4
    FAILED = 5
    CANCELLED = 6


TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
"""The states that nothing leaves."""


class EventType(Named):
    """The kinds of entries in an operation's log."""

    ACCEPTED = 1
    STARTED = 2
    PROGRESS = 3
    OUTPUT = 4
    ATTEMPT_FAILED = 5
    CANCELLING = 6
    COMPLETED = 7
    FAILED = 8
    CANCELLED = 9
    SIGNAL = 10
    STOPPING = 11
    TRANSFER = 12
    OFFERED = 13


class UploadState(Named):
    """Where an upload stands. The numbers are those of `longshore.v1.UploadGrant.State`."""

    OPEN = 1
    COMMITTING = 2
    COMMITTED = 3
    FAILED = 4


TERMINAL_EVENTS = frozenset({EventType.COMPLETED, EventType.FAILED, EventType.CANCELLED})
"""The events that end a log; a log holds at most one, and it is the last."""


class Move(enum.Enum):
    """What can be done to an operation."""

    START = "start"
    PROGRESS = "progress"
    OUTPUT = "output"
    ATTEMPT_FAILED = "attempt_failed"
    REQUEST_CANCEL = "request_cancel"
    FLAG_CANCEL = "flag_cancel"
    REQUEST_STOP = "request_stop"
    SIGNAL = "signal"
    TRANSFER = "transfer"
    OFFER = "offer"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


class Rule(NamedTuple):
    """One allowed move: from a state to a state, who makes it, and the event that it logs."""

    source: State
    move: Move
    target: State
    by: str
    event: EventType


S, M, E = State, Move, EventType
RULES: tuple[Rule, ...] = (
    Rule(S.PENDING, M.START, S.RUNNING, "executor, provider", E.STARTED),
    Rule(S.PENDING, M.REQUEST_CANCEL, S.CANCELLED, "caller (COOPERATIVE)", E.CANCELLED),
    Rule(S.PENDING, M.FLAG_CANCEL, S.CANCELLED, "caller (BEST_EFFORT)", E.CANCELLED),
    Rule(S.PENDING, M.REQUEST_STOP, S.PENDING, "caller", E.STOPPING),
    Rule(S.PENDING, M.SIGNAL, S.PENDING, "caller", E.SIGNAL),
    Rule(S.PENDING, M.TRANSFER, S.PENDING, "caller", E.TRANSFER),
    Rule(S.PENDING, M.FAIL, S.FAILED, "deadline, recovery, provider", E.FAILED),
    Rule(S.PENDING, M.CANCEL, S.CANCELLED, "provider", E.CANCELLED),
    Rule(S.RUNNING, M.PROGRESS, S.RUNNING, "handler, provider", E.PROGRESS),
    Rule(S.RUNNING, M.OUTPUT, S.RUNNING, "handler, provider", E.OUTPUT),
    Rule(S.RUNNING, M.REQUEST_STOP, S.RUNNING, "caller", E.STOPPING),
    Rule(S.RUNNING, M.SIGNAL, S.RUNNING, "caller", E.SIGNAL),
    Rule(S.RUNNING, M.TRANSFER, S.RUNNING, "caller", E.TRANSFER),
    Rule(S.RUNNING, M.OFFER, S.RUNNING, "handler, provider", E.OFFERED),
    Rule(S.RUNNING, M.ATTEMPT_FAILED, S.RUNNING, "executor, recovery", E.ATTEMPT_FAILED),
    Rule(S.RUNNING, M.REQUEST_CANCEL, S.CANCELLING, "caller (COOPERATIVE), provider", E.CANCELLING),
    Rule(S.RUNNING, M.FLAG_CANCEL, S.RUNNING, "caller (BEST_EFFORT)", E.CANCELLING),
    Rule(S.RUNNING, M.COMPLETE, S.COMPLETED, "handler, provider", E.COMPLETED),
    Rule(S.RUNNING, M.FAIL, S.FAILED, "handler, deadline, recovery, provider", E.FAILED),
    Rule(S.RUNNING, M.CANCEL, S.CANCELLED, "handler (BEST_EFFORT), provider", E.CANCELLED),
    Rule(S.CANCELLING, M.PROGRESS, S.CANCELLING, "handler, provider", E.PROGRESS),
    Rule(S.CANCELLING, M.OUTPUT, S.CANCELLING, "handler, provider", E.OUTPUT),
    Rule(S.CANCELLING, M.SIGNAL, S.CANCELLING, "caller", E.SIGNAL),
    Rule(S.CANCELLING, M.TRANSFER, S.CANCELLING, "caller", E.TRANSFER),
    Rule(S.CANCELLING, M.CANCEL, S.CANCELLED, "handler, grace, deadline, recovery, provider", E.CANCELLED),
)
"""Every allowed move. What is not here is refused."""

# By state, then by the move's word: the hash of an enum's member is computed in Python, that of a string is kept.
_TABLE = [{rule.move.value: rule for rule in RULES if rule.source == number} for number in range(len(State) + 1)]


def rule(state: State, move: Move) -> Rule | None:
    """The rule by which `move` is made in `state`, or None where it is not allowed."""
    return _TABLE[state].get(move.value)


def diagram() -> str:
    """The state machine as the text of a Mermaid diagram, made from `RULES`."""
    moves = ((r.source, r.move, r.target) for r in RULES)
    return draw(["[*] --> PENDING : accept"], moves, [f"{state.name} --> [*]" for state in sorted(TERMINAL)])


def draw(
    beginnings: Iterable[str], moves: Iterable[tuple[enum.Enum, enum.Enum, enum.Enum]], ends: Iterable[str]
) -> str:
    """A state machine as the text of a Mermaid diagram. `moves`: from a state, by a move, to a state."""
    edges: dict[tuple[str, str], list[str]] = {}
    for source, move, target in moves:
        edges.setdefault((source.name, target.name), []).append(move.value)
    between = (f"{source} --> {target} : {', '.join(words)}" for (source, target), words in edges.items())
    return "\n".join(["stateDiagram-v2", *(f"    {line}" for line in (*beginnings, *between, *ends))])


def table() -> str:
    """`RULES` as the text of a Markdown table."""
    lines = ["| from | move | to | made by | event |", "|---|---|---|---|---|"]
    lines += [
        f"| {r.source.name} | {r.move.value} | {r.target.name} | {r.by} | `{r.event.name.lower()}` |" for r in RULES
    ]
    return "\n".join(lines)
