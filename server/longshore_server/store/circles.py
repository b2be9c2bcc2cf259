"""Whether one thing can end before another one does: what keeps it from its end, as far as that is other work here.

An operation or a job depends on others in three ways: it ends with a job, its handler waits for some, or it needs a
place of a key that some have. An instance handles one thing after the other: it depends on what its handler waits for.
Slots are none of these: a handler of a job or an instance lends its own while it waits, and of an operation's, which it
keeps, there are to be more than can wait for each other. Nor is what no handler can bring, as a stale job waits for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from longshore_server.ids import uid_text
from longshore_server.job_lifecycle import JobState, Stand
from longshore_server.lifecycle import State
from longshore_server.store.instances import instance_name
from longshore_server.store.mutations.instance import Address

Node: TypeAlias = bytes | Address
"""What depends on others: the uid of an operation or of a job, or an instance."""
Waiting: TypeAlias = Callable[[Node], Sequence[Node]]
"""For which others its handler waits for as long as it takes."""
SHOWN = 5
"""Of how many steps of the way it is told, at most."""
_JOB = "SELECT queue, key, state, stand, deferred FROM jobs WHERE uid = ? AND ended IS NULL"
_OPERATION = "SELECT state, deferred FROM operations WHERE uid = ? AND ended IS NULL"
_ENDS_WITH = """SELECT a.uid FROM attachments a JOIN jobs j ON j.uid = a.uid
                WHERE a.target = ? AND j.ended IS NULL"""
_HOLDERS = """SELECT uid FROM jobs WHERE queue = ? AND key = ? AND key <> '' AND ended IS NULL AND deferred = 0
              AND stand <= 1"""


class Circle(NamedTuple):
    """Two of which one cannot end before the other does, nor the other before the one."""

    own: str
    """The name of the one that is about to wait for the other."""
    other: str
    way: str
    """Why the other cannot end first, in words: who stands between. Empty: they are one."""
    keyed: bool
    """Whether that is a key, somewhere."""
    between: Sequence[Node]
    """All whose ends the one has to come before."""


class Need(NamedTuple):
    """What one depends on. `one_of`: that one of these ends is enough; else all have to."""

    nodes: Sequence[Node]
    one_of: bool
    why: str


def circle(
    connection: sqlite3.Connection, own: Node, other: Node, waiting: Waiting, *, hands_over: bool
) -> Circle | None:
    """Why `other` cannot end before `own` does; None: it can.

    `hands_over`: `own` is about to end with it, and has no place of its key from then on.
    """
    needs: dict[Node, Need | None] = {own: Need((), False, "")}
    found = [other]
    while found:
        node = found.pop()
        if node not in needs:
            need = needs[node] = _need(connection, node, waiting, own, hands_over)
            found += () if need is None else need.nodes
    able = {node for node, need in needs.items() if need is None}
    before = -1
    while before < len(able):
        before = len(able)
        # The end of a chain was found last: one round is enough for it, however long it is.
        for node, need in reversed(needs.items()):
            if need is not None and need.nodes and (any if need.one_of else all)(one in able for one in need.nodes):
                able.add(node)
    return None if other in able else _told(connection, own, other, needs, able)


def _need(connection: sqlite3.Connection, node: Node, waiting: Waiting, own: Node, hands_over: bool) -> Need | None:
    """What one depends on; None: it ends by itself."""
    others = waiting(node)
    waits = Need(others, False, "waits for") if others else None
    if isinstance(node, Address):
        return waits
    job = connection.execute(_JOB, (node,)).fetchone()
    if job is None:
        return _need_of_operation(connection, node, waits)
    queue, key, state, stand, deferred = job
    if deferred:
        return _ends_with(connection, node)
    if state == JobState.ACTIVE and waits is not None:
        return waits
    if state != JobState.QUEUED or stand == Stand.READY or not key:
        return None
    (slots,) = connection.execute("SELECT slots FROM queues WHERE name = ?", (queue,)).fetchone()
    holders = [bytes(holder) for (holder,) in connection.execute(_HOLDERS, (queue, key))]
    if hands_over and own in holders:
        holders = [holder for holder in holders if holder != own]
    # One that waits for nobody ends by itself, and its place is free then.
    if len(holders) < slots or any(holder != own and not waiting(holder) for holder in holders):
        return None
    return Need(holders, True, f"needs the key {key!r} of")


def _need_of_operation(connection: sqlite3.Connection, uid: bytes, waits: Need | None) -> Need | None:
    operation = connection.execute(_OPERATION, (uid,)).fetchone()
    if operation is None or operation[0] != State.RUNNING:
        return None
    # A deferred one without a job ends with what its handler has attached, or by another hand.
    return (_ends_with(connection, uid) if operation[1] else None) or waits


def _ends_with(connection: sqlite3.Connection, uid: bytes) -> Need | None:
    heads = [bytes(head) for (head,) in connection.execute(_ENDS_WITH, (uid,))]
    return Need(heads, False, "ends with") if heads else None


def _told(
    connection: sqlite3.Connection, own: Node, other: Node, needs: Mapping[Node, Need | None], able: set[Node]
) -> Circle:
    """The way from one to the other, before which it does not end."""
    way: list[str] = []
    keyed, node = False, other
    while (need := needs[node]) is not None and need.nodes and len(way) < SHOWN:
        following = next(one for one in need.nodes if one not in able)
        way.append(f"{_name(connection, node)} {need.why} {_name(connection, following)}")
        keyed = keyed or need.one_of
        node = following
    between = [node for node in needs if node != own and node not in able]
    return Circle(_name(connection, own), _name(connection, other), ", ".join(way), keyed, between)


def _name(connection: sqlite3.Connection, node: Node) -> str:
    if isinstance(node, Address):
        return instance_name(*node)
    operation = connection.execute("SELECT id FROM operations WHERE uid = ?", (node,)).fetchone()
    return f"jobs/{uid_text(node)}" if operation is None else f"operations/{operation[0]}"
