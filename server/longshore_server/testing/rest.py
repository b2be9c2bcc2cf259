"""How one knows, without a moment of waiting for nothing, that everything has gone as far as it can.

A process is at rest when its event loop has no callback to run and no thread of the server is at work. The loop runs
what is ready in turns; a thread is waited for by work of our own that it does after what it is at.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from longshore_server.store.store import Store
from longshore_server.transfers.threads import at_work

TURNS = 1_000_000
"""After so many turns of the event loop without an end something runs in circles."""


async def at_rest(store: Store | None) -> None:
    """Return once no task and no callback of this event loop can run, and no thread of `store` or of transfers works.

    Who waits for a clock, a caller, a network, a thread of its own or the machine's time is not waited for.

    Raises:
        RuntimeError: The event loop does not come to rest, or is none of asyncio's own.
    """
    ready = _ready(asyncio.get_running_loop())
    for _ in range(TURNS):
        if ready:
            await asyncio.sleep(0)
        elif working := [task for task in at_work if task.get_loop() is asyncio.get_running_loop()]:
            await asyncio.wait(working)
        elif store is None or await store.at_rest():
            return
    raise RuntimeError(
        f"after {TURNS:,} turns the event loop still has something to run: a task goes round in circles, with "
        "asyncio.sleep(0) for example; let it wait for an event"
    )


def _ready(loop: asyncio.AbstractEventLoop) -> deque[Any]:
    """What the loop runs next. It has no public name, but the same one in all of asyncio's own loops."""
    ready = getattr(loop, "_ready", None)
    if ready is None:
        raise RuntimeError(
            f"{type(loop).__module__}.{type(loop).__name__} does not tell whether it has anything to run: tests that "
            "move the clock need one of asyncio's own event loops"
        )
    return ready  # type: ignore[no-any-return]
