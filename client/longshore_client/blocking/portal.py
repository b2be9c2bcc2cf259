"""An event loop in a thread of its own, where the asyncio client works for callers that block."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator

ValueT = TypeVar("ValueT")
InnerT = TypeVar("InnerT")


class Portal:
    """Runs coroutines for any number of threads, which wait for what comes out."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._closed = False
        self._lock = threading.Lock()
        """What is handed to the loop is handed over before its end, or not at all."""
        begun = threading.Event()
        # A program that forgets to close its connection can end all the same.
        self._thread = threading.Thread(target=self._serve, args=(begun,), name="longshore-client", daemon=True)
        self._thread.start()
        begun.wait()

    def run(self, work: Coroutine[Any, Any, ValueT]) -> ValueT:
        """Return what a coroutine returns, or raise what it raises. An interrupted wait, by Ctrl-C, cancels it.

        Raises:
            RuntimeError: The channel is closed, or belongs to the process that this one was forked from; or this is the
                loop's own thread, which would wait for itself.
        """
        try:
            self._check_usable()
            with self._lock:
                self._check_usable()
                future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError("the channel was closed while the call was under way") from None
        except BaseException:
            future.cancel()
            raise

    def iterate(self, stream: AsyncGenerator[ValueT, None]) -> Generator[ValueT, None, None]:
        """Yield what an asynchronous generator yields; whoever leaves early closes it."""
        end = object()

        async def following() -> Any:
            return await anext(stream, end)

        try:
            while (value := self.run(following())) is not end:
                yield value
        finally:
            # What is closed has no open streams.
            with contextlib.suppress(RuntimeError):
                self.run(stream.aclose())

    def callback(self, function: Callable[[ValueT], object]) -> Callable[[ValueT], Awaitable[object]]:
        """Have a function called in a thread, where it may block: never twice at once, and in order."""

        async def call(value: ValueT) -> None:
            await asyncio.to_thread(function, value)

        return call

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Run one coroutine more, then end the loop and its thread. Repeatable, and nothing after a fork."""
        with self._lock if os.getpid() == self._process else contextlib.nullcontext():
            first, self._closed = not self._closed and os.getpid() == self._process, True
        if not first:
            last.close()
            return
        asyncio.run_coroutine_threadsafe(last, self._loop).result()
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _check_usable(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("the channel was opened before this process was forked: connect after the fork instead")
        if self._closed:
            raise RuntimeError("the channel is closed")
        if threading.current_thread() is self._thread:
            raise RuntimeError("a call that blocks cannot be made in the client's own event loop")

    def _serve(self, begun: threading.Event) -> None:
        async def main() -> None:
            self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
            begun.set()
            await self._end.wait()

        asyncio.run(main())


class Blocking(Generic[InnerT]):
    """Something of the asyncio client, for callers that block."""

    def __init__(self, portal: Portal, inner: InnerT) -> None:
        self._portal = portal
        self._inner = inner

    def __repr__(self) -> str:
        return repr(self._inner)
