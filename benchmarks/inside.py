"""What an operation costs inside the server, without gRPC and without a second thread to wait for.

    taskset -c 1 python -m benchmarks.inside

On one CPU, in one process: the writer's CPU time per change by stage, and the event loop's per operation. The figures
move by a tenth between minutes where those of the whole server move by a third, so they show what a change of the code
did. What the whole server needs beyond their sum and beyond echo is the price of threads that wait for each other.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import contract
from benchmarks.service import server
from longshore.v1.channels_pb2 import CounterProgress, MilestoneProgress
from longshore_server import Config
from longshore_server.clock import SECOND, SystemClock
from longshore_server.engine.starts import DEFAULT
from longshore_server.ids import Uids, uid_text
from longshore_server.lifecycle import Move
from longshore_server.rpc import wire
from longshore_server.server import Running
from longshore_server.store.database import open_writer
from longshore_server.store.mutations import Accept, Mutation, Report, Settle
from longshore_server.store.record import OperationRecord
from longshore_server.store.transaction import Transaction, new_record

OPERATIONS = 7
"""Operations that each batch moves on by each of their three changes: 21 in all, as under load with 64 in flight."""
BATCHES = 1500
CALLS = 2000
ROUNDS = 9


class Batches:
    """Batches like those of a busy server: some operations begin, some report, some complete."""

    def __init__(self, directory: Path) -> None:
        self._clock = SystemClock()
        self._uids = Uids(self._clock, None)
        self._heads: dict[bytes, OperationRecord] = {}
        self._input = contract.request(contract.WORK).SerializeToString()
        self._progress = _packed(MilestoneProgress(step=1, total_steps=2, label="half way"))
        self._result = _packed(CounterProgress(current=2, total=2, message="done"))
        self._path = directory / "longshore.db"

    async def measure(self) -> dict[str, float]:
        """Microseconds of CPU per change, by stage; medians over all batches."""
        database = await open_writer(self._path)
        stages: dict[str, list[float]] = defaultdict(list)

        def run() -> None:
            begun: list[bytes] = []
            reported: list[bytes] = []
            for number in range(BATCHES + 300):
                if number == 300:
                    stages.clear()
                changes = [*map(self._accept, range(OPERATIONS))]
                uids = [change.record.uid for change in changes]
                others = [Report(uid, 1, Move.PROGRESS, self._progress) for uid in begun]
                ends = [Settle(uid, 1, Move.COMPLETE, self._result) for uid in reported]
                self._batch(database.raw.execute, Transaction(
                    database.raw, self._heads, self._clock.now(), 10_000, {contract.TYPE: SECOND * 86_400}
                ), [*changes, *others, *ends], stages)  # fmt: skip
                begun, reported = uids, begun

        await database.run(run)
        await database.close()
        return {stage: statistics.median(times) for stage, times in stages.items()}

    def _accept(self, _: int) -> Accept:
        uid, now = self._uids.next(), self._clock.now()
        record = new_record(
            uid=uid, id=uid_text(uid), type=contract.TYPE, created=now, deadline=now + 86_400 * SECOND, labels={},
            owner="local", request_id="", parent="",
        )  # fmt: skip
        return Accept(record, self._input, b"", template=False, renew=False, begin=True)

    def _batch(
        self, execute: Callable[[str], object], tx: Transaction, changes: list[Mutation[Any]],
        stages: dict[str, list[float]],
    ) -> None:  # fmt: skip
        marks = [time.thread_time()]
        execute("BEGIN IMMEDIATE")
        for change in changes:
            change.apply(tx)
        marks.append(time.thread_time())
        tx.flush()
        published = tx.published()
        marks.append(time.thread_time())
        execute("COMMIT")
        marks.append(time.thread_time())
        for uid, (record, _) in published.operations.items():
            if record is None or record.terminal:
                self._heads.pop(uid, None)
            else:
                self._heads[uid] = record
        for stage, begin, end in zip(("decide", "write", "commit"), marks, marks[1:], strict=False):
            stages[stage].append((end - begin) / len(changes) * 1e6)


async def loop_time(directory: Path) -> dict[str, float]:
    """Microseconds of CPU per operation on the event loop's thread and in the whole process; the lowest round."""
    running = Running(server, Config(data=directory, listen=("127.0.0.1:0",), metrics="off"), SystemClock())
    await running.start()
    engine = running.engine
    kind, request = engine.types[contract.TYPE], contract.request(contract.WORK)

    async def one() -> None:
        _, record = await engine.start_and_wait(kind, request, DEFAULT, engine.clock.now() + 30 * SECOND)
        wire.snapshot(record).SerializeToString()

    await _repeat(one, CALLS)
    rounds = []
    for _ in range(ROUNDS):
        thread, process = time.thread_time(), time.process_time()
        await _repeat(one, CALLS)
        rounds.append((time.thread_time() - thread, time.process_time() - process))
    await running.stop()
    loops, processes = zip(*rounds, strict=True)
    return {"event loop": min(loops) / CALLS * 1e6, "all threads": min(processes) / CALLS * 1e6}


async def _repeat(one: Callable[[], Awaitable[None]], count: int) -> None:
    """`count` calls, as many in flight as make batches of 21."""
    calls = iter(range(count))

    async def caller() -> None:
        for _ in calls:
            await one()

    await asyncio.gather(*(caller() for _ in range(3 * OPERATIONS)))


def _packed(message: Message) -> bytes:
    packed = AnyMessage()
    packed.Pack(message)
    return packed.SerializeToString()


async def _main() -> None:
    gc.set_threshold(50_000, 20, 50)
    with tempfile.TemporaryDirectory() as scratch:
        stages = await Batches(Path(scratch)).measure()
        print(f"writer, us per change in batches of {3 * OPERATIONS}:")
        for stage, cost in stages.items():
            print(f"  {stage:12}{cost:6.1f}")
        print(f"  {'together':12}{sum(stages.values()):6.1f}   {3 * sum(stages.values()):.0f} us per operation")
        print("engine, us per operation (unary wait without gRPC):")
        for what, cost in (await loop_time(Path(scratch) / "engine")).items():
            print(f"  {what:12}{cost:6.0f}")


if __name__ == "__main__":
    uvloop.run(_main())
