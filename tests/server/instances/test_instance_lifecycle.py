"""Every pair (status, move), against real rows through the writer."""

from __future__ import annotations

import itertools

import pytest

from longshore_server.errors import Reason, ServiceError, failure
from longshore_server.instance_lifecycle import RULES, Kind, Move, Status, rule
from longshore_server.store.instance_ledger import InstanceLedger
from longshore_server.store.instances import InstanceRecord
from longshore_server.store.mutations import Mutation
from longshore_server.store.transaction import Transaction
from tests.server.instances.laboratory import World

STORED = [status for status in Status if status is not Status.NOT_FOUND]


class Try(Mutation[InstanceRecord]):
    """A new instance that stands so, and then the move."""

    def __init__(self, uid: bytes, status: Status, move: Move) -> None:
        self.uid, self.status, self.move = uid, status, move

    def apply(self, tx: Transaction) -> InstanceRecord:
        ledger = tx.ledger(InstanceLedger)
        name = f"{self.status.name}-{self.move.value}"
        record = InstanceRecord(self.uid, Kind.TASK, "x", name, "local", tx.now, tx.now, error=failure(Reason.INTERNAL))
        ledger.insert(record.evolve(status=self.status))
        ledger.flush()
        return ledger.make(ledger.find(Kind.TASK, "x", name) or record, self.move)


@pytest.mark.parametrize(("status", "move"), list(itertools.product(STORED, Move)))
async def test_every_pair(world: World, status: Status, move: Move) -> None:
    await world.start()
    uid = world.engine.instances.newcomer("local").uid
    allowed = rule(status, move)
    if allowed is None:
        with pytest.raises(ServiceError) as caught:
            await world.engine.store.writer.submit(Try(uid, status, move))
        assert caught.value.reason is Reason.ILLEGAL_MOVE
    else:
        record = await world.engine.store.writer.submit(Try(uid, status, move))
        assert (record.status, record.revision) == (allowed.target, 2)
        assert world.rows("SELECT status FROM instances") == [(allowed.target.value,)]


def test_no_rule_is_there_twice_and_no_status_is_a_trap() -> None:
    assert len({(r.source, r.move) for r in RULES}) == len(RULES)
    for status in STORED:
        assert {r.target for r in RULES if r.source is status} - {status}, "never a zombie"
