"""A test for every sentence of seed 5 (payload channels), named after it. "Workflow" there is "operation type" here."""

from __future__ import annotations

import asyncio
import sys
import typing
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from lab.v1 import lab_longshore, lab_pb2
from lab.v1.lab_longshore import LabClient

import longshore_client as lc
from longshore.v1 import channels_pb2, operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import OperationError
from tests.conftest import Lab

Diagnostic = channels_pb2.DiagnosticOutput


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[LabClient]:
    async with lc.connect(lab.harness.address) as channel:
        yield LabClient(channel)


async def test_every_workflow_maps_to_four_typed_channels_input_progress_output_and_result(lab: Lab) -> None:
    for kind in (await lab.operations.ListTypes(pb.ListTypesRequest())).types:
        assert all((kind.input_type, kind.progress_type, kind.output_type, kind.result_type)), kind.type


async def test_these_channels_form_the_complete_communication_contract(lab: Lab) -> None:
    """Whatever a caller is ever sent belongs to one of them, or is the life of the operation itself; or it is a signal
    of seed 1, which a caller has sent."""
    payloads = {
        f"{event.name}.{field.name}"
        for event in operation_pb2.OperationEvent.DESCRIPTOR.oneofs_by_name["event"].fields
        for field in _message(event).fields
        if field.message_type is not None and field.message_type.full_name == "google.protobuf.Any"
    }
    assert payloads == {"progress.value", "output.value", "completed.result", "signal.payload"}


def _message(field: Any) -> Any:
    return field.message_type


async def test_input_is_what_the_caller_provides_to_start_the_workflow(lab: Lab, client: LabClient) -> None:
    got: list[Any] = []

    @lab.plays
    async def handler(request, op):
        got.append((request, op.input))
        return lab_pb2.PlayResult()

    request = lab_pb2.PlayRequest(script="course-7")
    await client.play.run(request, request_id="r")
    assert got[0][0] == got[0][1]
    assert got[0][0].script == "course-7"


async def test_input_can_be_a_structured_object_or_undefined_for_queries_that_need_no_parameters(
    lab: Lab, client: LabClient
) -> None:
    assert (await client.play.run(lab_pb2.PlayRequest(script="structured", count=3))).text == "played"
    fire: Any = client.fire
    assert await fire.run(Empty()) is None
    assert (await lab.operations.GetType(pb.GetTypeRequest(type="lab.v1.LabService/Fire"))).input_type == (
        "google.protobuf.Empty"
    )


async def test_progress_is_intermediate_status_updates_emitted_during_execution(lab: Lab, client: LabClient) -> None:
    seen, gate = asyncio.Event(), asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await op.progress(lab_pb2.PlayProgress(number=1))
        await gate.wait()
        return lab_pb2.PlayResult()

    running = asyncio.ensure_future(client.play.run(lab_pb2.PlayRequest(), on_progress=lambda _: seen.set()))
    await seen.wait()  # while the handler still runs
    assert not running.done()
    gate.set()
    await running


async def test_workflows_that_complete_instantly_use_never_no_progress_events(lab: Lab, client: LabClient) -> None:
    @lab.plays
    async def handler(request, op):
        with pytest.raises(TypeError, match="declares none"):
            op.progress(Empty())

    operation = await client.fire(Empty())
    assert [type(event) for event in [e async for e in operation.watch()]] == [lc.Accepted, lc.Started, lc.Completed]


async def test_the_standard_progress_type_is_milestone_progress_step_total_steps_label(lab: Lab) -> None:
    fields = [(f.name, f.number) for f in channels_pb2.MilestoneProgress.DESCRIPTOR.fields]
    assert fields == [("step", 1), ("total_steps", 2), ("label", 3)]
    kind = await lab.operations.GetType(pb.GetTypeRequest(type="lab.v1.LabService/Climb"))
    assert kind.progress_type == "longshore.v1.MilestoneProgress"


