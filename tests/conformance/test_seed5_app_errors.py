"""Seed 5 fails with an `AppError`, a union of eight kinds. Each has its counterpart here, told apart by type.

There, a transport in between lost the types of what it did not know; here they are data, and stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from lab.v1 import errors_longshore, errors_pb2, lab_pb2
from lab.v1.errors_longshore import ErrorsClient
from lab.v1.lab_longshore import LabClient

import longshore_client as lc
from longshore_server import OperationError
from tests.conftest import Lab, LabHandlers

KINDS = {"transport", "cancelled", "validation", "not-found", "conflict", "provider", "persistence", "unexpected"}


class Handlers(errors_longshore.ErrorsService):
    def __init__(self, lab: LabHandlers) -> None:
        self._lab = lab

    async def break_(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)


@pytest.fixture
async def lab(make_lab: Any) -> Lab:
    found: Lab = await make_lab(services=[Handlers])
    return found


@pytest.fixture
async def channel(lab: Lab) -> AsyncIterator[lc.Channel]:
    # A server that is gone is known to be gone at once.
    async with lc.connect(lab.harness.address, retry=lc.Retry(give_up_after=0, first_contact=0)) as opened:
        yield opened


async def fails(lab: Lab, channel: lc.Channel, error: BaseException) -> lc.OperationFailed:
    """What the caller of an operation gets whose handler raises `error`."""

    @lab.plays
    async def handler(request, op):
        raise error

    with pytest.raises(lc.OperationFailed) as caught:
        await ErrorsClient(channel).break_.run(lab_pb2.PlayRequest())
    return caught.value


async def test_transport_disconnected(lab: Lab, channel: lc.Channel) -> None:
    operation = await LabClient(channel).play(lab_pb2.PlayRequest())
    await lab.harness.stop()
    with pytest.raises(lc.Unavailable) as caught:
        await operation.get()
    assert caught.value.code is lc.Code.UNAVAILABLE


async def test_transport_host_crash(lab: Lab, channel: lc.Channel) -> None:
    """There the caller was told of a crash and lost the work; here that is what a contract may ask for."""
    begun = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        begun.set()
        await asyncio.Event().wait()

    operation = await LabClient(channel).play_once(lab_pb2.PlayRequest())
    await begun.wait()
    await lab.restart()
    async with lc.connect(lab.harness.address) as again:
        with pytest.raises(lc.OperationFailed) as caught:
            await LabClient(again).play_once.attach(operation.name).wait()
    assert (caught.value.reason, caught.value.code) == ("INTERRUPTED", lc.Code.ABORTED)


async def test_transport_timeout(lab: Lab, channel: lc.Channel) -> None:
    @lab.plays
    async def handler(request, op):
        await asyncio.Event().wait()

    operation = await LabClient(channel).play(lab_pb2.PlayRequest())
    with pytest.raises(lc.StillRunning) as caught:
        await operation.wait(timeout=0)
    assert caught.value.operation == operation.name  # it goes on


async def test_transport_serialization(channel: lc.Channel) -> None:
    operation = await LabClient(channel).play(lab_pb2.PlayRequest())
    with pytest.raises(lc.UnexpectedMessage) as caught:
        await _of_another_type(channel, operation.name)
    assert caught.value.reason == "UNEXPECTED_MESSAGE"


async def _of_another_type(channel: lc.Channel, name: str) -> None:
    """Wait for a result with a program whose contract says another type."""
    method: Any = lc.OperationMethod(
        channel, Lab.TYPE, input_type=lab_pb2.PlayRequest, progress_type=None, output_type=None,
        result_type=lab_pb2.PlayProgress,
    )  # fmt: skip
    await method.attach(name).wait()


async def test_cancelled(lab: Lab, channel: lc.Channel) -> None:
    @lab.plays
    async def handler(request, op):
        await op.cancelled.wait()
        raise asyncio.CancelledError

    operation = await LabClient(channel).play(lab_pb2.PlayRequest())
    await lab.reached(operation.name, "started")
    await operation.cancel("no longer needed")
    with pytest.raises(lc.OperationCancelled) as caught:
        await operation.wait()
    assert (caught.value.reason, caught.value.message) == ("CANCELLED", "no longer needed")


async def test_validation_with_its_issues(channel: lc.Channel) -> None:
    with pytest.raises(lc.InvalidArgument) as caught:
        await LabClient(channel).play_by_rules(lab_pb2.RuledRequest(title="x", stars=9))
    assert [issue.field for issue in caught.value.field_violations] == ["title", "stars"]


async def test_not_found_with_its_resource(channel: lc.Channel) -> None:
    with pytest.raises(lc.NotFound) as caught:
        await LabClient(channel).play.attach("operations/nobody").get()
    assert (caught.value.reason, caught.value.resource) == ("OPERATION_NOT_FOUND", "operations/nobody")


async def test_conflict_with_its_resource_and_reason(channel: lc.Channel) -> None:
    named = LabClient(channel).play_named
    await named(lab_pb2.PlayRequest(key="a", count=1))
    with pytest.raises(lc.AlreadyExists) as caught:
        await named(lab_pb2.PlayRequest(key="a", count=2))
    assert (caught.value.reason, caught.value.resource) == ("NAME_IN_USE", "operations/named-a")


async def test_provider_with_its_name_operation_and_whether_to_retry(lab: Lab, channel: lc.Channel) -> None:
    failure = errors_pb2.ProviderFailure(provider="lms", operation="course.load", retryable=True)
    error = await fails(lab, channel, OperationError("PROVIDER", "The LMS failed.", details=[failure]))
    assert (error.reason, error.domain, error.messages) == ("PROVIDER", "lab.v1", (failure,))


async def test_persistence_with_its_operation_and_hint(lab: Lab, channel: lc.Channel) -> None:
    """A service's own is an error of its contract."""
    failure = errors_pb2.PersistenceFailure(
        operation=errors_pb2.PersistenceFailure.OPERATION_WRITE, retryable=False, path_hint="courses/7"
    )
    error = await fails(lab, channel, OperationError("PERSISTENCE", code=lc.Code.DATA_LOSS, details=[failure]))
    assert (error.code, error.messages) == (lc.Code.DATA_LOSS, (failure,))


async def test_persistence_of_the_server_itself(lab: Lab, channel: lc.Channel) -> None:
    """And that of the server refuses the call: nothing was changed, and when to come again is said."""
    lab.engine.store.writer._failed = "The store has stopped: disk I/O error."
    with pytest.raises(lc.Unavailable) as caught:
        await LabClient(channel).play(lab_pb2.PlayRequest())
    assert (caught.value.reason, caught.value.retry_after) == ("STORE_UNAVAILABLE", 5.0)
    lab.engine.store.writer._failed = None


async def test_unexpected(lab: Lab, channel: lc.Channel, caplog: pytest.LogCaptureFixture) -> None:
    """A fixed text outward, the trace in the log with the operation's name."""
    error = await fails(lab, channel, KeyError("secret"))
    assert (error.reason, error.code) == ("HANDLER_ERROR", lc.Code.UNKNOWN)
    assert "secret" not in str(error)
    (line,) = (record for record in caplog.records if record.exc_info)
    assert "secret" in str(line.exc_info)
    assert error.operation in line.getMessage()


def test_each_kind_has_a_test() -> None:
    tests = [name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")]
    assert {kind for kind in KINDS if any(name.startswith(kind) for name in tests)} == KINDS
