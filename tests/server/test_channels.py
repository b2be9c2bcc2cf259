"""The four channels as a handler sees them: input, progress, output and result, typed, ordered and bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.rpc import error_details_pb2
from lab.v1 import lab_pb2

from longshore.v1 import channels_pb2, operation_pb2
from longshore_server import OperationError, Reason, ServiceError
from tests.conftest import Lab, State, detail, reason_of_end

LIMIT = 1_000_000


async def outputs(lab: Lab, name: str) -> list[channels_pb2.DiagnosticOutput]:
    found = []
    for event in await lab.events(name):
        if event.HasField("output"):
            output = channels_pb2.DiagnosticOutput()
            assert event.output.value.Unpack(output)
            found.append(output)
    return found


async def numbers(lab: Lab, name: str) -> list[int]:
    found = []
    for event in await lab.events(name):
        if event.HasField("progress"):
            progress = lab_pb2.PlayProgress()
            assert event.progress.value.Unpack(progress)
            found.append(progress.number)
    return found


async def test_reports_keep_their_order_whether_or_not_they_are_awaited(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        for number in range(100):
            report = op.progress(lab_pb2.PlayProgress(number=number))
            if number % 7 == 0:
                await report
        return lab_pb2.PlayResult()

    assert await numbers(lab, (await lab.run()).name) == list(range(100))


async def test_an_awaited_report_is_durable_and_visible(lab: Lab) -> None:
    seen: list[Any] = []

    @lab.plays
    async def handler(request, op):
        await op.progress(lab_pb2.PlayProgress(number=5))
        live = await lab.engine.find(op.name)
        seen.append(live.record.sequence)
        seen.append(len(lab.tables()["events"]))
        return lab_pb2.PlayResult()

    await lab.run()
    assert seen == [3, 3]


async def test_nothing_is_visible_before_it_is_durable(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is published must be on the disk at that moment."""
    table = lab.engine.table
    publish = table.publish
    wrong: list[bytes] = []

    def check(commit: Any) -> None:
        rows = {row[0]: row for row in lab.tables()["operations"]}
        wrong.extend(uid for uid, (record, _) in commit.items() if rows[uid][4] < record.revision)
        publish(commit)

    monkeypatch.setattr(table, "publish", check)

    @lab.plays
    async def handler(request, op):
        await asyncio.gather(*(op.progress(lab_pb2.PlayProgress()) for _ in range(10)))
        return lab_pb2.PlayResult()

    await asyncio.gather(*(lab.run() for _ in range(10)))
    assert wrong == []


