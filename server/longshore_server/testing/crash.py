"""A crash between a commit and the first who hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from longshore_server.store.mutations import Mutation
from longshore_server.store.writer import BATCH, Writer

When = Callable[[Mutation[Any]], bool]


class Crash:
    """A crash that is planned. Awaiting it returns once it has happened and the next server runs.

    Args:
        commits: after how many changes it happens.
        when: which changes count; None: all.
        happen: ends the server when it is called, and starts the next one when what it returns is awaited.

    Raises:
        ValueError: `commits` is less than 1.
    """

    def __init__(self, commits: int, when: When | None, happen: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if commits < 1:
            raise ValueError(f"commits: {commits} is less than 1; to die before the next change, await crash()")
        self._left = commits
        self._when = when
        self._happen = happen
        self._begun = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writer: Writer | None = None

    @property
    def happened(self) -> bool:
        """Whether the server has died of it."""
        return self._begun.is_set()

    @property
    def under_way(self) -> bool:
        """Whether it has happened and the next server does not run yet."""
        return self._task is not None and not self._task.done()

    @property
    def over(self) -> bool:
        """Whether it happens no more: it has, or it was cancelled."""
        return self._left == 0 and not self.under_way

    def cancel(self) -> None:
        """Have it not happen, if it has not. Repeatable."""
        self._left = 0
        self.disarm()

    def arm(self, writer: Writer) -> None:
        """Have it happen in what a writer writes, if it is still to happen. Each change is a commit of its own then."""
        if self._left:
            self._writer = writer
            writer.batch, writer.on_write = 1, self._note

    def disarm(self) -> None:
        """Let the writer alone, until another is armed."""
        if self._writer is not None:
            self._writer.batch, self._writer.on_write = BATCH, None
            self._writer = None

    def _note(self, change: Mutation[Any]) -> None:
        if self._left and (self._when is None or self._when(change)):
            self._left -= 1
            if not self._left:
                self._begun.set()
                # The server dies in this step, before the change is told to anybody.
                self._task = asyncio.get_running_loop().create_task(self._happen())

    def __await__(self) -> Generator[Any, None, None]:
        return self._over().__await__()

    async def _over(self) -> None:
        await self._begun.wait()
        assert self._task is not None
        await asyncio.shield(self._task)
