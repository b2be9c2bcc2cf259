"""Where `on_event` runs: beside the writer, which takes what it has made if it was made of what is still so.

    add -> what the batch is -> on_event, in the definition's own thread -> the writer: is it still that? -> committed

A slow `on_event` delays the events of its own definition, and nothing else of the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

from longshore_server.store.mutations.instance_batch import Batch
from longshore_server.transfers.threads import at_work

T = TypeVar("T")
_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]

AHEAD = 16 * 1024 * 1024
"""How many bytes of an instance's states may be with the writer at once."""


class Line:
    """The events of one instance that are being added. They are reduced one after the other, each onto what the one
    before it will have made of the batch, so that many of them share a commit."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        """Held by the one that is being reduced."""
        self.batch: Batch | None = None
        """What the batch becomes by what the writer has already; None: that is to be read."""
        self.callers = 0
        self._bytes = 0

    async def went(self, size: int, outcome: asyncio.Future[Any]) -> None:
        """A state has gone to the writer. Returns once others may follow: at once, unless that makes too much."""

        def arrived(_: object) -> None:
            self._bytes -= size

        self._bytes += size
        outcome.add_done_callback(arrived)
        if self._bytes > AHEAD:
            await asyncio.wait([outcome])


class Lines:
    """Those of the instances of one definition, each as long as somebody adds to it."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}

    @contextlib.contextmanager
    def of(self, id: str) -> Iterator[Line]:
        """The line of an instance, for one more caller."""
        line = self._lines.setdefault(id, Line())
        line.callers += 1
        try:
            yield line
        finally:
            line.callers -= 1
            if not line.callers and self._lines.get(id) is line:
                del self._lines[id]

    def clear(self) -> None:
        """Forget all, with the callers that they have."""
        self._lines.clear()


class OwnThread:
    """A thread for code that may take its time, or hang: the process ends all the same."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] | None = None

    async def run(self, function: Callable[[], T]) -> T:
        """What `function` returns, or raises, once it has had its turn."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._jobs is None:
            self._jobs = SimpleQueue()
            threading.Thread(target=_work, args=[self._jobs], name=self._name, daemon=True).start()
        self._jobs.put((function, loop, future))
        at_work.add(future)
        future.add_done_callback(at_work.discard)
        return await future

    def close(self) -> None:
        """Let it end once it is done with what it has. Repeatable; the next `run` begins another one."""
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        function, loop, future = job
        try:
            result, error = function(), None
        except BaseException as raised:  # noqa: BLE001 - who awaits it raises it
            result, error = None, raised
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(_tell, future, result, error)


def _tell(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
