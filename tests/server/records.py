"""What is read of what handlers have logged, and of how their steps have failed."""

from __future__ import annotations

from typing import Any

from longshore.v1 import operation_control_service_pb2 as cpb
from longshore.v1 import operation_control_service_pb2_grpc as control_grpc
from longshore.v1 import records_pb2
from longshore_server.store.logs import LogLine
from tests.conftest import Lab

HOUR, DAY = 3600.0, 86_400.0
COMPLETED, FAILED = records_pb2.StepOutcome.STATE_COMPLETED, records_pb2.StepOutcome.STATE_FAILED
ALL = 10_000


async def uid_of(lab: Lab, name: str) -> bytes:
    return bytes((await lab.engine.find(name)).record.uid)


def control(lab: Lab) -> Any:
    return control_grpc.OperationControlServiceStub(lab.channel)


async def lines(lab: Lab, name: str) -> list[LogLine]:
    await lab.catch_up()
    page = await control(lab).ListLogs(cpb.ListLogsRequest(name=name, page_size=1000))
    return [
        LogLine(line.time.ToMicroseconds(), line.attempt, line.level, line.step, line.message, line.data)
        for line in page.lines
    ]


async def messages(lab: Lab, name: str) -> list[str]:
    return [line.message for line in await lines(lab, name)]


async def steps(lab: Lab, name: str) -> list[Any]:
    return list((await control(lab).ListSteps(cpb.ListStepsRequest(name=name))).steps)


def flaky(failures: int) -> Any:
    """A function that fails so often."""
    errors = iter([ConnectionError(f"line {number} broke") for number in range(1, failures + 1)])

    async def work() -> None:
        for error in errors:
            raise error

    return work
