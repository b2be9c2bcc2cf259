"""Dead letters, many at once: what is done with one is done with each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from longshore_server.store.job_record import JobRecord
from longshore_server.store.jobs import Jobs
from longshore_server.store.mutations.base import Mutation
from longshore_server.store.transaction import Transaction


@dataclass(slots=True)
class ForEachJob(Mutation[int]):
    """Do the same with jobs, in one transaction; how many that has changed. One that has changed since it was found is
    left alone."""

    found: Sequence[JobRecord]
    each: Callable[[JobRecord], Mutation[JobRecord]]

    def apply(self, tx: Transaction) -> int:
        count = 0
        for record in self.found:
            head = tx.ledger(Jobs).find(record.uid)
            if head is not None and head.revision == record.revision:
                count += self.each(head).apply(tx).revision != head.revision
        return count
