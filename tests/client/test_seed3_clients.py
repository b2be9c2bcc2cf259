"""The clients of seed 3's three kinds, verb by verb: each test is named after a row of its tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from lab.v1.lab_pb2 import PlayResult

from longshore_client import (
    AlreadyExists,
    DebounceCleared,
    DebounceClient,
    DebounceFlushed,
    FailedPrecondition,
    InstanceChange,
    InstanceState,
    InstanceStatus,
    InvalidArgument,
    NotFound,
    RecurringClient,
    RecurringStarted,
    RecurringTriggered,
    TaskClient,
    TaskTriggered,
    Unavailable,
)
from tests.client.instances_server import Batch, Served, served
from tests.server.instances.laboratory import Ping, Pong, Token

__all__ = ["served"]

ACTIVE, PAUSED, FAILED = InstanceStatus.ACTIVE, InstanceStatus.PAUSED, InstanceStatus.FAILED
TERMINATED, NOT_FOUND = InstanceStatus.TERMINATED, InstanceStatus.NOT_FOUND
NOON = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def refresher(served: Served) -> RecurringClient[Token]:
    return RecurringClient(served.channel, "token-refresher", state=Token)


@pytest.fixture
def webhooks(served: Served) -> DebounceClient[Ping, Batch]:
    return DebounceClient(served.channel, "webhooks", event=Ping, state=Batch)


@pytest.fixture
def orders(served: Served) -> TaskClient[Token, Ping | Pong]:
    return TaskClient[Token, Ping | Pong](served.channel, "order", state=Token, event=Ping | Pong)


async def test_continuous_start_answers_created_instance_id_and_status(refresher: RecurringClient[Token]) -> None:
    name = "recurrings/token-refresher/instances/user-123"
    assert await refresher.start("user-123", Token(7)) == RecurringStarted(True, name, ACTIVE)
    assert await refresher.start("user-123", Token(9)) == RecurringStarted(False, name, ACTIVE)
    assert (await refresher.get_state("user-123")).state == Token(8)
    ended = await refresher.start("user-124", Token(1, "once"))
    assert (ended.created, ended.status) == (True, TERMINATED)
    again = await refresher.start("user-124", Token(1))
    assert (again.created, again.status) == (True, ACTIVE)


async def test_continuous_trigger_bypasses_the_schedule(refresher: RecurringClient[Token], served: Served) -> None:
    await refresher.start("user-123", Token())
    assert await refresher.trigger("user-123") == RecurringTriggered(True, ACTIVE)
    assert (await refresher.get_state("user-123")).state == Token(2)
    assert await refresher.trigger("nobody") == RecurringTriggered(False, NOT_FOUND)
    served.failures = 1
    assert (await refresher.trigger("user-123")).retry_time == NOON + timedelta(seconds=30)


async def test_continuous_status_answers_run_count_and_next_run(refresher: RecurringClient[Token]) -> None:
    assert (await refresher.status("user-123")).status is NOT_FOUND
    await refresher.start("user-123", Token())
    found = await refresher.status("user-123")
    assert (found.id, found.status, found.run_count, found.generation, found.version) == ("user-123", ACTIVE, 1, 1, 2)
    assert found.next_run_time == NOON + timedelta(minutes=30)
    assert (found.create_time, found.attempt, found.last_error) == (NOON, 0, None)


async def test_continuous_get_state(refresher: RecurringClient[Token]) -> None:
    assert await refresher.get_state("user-123") == InstanceState(None, NOT_FOUND, 0)
    await refresher.start("user-123", Token(7))
    assert await refresher.get_state("user-123") == InstanceState(Token(8), ACTIVE, 2)


async def test_continuous_terminate_with_its_reason(refresher: RecurringClient[Token]) -> None:
    await refresher.start("user-123", Token())
    ended = InstanceChange(True, TERMINATED, "User requested")
    assert await refresher.terminate("user-123", "User requested") == ended
    assert await refresher.terminate("user-123", "too late") == InstanceChange(False, TERMINATED, "User requested")
    found = await refresher.status("user-123")
    assert (found.status, found.stop_reason, found.next_run_time) == (TERMINATED, "User requested", None)
    assert (await refresher.get_state("user-123")).state == Token(1)
    await refresher.start("user-124", Token())
    assert (await refresher.terminate("user-124", purge=True)).changed
    assert (await refresher.status("user-124")).status is NOT_FOUND


async def test_debounce_add_answers_created_event_count_and_will_flush_at(
    webhooks: DebounceClient[Ping, Batch], served: Served
) -> None:
    added = await webhooks.add("contact-456", Ping(1), event_id="evt_1")
    assert (added.created, added.event_count, added.status, added.duplicate) == (True, 1, ACTIVE, False)
    assert added.flush_time == NOON + timedelta(minutes=5)
    again = await webhooks.add("contact-456", Ping(1), event_id="evt_1")
    assert (again.created, again.event_count, again.duplicate) == (False, 1, True)
    # Two of its own making are two, however alike.
    assert [(await webhooks.add("contact-456", Ping(1))).event_count for _ in range(2)] == [2, 0]
    assert served.batches == [[1, 1, 1]]


async def test_debounce_flush(webhooks: DebounceClient[Ping, Batch], served: Served) -> None:
    assert await webhooks.flush("contact-456") == DebounceFlushed(False, 0, NOT_FOUND)
    await webhooks.add("contact-456", Ping(4))
    assert await webhooks.flush("contact-456") == DebounceFlushed(True, 1, ACTIVE)
    assert served.batches == [[4]]


async def test_debounce_clear_without_processing(webhooks: DebounceClient[Ping, Batch], served: Served) -> None:
    assert await webhooks.clear("contact-456") == DebounceCleared(False, 0, NOT_FOUND)
    await webhooks.add("contact-456", Ping(4))
    assert await webhooks.clear("contact-456") == DebounceCleared(True, 1, ACTIVE)
    await served.world.advance(600)
    assert served.batches == []


async def test_debounce_status_answers_event_count_and_will_flush_at(webhooks: DebounceClient[Ping, Batch]) -> None:
    assert (await webhooks.status("contact-456")).status is NOT_FOUND
    await webhooks.add("contact-456", Ping(4))
    found = await webhooks.status("contact-456")
    assert (found.status, found.event_count, found.batch_start_time) == (ACTIVE, 1, NOON)
    assert found.flush_time == NOON + timedelta(minutes=5)
    await webhooks.flush("contact-456")
    idle = await webhooks.status("contact-456")
    assert (idle.event_count, idle.flush_time, idle.run_count) == (0, None, 1)
    assert (idle.waiting_batches, idle.dead_letters) == (0, 0)


async def test_debounce_get_state_is_what_was_accumulated(webhooks: DebounceClient[Ping, Batch]) -> None:
    await webhooks.add("contact-456", Ping(4))
    await webhooks.add("contact-456", Ping(5))
    assert (await webhooks.get_state("contact-456")).state == Batch(numbers=[4, 5])


async def test_task_send_answers_created_instance_id_and_scheduled_at(orders: TaskClient[Token, Ping | Pong]) -> None:
    sent = await orders.send("order-789", Pong("placed"))
    assert (sent.created, sent.name, sent.status) == (True, "tasks/order/instances/order-789", ACTIVE)
    assert (sent.schedule_time, sent.version) == (NOON + timedelta(minutes=1), 1)
    assert (await orders.get_state("order-789")).state == Token(1, "Pong")
    again = await orders.send("order-789", Ping(1), event_id="e", expected_version=1)
    assert (again.created, again.duplicate, again.version) == (False, False, 2)
    assert (await orders.get_state("order-789")).state == Token(2, "Ping")
    assert (await orders.send("order-789", Ping(1), event_id="e", expected_version=2)).duplicate


async def test_task_trigger_executes_at_once(orders: TaskClient[Token, Ping | Pong]) -> None:
    assert await orders.trigger("order-789") == TaskTriggered(False, NOT_FOUND)
    await orders.send("order-789", Ping())
    assert await orders.trigger("order-789") == TaskTriggered(True, ACTIVE)
    assert (await orders.status("order-789")).execute_count == 1


async def test_task_status_answers_scheduled_at_and_event_count(orders: TaskClient[Token, Ping | Pong]) -> None:
    assert (await orders.status("order-789")).status is NOT_FOUND
    await orders.send("order-789", Ping())
    found = await orders.status("order-789")
    assert (found.status, found.event_count, found.idle, found.waiting_events) == (ACTIVE, 1, False, 0)
    assert found.timers == {"": NOON + timedelta(minutes=1), "later": NOON + timedelta(hours=1)}
    assert found.schedule_time == NOON + timedelta(minutes=1)


async def test_task_get_state_and_scheduled_at(orders: TaskClient[Token, Ping | Pong]) -> None:
    assert await orders.get_state("order-789") == InstanceState(None, NOT_FOUND, 0)
    await orders.send("order-789", Ping())
    assert await orders.get_state("order-789") == InstanceState(Token(1, "Ping"), ACTIVE, 1)


async def test_task_terminate(orders: TaskClient[Token, Ping | Pong]) -> None:
    assert await orders.terminate("order-789") == InstanceChange(False, NOT_FOUND)
    await orders.send("order-789", Ping())
    assert await orders.terminate("order-789") == InstanceChange(True, TERMINATED)
    found = await orders.status("order-789")
    assert (found.status, found.timers, found.schedule_time) == (TERMINATED, {}, None)
    assert (await orders.send("order-789", Ping())).created


# Its errors.


async def test_job_not_found_error_is_definition_not_found(served: Served) -> None:
    with pytest.raises(NotFound) as caught:
        await RecurringClient[Token](served.channel, "nothing", state=Token).status("a")
    assert (caught.value.reason, caught.value.resource) == ("DEFINITION_NOT_FOUND", "recurrings/nothing")


async def test_instance_not_found_error_is_a_status(refresher: RecurringClient[Token]) -> None:
    assert (await refresher.pause("nobody")).status is NOT_FOUND
    assert (await refresher.trigger("nobody")).status is NOT_FOUND


async def test_invalid_state_error_is_the_answer_of_the_verb(refresher: RecurringClient[Token]) -> None:
    await refresher.start("user-123", Token())
    await refresher.terminate("user-123")
    assert await refresher.pause("user-123") == InstanceChange(False, TERMINATED)
    assert await refresher.resume("user-123") == InstanceChange(False, TERMINATED)


async def test_validation_error_is_invalid_argument_that_names_the_field(served: Served) -> None:
    anything = RecurringClient[object](served.channel, "token-refresher")
    with pytest.raises(InvalidArgument) as caught:
        await anything.start("user-123", {"value": "seven"})
    assert [found.field for found in caught.value.field_violations] == ["input"]
    assert (await anything.status("user-123")).status is NOT_FOUND
    with pytest.raises(InvalidArgument) as caught:
        await anything.status("no/id")
    assert caught.value.reason == "INVALID_NAME"


async def test_execution_error_is_the_last_error_of_what_has_failed(
    refresher: RecurringClient[Token], served: Served
) -> None:
    served.failures = 2
    started = await refresher.start("user-123", Token())
    assert (started.status, started.retry_time) == (ACTIVE, NOON + timedelta(seconds=30))
    await served.world.advance(30)
    found = await refresher.status("user-123")
    assert found.status is FAILED
    assert found.last_error is not None
    assert (found.last_error.reason, found.last_error.domain) == ("HANDLER_ERROR", "longshore")
    assert await refresher.resume("user-123") == InstanceChange(True, ACTIVE)
    await served.world.settled()
    assert (await refresher.status("user-123")).last_error is None


async def test_execution_error_in_a_reducer_refuses_the_event(webhooks: DebounceClient[Ping, Batch]) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await webhooks.add("contact-456", Ping(-1))
    assert caught.value.reason == "EVENT_NOT_TAKEN"


async def test_duplicate_event_error_is_a_fact_of_the_answer_and_an_error_for_another_event(
    orders: TaskClient[Token, Ping | Pong],
) -> None:
    await orders.send("order-789", Ping(1), event_id="e")
    assert (await orders.send("order-789", Ping(1), event_id="e")).duplicate
    with pytest.raises(AlreadyExists) as caught:
        await orders.send("order-789", Ping(2), event_id="e")
    assert caught.value.reason == "EVENT_ID_REUSED"
    with pytest.raises(FailedPrecondition) as refused:
        await orders.send("order-789", Ping(3), expected_version=0)
    assert refused.value.reason == "VERSION_MISMATCH"


async def test_storage_and_scheduler_errors_are_unavailable(served: Served) -> None:
    from longshore_client import Retry, connect

    address = served.world.harness.address
    await served.world.harness.stop()
    async with connect(address, retry=Retry(give_up_after=0)) as channel:
        with pytest.raises(Unavailable):
            await RecurringClient[Token](channel, "token-refresher", state=Token).status("a")


# What all three have.


async def test_pause_and_resume(refresher: RecurringClient[Token], served: Served) -> None:
    await refresher.start("user-123", Token())
    assert await refresher.pause("user-123") == InstanceChange(True, PAUSED)
    assert await refresher.pause("user-123") == InstanceChange(False, PAUSED)
    await served.world.advance(3600)
    assert (await refresher.status("user-123")).run_count == 1
    assert await refresher.resume("user-123") == InstanceChange(True, ACTIVE)


async def test_list_follows_the_pages(
    refresher: RecurringClient[Token], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longshore_client.instances._PAGE", 2)
    for id in "abcde":
        await refresher.start(id, Token())
    await refresher.pause("c")
    assert [found.id async for found in refresher.list()] == list("abcde")
    assert [found.id async for found in refresher.list(ACTIVE)] == list("abde")
    greeter = RecurringClient(served.channel, "greeter", state=PlayResult)
    assert [found async for found in greeter.list()] == []
