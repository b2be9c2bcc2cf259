"""What the handlers of instances log is durable, says whose run it was, and is kept for a time of its own."""

from __future__ import annotations

import json
import logging
from typing import Any

import grpc
import pytest

from longshore.v1 import debounce_service_pb2, instances_pb2, records_pb2, recurring_service_pb2, task_service_pb2
from longshore_server import StepRetry
from longshore_server.instance_lifecycle import Status
from longshore_server.instances.task import Task
from longshore_server.store.logs import MAX_LINES
from tests.server.instances.laboratory import Gate, Ping, Token, World

INFO, WARN, ERROR = (getattr(records_pb2.LogLine, f"LEVEL_{name}") for name in ("INFO", "WARN", "ERROR"))
KINDS = {
    "recurring": recurring_service_pb2.ListRecurringLogsRequest,
    "debounce": debounce_service_pb2.ListDebounceLogsRequest,
    "task": task_service_pb2.ListTaskLogsRequest,
}


async def page(world: World, kind: str, name: str, **fields: Any) -> instances_pb2.InstanceLogs:
    """What List...Logs answers."""
    request = KINDS[kind](name=f"{kind}s/x/instances/{name}", **fields)
    async with grpc.aio.insecure_channel(world.harness.address) as channel:
        call = channel.unary_unary(
            f"/longshore.v1.{kind.capitalize()}Service/List{kind.capitalize()}Logs",
            request_serializer=type(request).SerializeToString,
            response_deserializer=instances_pb2.InstanceLogs.FromString,
        )
        answer: instances_pb2.InstanceLogs = await call(request)
        return answer


async def logged(world: World, kind: str, name: str, **fields: Any) -> list[tuple[str, int, str]]:
    """The run, the attempt and the message of each line."""
    return [(line.run, line.attempt, line.message) for line in (await page(world, kind, name, **fields)).lines]


class Order(Task[Token, Ping]):
    async def on_event(self, event: Ping, ctx: Any) -> None:
        ctx.state = Token(event.number)
        ctx.log.info("an event", number=event.number, key=ctx.key)
        ctx.schedule("1m", name="chase")

    async def execute(self, ctx: Any) -> None:
        ctx.log.warn("it is late", timer=ctx.timer)  # noqa: G010 - no logger of the standard library
        raise LookupError

    async def on_error(self, error: BaseException, ctx: Any) -> None:
        ctx.log.error("given up")
        ctx.terminate("too late")


async def test_lines_of_all_kinds_say_their_run_and_attempt_and_those_of_a_failed_one_are_kept(world: World) -> None:
    retry = StepRetry(2, initial_delay=10)

    @world.server.recurring("x", every="1h", state=int, retry=retry)
    async def tick(ctx: Any) -> None:
        ctx.log.info("tick", run=ctx.run_count)
        if ctx.run_count == 2 and not ctx.is_retry:
            raise ConnectionError

    @world.server.debounce("x", event=Ping, flush_after=5, retry=retry)
    async def send(ctx: Any) -> None:
        ctx.log.info("batch", events=ctx.event_count)
        raise ConnectionError

    orders = world.server.task("x", Order)
    await world.start()
    await tick.start("a", 1)
    await send.add("a", Ping(1))
    await orders.send("a", Ping(7))
    await world.advance(60)
    assert (await orders.status("a")).status is Status.TERMINATED
    for _ in range(2):
        await world.advance(1800)
    await world.advance(10)
    assert await logged(world, "recurring", "a") == [
        ("1/1", 1, "tick"),
        ("1/timer-2", 1, "tick"),
        ("1/timer-2", 2, "tick"),
    ]
    assert await logged(world, "debounce", "a") == [("1/1", 1, "batch"), ("1/1", 2, "batch")]
    answer = await page(world, "task", "a")
    first, second, third = answer.lines
    assert (first.level, first.number, first.step, first.time.seconds) == (INFO, 1, "", 1_767_225_600)
    data = json.loads(first.data)
    assert data["number"] == 7
    assert data["key"].endswith(f"/{first.run}"), "who has the key finds the lines"
    assert (second.level, second.run, second.message, second.data) == (
        WARN, "1/timer-2", "it is late", '{"timer":"chase"}',
    )  # fmt: skip
    assert (third.level, third.run, third.message) == (ERROR, "1/timer-2", "given up")
    assert answer.status == instances_pb2.INSTANCE_STATUS_TERMINATED


async def test_a_line_is_durable_before_its_handler_ends_and_outlives_the_server(world: World) -> None:
    gate = Gate()

    @world.server.recurring("x", every="1h", state=int)
    async def tick(ctx: Any) -> None:
        ctx.log.info("begun")
        await gate.hold()

    await world.start()
    await tick.start("a", 1, no_wait=True)
    await gate.reached.wait()
    await world.settled()  # it is written behind the handler's back
    assert await logged(world, "recurring", "a") == [("1/1", 1, "begun")]
    gate.reached.clear()
    await world.restart()
    await gate.reached.wait()
    await world.settled()
    assert await logged(world, "recurring", "a") == [("1/1", 1, "begun"), ("1/1", 2, "begun")]
    gate.opened.set()


