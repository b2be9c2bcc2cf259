"""What the tests of signals share: a laboratory that serves `lab.v1.SignalsService` too, and signals to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from lab.v1 import signals_longshore
from lab.v1.lab_pb2 import PlayResult
from lab.v1.signals_pb2 import Approve, Reject

from longshore.v1 import operations_service_pb2 as pb
from tests.conftest import Lab, LabHandlers, result_of

LISTEN = "SignalsService/Listen"
AGAIN = "SignalsService/ListenAgain"


class SignalHandlers(signals_longshore.SignalsService):
    """Every operation runs what the test has written for the laboratory."""

    def __init__(self, lab: LabHandlers) -> None:
        self._lab = lab

    async def listen(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def listen_again(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A laboratory that has started, with a manual clock."""
    found = Lab(tmp_path / "data", services=[SignalHandlers])
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


def packed(message: Message) -> AnyMessage:
    """As callers send it."""
    found = AnyMessage()
    found.Pack(message)
    return found


async def send(
    lab: Lab, name: str, signal: str = "approve", payload: Message | None = None, *, id: str = "", amount: int = 0
) -> pb.SignalResponse:
    """Send a signal, by default with an amount to tell it by, where its payload has one."""
    message = payload
    if message is None:
        message = {"reject": Reject(), "poke": Empty()}.get(signal, Approve(amount=amount))
    return await lab.operations.Signal(
        pb.SignalRequest(name=name, signal=signal, payload=packed(message), signal_id=id)
    )


async def pending(lab: Lab, name: str) -> list[int]:
    """The numbers of the signals that wait."""
    return [signal.number for signal in (await lab.get(name)).pending_signals]


async def amounts(op: Any, count: int) -> list[int]:
    """For a handler: the amounts of the next so many approvals."""
    return [(await op.next_signal("approve")).payload.amount for _ in range(count)]


def told(numbers: list[Any]) -> PlayResult:
    """A result that says what a handler got."""
    return PlayResult(text=json.dumps(numbers))


async def outcome(lab: Lab, name: str) -> list[Any]:
    """What the handler of an operation says it got, once it has ended."""
    found: list[Any] = json.loads(result_of(await lab.end(name)).text)
    return found
