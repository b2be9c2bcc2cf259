"""Four typed channels, sentence by sentence: what a caller gives and gets, on either side of the wire.

Each test is named after a sentence of the description of payload channels that the client was conceived from.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import typing
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from lab.v1 import lab_longshore
from lab.v1.lab_longshore import LabClient
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult

import longshore_client as lc
from longshore.v1.channels_pb2 import CounterProgress, DiagnosticOutput, MilestoneProgress
from longshore_server import OperationError
from tests.conftest import Lab

Channel = DiagnosticOutput.Channel


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[LabClient]:
    async with lc.connect(lab.harness.address) as channel:
        yield LabClient(channel)


async def test_every_operation_maps_to_four_typed_channels_input_progress_output_and_result(client: LabClient) -> None:
    assert lab_longshore.PlayInput is PlayRequest
    assert lab_longshore.PlayProgress is PlayProgress
    assert lab_longshore.PlayOutput is DiagnosticOutput
    assert lab_longshore.PlayResult is PlayResult


async def test_what_the_caller_provides_can_be_a_structured_object(lab: Lab, client: LabClient) -> None:
    @lab.plays
    async def handler(request: PlayRequest, op: Any) -> PlayResult:
        return PlayResult(text=request.script)

    assert (await client.play.run(PlayRequest(script="course-7"))).text == "course-7"


async def test_what_the_caller_provides_can_be_nothing_for_queries_that_need_no_parameters(
    lab: Lab, client: LabClient
) -> None:
    seen: list[object] = []

    @lab.plays
    async def handler(request: Empty, op: Any) -> None:
        seen.append(request)

    await client.fire.run(Empty())
    assert seen == [Empty()]


async def test_intermediate_status_updates_are_emitted_during_execution(lab: Lab, client: LabClient) -> None:
    go_on = asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await op.progress(MilestoneProgress(step=1, total_steps=2, label="Connecting"))
        await go_on.wait()
        return PlayResult()

    labels: list[str] = []

    def on_progress(value: MilestoneProgress) -> None:
        labels.append(value.label)
        go_on.set()  # the handler cannot end before the caller has seen it

    await client.climb.run(PlayRequest(), on_progress=on_progress)
    assert labels == ["Connecting"]


async def test_operations_that_complete_instantly_use_never_no_progress_events(lab: Lab, client: LabClient) -> None:
    assert lab_longshore.FireProgress is typing.Never
    op = await client.fire(Empty())
    assert [type(event) async for event in op.watch()] == [lc.Accepted, lc.Started, lc.Completed]


async def test_the_standard_progress_type_is_milestone_progress_with_step_total_steps_and_label() -> None:
    assert [field.name for field in MilestoneProgress.DESCRIPTOR.fields] == ["step", "total_steps", "label"]
    assert lab_longshore.ClimbProgress is MilestoneProgress


async def test_handlers_emit_progress_at_each_milestone_step_and_callers_get_it(lab: Lab, client: LabClient) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        for step, label in enumerate(("Connecting to LMS", "Loading", "Saving"), 1):
            await op.progress(MilestoneProgress(step=step, total_steps=3, label=label))
        return PlayResult()

    seen: list[tuple[int, int, str]] = []
    await client.climb.run(
        PlayRequest(), on_progress=lambda value: seen.append((value.step, value.total_steps, value.label))
    )
    assert seen == [(1, 3, "Connecting to LMS"), (2, 3, "Loading"), (3, 3, "Saving")]


async def test_operations_that_produce_no_diagnostic_output_use_never() -> None:
    assert lab_longshore.FireOutput is typing.Never


async def test_the_standard_output_type_is_diagnostic_output_with_four_channels_and_a_message() -> None:
    assert [field.name for field in DiagnosticOutput.DESCRIPTOR.fields] == ["channel", "message"]
    names = [name.removeprefix("CHANNEL_").lower() for name in list(Channel.keys())]
    assert names == ["unspecified", "info", "warn", "stdout", "stderr"]


async def test_on_output_gets_diagnostic_messages_informational_logs_warnings_or_raw_process_output(
    lab: Lab, client: LabClient
) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        for channel in Channel.values()[1:]:
            await op.output(DiagnosticOutput(channel=channel, message="line"))
        return PlayResult()

    seen: list[str] = []
    await client.play.run(PlayRequest(), on_output=lambda value: seen.append(Channel.Name(value.channel)))
    assert seen == ["CHANNEL_INFO", "CHANNEL_WARN", "CHANNEL_STDOUT", "CHANNEL_STDERR"]


async def test_the_cli_surfaces_these_on_stderr_and_stdout(lab: Lab) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        for channel in Channel.values()[1:]:
            await op.output(DiagnosticOutput(channel=channel, message=Channel.Name(channel)))
        return PlayResult(text="end")

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "longshore_client.cli", "call", "Play", "--watch"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LONGSHORE_SERVER": lab.harness.address},
    )
    out, err = await process.communicate()
    assert out.decode().splitlines()[:-1] == ["CHANNEL_INFO", "CHANNEL_STDOUT"]
    assert json.loads(out.decode().splitlines()[-1]) == {"text": "end"}
    assert [line for line in err.decode().splitlines() if line.startswith("CHANNEL")] == [
        "CHANNEL_WARN",
        "CHANNEL_STDERR",
    ]


async def test_the_result_is_the_typed_return_value_on_successful_completion(lab: Lab, client: LabClient) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        return PlayResult(text="created", number=3)

    result = await client.play.run(PlayRequest())
    assert type(result) is PlayResult
    assert result == PlayResult(text="created", number=3)


async def test_the_result_can_be_nothing_for_fire_and_forget_operations(client: LabClient) -> None:
    assert lab_longshore.FireResult is None
    op = await client.fire(Empty())
    last = [event async for event in op.watch()][-1]
    assert isinstance(last, lc.Completed)
    assert last.result is None


async def test_the_signal_is_checked_by_the_handler_for_cancellation_requests(lab: Lab, client: LabClient) -> None:
    told = asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await op.progress(PlayProgress(text="working"))
        await op.cancelled.wait()
        assert op.cancelled
        told.set()
        return PlayResult()

    abort = asyncio.Event()
    with pytest.raises(lc.OperationCancelled):
        await client.play.run(PlayRequest(), on_progress=lambda _: abort.set(), abort=abort)
    assert told.is_set()


async def test_events_cross_the_wire_as_a_discriminated_union(lab: Lab, client: LabClient) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await op.progress(PlayProgress(text="p"))
        await op.output(DiagnosticOutput(message="o"))
        if request.script == "fail":
            raise OperationError("BROKEN", "did not work")
        return PlayResult(text="r")

    def unpack(event: lc.Event[PlayProgress, DiagnosticOutput, PlayResult]) -> tuple[str, str] | None:
        match event:
            case lc.Progress(value):
                return "progress", value.text
            case lc.Output(line):
                return "output", line.message
            case lc.Completed(result):
                return "completed", result.text
            case lc.Failed(error):
                return "failed", error.reason
            case _:
                return None

    for script, end in (("", ("completed", "r")), ("fail", ("failed", "BROKEN"))):
        op = await client.play(PlayRequest(script=script))
        unpacked = [unpack(event) async for event in op.watch()]
        assert unpacked == [None, None, ("progress", "p"), ("output", "o"), end]


async def test_events_are_unpacked_back_into_callbacks_and_a_returned_result_or_a_raised_error(
    lab: Lab, client: LabClient
) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        await op.progress(CounterProgress(current=1, total=1))
        await op.output(PlayProgress(text="own output type"))
        if request.script == "fail":
            raise OperationError("BROKEN", "did not work")
        return PlayResult(text="r")

    seen: list[object] = []
    result = await client.count.run(
        PlayRequest(),
        on_progress=lambda value: seen.append(value.current),
        on_output=lambda value: seen.append(value.text),
    )
    assert (seen, result.text) == ([1, "own output type"], "r")
    with pytest.raises(lc.OperationFailed) as caught:
        await client.count.run(PlayRequest(script="fail"), on_progress=seen.append)
    assert caught.value.reason == "BROKEN", "an unknown error keeps its type across the wire"


async def test_helper_types_extract_individual_channels() -> None:
    for channel in ("Input", "Progress", "Output", "Result", "Event"):
        assert hasattr(lab_longshore, f"Play{channel}")
    assert lc.Completed[PlayResult] in typing.get_args(lab_longshore.PlayEvent)
