"""Recurring, debounce and task whose server dies at every commit: they handle the same, and end the same."""

from __future__ import annotations

import asyncio
import itertools
from abc import abstractmethod
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

import longshore_client as lc
from longshore_server import ExecuteContext, StepRetry, Task, TaskContext, TaskEventContext
from longshore_server.clock import SECOND
from longshore_server.store.instances import InstanceRecord
from longshore_server.testing.clock import START
from tests.server.boundaries import Fate, Scenario, at_every_commit

T = TypeVar("T")
RETRY: dict[str, Any] = {"retry": StepRetry(2, backoff="constant", initial_delay=10), "max_crashes": 9}


class Story(Scenario):
    """Verbs of callers, whose client makes them again when no answer comes; handlers that work, or fail for a while."""

    def __init__(self, folder: Path) -> None:
        self.fails = False
        self.seen: list[Any] = []
        super().__init__(folder)

    def note(self, *what: Any) -> None:
        """A handler begins."""
        self.seen.append((*what, (self.harness.clock.now() - START) / SECOND))
        if self.fails:
            raise RuntimeError("no")

    async def play(self) -> Any:
        await self.tell(self.harness.connect())
        found = await self.definition.host.find(self.definition.address("a"))
        assert found is not None
        record: InstanceRecord = found[0]
        # An attempt that a crash has interrupted, or whose end is lost, is made again.
        handled = [what for what, _ in itertools.groupby(self.seen)]
        return handled, self.definition.read_state(*found), {
            name: getattr(record, name)
            for name in (
                "status", "generation", "created", "events", "runs", "waiting", "dead", "failures", "crashes",
                "timers", "reason", "error", "working", "under_way", "batch_events",
            )
        }  # fmt: skip

    definition: Any

    async def ask(self, call: Coroutine[Any, Any, T]) -> T:
        """The answer to a verb, for which no time has to pass."""
        asking = asyncio.ensure_future(call)
        await self.harness.settle()
        if not asking.done():
            asking.cancel()
            raise AssertionError(f"{call} waits for nothing")
        return await asking

    @abstractmethod
    async def tell(self, channel: lc.Channel) -> None:
        """What callers do, and what time brings."""


class Recurrings(Story):
    def declare(self) -> None:
        @self.server.recurring("refresh", every=60, rate="fixed_rate", state=list, misfire="all", **RETRY)
        async def refresh(ctx: Any) -> None:
            ctx.state.append([ctx.run_count, ctx.planned_at.timestamp()])
            self.note(ctx.run_count, ctx.planned_at)
            if len(ctx.state) == 3 and ctx.state[0][0] == -1:
                ctx.terminate("over")

        self.definition = refresh

    async def tell(self, channel: lc.Channel) -> None:
        client: lc.RecurringClient[Any] = lc.RecurringClient(channel, "refresh")
        await self.ask(client.start("a", []))
        await self.ask(client.trigger("a"))
        await self.harness.advance(60)
        await self.ask(client.pause("a"))
        await self.harness.advance(150)
        await self.ask(client.resume("a"))
        self.fails = True
        await self.harness.advance(90)
        assert (await self.ask(client.status("a"))).status is lc.InstanceStatus.FAILED
        self.fails = False
        await self.ask(client.resume("a"))
        await self.ask(client.terminate("a", "enough"))
        await self.ask(client.start("a", [[-1, 0]]))
        await self.harness.advance(200)


class Debounces(Story):
    def declare(self) -> None:
        @self.server.debounce(
            "numbers", event=int, state=list, initial=list, on_event=lambda ctx: [*ctx.state, ctx.event],
            flush_after=20, max_events=3, **RETRY,
        )  # fmt: skip
        async def numbers(ctx: Any) -> None:
            self.note(ctx.state, ctx.event_count, ctx.flush_reason, ctx.started_at)

        self.definition = numbers

    async def tell(self, channel: lc.Channel) -> None:
        client: lc.DebounceClient[Any, Any] = lc.DebounceClient(channel, "numbers")
        for number in range(4):
            await self.ask(client.add("a", number))
        await self.harness.advance(25)
        await self.ask(client.add("a", 4))
        await self.ask(client.flush("a"))
        self.fails = True
        for number in range(5, 9):
            await self.ask(client.add("a", number, no_wait=True))
        await self.harness.advance(30)
        assert (await self.ask(client.status("a"))).status is lc.InstanceStatus.FAILED
        self.fails = False
        await self.ask(client.resume("a"))
        await self.ask(client.pause("a"))
        for number in range(9, 13):
            await self.ask(client.add("a", number, no_wait=True))
        # Not answered it is made again, and counts as one more change of the state.
        await self.ask(client.clear("a"))
        await self.ask(client.add("a", 13))
        await self.ask(client.resume("a"))
        await self.harness.advance(20)


class Tasks(Story):
    def declare(self) -> None:
        note = self.note

        class Order(Task[list[Any], list[Any]]):
            async def on_event(self, event: list[Any], ctx: TaskEventContext[list[Any]]) -> None:
                ctx.state = [*(ctx.state or []), event]
                note(event, ctx.event_count, ctx.is_first_event)
                name, delay = event
                if delay < 0:
                    ctx.cancel_schedule(name=name)
                else:
                    ctx.schedule(delay, name=name)

            async def execute(self, ctx: ExecuteContext[list[Any]]) -> None:
                ctx.state = [*(ctx.state or []), ctx.timer]
                note(ctx.timer, ctx.execute_count)
                if ctx.timer == "end":
                    ctx.terminate("over")

            async def on_idle(self, ctx: TaskContext[list[Any]]) -> None:
                ctx.state = [*(ctx.state or []), "idle"]

        self.definition = self.server.task("order", Order, **RETRY)

    async def tell(self, channel: lc.Channel) -> None:
        client: lc.TaskClient[Any, Any] = lc.TaskClient(channel, "order")
        await self.ask(client.send("a", ["x", 30], expected_version=0))
        await self.ask(client.send("a", ["y", 10]))
        await self.ask(client.send("a", ["gone", 40]))
        await self.ask(client.send("a", ["gone", -1]))
        await self.harness.advance(10)
        await self.ask(client.pause("a"))
        for _ in range(2):
            await self.ask(client.send("a", ["z", 5], no_wait=True))
        await self.harness.advance(20)
        await self.ask(client.resume("a"))
        await self.harness.advance(5)
        self.fails = True
        await self.ask(client.send("a", ["w", 5], no_wait=True))
        await self.harness.advance(10)
        assert (await self.ask(client.status("a"))).status is lc.InstanceStatus.FAILED
        self.fails = False
        await self.ask(client.resume("a"))
        await self.harness.advance(5)
        await self.ask(client.trigger("a"))
        await self.ask(client.send("a", ["end", 1]))
        await self.harness.advance(1)
        await self.ask(client.send("a", ["v", 60]))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("fate", Fate)
@pytest.mark.parametrize(("kind", "least"), [(Recurrings, 25), (Debounces, 30), (Tasks, 30)])
async def test_instances_end_the_same_whichever_commit_their_server_dies_at(
    tmp_path: Path, kind: type[Story], least: int, fate: Fate
) -> None:
    assert await at_every_commit(kind, tmp_path, fate) >= least
