"""Jobs that idempotency keys stand for already, whose payloads an older version of the code has written in other bytes.

Whether two payloads are the same only their class can tell, which is code of the service: never where others wait for a
transaction. There digests alone are compared; what is refused by them is looked at here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial

from longshore_server.store import job_rows as rows
from longshore_server.store.job_record import Body
from longshore_server.store.mutations.job_creation import NewJob
from longshore_server.store.store import Store


def comparable(news: Sequence[NewJob]) -> bool:
    """Whether there may be one of them, in other bytes."""
    return any(new.is_same and new.request_id for new in news)


async def known(store: Store, news: Sequence[NewJob], now: int) -> list[NewJob] | None:
    """New jobs, with the digests that are stored with their idempotency keys where the payloads there are the same;
    None: there is no such one."""
    again = list(news)
    for position, (digest, payload) in (await store.read(partial(_stored, news=news, now=now))).items():
        new = news[position]
        if new.is_same and new.is_same(payload):
            again[position] = new._replace(digest=digest)
    return None if again == list(news) else again


def _stored(connection: sqlite3.Connection, news: Sequence[NewJob], now: int) -> dict[int, tuple[bytes, Body]]:
    """By position: the digest and the payload of the job that an idempotency key stands for, where that is another."""
    others = {}
    for position, new in enumerate(news):
        if comparable([new]) and (claim := rows.request(connection, new.record.queue, new.request_id, now)):
            uid, digest = claim
            if digest != new.digest:
                others[position] = (uid, digest)
    payloads = rows.payloads(connection, [uid for uid, _ in others.values()])
    return {position: (digest, payloads[uid]) for position, (uid, digest) in others.items() if uid in payloads}
