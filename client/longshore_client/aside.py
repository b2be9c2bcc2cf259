"""A thread of its own for what may block for ever, such as a pipe that nobody reads."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def aside(function: Callable[[], T]) -> T:
    """As `asyncio.to_thread`, but the end of the program does not wait for a thread that was left there."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return  # whoever waited has gone
        if error is None:
            done.set_result(result)  # type: ignore[arg-type] # it is what the function has returned
        else:
            done.set_exception(error)

    def run() -> None:
        result: T | None = None
        problem: BaseException | None = None
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - raised to whoever waits
            problem = error
        with suppress(RuntimeError):  # the loop may have ended
            loop.call_soon_threadsafe(tell, result, problem)

    threading.Thread(target=run, name="longshore-aside", daemon=True).start()
    return await done
