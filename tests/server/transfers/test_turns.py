"""How calls that send bytes share the machine with each other and with all other calls."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import transfers_service_pb2 as transfers_pb
from longshore_server.clock import SECOND
from longshore_server.store.mutations import Mutation
from longshore_server.testing import ManualClock
from longshore_server.transfers.staging import Chunk, StagedPart
from longshore_server.transfers.turns import AHEAD, AT_ONCE, EVERY, LEAST, MOST, RECORDS, TELL, THREADS, Turns
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import chunk, commit
from tests.server.transfers.uploading import State, sending, waiting


@dataclass
class Held(Mutation[None]):
    """Keeps the writer in its turn."""

    begun: threading.Event
    over: threading.Event

    def apply(self, _: Any) -> None:
        self.begun.set()
        self.over.wait()


async def test_while_the_writer_works_no_bytes_are_written(lab: BytesLab, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: asyncio.Queue[int] = asyncio.Queue()
    loop, write = asyncio.get_running_loop(), StagedPart.write

    def writes(part: StagedPart, chunks: Sequence[Chunk]) -> None:
        write(part, chunks)
        loop.call_soon_threadsafe(sizes.put_nowait, part.size)

    monkeypatch.setattr(StagedPart, "write", writes)
    operation = await waiting(lab)
    call = await sending(lab, operation.upload.name, b"a")
    assert await sizes.get() == 1, "a writer with nothing to do is in nobody's way"

    held = Held(threading.Event(), threading.Event())
    turn = lab.engine.store.writer.submit(held)
    await asyncio.to_thread(held.begun.wait)
    try:
        await call.write(chunk(1, b"b"))
        (upload,) = lab.engine.transfers.uploads._open.values()
        while upload.sendings[0].position < 2:
            await lab.get(operation.name)
        await lab.get(operation.name)
        barrier = threading.Barrier(THREADS)
        await asyncio.gather(*(lab.engine.transfers.uploads._turns.run(barrier.wait) for _ in range(THREADS)))
        assert sizes.empty(), "all threads for bytes are free"
    finally:
        held.over.set()
    await turn
    assert await sizes.get() == 2
    await call.write(commit(b"ab"))
    assert (await call).upload.state == State.STATE_COMMITTED


class Working:
    """A writer that goes from turn to turn when the test says so."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def turn(self) -> None:
        over = asyncio.Event()
        self._waiting.put_nowait(over)
        await over.wait()

    async def end(self) -> None:
        """The turn ends that somebody waits for, and another begins."""
        over = await self._waiting.get()
        assert self._waiting.empty(), "one, and no more"
        over.set()


@pytest.fixture
async def writer() -> Working:
    return Working()


@pytest.fixture
async def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def turns(writer: Working, clock: ManualClock) -> AsyncIterator[Turns]:
    made = Turns(SimpleNamespace(writer=writer), clock)  # type: ignore[arg-type]
    yield made
    made.end()


async def test_one_begins_with_every_second_turn_of_the_writer_and_they_take_turns(
    turns: Turns, writer: Working
) -> None:
    begun: asyncio.Queue[str] = asyncio.Queue()
    on = asyncio.Event()

    async def call(name: str) -> None:
        for _ in range(2):
            async with turns.turn():
                begun.put_nowait(name)
                await on.wait()

    tasks = [asyncio.create_task(call(name)) for name in "abc"]
    seen = ""
    for _ in range(6):
        for _ in range(EVERY):
            assert begun.empty()
            await writer.end()
        seen += await begun.get()
        if len(seen) == AT_ONCE:
            on.set()
    await asyncio.gather(*tasks)
    assert seen == "abcabc"


async def test_calls_share_what_may_wait_for_the_disk(lab: BytesLab) -> None:
    turns = lab.engine.transfers.uploads._turns
    calls = [await sending(lab, (await waiting(lab)).upload.name, b"a") for _ in range(2)]
    for operation in (await lab.operations.List(pb.ListRequest())).operations:
        await lab.transfers.QueryUpload(transfers_pb.QueryUploadRequest(name=operation.upload.name))
    assert (turns.calls, turns.ahead) == (2, MOST)
    turns.calls += 98
    assert LEAST < turns.ahead == AHEAD // 100 < MOST
    turns.calls += 900
    assert turns.ahead == LEAST
    turns.calls -= 998
    for call in calls:
        await call.write(commit(b"a"))
        assert (await call).upload.state == State.STATE_COMMITTED
    await lab.catch_up()
    assert turns.calls == 0


async def test_calls_that_go_on_record_no_more_often_than_the_writer_bears(turns: Turns, clock: ManualClock) -> None:
    begun = clock.now()
    clock.advance(TELL / SECOND / 2)
    assert not turns.may_record(begun), "each of them once a second at most"
    clock.advance(TELL / SECOND / 2)
    assert [turns.may_record(begun) for _ in range(3)] == [True, False, False]
    clock.advance(1 / RECORDS)
    assert [turns.may_record(begun) for _ in range(2)] == [True, False]


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has no priority of its own elsewhere")
async def test_bytes_are_written_in_threads_that_give_way(turns: Turns) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    behind = await turns.run(os.getpriority, os.PRIO_PROCESS, 0)
    assert behind > own or behind == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) == own