async def test_pages_and_levels(world: World) -> None:
    @world.server.recurring("x", every="1h", state=int)
    async def tick(ctx: Any) -> None:
        for number in "012":
            info, error = f"i{number}", f"e{number}"
            ctx.log.info(info)
            ctx.log.error(error)

    await world.start()
    await tick.start("a", 1)
    found, token = [], ""
    while True:
        answer = await page(world, "recurring", "a", level=ERROR, page_size=2, page_token=token)
        found.append([line.message for line in answer.lines])
        token = answer.next_page_token
        if not token:
            break
    assert found == [["e0", "e1"], ["e2"]]
    assert (await page(world, "recurring", "none")).status == instances_pb2.INSTANCE_STATUS_NOT_FOUND
    for fields, said in (
        ({"level": 9}, "level"),
        ({"page_size": -1}, "page_size"),
        ({"page_token": "x"}, "page_token"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=said):
            await page(world, "recurring", "a", **fields)


@pytest.mark.parametrize(
    ("level", "shown", "kept"),
    [
        ("debug", ["d", "i", "w", "e"], ["i", "w", "e"]),
        ("warning", ["w", "e"], ["i", "w", "e"]),
        ("error", ["e"], ["i", "w", "e"]),
        ("off", [], []),
    ],
)  # fmt: skip
async def test_the_level_of_a_definition_is_for_the_log_of_the_process(
    world: World, caplog: pytest.LogCaptureFixture, level: Any, shown: list[str], kept: list[str]
) -> None:
    caplog.set_level(logging.DEBUG, "longshore.instances")

    @world.server.recurring("x", every="1h", state=int, log_level=level)
    async def tick(ctx: Any) -> None:
        for write, text in zip((ctx.log.debug, ctx.log.info, ctx.log.warn, ctx.log.error), "diwe", strict=True):
            write(text, number=1)

    await world.start()
    await tick.start("a", 1)
    found = [record for record in caplog.records if record.name == "longshore.instances"]
    assert [record.getMessage() for record in found] == shown
    assert all(vars(record)["instance"] == "recurrings/x/instances/a" for record in found)
    assert [message for _, _, message in await logged(world, "recurring", "a")] == kept


async def test_the_latest_lines_are_kept_for_log_retention(world: World) -> None:
    world.settings["log_retention"] = 60.0

    @world.server.recurring("x", every="50s", state=int)
    async def tick(ctx: Any) -> None:
        ctx.log.info("run", number=ctx.run_count)

    await world.start()
    await tick.start("a", 1)
    await world.advance(50)
    assert [run for run, _, _ in await logged(world, "recurring", "a")] == ["1/1", "1/timer-2"]
    world.clock.advance(10)
    sweeper = world.engine.sweeper
    while sweeper._task is not None:
        await sweeper._task
    await world.settled()
    answer = await page(world, "recurring", "a")
    assert ([line.run for line in answer.lines], answer.dropped_lines) == (["1/timer-2"], 1)


async def test_one_instance_keeps_so_many_lines(world: World) -> None:
    @world.server.recurring("x", every="1h", state=int)
    async def tick(ctx: Any) -> None:
        for number in range(MAX_LINES):
            ctx.log.info(str(number))

    await world.start()
    await tick.start("a", 1)
    await tick.trigger("a")
    answer = await page(world, "recurring", "a", page_size=1)
    ((kept,),) = world.rows("SELECT count(*) FROM logs")
    assert kept <= MAX_LINES + MAX_LINES // 8
    assert answer.dropped_lines == 2 * MAX_LINES - kept


@pytest.mark.parametrize("by", ["the handler", "an admin", "retention"])
async def test_with_the_instance_its_lines_go_also_those_of_the_same_batch(world: World, by: str) -> None:
    contexts: list[Any] = []

    @world.server.recurring("x", every="1h", state=int, retention="1m")
    async def tick(ctx: Any) -> None:
        contexts.append(ctx)
        ctx.log.info("hello")
        if by == "the handler":
            ctx.terminate(purge=True)
        ctx.terminate()

    await world.start()
    await tick.start("a", 1)
    if by == "an admin":
        contexts[0].log.info("in the same batch")
        await tick.terminate("a", purge=True)
    elif by == "retention":
        world.clock.advance(60)
        while world.engine.sweeper._task is not None:
            await world.engine.sweeper._task
        await world.settled()
    contexts[0].log.info("beyond")
    await world.settled()
    assert [len(world.rows(f"SELECT * FROM {table}")) for table in ("instances", "logbooks", "logs")] == [0, 0, 0]
