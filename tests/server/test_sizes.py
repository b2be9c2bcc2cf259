"""What is legal by default can be read by stock clients, who receive 4 MiB at most."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from google.longrunning import operations_pb2 as lro
from google.longrunning import operations_pb2_grpc as lro_grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from lab.v1 import lab_pb2

from longshore.v1 import operation_control_service_pb2 as cpb
from longshore.v1 import operation_control_service_pb2_grpc as cpb_grpc
from longshore.v1 import operations_service_pb2 as pb
from longshore_server import keys
from longshore_server.auth.identity import MAX_NAME
from longshore_server.config import Config
from longshore_server.contract import validation
from longshore_server.contract.signals import ALL_PENDING
from longshore_server.engine.signals import MAX_ID
from longshore_server.handler.offers import MAX_FILENAME
from longshore_server.lifecycle import State
from longshore_server.rpc import wire
from longshore_server.store.record import OperationRecord, PendingSignal
from longshore_server.store.transfers import MAX_DOWNLOADS, DownloadRecord
from tests.conftest import Lab, result_of

RECEIVED = 4 * 1024 * 1024
NOW = 2**53
LABELS = {f"{number:063}".replace("0", "k", 1): "" for number in range(validation.MAX_LABELS)}


def largest(kind: Any) -> Any:
    """A message of the largest size."""
    message = kind(text="x" * (Config.max_payload - 4))
    assert message.ByteSize() == Config.max_payload
    return message


async def test_every_answer_about_the_largest_operation_is_received(lab: Lab) -> None:
    go_on = asyncio.Event()

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await op.progress(largest(lab_pb2.PlayProgress))
        await go_on.wait()
        return largest(lab_pb2.PlayResult)

    input = AnyMessage()
    input.Pack(lab_pb2.PlayRequest(payload=bytes(Config.max_input - 4)))
    start = pb.StartRequest(type=lab.TYPE, input=input, request_id="r", labels={"a": "b"})
    name = (await lab.operations.Start(start)).operation.name
    await lab.reached(name, "progress")
    go_on.set()
    snapshot = await lab.end(name)
    assert result_of(snapshot).ByteSize() == Config.max_payload
    start.wait.FromSeconds(60)
    standard: Any = lro_grpc.OperationsStub(lab.channel)
    control: Any = cpb_grpc.OperationControlServiceStub(lab.channel)
    full = pb.OPERATION_VIEW_FULL
    calls: list[Awaitable[Any]] = [
        lab.operations.Get(pb.GetRequest(name=name, view=full)),
        lab.operations.Start(start),
        lab.operations.List(pb.ListRequest(view=full)),
        control.GetOperation(cpb.GetOperationRequest(name=name)),
        standard.GetOperation(lro.GetOperationRequest(name=name)),
        standard.ListOperations(lro.ListOperationsRequest(name="operations")),
    ]
    for call in calls:
        assert 2 * Config.max_payload < (await call).ByteSize() < RECEIVED
    watched = [message async for message in lab.operations.Watch(pb.WatchRequest(name=name))]
    assert watched[0].snapshot == snapshot


async def test_pages_of_the_largest_operations_hold_one_each(lab: Lab) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await op.progress(largest(lab_pb2.PlayProgress))
        return largest(lab_pb2.PlayResult)

    names = [(await lab.run(payload=bytes(Config.max_input - 4))).name for _ in range(3)]
    seen, token = [], ""
    while True:
        page = await lab.operations.List(pb.ListRequest(view=pb.OPERATION_VIEW_FULL, page_token=token))
        seen += [[operation.name for operation in page.operations]]
        token = page.next_page_token
        if not token:
            break
    assert seen == [[name] for name in reversed(names)]


def test_all_that_a_snapshot_may_hold_beside_its_payloads_is_received() -> None:
    """Every bound at once; a URL has no bound of its own, and S3's with the longest key stays within this."""
    download = DownloadRecord(
        number=MAX_DOWNLOADS, store="s", key="k", filename="\U0001f40b" * MAX_FILENAME,
        content_type="c" * keys.MAX_CONTENT_TYPE, size=NOW, sha256=bytes(32), crc32c=2**32 - 1, url="u" * 8192,
        expires=NOW, max_uses=2**31 - 1,
    )  # fmt: skip
    text = "n" * 1024
    record = OperationRecord(
        uid=bytes(16), id=text, type=text, state=State.COMPLETED, revision=NOW, sequence=NOW, first_sequence=NOW,
        progress_sequence=NOW, attempt=2**31 - 1, crashes=2**31 - 1, under_way=False, begun=NOW, created=NOW,
        updated=NOW, started=NOW, ended=NOW, deadline=NOW, cancel_requested=NOW,
        cancel_reason="r" * validation.MAX_REASON, labels=LABELS, owner="o" * MAX_NAME,
        request_id="r" * validation.MAX_REQUEST_ID, parent=text,
        retried_from=text, failures=2**31 - 1, next_attempt=NOW, deferred=True, stop_requested=NOW, stopped=True,
        signals=NOW, pending=(PendingSignal(NOW, "s" * 63, "i" * MAX_ID, NOW),) * ALL_PENDING, expires=NOW,
        downloads=(download,) * MAX_DOWNLOADS,
        progress=AnyMessage(type_url=text, value=bytes(Config.max_payload)).SerializeToString(),
        result=AnyMessage(type_url=text, value=bytes(Config.max_payload)).SerializeToString(),
    )  # fmt: skip
    validation.check_labels(LABELS)
    message = wire.snapshot(record)
    message.input.type_url, message.input.value = text, bytes(Config.max_input)
    response = pb.StartResponse(operation=message)
    page = pb.ListResponse(operations=[message], next_page_token="t" * 100)
    assert response.ByteSize() < RECEIVED
    assert page.ByteSize() < RECEIVED
