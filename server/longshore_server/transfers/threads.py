"""Blocking work, such as that on files, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

at_work: set[asyncio.Future[Any]] = set()
"""What runs in threads now, of every event loop: for tests, which wait for all of it."""


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function` in a thread and return what it returns.

    A cancelled await ends only when the function has: what it works on, an open file for example, is free by then.
    """
    return await in_one_of(None, partial(function, *args, **kwargs))


async def in_one_of(threads: Executor | None, function: Callable[[], T]) -> T:
    """As `in_thread`, in one of these threads; None: of the event loop's own."""
    work = asyncio.get_running_loop().run_in_executor(threads, function)
    at_work.add(work)
    work.add_done_callback(at_work.discard)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError:
                continue
        if not work.cancelled():
            work.exception()  # seen: nobody is left to tell
        raise
