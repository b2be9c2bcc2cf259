"""The verbs over the wire, with stubs alone: what each answers, what is refused, and who may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import (
    debounce_service_pb2,
    debounce_service_pb2_grpc,
    instances_pb2,
    recurring_service_pb2,
    recurring_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
)
from longshore_server.contract.source import ContractError
from longshore_server.instances.task import ExecuteContext, Task, TaskEventContext
from tests.conftest import fields_of, refused
from tests.server.auth.callers import known
from tests.server.auth.conftest import Guarded
from tests.server.instances.laboratory import Ping, Pong, Token, World

ACTIVE, PAUSED, FAILED, TERMINATED, NOT_FOUND = (
    instances_pb2.INSTANCE_STATUS_ACTIVE, instances_pb2.INSTANCE_STATUS_PAUSED, instances_pb2.INSTANCE_STATUS_FAILED,
    instances_pb2.INSTANCE_STATUS_TERMINATED, instances_pb2.INSTANCE_STATUS_NOT_FOUND,
)  # fmt: skip


def text(json: str) -> instances_pb2.InstanceValue:
    return instances_pb2.InstanceValue(json=json)


class Order(Task[Token, Ping | Pong]):
    async def on_event(self, event: Ping | Pong, ctx: TaskEventContext[Token]) -> None:
        ctx.state = Token(1, type(event).__name__)
        ctx.schedule("1m")
        ctx.schedule("1h", name="later")

    async def execute(self, ctx: ExecuteContext[Token]) -> None:
        ctx.cancel_schedule(name="later")


class Wire:
    """All three services, and a definition of each."""

    def __init__(self, world: World) -> None:
        @world.server.recurring("refresh", every=60, state=lab_pb2.PlayResult)
        async def refresh(ctx: Any) -> None:
            ctx.state.text += "!"

        @world.server.debounce("pings", state=Ping, flush_after=5)
        async def pings(ctx: Any) -> None: ...

        world.server.task("order", Order)

    def connect(self, world: World) -> None:
        self.channel = grpc.aio.insecure_channel(world.harness.address)
        self.recurring = recurring_service_pb2_grpc.RecurringServiceStub(self.channel)
        self.debounce = debounce_service_pb2_grpc.DebounceServiceStub(self.channel)
        self.task = task_service_pb2_grpc.TaskServiceStub(self.channel)


@pytest.fixture
async def wire(world: World) -> Any:
    found = Wire(world)
    await world.start()
    found.connect(world)
    yield found
    await found.channel.close()


async def test_recurring_over_the_wire(wire: Wire, world: World) -> None:
    pb, name = recurring_service_pb2, "recurrings/refresh/instances/a"
    state = instances_pb2.InstanceValue()
    state.message.Pack(lab_pb2.PlayResult(text="x"))
    started = await wire.recurring.StartRecurring(pb.StartRecurringRequest(name=name, input=state))
    assert started == pb.StartRecurringResponse(created=True, status=ACTIVE)
    assert not (await wire.recurring.StartRecurring(pb.StartRecurringRequest(name=name, input=state))).created
    found = await wire.recurring.GetRecurringState(pb.GetRecurringStateRequest(name=name))
    message = lab_pb2.PlayResult()
    assert found.state.message.Unpack(message)
    assert (message.text, found.status, found.version) == ("x!", ACTIVE, 2)
    triggered = await wire.recurring.TriggerRecurring(pb.TriggerRecurringRequest(name=name))
    assert triggered == pb.TriggerRecurringResponse(triggered=True, status=ACTIVE)
    snapshot = await wire.recurring.GetRecurring(pb.GetRecurringRequest(name=name))
    assert (snapshot.facts.name, snapshot.run_count) == (name, 2)
    assert snapshot.next_run_time.ToMicroseconds() == world.clock.now() + 60_000_000
    paused = await wire.recurring.PauseRecurring(pb.PauseRecurringRequest(name=name))
    assert paused == instances_pb2.InstanceChange(changed=True, status=PAUSED)
    assert (await wire.recurring.ResumeRecurring(pb.ResumeRecurringRequest(name=name))).status == ACTIVE
    ended = await wire.recurring.TerminateRecurring(pb.TerminateRecurringRequest(name=name, reason="over"))
    assert ended == instances_pb2.InstanceChange(changed=True, status=TERMINATED, reason="over")
    missing = await wire.recurring.GetRecurring(pb.GetRecurringRequest(name="recurrings/refresh/instances/b"))
    assert missing.facts.status == NOT_FOUND
    listed = await wire.recurring.ListRecurrings(pb.ListRecurringsRequest(parent="recurrings/refresh"))
    assert [one.facts.stop_reason for one in listed.instances] == ["over"]


async def test_what_is_defined(wire: Wire) -> None:
    found = [
        (await stub.ListDefinitions(instances_pb2.ListDefinitionsRequest())).definitions
        for stub in (wire.recurring, wire.debounce, wire.task)
    ]
    assert [[(one.name, one.state_type, one.event_type) for one in kind] for kind in found] == [
        [("recurrings/refresh", "lab.v1.PlayResult", "")],
        [("debounces/pings", "Ping", "Ping")],
        [("tasks/order", "Token", "Ping | Pong")],
    ]


async def test_debounce_over_the_wire(wire: Wire, world: World) -> None:
    pb, name = debounce_service_pb2, "debounces/pings/instances/a"
    added = await wire.debounce.AddEvent(pb.AddEventRequest(name=name, event=text('{"number": 3}'), event_id="x"))
    assert (added.created, added.event_count, added.status) == (True, 1, ACTIVE)
    assert added.flush_time.ToMicroseconds() == world.clock.now() + 5_000_000
    assert (
        await wire.debounce.AddEvent(pb.AddEventRequest(name=name, event=text('{"number": 3}'), event_id="x"))
    ).duplicate
    state = await wire.debounce.GetDebounceState(pb.GetDebounceStateRequest(name=name))
    assert state.state.json == '{"number":3}'
    flushed = await wire.debounce.FlushDebounce(pb.FlushDebounceRequest(name=name))
    assert flushed == pb.FlushDebounceResponse(flushed=True, event_count=1, status=ACTIVE)
    await wire.debounce.AddEvent(pb.AddEventRequest(name=name, event=text("{}")))
    cleared = await wire.debounce.ClearDebounce(pb.ClearDebounceRequest(name=name))
    assert cleared == pb.ClearDebounceResponse(cleared=True, discarded_events=1, status=ACTIVE)
    snapshot = await wire.debounce.GetDebounce(pb.GetDebounceRequest(name=name))
    assert (snapshot.run_count, snapshot.event_count, snapshot.HasField("flush_time")) == (1, 0, False)
    assert (await wire.debounce.PauseDebounce(pb.PauseDebounceRequest(name=name))).status == PAUSED
    assert (await wire.debounce.ResumeDebounce(pb.ResumeDebounceRequest(name=name))).status == ACTIVE
    assert (await wire.debounce.TerminateDebounce(pb.TerminateDebounceRequest(name=name, purge=True))).changed
    assert not (await wire.debounce.ListDebounces(pb.ListDebouncesRequest(parent="debounces/pings"))).instances


async def test_task_over_the_wire(wire: Wire, world: World) -> None:
    pb, name = task_service_pb2, "tasks/order/instances/a"
    event = text('{"@type": "Pong", "text": "x"}')
    sent = await wire.task.SendEvent(pb.SendEventRequest(name=name, event=event, expected_version=0))
    assert (sent.created, sent.status, sent.version) == (True, ACTIVE, 1)
    assert sent.schedule_time.ToMicroseconds() == world.clock.now() + 60_000_000
    snapshot = await wire.task.GetTask(pb.GetTaskRequest(name=name))
    assert (set(snapshot.timers), snapshot.event_count, snapshot.idle) == ({"", "later"}, 1, False)
    assert (await wire.task.TriggerTask(pb.TriggerTaskRequest(name=name))).triggered
    state = await wire.task.GetTaskState(pb.GetTaskStateRequest(name=name))
    assert state.state.json == '{"value":1,"note":"Pong"}'
    assert (await refused(wire.task.SendEvent(pb.SendEventRequest(name=name, event=event, expected_version=0))))[1] == (
        "VERSION_MISMATCH"
    )
    assert (await wire.task.PauseTask(pb.PauseTaskRequest(name=name))).status == PAUSED
    assert (await wire.task.ResumeTask(pb.ResumeTaskRequest(name=name))).status == ACTIVE
    assert (await wire.task.TerminateTask(pb.TerminateTaskRequest(name=name))).status == TERMINATED
    again = await wire.task.SendEvent(pb.SendEventRequest(name=name, event=event))
    assert again.created
    listed = await wire.task.ListTasks(pb.ListTasksRequest(parent="tasks/order", page_size=1, status=ACTIVE))
    assert [one.facts.generation for one in listed.instances] == [2]


async def test_pages_of_instances(wire: Wire) -> None:
    pb = debounce_service_pb2
    for number in range(5):
        await wire.debounce.AddEvent(pb.AddEventRequest(name=f"debounces/pings/instances/{number}", event=text("{}")))
    found: list[str] = []
    request = pb.ListDebouncesRequest(parent="debounces/pings", page_size=2)
    while True:
        page = await wire.debounce.ListDebounces(request)
        found += [one.facts.name.rpartition("/")[2] for one in page.instances]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == list("01234")


NAMES = [
    "", "a", "tasks/order", "tasks/order/instances/", "tasks/order/instances/a b", "debounces/order/instances/a",
    "tasks//instances/a", "tasks/order/instances/a/b",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
async def test_names_of_another_form_are_refused(wire: Wire, name: str) -> None:
    code, reason, status = await refused(wire.task.GetTask(task_service_pb2.GetTaskRequest(name=name)))
    assert (code, reason, fields_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_NAME", ["name"])


async def test_an_unknown_definition_is_not_found(wire: Wire) -> None:
    code, reason, _ = await refused(wire.task.GetTask(task_service_pb2.GetTaskRequest(name="tasks/x/instances/a")))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "DEFINITION_NOT_FOUND")


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        (text("{"), "is no JSON"),
        (text('{"@type": "Ping", "number": "x"}'), "is no Ping"),
        (text('{"number": 1}'), "must say which of Ping, Pong it is, in the field @type"),
        (text("3"), "must be Ping | Pong"),
        (text('{"@type": "Ping", "number": NaN}'), "is no JSON"),
        (instances_pb2.InstanceValue(), "must be set: Ping | Pong"),
    ],
)
async def test_an_event_of_another_type_is_refused_and_nothing_written(
    wire: Wire, world: World, event: instances_pb2.InstanceValue, problem: str
) -> None:
    """durable-effect: an invalid event was an error of the handler, and was counted."""
    request = task_service_pb2.SendEventRequest(name="tasks/order/instances/a", event=event)
    code, _, status = await refused(wire.task.SendEvent(request))
    assert (code, fields_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, ["event"])
    assert problem in status.message
    assert world.rows("SELECT count(*) FROM instances") == [(0,)]


async def test_a_definition_asks_for_no_capability_that_no_contract_declares(tmp_path: Path) -> None:
    """Nobody could have it but by the same slip; where no contract declares any, definitions may ask for their own."""
    guarded = Guarded(tmp_path)

    @guarded.server.debounce("pings", state=Ping, flush_after=5, call="gates.strat")
    async def pings(ctx: Any) -> None: ...

    problem = r"debounce 'pings', call: capability 'gates.strat' is declared by no service. Did you mean 'gates.start'"
    with pytest.raises(ContractError, match=problem):
        await guarded.start()


async def test_where_no_contract_declares_any_definitions_ask_for_their_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guarded = Guarded(tmp_path)
    guarded.server.services = ()

    @guarded.server.debounce("pings", state=Ping, flush_after=5, call="pings.send")
    async def pings(ctx: Any) -> None: ...

    for name in ("pings.send", "pings.sned"):
        guarded.token("ada", name)
    await guarded.start()
    await guarded.stop()
    slip = "no contract of this server declares the capability 'pings.sned'"
    assert [record.message for record in caplog.records if "capability" in record.message] == [
        f"{guarded.tokens}: {slip}"
    ]


async def test_who_may_call_is_what_the_definition_says(tmp_path: Path) -> None:
    """The provider may do everything; a definition's `call` lets others send and look, and administer nothing."""
    pb, guarded = debounce_service_pb2, Guarded(tmp_path)

    @guarded.server.debounce("pings", state=Ping, flush_after=5, call="gates.start")
    async def pings(ctx: Any) -> None: ...

    @guarded.server.debounce("private", state=Ping, flush_after=5)
    async def private(ctx: Any) -> None: ...

    await guarded.start()
    try:
        ada, eve, ops = await known(guarded, ("ada", "gates.start"), ("eve",), ("ops", "longshore.provider"))
        stub = debounce_service_pb2_grpc.DebounceServiceStub(guarded.channel)

        def add(who: Any, definition: str) -> Any:
            request = pb.AddEventRequest(name=f"debounces/{definition}/instances/a", event=text("{}"))
            return stub.AddEvent(request, metadata=who)

        assert (await add(ada, "pings")).created
        assert (await add(ops, "pings")).event_count == 2
        assert (await add(ops, "private")).created
        for caller, definition, capability in ((eve, "pings", "gates.start"), (ada, "private", "longshore.provider")):
            code, reason, status = await refused(add(caller, definition))
            assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "CAPABILITY_MISSING")
            assert capability in status.message
        clear = pb.ClearDebounceRequest(name="debounces/pings/instances/a")
        assert (await refused(stub.ClearDebounce(clear, metadata=ada)))[1] == "CAPABILITY_MISSING"
        logs = pb.ListDebounceLogsRequest(name=clear.name)
        assert (await refused(stub.ListDebounceLogs(logs, metadata=ada)))[1] == "CAPABILITY_MISSING"
        assert (await stub.ClearDebounce(clear, metadata=ops)).discarded_events == 2
        # What is not there is told to those alone who could see it.
        assert (await refused(add(ada, "unknown")))[1] == "CAPABILITY_MISSING"
        assert (await refused(add(ops, "unknown")))[1] == "DEFINITION_NOT_FOUND"
    finally:
        await guarded.stop()
