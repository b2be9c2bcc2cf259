"""What only the provider may do, while its credentials last."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from longshore.v1 import operation_control_service_pb2 as pb
from longshore.v1 import operation_control_service_pb2_grpc as control_grpc
from tests.conftest import refused
from tests.server.auth.conftest import ALL, Guarded


async def test_no_capability_of_a_contract_makes_a_provider(guarded: Guarded) -> None:
    """Not even for what the caller itself has started; and it learns nothing of what there is."""
    ada = guarded.token("ada", *ALL)
    await guarded.learn()
    name = (await guarded.begin("Open", ada)).name
    control: Any = control_grpc.OperationControlServiceStub(guarded.channel)
    for asked in (name, "operations/nobody"):
        code, reason, status = await refused(control.GetOperation(pb.GetOperationRequest(name=asked), metadata=ada))
        assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "CAPABILITY_MISSING")
        assert "longshore.provider" in status.message


async def test_a_wait_for_signals_ends_with_the_credentials(guarded: Guarded) -> None:
    ada, desk = guarded.token("ada", *ALL), guarded.token("desk", "longshore.provider", seconds=10)
    await guarded.learn()
    name = (await guarded.begin("Open", ada)).name
    control: Any = control_grpc.OperationControlServiceStub(guarded.channel)
    request = pb.ListSignalsRequest(name=name)
    request.wait.seconds = 1000
    waiting = asyncio.ensure_future(control.ListSignals(request, metadata=desk))
    await guarded.clock.armed(10)
    guarded.clock.advance(10)
    code, reason, _ = await refused(waiting)
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_EXPIRED")
