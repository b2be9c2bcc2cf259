"""Every boundary between two commits: a scenario is played again and again, and each time its server dies at the next.

Each change is a commit of its own then. The clock stands still while a server dies and another begins, so that whatever
the scenario comes to is the same as without a crash, down to the times.
"""

from __future__ import annotations

import abc
import asyncio
import enum
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from longshore_server import Server
from longshore_server.store.mutations import Mutation
from longshore_server.testing import Harness
from longshore_server.testing.crash import Crash
from tests.conftest import LabHandlers

T = TypeVar("T")


class Fate(enum.Enum):
    """What becomes of the change at which the server dies."""

    UNHEARD = "unheard"
    """It is durable, and nobody hears of it."""
    LOST = "lost"
    """It never comes to the disk, and neither does what waits with it."""


class Scenario(abc.ABC):
    """A server with definitions of its own, and what is done with them."""

    def __init__(self, folder: Path) -> None:
        self.handlers = LabHandlers()
        self.server = Server(self.handlers)
        self.harness = Harness(self.server, folder)
        self.declare()

    @abc.abstractmethod
    def declare(self) -> None:
        """Add the definitions to `server`."""

    @abc.abstractmethod
    async def play(self) -> Any:
        """Do all of it. Returns what it came to, as far as a crash must not change it."""

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a repeatable call inside the process until a server has answered it."""
        while True:
            lives = self.harness.running
            task = asyncio.ensure_future(call())
            await self.harness.settle()
            if task.done() or lives is self.harness.running:
                return await task
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def at_every_commit(kind: Callable[[Path], Scenario], folder: Path, fate: Fate) -> int:
    """Hold what a scenario comes to with a crash at each of its commits against what it comes to without one.

    Returns at how many commits that was.
    """
    scenario = kind(folder / "whole")
    async with scenario.harness.serve():
        whole = await scenario.play()
    for commits in itertools.count(1):
        scenario = kind(folder / str(commits))
        async with scenario.harness.serve() as harness:
            crash = harness.crash_after(commits=commits) if fate is Fate.UNHEARD else lose(harness, commits)
            found = await scenario.play()
            if not crash.happened:
                return commits - 1
        assert found == whole, f"{fate.value} is commit {commits}"
    raise AssertionError("no end")


def lose(harness: Harness, changes: int) -> Crash:
    """Have the server die when it is given the n-th change from here."""
    writer = harness.running.engine.store.writer
    submit, numbers = writer.submit, itertools.count(1)
    dying = False
    crash = harness.crash_after(when=lambda _: dying)

    def losing(mutation: Mutation[Any], settled: Any = None) -> asyncio.Future[Any]:
        nonlocal dying
        if crash._writer is not writer or next(numbers) != changes:
            return submit(mutation, settled)
        dying = True
        crash._note(mutation)
        # Whoever gives it dies with the server.
        return writer.loop.create_future()

    writer.submit = losing  # type: ignore[method-assign]
    return crash