async def test_handlers_emit_progress_at_each_milestone_step(lab: Lab, client: LabClient) -> None:
    @lab.plays
    async def handler(request, op):
        labels = ("Connecting to LMS", "Loading", "Storing")
        for step, label in enumerate(labels, 1):
            await op.progress(channels_pb2.MilestoneProgress(step=step, total_steps=3, label=label))
        return lab_pb2.PlayResult()

    got: list[tuple[int, int, str]] = []
    await client.climb.run(
        lab_pb2.PlayRequest(), on_progress=lambda value: got.append((value.step, value.total_steps, value.label))
    )
    assert got == [(1, 3, "Connecting to LMS"), (2, 3, "Loading"), (3, 3, "Storing")]


async def test_output_is_diagnostic_messages_informational_logs_warnings_or_raw_process_output(
    lab: Lab, client: LabClient
) -> None:
    channels = (Diagnostic.CHANNEL_INFO, Diagnostic.CHANNEL_WARN, Diagnostic.CHANNEL_STDOUT, Diagnostic.CHANNEL_STDERR)

    @lab.plays
    async def handler(request, op):
        for channel in channels:
            await op.output(f"on {channel}", channel)
        return lab_pb2.PlayResult()

    got: list[tuple[int, str]] = []
    await client.play.run(lab_pb2.PlayRequest(), on_output=lambda value: got.append((value.channel, value.message)))
    assert got == [(channel, f"on {channel}") for channel in channels]


async def test_workflows_that_produce_no_diagnostic_output_use_never(lab: Lab, client: LabClient) -> None:
    @lab.plays
    async def handler(request, op):
        with pytest.raises(TypeError, match="declares none"):
            op.output("nothing to say")

    fire: Any = client.fire
    assert await fire.run(Empty()) is None


async def test_the_standard_output_type_is_diagnostic_output_of_channel_and_message(lab: Lab) -> None:
    names = [value.name for value in Diagnostic.DESCRIPTOR.enum_types_by_name["Channel"].values]
    assert names[1:] == ["CHANNEL_INFO", "CHANNEL_WARN", "CHANNEL_STDOUT", "CHANNEL_STDERR"]
    assert [field.name for field in Diagnostic.DESCRIPTOR.fields] == ["channel", "message"]
    assert lab_longshore.PlayOutput is Diagnostic


async def test_the_cli_surfaces_these_on_stderr_and_stdout(lab: Lab) -> None:
    pytest.importorskip("rich")

    @lab.plays
    async def handler(request, op):
        for name in ("INFO", "WARN", "STDOUT", "STDERR"):
            await op.output(f"a line of {name}", Diagnostic.Channel.Value(f"CHANNEL_{name}"))
        return lab_pb2.PlayResult()

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "longshore_client.cli", "call", Lab.TYPE, "-d", "{}", "--watch",
        "--server", lab.harness.address, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = (text.decode() for text in await process.communicate())
    assert process.returncode == 0, err
    assert [f"a line of {name}" in out for name in ("INFO", "WARN", "STDOUT", "STDERR")] == [True, False, True, False]
    assert [f"a line of {name}" in err for name in ("INFO", "WARN", "STDOUT", "STDERR")] == [False, True, False, True]


async def test_result_is_the_typed_return_value_on_successful_completion(lab: Lab, client: LabClient) -> None:
    result = await client.play.run(lab_pb2.PlayRequest())
    assert type(result) is lab_pb2.PlayResult
    assert result.text == "played"


async def test_result_can_be_structured_or_undefined_for_fire_and_forget_operations(client: LabClient) -> None:
    operation: Any = await client.fire(Empty())
    assert await operation.wait() is None


async def test_the_options_provide_callbacks_for_progress_and_output_and_an_abort_signal(
    lab: Lab, client: LabClient
) -> None:
    abort, got = asyncio.Event(), []

    @lab.plays
    async def handler(request, op):
        await op.progress(lab_pb2.PlayProgress(number=1))
        await op.output("out")
        await op.cancelled.wait()
        raise asyncio.CancelledError

    def output(value: Any) -> None:
        got.append(value.message)
        abort.set()

    with pytest.raises(lc.OperationCancelled):
        await client.play.run(
            lab_pb2.PlayRequest(), on_progress=lambda value: got.append(value.number), on_output=output, abort=abort
        )
    assert got == [1, "out"]