async def test_more_than_1024_reports_that_nobody_awaits_are_refused(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        for _ in range(1024):
            op.progress(lab_pb2.PlayProgress())
        with pytest.raises(ServiceError) as caught:
            op.output("one too many")
        assert caught.value.reason is Reason.TOO_MUCH_UNACKNOWLEDGED
        await asyncio.sleep(0)
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    assert len(await numbers(lab, name)) == 1024


@pytest.mark.parametrize(
    "value",
    [lab_pb2.PlayResult(), {"number": 1}, None, 7, "text", lab_pb2.PlayProgress],
    ids=["another message", "a dict", "nothing", "a number", "a text", "a class"],
)
async def test_progress_of_another_type_is_a_type_error(lab: Lab, value: Any) -> None:
    @lab.plays
    async def handler(request, op):
        with pytest.raises(TypeError, match=r"progress of type .*, but the contract declares lab\.v1\.PlayProgress"):
            op.progress(value)
        return lab_pb2.PlayResult()

    assert (await lab.run()).state == State.STATE_COMPLETED


async def test_an_empty_channel_takes_nothing_not_even_empty(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        for report in (op.progress, op.output):
            with pytest.raises(TypeError, match="but the contract declares none"):
                report(Empty())

    started = await lab.begin("Fire", Empty())
    snapshot = await lab.end(started.operation.name)
    assert snapshot.state == State.STATE_COMPLETED
    assert snapshot.result.Is(Empty.DESCRIPTOR)


async def test_output_is_a_diagnostic_unless_the_contract_says_otherwise(lab: Lab) -> None:
    channel = channels_pb2.DiagnosticOutput

    @lab.plays
    async def handler(request, op):
        await op.output("plain")
        await op.output("careful", channel.CHANNEL_WARN)
        await op.output(channel(channel=channel.CHANNEL_STDERR, message="whole"))
        return lab_pb2.PlayResult()

    found = [(o.channel, o.message) for o in await outputs(lab, (await lab.run()).name)]
    assert found == [(1, "plain"), (2, "careful"), (4, "whole")]


async def test_an_output_type_of_the_contract_s_own(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        with pytest.raises(TypeError):
            op.output("a text is no PlayProgress")
        await op.output(lab_pb2.PlayProgress(text="mine"))
        return lab_pb2.PlayResult()

    events = await lab.events((await lab.run("Count")).name)
    (value,) = [event.output.value for event in events if event.HasField("output")]
    assert value.Is(lab_pb2.PlayProgress.DESCRIPTOR)


async def test_counter_progress_takes_its_triple(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.progress(1)
        await op.progress(2, 3, "counting")
        await op.progress(channels_pb2.CounterProgress(current=3))
        return lab_pb2.PlayResult()

    found = []
    for event in await lab.events((await lab.run("Count")).name):
        if event.HasField("progress"):
            progress = channels_pb2.CounterProgress()
            assert event.progress.value.Unpack(progress)
            found.append((progress.current, progress.total if progress.HasField("total") else None, progress.message))
    assert found == [(1, None, ""), (2, 3, "counting"), (3, None, "")]


@pytest.mark.parametrize("channel", ["progress", "output"])
async def test_a_report_that_no_caller_could_receive_is_refused(lab: Lab, channel: str) -> None:
    """Stock clients receive 4 MiB at most: one event beyond that would make the log unreadable for ever."""

    @lab.plays
    async def handler(request, op):
        for size, fits in ((LIMIT - 100, True), (LIMIT, False)):
            text = "x" * size
            report = getattr(op, channel)
            value = lab_pb2.PlayProgress(text=text) if channel == "progress" else text
            if fits:
                await report(value)
            else:
                with pytest.raises(ValueError, match="bytes"):
                    await report(value)
        return lab_pb2.PlayResult()

    snapshot = await lab.run()
    assert snapshot.state == State.STATE_COMPLETED
    assert (await lab.kinds(snapshot.name)).count(channel) == 1


@pytest.mark.parametrize("value", [None, {}, lab_pb2.PlayProgress(), lab_pb2.PlayResult], ids=str)
async def test_a_result_of_another_type_fails_the_operation(lab: Lab, value: Any) -> None:
    @lab.plays
    async def handler(request, op):
        return value

    snapshot = await lab.run()
    assert (reason_of_end(snapshot), snapshot.error.code) == ("WRONG_RESULT_TYPE", 13)


async def test_a_result_that_no_caller_could_receive_fails_the_operation(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        return lab_pb2.PlayResult(text="x" * request.count)

    assert reason_of_end(await lab.run(count=LIMIT)) == "RESULT_TOO_LARGE"
    assert (await lab.run(count=LIMIT - 100)).state == State.STATE_COMPLETED


async def test_an_unexpected_error_stays_inside(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    @lab.plays
    async def handler(request, op):
        raise ValueError("the password is swordfish")

    snapshot = await lab.run()
    assert (snapshot.state, reason_of_end(snapshot), snapshot.error.code) == (State.STATE_FAILED, "HANDLER_ERROR", 2)
    assert "swordfish" not in str(snapshot)
    (record,) = [r for r in caplog.records if r.exc_info]
    assert "swordfish" in str(record.exc_info)
    assert record.__dict__["operation"] == snapshot.name


async def test_an_operation_error_is_exactly_what_callers_see(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        raise OperationError(
            "CARD_DECLINED", "The card was declined.", code=9, metadata={"card": "4242"},
            details=[error_details_pb2.LocalizedMessage(locale="de", message="Abgelehnt.")],
        )  # fmt: skip

    snapshot = await lab.run()
    info = detail(snapshot.error, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == ("CARD_DECLINED", "lab.v1", {"card": "4242"})
    assert detail(snapshot.error, error_details_pb2.LocalizedMessage).message == "Abgelehnt."
    (event,) = [e for e in await lab.events(snapshot.name) if e.HasField("failed")]
    assert event.failed.error == snapshot.error


async def test_what_the_handler_knows_of_its_operation(make_lab: Any) -> None:
    lab = await make_lab()
    seen: dict[str, Any] = {}

    @lab.plays
    async def handler(request, op):
        await op.started()
        seen.update(
            id=op.id, name=op.name, uid=op.uid, labels=op.labels, caller=op.caller.principal, attempt=op.attempt,
            recovery=op.recovery, cancelled=bool(op.cancelled), input=op.input, services=op.services,
        )  # fmt: skip
        return lab_pb2.PlayResult()

    request = lab_pb2.PlayRequest(key="k", script="s")
    name = (await lab.lab.PlayNamed(request, metadata=[("longshore-label-a", "b")])).name
    snapshot = await lab.end(name)
    assert seen == {
        "id": "named-k", "name": "operations/named-k", "uid": snapshot.uid, "labels": {"a": "b"}, "caller": "local",
        "attempt": 1, "recovery": None, "cancelled": False, "input": request, "services": None,
    }  # fmt: skip
    assert await lab.kinds(name) == ["accepted", "started", "completed"]


async def test_reports_after_the_end_are_refused(lab: Lab) -> None:
    kept: list[Any] = []

    @lab.plays
    async def handler(request, op):
        kept.append(op)
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    for use in (
        kept[0].progress(lab_pb2.PlayProgress()),
        kept[0].output("x"),
        kept[0].step("s", int),
        kept[0].sleep(1),
    ):
        with pytest.raises(ServiceError) as caught:
            await use
        assert caught.value.reason is Reason.OPERATION_ENDED
    assert await lab.kinds(name) == ["accepted", "started", "completed"]


async def test_an_attempt_that_is_no_longer_the_current_one_is_shut_out(lab: Lab) -> None:
    from longshore_server.lifecycle import Move
    from longshore_server.store.mutations import Report, Settle

    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    operation = (await lab.begin()).operation
    await lab.reached(operation.name, "started")
    await lab.restart()
    await lab.catch_up()
    uid = bytes.fromhex(operation.uid.replace("-", ""))
    for mutation in (Report(uid, 1, Move.PROGRESS, b""), Settle(uid, 1, Move.COMPLETE, b"")):
        with pytest.raises(ServiceError) as caught:
            await lab.engine.store.writer.submit(mutation)
        assert caught.value.reason is Reason.STALE_ATTEMPT
    assert (await lab.get(operation.name)).state == operation_pb2.OperationSnapshot.STATE_RUNNING
