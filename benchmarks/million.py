"""The rate on a full database against the rate on an empty one."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from benchmarks import calls, contract, processes
from benchmarks.loadgen import Loadgen
from longshore.v1.channels_pb2 import CounterProgress, MilestoneProgress
from longshore_server.clock import SECOND, SystemClock
from longshore_server.ids import Uids, uid_text
from longshore_server.lifecycle import Move
from longshore_server.store.database import Database, open_writer
from longshore_server.store.mutations import Accept, Report, Settle
from longshore_server.store.transaction import Transaction, new_record

TARGET = 0.9
BATCH = 2_000
KINDS = ("start", "run")


def fill(data: Path, operations: int) -> None:
    """Put completed operations into the database of `data`.

    Every row is made by the writer's own mutations (Accept, Report, Settle), so it is what a server would have written,
    and the schema checks it. Only the way there is shorter: a few thousand operations a transaction, without a server,
    and without syncing, because a database that is made anew for each run has nothing to lose.
    """
    asyncio.run(_fill(data / "longshore.db", operations))


async def _fill(path: Path, operations: int) -> None:
    database = await open_writer(path)
    clock = SystemClock()
    uids = Uids(clock, None)
    try:
        await database.run(lambda: database.raw.execute("PRAGMA synchronous = OFF"))
        for begin in range(0, operations, BATCH):
            await database.run(_batch, database, clock, uids, min(BATCH, operations - begin))
        await database.run(lambda: database.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    finally:
        await database.close()


def _batch(database: Database, clock: SystemClock, uids: Uids, count: int) -> None:
    input = contract.request(contract.WORK).SerializeToString()
    progress = _packed(MilestoneProgress(step=1, total_steps=2, label="half way"))
    result = _packed(CounterProgress(current=2, total=2, message="done"))
    database.raw.execute("BEGIN IMMEDIATE")
    now = clock.now()
    transaction = Transaction(database.raw, {}, now, 10_000, {})
    added = []
    for _ in range(count):
        uid = uids.next()
        record = new_record(
            uid=uid, id=uid_text(uid), type=contract.TYPE, created=now, deadline=now + 86_400 * SECOND, labels={},
            owner="local", request_id="", parent="",
        )  # fmt: skip
        Accept(record, input, b"", template=False, renew=False, begin=True).apply(transaction)
        added.append(uid)
    # A row begins as the writer always begins it; what follows changes it.
    transaction.flush()
    for uid in added:
        Report(uid, 1, Move.PROGRESS, progress).apply(transaction)
        Settle(uid, 1, Move.COMPLETE, result).apply(transaction)
    transaction.flush()
    database.raw.execute("COMMIT")


def _packed(message: Message) -> bytes:
    url = contract.TYPE_URL + message.DESCRIPTOR.full_name
    return AnyMessage(type_url=url, value=message.SerializeToString()).SerializeToString()


def run(loadgen: Loadgen, scratch: Path, operations: int, rounds: int, seconds: float) -> None:
    """Fill, measure both in turn, and print."""
    full, empty = scratch / "full", scratch / "empty"
    full.mkdir()
    began = time.monotonic()
    fill(full, operations)
    size = (full / "longshore.db").stat().st_size / 2**20
    print(f"\n{operations} operations stored in {time.monotonic() - began:.0f} s: {size:.0f} MiB")
    began = time.monotonic()
    with processes.server(full) as loaded:
        print(f"a server on them listens after {time.monotonic() - began:.2f} s")
        with processes.server(empty) as fresh:
            measures = {
                "stored": calls.with_loadgen(loadgen, loaded),
                "none": calls.with_loadgen(loadgen, fresh),
            }
            found: dict[tuple[str, str], list[calls.Sample]] = {}
            for turn in range(rounds + 1):
                for kind in KINDS:
                    # Whoever comes second finds a warmer machine: they take turns at that.
                    for name in list(measures)[:: 1 if turn % 2 else -1]:
                        measured = measures[name](kind, 64, seconds)
                        if turn:  # the first turn warms up
                            found.setdefault((kind, name), []).append(measured)
    for kind in KINDS:
        stored, none = found[kind, "stored"], found[kind, "none"]
        ratios = [a.rate / b.rate for a, b in zip(stored, none, strict=True)]
        with_all, with_none = (statistics.median(sample.rate for sample in samples) for samples in (stored, none))
        print(
            f"{calls.KINDS[kind]} at 64 in flight: {with_all:.0f}/s with {operations} stored,"
            f" {with_none:.0f}/s with none, ratio {statistics.median(ratios):.2f}{processes.verdict(ratios, TARGET)}"
        )