async def test_the_signal_is_one_that_the_handler_checks_for_cancellation_requests(lab: Lab, client: LabClient) -> None:
    checked = []

    @lab.plays
    async def handler(request, op):
        checked.append(bool(op.cancelled))
        await op.cancelled.wait()
        checked.append(bool(op.cancelled))
        raise asyncio.CancelledError

    operation = await client.play(lab_pb2.PlayRequest())
    await lab.reached(operation.name, "started")
    await operation.cancel()
    with pytest.raises(lc.OperationCancelled):
        await operation.wait()
    assert checked == [False, True]


async def test_across_a_transport_events_are_serialized_as_a_discriminated_union(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.progress(lab_pb2.PlayProgress())
        await op.output("x")
        if request.script == "fail":
            raise OperationError("APP_ERROR")
        return lab_pb2.PlayResult()

    assert (await lab.kinds((await lab.run()).name))[2:] == ["progress", "output", "completed"]
    assert (await lab.kinds((await lab.run(script="fail")).name))[2:] == ["progress", "output", "failed"]


async def test_the_server_emits_events_over_subscriptions(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    kinds = []
    async for message in lab.operations.Run(pb.RunRequest(type=Lab.TYPE)):
        kinds.append(message.WhichOneof("message"))
        gate.set()
    assert kinds[0] == "snapshot"
    assert kinds[-1] == "event"
    assert message.event.HasField("completed")


async def test_the_client_unpacks_them_into_callbacks_and_a_resolved_or_rejected_promise(
    lab: Lab, client: LabClient
) -> None:
    @lab.plays
    async def handler(request, op):
        await op.progress(lab_pb2.PlayProgress(number=9))
        if request.script == "fail":
            raise OperationError("APP_ERROR", "It did not work.", metadata={"why": "test"})
        return lab_pb2.PlayResult(text="resolved")

    got: list[int] = []
    result = await client.play.run(lab_pb2.PlayRequest(), on_progress=lambda value: got.append(value.number))
    assert (result.text, got) == ("resolved", [9])
    with pytest.raises(lc.OperationFailed) as caught:
        await client.play.run(lab_pb2.PlayRequest(script="fail"), on_progress=lambda value: got.append(value.number))
    assert (caught.value.reason, caught.value.message, dict(caught.value.metadata)) == (
        "APP_ERROR", "It did not work.", {"why": "test"},
    )  # fmt: skip
    assert got == [9, 9]


async def test_in_process_transports_skip_the_wire_entirely(lab: Lab) -> None:
    """Host code starts and waits with no call of gRPC; that it is durable all the same is what Longshore adds."""
    await lab.harness.running.listener._server.stop(0)
    reference = await lab.server.operations.start(Lab.TYPE, lab_pb2.PlayRequest())
    assert (await reference.wait()).text == "played"


def test_helper_types_extract_each_channel_so_that_none_is_repeated() -> None:
    assert lab_longshore.PlayInput is lab_pb2.PlayRequest
    assert lab_longshore.PlayProgress is lab_pb2.PlayProgress
    assert lab_longshore.PlayOutput is channels_pb2.DiagnosticOutput
    assert lab_longshore.PlayResult is lab_pb2.PlayResult
    assert typing.get_args(lab_longshore.PlayEvent)


async def test_unknown_errors_keep_their_kind_on_the_other_side(lab: Lab, client: LabClient) -> None:
    """Where the seed's own code failed: there, an error that it did not know lost its type."""

    @lab.plays
    async def handler(request, op):
        raise OperationError("NEVER_HEARD_OF", code=lc.Code.DATA_LOSS)

    with pytest.raises(lc.OperationFailed) as caught:
        await client.play.run(lab_pb2.PlayRequest())
    assert (caught.value.reason, caught.value.code) == ("NEVER_HEARD_OF", lc.Code.DATA_LOSS)
