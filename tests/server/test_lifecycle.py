"""Every pair (state, move), against real rows through the writer; and the page that is generated from the table."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from lab.v1 import lab_pb2

from longshore.v1 import operation_pb2
from longshore_server import lifecycle
from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.ids import Uids
from longshore_server.lifecycle import RULES, TERMINAL, EventType, Move, State, rule
from longshore_server.store.mutations import Accept, Mutation
from longshore_server.store.record import OperationRecord
from longshore_server.store.store import Store
from longshore_server.store.transaction import Transaction, new_record
from longshore_server.testing import ManualClock

ROOT = Path(__file__).parents[2]

ANY = AnyMessage()
ANY.Pack(lab_pb2.PlayResult(text="x"))
PAYLOADS: dict[EventType, bytes | None] = {
    EventType.STARTED: None,
    EventType.PROGRESS: ANY.SerializeToString(),
    EventType.OUTPUT: ANY.SerializeToString(),
    EventType.ATTEMPT_FAILED: failure(Reason.INTERRUPTED),
    EventType.CANCELLING: b"because",
    EventType.COMPLETED: ANY.SerializeToString(),
    EventType.FAILED: failure(Reason.HANDLER_ERROR),
    EventType.CANCELLED: failure(Reason.CANCELLED),
    EventType.STOPPING: b"because",
    EventType.SIGNAL: operation_pb2.OperationEvent.Signal(name="s", number=1).SerializeToString(),
    EventType.TRANSFER: b"",
    EventType.OFFERED: b"",
}

PATHS: dict[State, tuple[Move, ...]] = {
    State.PENDING: (),
    State.RUNNING: (Move.START,),
    State.CANCELLING: (Move.START, Move.REQUEST_CANCEL),
    State.COMPLETED: (Move.START, Move.COMPLETE),
    State.FAILED: (Move.START, Move.FAIL),
    State.CANCELLED: (Move.START, Move.REQUEST_CANCEL, Move.CANCEL),
}
"""How each state is reached from acceptance."""


class Make(Mutation[OperationRecord]):
    """One move, with the facts that go with it."""

    def __init__(self, uid: bytes, move: Move) -> None:
        self.uid, self.move = uid, move

    def apply(self, tx: Transaction) -> OperationRecord:
        head = tx.head(self.uid)
        allowed = rule(head.state, self.move)
        facts: dict[str, Any] = {}
        if self.move is Move.START:
            facts = {"attempt": 1, "under_way": True, "begun": tx.now, "started": tx.now}
        elif self.move in (Move.REQUEST_CANCEL, Move.FLAG_CANCEL):
            facts = {"cancel_requested": tx.now, "cancel_reason": "because"}
        payload = PAYLOADS[allowed.event] if allowed else b""
        return tx.make(head, self.move, payload, **facts)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(tmp_path, ManualClock(), max_events=100, publish=lambda _: None)
    await opened.open()
    yield opened
    await opened.close()


async def _operation_in(store: Store, state: State) -> OperationRecord:
    uid = Uids(ManualClock(), None).next()
    record = new_record(
        uid=uid, id=uid.hex(), type="t", created=store._clock.now(), deadline=None, labels={}, owner="o",
        request_id="", parent="",
    )  # fmt: skip
    await store.writer.submit(Accept(record, b"", b"", template=False, renew=False, begin=False))
    for move in PATHS[state]:
        record = await store.writer.submit(Make(uid, move))
    assert record.state is state
    return record


async def _row_and_log(store: Store, uid: bytes) -> tuple[dict[str, Any], list[tuple[int, Any, bytes]]]:
    record = await store.load(uid)
    assert record is not None
    return record.__dict__, [(e.sequence, e.type, e.body) for e in await store.log(uid, 0, 100)]


@pytest.mark.parametrize("move", list(Move), ids=lambda move: move.value)
@pytest.mark.parametrize("state", list(State), ids=lambda state: state.name)
async def test_every_pair_of_state_and_move(store: Store, state: State, move: Move) -> None:
    uid = (await _operation_in(store, state)).uid
    before, log = await _row_and_log(store, uid)
    allowed = {(r.source, r.move): r for r in RULES}.get((state, move))
    if allowed is None:
        with pytest.raises(ServiceError) as caught:
            await store.writer.submit(Make(uid, move))
        assert caught.value.reason is Reason.ILLEGAL_MOVE
        assert state.name in caught.value.message
        assert await _row_and_log(store, uid) == (before, log)
        return
    await store.writer.submit(Make(uid, move))
    after, longer = await _row_and_log(store, uid)
    assert after["state"] is allowed.target
    assert after["revision"] == before["revision"] + 1
    assert after["sequence"] == before["sequence"] + 1
    assert longer[:-1] == log
    assert longer[-1][:2] == (after["sequence"], allowed.event)
    event = operation_pb2.OperationEvent.FromString(longer[-1][2])
    assert event.WhichOneof("event") == allowed.event.name.lower()
    assert (event.sequence, event.revision, event.state) == (after["sequence"], after["revision"], allowed.target)
    assert (after["ended"] is not None) == (allowed.target in TERMINAL)
    if allowed.target in TERMINAL:
        assert not after["under_way"]


@pytest.mark.parametrize("state", sorted(TERMINAL), ids=lambda state: state.name)
def test_nothing_leaves_a_terminal_state(state: State) -> None:
    assert [r for r in RULES if r.source is state] == []


def test_a_terminal_event_is_what_leads_to_a_terminal_state_and_nothing_else_does() -> None:
    for r in RULES:
        assert (r.target in TERMINAL) == (r.event in lifecycle.TERMINAL_EVENTS)


def test_cancelling_can_only_end_as_cancelled() -> None:
    reachable = {r.target for r in RULES if r.source is State.CANCELLING}
    assert reachable == {State.CANCELLING, State.CANCELLED}


def test_the_numbers_are_those_of_the_protos() -> None:
    for state in State:
        assert operation_pb2.OperationSnapshot.State.Value(f"STATE_{state.name}") == int(state)
    for event in EventType:
        assert operation_pb2.EventType.Value(f"EVENT_TYPE_{event.name}") == int(event)
    fields = {f.name for f in operation_pb2.OperationEvent.DESCRIPTOR.oneofs_by_name["event"].fields}
    assert fields == {event.name.lower() for event in EventType}


async def test_two_ends_in_one_batch_are_one_end(store: Store) -> None:
    uid = (await _operation_in(store, State.RUNNING)).uid
    moves = (Move.COMPLETE, Move.FAIL, Move.PROGRESS, Move.REQUEST_CANCEL)
    outcomes = await asyncio.gather(*(store.writer.submit(Make(uid, m)) for m in moves), return_exceptions=True)
    assert isinstance(outcomes[0], OperationRecord)
    assert [isinstance(o, ServiceError) and o.reason for o in outcomes[1:]] == [Reason.ILLEGAL_MOVE] * 3
    row, log = await _row_and_log(store, uid)
    assert row["state"] is State.COMPLETED
    assert [e[1] for e in log] == [EventType.ACCEPTED, EventType.STARTED, EventType.COMPLETED]


@pytest.mark.parametrize(
    "change",
    [
        "state = 4", "state = 7", "state = 1", "state = 3", "ended = updated", "under_way = 2", "attempt = 0",
        "started = NULL", "started = created - 1", "updated = created - 1", "sequence = 0", "revision = 0",
        "first_sequence = sequence + 1", "progress_sequence = sequence + 1", "crashes = -1", "attempt = 'one'",
    ],
)  # fmt: skip
async def test_the_schema_refuses_impossible_rows(store: Store, change: str) -> None:
    uid = (await _operation_in(store, State.RUNNING)).uid
    database = store.writer._database
    with pytest.raises(sqlite3.IntegrityError):
        await database.run(lambda: database.raw.execute(f"UPDATE operations SET {change} WHERE uid = ?", (uid,)))


def test_the_page_is_generated_from_the_table() -> None:
    command = [sys.executable, str(ROOT / "docs/generate.py"), "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs/lifecycle.md").read_text("utf-8")
    for r in RULES:
        assert f"| {r.source.name} | {r.move.value} | {r.target.name} |" in page
    for state in State:
        assert f"| {state.name} |" in page
