"""Stock clients of google.longrunning: google-api-core's operation futures, sync and asyncio, with nothing of ours.

`from_gapic` throughout: `from_grpc` of google-api-core is broken.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from lab.v1 import lab_pb2, lab_pb2_grpc

from longshore_server import OperationError
from tests.conftest import Lab

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from google.api_core import exceptions, operation, operation_async, operations_v1, retry_async
    from google.api_core import retry as retries
    from google.api_core.future import async_future as async_polling
    from google.api_core.future import polling as sync_polling


SYNC = retries.Retry(
    predicate=retries.if_exception_type(sync_polling._OperationNotComplete), initial=0.01, maximum=0.05, timeout=20.0
)
ASYNC = retry_async.AsyncRetry(
    predicate=retry_async.if_exception_type(async_polling._OperationNotComplete),
    initial=0.01,
    maximum=0.05,
    timeout=20.0,
)


def sync_future(address: str, **fields: Any) -> tuple[Any, grpc.Channel]:
    """Start by the generated stub, then leave everything to the stock future."""
    channel = grpc.insecure_channel(address)
    started = lab_pb2_grpc.LabServiceStub(channel).Play(lab_pb2.PlayRequest(**fields))
    client = operations_v1.OperationsClient(channel)
    future = operation.from_gapic(started, client, lab_pb2.PlayResult, metadata_type=lab_pb2.PlayProgress, polling=SYNC)
    return future, channel


async def in_thread(lab: Lab, use: Callable[[Any], Any], **fields: Any) -> Any:
    """Run a sync client beside the server's loop."""

    def work() -> Any:
        future, channel = sync_future(lab.harness.address, **fields)
        with channel:
            return use(future)

    return await asyncio.to_thread(work)


async def async_future(lab: Lab, **fields: Any) -> Any:
    started = await lab.lab.Play(lab_pb2.PlayRequest(**fields))
    client = operations_v1.OperationsAsyncClient(lab.channel)
    future = operation_async.from_gapic(started, client, lab_pb2.PlayResult, metadata_type=lab_pb2.PlayProgress)
    future._retry = ASYNC
    return future


@pytest.fixture
def works(lab: Lab) -> Lab:
    @lab.plays
    async def handler(request, op):
        await op.progress(lab_pb2.PlayProgress(number=7, text="half"))
        if request.script == "fail":
            raise OperationError(
                "OUT_OF_STOCK", "There is none left.", details=[error_details_pb2.Help()], metadata={"sku": "A1"}
            )
        if request.script == "wait":
            await op.cancelled.wait()
            raise asyncio.CancelledError
        return lab_pb2.PlayResult(text="done", number=42)

    return lab


async def test_the_sync_future_gets_the_typed_result_and_metadata(works: Lab) -> None:
    def use(future: Any) -> Any:
        return future.result(timeout=20), future.metadata, future.done()

    result, metadata, done = await in_thread(works, use)
    assert result == lab_pb2.PlayResult(text="done", number=42)
    assert metadata == lab_pb2.PlayProgress(number=7, text="half")
    assert done


async def test_the_sync_future_gets_the_error(works: Lab) -> None:
    def use(future: Any) -> Any:
        return future.exception(timeout=20)

    error = await in_thread(works, use, script="fail")
    assert isinstance(error, exceptions.FailedPrecondition)
    assert error.message == "There is none left."
    info = error_details_pb2.ErrorInfo()
    assert error.errors[0].details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == ("OUT_OF_STOCK", "lab.v1", {"sku": "A1"})


async def test_the_sync_future_cancels(works: Lab) -> None:
    def use(future: Any) -> Any:
        assert future.cancel()
        error = future.exception(timeout=20)
        return error, future.cancelled(), future.cancel()

    error, cancelled, again = await in_thread(works, use, script="wait")
    assert isinstance(error, exceptions.Cancelled)
    assert cancelled
    assert not again


async def test_the_async_future_gets_the_typed_result_and_metadata(works: Lab) -> None:
    future = await async_future(works)
    assert await future.result(timeout=20) == lab_pb2.PlayResult(text="done", number=42)
    assert future.metadata == lab_pb2.PlayProgress(number=7, text="half")
    assert await future.done()


async def test_the_async_future_gets_the_error(works: Lab) -> None:
    future = await async_future(works, script="fail")
    error = await future.exception(timeout=20)
    assert isinstance(error, exceptions.GoogleAPICallError)
    assert error.message == "There is none left."


async def test_the_async_future_cancels(works: Lab) -> None:
    future = await async_future(works, script="wait")
    assert await future.cancel()
    assert await future.exception(timeout=20) is not None
    assert await future.cancelled()


async def test_metadata_is_there_before_there_is_any_progress(lab: Lab) -> None:
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    future = await async_future(lab)
    assert future.metadata == lab_pb2.PlayProgress()
    gate.set()


async def test_the_client_gets_lists_cancels_and_deletes(works: Lab) -> None:
    client = operations_v1.OperationsAsyncClient(works.channel)
    names = [(await works.run()).name for _ in range(5)]
    got = await client.get_operation(names[0])
    assert got.done
    listed = [op.name async for op in await client.list_operations("operations", "state=COMPLETED")]
    assert listed == names[::-1]
    await client.cancel_operation(names[0])
    await client.delete_operation(names[0])
    with pytest.raises(exceptions.NotFound) as caught:
        await client.get_operation(names[0])
    assert caught.value.reason == "OPERATION_NOT_FOUND"
    assert caught.value.domain == "longshore"


async def test_deleting_a_live_operation_is_refused(works: Lab) -> None:
    client = operations_v1.OperationsAsyncClient(works.channel)
    name = (await works.begin(script="wait")).operation.name
    with pytest.raises(exceptions.FailedPrecondition) as caught:
        await client.delete_operation(name)
    assert caught.value.reason == "OPERATION_RUNNING"


async def test_the_future_lives_through_a_restart_of_the_server(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            await asyncio.Event().wait()
        return lab_pb2.PlayResult(number=op.attempt)

    future = await async_future(lab)
    await lab.reached(future.operation.name, "started")
    await lab.harness.crash()
    await lab.harness.start()
    assert (await future.result(timeout=30)).number == 2
