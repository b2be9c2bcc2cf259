"""What one end of a call has sent and the other has not read is bounded."""

from __future__ import annotations

import asyncio

from longshore_server.testing.pipe import WINDOW, Pipe
from tests.conftest import turns


async def test_a_sender_waits_for_a_reader_that_is_behind() -> None:
    pipe, sent = Pipe(), []

    async def send() -> None:
        for number in range(6):
            await pipe.put(bytes([number]) * (WINDOW // 2))
            sent.append(number)

    sending = asyncio.create_task(send())
    await turns()
    assert sent == [0, 1]
    assert await pipe.get() == bytes(WINDOW // 2)
    await turns()
    assert sent == [0, 1, 2]
    read = [await pipe.get() for _ in range(5)]
    await sending
    assert [message[0] for message in read if message] == [1, 2, 3, 4, 5]


async def test_the_end_comes_after_what_was_sent_unless_that_is_dropped() -> None:
    kept, dropped = Pipe(), Pipe()
    for pipe in (kept, dropped):
        await pipe.put(b"last")
    kept.close()
    dropped.close(drop=True)
    await kept.put(b"too late")
    assert [await kept.get(), await kept.get()] == [b"last", None]
    assert await dropped.get() is None


async def test_a_close_lets_go_of_both_ends() -> None:
    full, empty = Pipe(), Pipe()
    await full.put(bytes(WINDOW))
    sending, reading = asyncio.create_task(full.put(b"more")), asyncio.create_task(empty.get())
    await turns()
    full.close(drop=True)
    empty.close()
    await sending
    assert await reading is None
    assert await full.get() is None
