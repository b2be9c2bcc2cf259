"""Whether a job can end before another one does: what keeps it from its end, as far as that is other jobs.

A job depends on others in three ways: it ends with one, its function waits for some, or it needs a place of a key that
some have. Slots are none: a job that waits lends its own. Nor is what no job can bring, as a stale one waits for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from longshore_server.ids import uid_text
from longshore_server.job_lifecycle import JobState, Stand

Waiting = Mapping[bytes, Sequence[bytes]]
"""The jobs whose functions wait for others for as long as it takes, and for which."""
NEEDS_KEY = "needs the key"
"""Says of an obstacle that keys have a part in it."""
SHOWN = 5
"""How many jobs an obstacle names, at most."""
_HEAD = "SELECT queue, key, state, stand, deferred FROM jobs WHERE uid = ? AND ended IS NULL"
_ENDS_WITH = """SELECT a.uid FROM attachments a JOIN jobs j ON j.uid = a.uid
                WHERE a.target = ? AND j.ended IS NULL"""
_HOLDERS = """SELECT uid FROM jobs WHERE queue = ? AND key = ? AND key <> '' AND ended IS NULL AND deferred = 0
              AND stand <= 1"""


class Need(NamedTuple):
    """What one job depends on. `one_of`: that one of these ends is enough; else all have to."""

    jobs: Sequence[bytes]
    one_of: bool
    why: str


def obstacle(connection: sqlite3.Connection, own: bytes, other: bytes, waiting: Waiting, *, hands_over: bool) -> str:
    """Why the job `other` cannot end before the job `own` does, in words; empty: it can.

    `hands_over`: `own` is about to end with it, and has no place of its key from then on.
    """
    needs: dict[bytes, Need | None] = {own: Need((), False, "")}
    found = [other]
    while found:
        uid = found.pop()
        if uid not in needs:
            need = needs[uid] = _need(connection, uid, waiting, own, hands_over)
            found += () if need is None else need.jobs
    able = {uid for uid, need in needs.items() if need is None}
    before = -1
    while before < len(able):
        before = len(able)
        # The end of a chain was found last: one round is enough for it, however long it is.
        for uid, need in reversed(needs.items()):
            if need is not None and need.jobs and (any if need.one_of else all)(job in able for job in need.jobs):
                able.add(uid)
    return "" if other in able else _words(needs, able, other)


def _need(connection: sqlite3.Connection, uid: bytes, waiting: Waiting, own: bytes, hands_over: bool) -> Need | None:
    """What one job depends on; None: it ends by itself."""
    row = connection.execute(_HEAD, (uid,)).fetchone()
    if row is None:
        return None
    queue, key, state, stand, deferred = row
    if deferred:
        heads = [bytes(head) for (head,) in connection.execute(_ENDS_WITH, (uid,))]
        return Need(heads, False, "ends with") if heads else None
    if state == JobState.ACTIVE and uid in waiting:
        return Need(waiting[uid], False, "waits for")
    if state != JobState.QUEUED or stand == Stand.READY or not key:
        return None
    (slots,) = connection.execute("SELECT slots FROM queues WHERE name = ?", (queue,)).fetchone()
    holders = [bytes(holder) for (holder,) in connection.execute(_HOLDERS, (queue, key))]
    if hands_over and own in holders:
        holders.remove(own)
    # One that waits for nobody ends by itself, and its place is free then.
    if len(holders) < slots or any(holder != own and holder not in waiting for holder in holders):
        return None
    return Need(holders, True, f"{NEEDS_KEY} {key!r} of")


def _words(needs: Mapping[bytes, Need | None], able: set[bytes], other: bytes) -> str:
    """The way from a job to the one before which it does not end."""
    names, uid = "", other
    for _ in range(SHOWN):
        need = needs[uid]
        if need is None or not need.jobs:
            break
        following = next(job for job in need.jobs if job not in able)
        names += f", jobs/{uid_text(uid)} {need.why} jobs/{uid_text(following)}"
        uid = following
    return names.removeprefix(", ") or "they are one"
