"""The largest messages: as large as the settings need them, because whoever calls can fill them before it is known."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore.v1 import operations_service_pb2_grpc
from tests.conftest import refused


async def test_what_the_transport_takes_follows_the_largest_input_and_payload(make_lab: Any) -> None:
    for settings in ({"max_input": 16_000_000}, {"max_payload": 16_000_000, "max_input": 1024}):
        wide = await make_lab(**settings)
        near = wide.lab.Play(lab_pb2.PlayRequest(payload=bytes(17_249_990)))
        assert (await refused(near))[1] == "INPUT_TOO_LARGE"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await wide.lab.Play(lab_pb2.PlayRequest(payload=bytes(17_250_000)))
        assert not any(key == "grpc-status-details-bin" for key, _ in caught.value.trailing_metadata() or ())


async def test_the_largest_snapshot_can_be_sent(make_lab: Any) -> None:
    """With the largest input, and the largest progress beside the largest result."""
    size = 8_000_000
    wide = await make_lab(max_input=size, max_payload=size)

    @wide.plays
    async def handler(request: Any, op: Any) -> Any:
        await op.progress(lab_pb2.PlayProgress(text="x" * (size - 100)))
        return lab_pb2.PlayResult(text="x" * (size - 100))

    name = (await wide.begin(request=lab_pb2.PlayRequest(payload=bytes(size - 100)))).operation.name
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(wide.harness.address, options=options) as channel:
        stub: Any = operations_service_pb2_grpc.OperationsServiceStub(channel)
        await stub.Wait(pb.WaitRequest(name=name))
        found = await stub.Get(pb.GetRequest(name=name, view=pb.OPERATION_VIEW_FULL))
    assert found.ByteSize() > 3 * (size - 100)
