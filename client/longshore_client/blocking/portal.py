"""An event loop in a thread, where the asyncio client works for callers that block."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from concurrent.futures import CancelledError, Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from longshore_client.arguments import check_function
from longshore_client.errors import CallCancelled, channel_closed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator

ArgumentsT = ParamSpec("ArgumentsT")
ValueT = TypeVar("ValueT")
InnerT = TypeVar("InnerT")


class _Loop(threading.Thread):
    """A thread that runs an event loop until it is told to end."""

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        # A program that forgets to close its channel can end all the same.
        super().__init__(name="longshore-client", daemon=True)
        # No `threading.Event`: whoever is interrupted in the wait for one may keep it shut.
        self._begun = threading.Lock()
        self._begun.acquire()
        self.failure: OSError | None = None
        """Why it runs none."""

    def run(self) -> None:
        try:
            loop = asyncio.new_event_loop()
        except OSError as error:  # this process has no more files, for example
            self.failure = error
            self._begun.release()
            return
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._begun.release()
        await self._end.wait()

    def runs(self) -> None:
        """Return once it does. Raises `OSError` where it cannot."""
        with self._begun:
            pass
        if self.failure is not None:
            raise self.failure

    def end(self) -> None:
        """End it, and return once it has."""
        self.loop.call_soon_threadsafe(self._end.set)
        self.join()


class _Shared:
    """The event loop of all portals of this process: not every version of gRPC is quiet with more than one.

    Ctrl-C may come between any two lines: what is half done then is done by who comes next.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.thread: _Loop | None = None

    def enter(self) -> None:
        """One portal more: the first one starts the thread."""
        with self.lock:
            if self.thread is None or self.thread.failure is not None:
                thread = _Loop()
                thread.start()
                self.thread = thread
            self.thread.runs()
            self.users += 1

    def leave(self) -> None:
        """One portal less: the last one ends the thread."""
        with self.lock:
            self.users -= 1
            if self.users == 0 and self.thread is not None:
                # Forgotten first: who comes next needs one that lives.
                thread, self.thread = self.thread, None
                thread.end()

    def call(
        self, future: Future[ValueT], function: Callable[[], Coroutine[Any, Any, ValueT]]
    ) -> SimpleQueue[Future[ValueT]]:
        """Call a coroutine function in the loop; what comes out is the future's. Whoever cancels that cancels both.

        Returns where the future is to be had once it is done. To wait for that there is safe from Ctrl-C, as it is not
        with the future: that takes a lock in Python code, which would stay taken, and then the loop stands still.
        """
        assert self.thread is not None, "a portal is open"
        loop = self.thread.loop
        settled: SimpleQueue[Future[ValueT]] = SimpleQueue()

        async def calling() -> ValueT:
            return await function()

        def begin() -> None:
            future.add_done_callback(settled.put)
            if not future.cancelled():
                task = loop.create_task(calling())
                task.add_done_callback(end)
                future.add_done_callback(lambda _: task.done() or loop.call_soon_threadsafe(task.cancel))

        def end(task: asyncio.Task[ValueT]) -> None:
            if task.cancelled():
                future.cancel()
                return
            error = task.exception()  # seen, also where nobody waits for it any more
            if not future.set_running_or_notify_cancel():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(task.result())

        loop.call_soon_threadsafe(begin)
        return settled


_shared = _Shared()


def _forked() -> None:
    """A process that was forked has none of its parent's threads, and may have its locks in any state."""
    global _shared  # noqa: PLW0603
    _shared = _Shared()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Portal:
    """Runs coroutines for any number of threads, which wait for what comes out."""

    def __init__(self) -> None:
        self._shared = _shared
        self._shared.enter()
        # Python may collect garbage wherever it likes, and close a stream there that its reader has left.
        self._lock = threading.RLock()
        self._closed = False
        self._under_way: set[Future[Any]] = set()

    def run(
        self, function: Callable[ArgumentsT, Coroutine[Any, Any, ValueT]],
        *args: ArgumentsT.args, **kwargs: ArgumentsT.kwargs,
    ) -> ValueT:  # fmt: skip
        """Call a coroutine function and return what it returns, or raise what it raises. Ctrl-C cancels it.

        It is called in the loop's thread: Ctrl-C, which may come between any two lines of the main thread, finds no
        coroutine there that nobody has awaited yet.

        Raises:
            CallCancelled: The channel was closed meanwhile.
            RuntimeError: The channel is closed, or belongs to the process that this one was forked from; or this is the
                loop's own thread, which would wait for itself.
        """
        self._check_usable()
        future: Future[ValueT] = Future()
        try:
            with self._lock:
                self._check_usable()
                self._under_way.add(future)
                settled = self._shared.call(future, functools.partial(function, *args, **kwargs))
            return settled.get().result()
        except CancelledError:
            raise channel_closed() from None
        finally:
            future.cancel()
            with self._lock:
                self._under_way.discard(future)

    def iterate(self, stream: AsyncGenerator[ValueT, None]) -> Generator[ValueT, None, None]:
        """Yield what an asynchronous generator yields; whoever leaves early closes it."""
        end = object()

        async def following() -> Any:
            return await anext(stream, end)

        try:
            while (value := self.run(following)) is not end:
                yield value
        finally:
            # What is closed has no open streams.
            with contextlib.suppress(RuntimeError, CallCancelled):
                self.run(stream.aclose)

    def callback(self, function: Callable[[ValueT], object]) -> Callable[[ValueT], Awaitable[object]]:
        """Have a function called in a thread, where it may block: never twice at once, and in order."""
        check_function("a callback", function)

        async def call(value: ValueT) -> None:
            await asyncio.to_thread(function, value)

        return call

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one coroutine more and cancel all others. Repeatable, and nothing in a process that was forked."""
        if self._shared is not _shared:
            return
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            done: Future[None] = Future()
            try:
                self._shared.call(done, last).get().result()
            finally:
                with self._lock:
                    left = tuple(self._under_way)
                for future in left:
                    future.cancel()
                self._shared.leave()

    def _check_usable(self) -> None:
        if self._shared is not _shared:
            raise RuntimeError("the channel was opened before this process was forked: connect after the fork instead")
        if self._closed:
            raise RuntimeError("the channel is closed")
        if threading.current_thread() is self._shared.thread:
            raise RuntimeError("a call that blocks cannot be made in the client's own event loop")


class Blocking(Generic[InnerT]):
    """Something of the asyncio client, for callers that block."""

    def __init__(self, portal: Portal, inner: InnerT) -> None:
        self._portal = portal
        self._inner = inner

    def __repr__(self) -> str:
        return repr(self._inner)
