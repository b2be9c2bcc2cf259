"""The blocking clients of recurrings, debounces and tasks: each verb over the wire, from threads that block."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import longshore_client
from longshore_client import (
    DebounceCleared,
    DebounceFlushed,
    FailedPrecondition,
    InstanceChange,
    InstanceState,
    InstanceStatus,
    NotFound,
    RecurringStarted,
    RecurringTriggered,
    StillRunning,
    TaskTriggered,
)
from longshore_client.blocking import Channel, DebounceClient, RecurringClient, TaskClient, connect
from tests.client.instances_server import Batch, Served, served
from tests.server.instances.laboratory import Gate, Ping, Pong, Token

__all__ = ["served"]

ACTIVE, PAUSED, TERMINATED = InstanceStatus.ACTIVE, InstanceStatus.PAUSED, InstanceStatus.TERMINATED


async def calling(served: Served, caller: Callable[[Channel], None]) -> None:
    """Run a program that blocks, beside the server."""

    def run() -> None:
        with connect(served.world.harness.address) as channel:
            caller(channel)

    await asyncio.to_thread(run)


async def test_a_recurring_from_its_start_to_its_end(served: Served) -> None:
    def caller(channel: Channel) -> None:
        refresher = RecurringClient(channel, "token-refresher", state=Token)
        name = refresher.name("user-123")
        assert refresher.start("user-123", Token(7)) == RecurringStarted(True, name, ACTIVE)
        assert refresher.trigger("user-123") == RecurringTriggered(True, ACTIVE)
        assert refresher.get_state("user-123") == InstanceState(Token(9), ACTIVE, 3)
        assert refresher.pause("user-123") == InstanceChange(True, PAUSED)
        assert refresher.resume("user-123") == InstanceChange(True, ACTIVE)
        refresher.start("user-124", Token(), no_wait=True)
        assert [found.id for found in refresher.list()] == ["user-123", "user-124"]
        assert [found.id for found in refresher.list(TERMINATED)] == []
        assert refresher.terminate("user-123", "enough") == InstanceChange(True, TERMINATED, "enough")
        found = refresher.status("user-123")
        assert (found.status, found.run_count, found.stop_reason) == (TERMINATED, 2, "enough")

    await calling(served, caller)


async def test_a_debounce_collects_flushes_and_clears(served: Served) -> None:
    def caller(channel: Channel) -> None:
        webhooks = DebounceClient(channel, "webhooks", event=Ping, state=Batch)
        assert webhooks.add("a", Ping(1), event_id="once").created
        again = webhooks.add("a", Ping(1), event_id="once")
        assert (again.duplicate, again.event_count) == (True, 1)
        assert webhooks.get_state("a").state == Batch(numbers=[1])
        assert webhooks.flush("a") == DebounceFlushed(True, 1, ACTIVE)
        assert served.batches == [[1]]
        webhooks.add("a", Ping(2))
        assert webhooks.clear("a") == DebounceCleared(True, 1, ACTIVE)
        assert webhooks.status("a").run_count == 1
        with pytest.raises(FailedPrecondition, match="on_event"):
            webhooks.add("a", Ping(-1))

    await calling(served, caller)


async def test_a_task_takes_events_and_executes(served: Served) -> None:
    def caller(channel: Channel) -> None:
        orders = TaskClient[Token, Ping | Pong](channel, "order", state=Token, event=Ping | Pong)
        sent = orders.send("order-1", Ping(), expected_version=0)
        assert (sent.created, sent.version, sent.status) == (True, 1, ACTIVE)
        assert orders.trigger("order-1") == TaskTriggered(True, ACTIVE)
        found = orders.status("order-1")
        assert (found.event_count, found.execute_count, list(found.timers)) == (1, 1, [""])
        assert orders.get_state("order-1").state == Token(1, "Ping")
        with pytest.raises(FailedPrecondition, match="version"):
            orders.send("order-1", Pong(), expected_version=0)
        with pytest.raises(TypeError, match="event: it must be Ping"):
            orders.send("order-1", Token())  # type: ignore[arg-type]
        with pytest.raises(NotFound, match="tasks/unknown"):
            TaskClient(channel, "unknown").status("order-1")

    await calling(served, caller)


async def test_who_waits_for_a_handler_blocks_its_own_thread_alone(served: Served) -> None:
    served.held = gate = Gate()
    loop = asyncio.get_running_loop()

    def caller(channel: Channel) -> None:
        refresher = RecurringClient(channel, "token-refresher", state=Token)
        # Time enough to reach the server, however slow the machine is.
        with pytest.raises(StillRunning):
            refresher.start("slow", Token(), timeout=5.0)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(refresher.start, "held", Token())
            assert refresher.status("slow").status is ACTIVE
            loop.call_soon_threadsafe(gate.opened.set)
            assert waiting.result().status is ACTIVE
        assert refresher.get_state("held").state == Token(1)

    await calling(served, caller)


@pytest.mark.parametrize("kind", [RecurringClient, DebounceClient, TaskClient])
def test_each_has_the_verbs_of_the_asyncio_client_with_their_arguments(kind: type[Any]) -> None:
    def verbs(client: type[Any]) -> dict[str, list[tuple[str, Any]]]:
        return {
            name: [(parameter.name, parameter.default) for parameter in inspect.signature(verb).parameters.values()]
            for name, verb in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_") or name == "__init__"
        }

    assert verbs(kind) == verbs(getattr(longshore_client, kind.__name__))
