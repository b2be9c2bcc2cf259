"""Logs and steps are read page by page."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operation_control_service_pb2 as cpb
from longshore.v1 import records_pb2
from longshore_server.rpc import paging
from tests.conftest import Lab, fields_of, refused
from tests.server.records import control


async def pages(call: Any, request: Any, field: str) -> list[list[Any]]:
    """All pages, each with its items."""
    found = []
    while True:
        page = await call(request)
        found.append(list(getattr(page, field)))
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


async def test_logs_are_read_in_pages(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        for number in range(6):
            (op.log.warn if number % 2 else op.log.info)(str(number))
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    await lab.catch_up()
    request = cpb.ListLogsRequest(name=name, page_size=2)
    found = await pages(control(lab).ListLogs, request, "lines")
    assert [[line.message for line in page] for page in found] == [["0", "1"], ["2", "3"], ["4", "5"]]
    request = cpb.ListLogsRequest(name=name, page_size=2, level=records_pb2.LogLine.LEVEL_WARN)
    found = await pages(control(lab).ListLogs, request, "lines")
    assert [[line.number for line in page] for page in found] == [[2, 4], [6]]
    token = (await control(lab).ListLogs(cpb.ListLogsRequest(name=name, page_size=2))).next_page_token
    request.page_token = token
    _, reason, _ = await refused(control(lab).ListLogs(request))
    assert reason == "INVALID_PAGE_TOKEN", "it is of another level"


async def test_a_page_of_large_lines_is_cut_short(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 1000)

    @lab.plays
    async def handler(request, op):
        async def fail() -> None:
            raise ValueError("x" * 400)

        for number in range(5):
            op.log.info("x" * 400)
            with pytest.raises(ValueError, match="xxx"):
                await op.step(f"step {number}", fail)
        return lab_pb2.PlayResult()

    name = (await lab.run()).name
    await lab.catch_up()
    found = await pages(control(lab).ListLogs, cpb.ListLogsRequest(name=name), "lines")
    assert [len(page) for page in found] == [2, 2, 1]
    found = await pages(control(lab).ListSteps, cpb.ListStepsRequest(name=name), "steps")
    assert [[step.step for step in page] for page in found] == [["step 0", "step 1"], ["step 2", "step 3"], ["step 4"]]


@pytest.mark.parametrize("apart", [0, 1])
async def test_steps_are_read_in_pages(lab: Lab, apart: int) -> None:
    """Whether they ended at the same time or not."""

    @lab.plays
    async def handler(request, op):
        for number in range(5):
            lab.clock.advance(apart)
            await op.step(f"step {number}", int)
        return lab_pb2.PlayResult()

    request = cpb.ListStepsRequest(name=(await lab.run()).name, page_size=2)
    found = await pages(control(lab).ListSteps, request, "steps")
    assert [[step.step[-1] for step in page] for page in found] == [["0", "1"], ["2", "3"], ["4"]]


async def test_what_nobody_has_logged_is_an_empty_page(lab: Lab) -> None:
    name = (await lab.run()).name
    assert await pages(control(lab).ListLogs, cpb.ListLogsRequest(name=name), "lines") == [[]]
    assert await pages(control(lab).ListSteps, cpb.ListStepsRequest(name=name), "steps") == [[]]


async def test_wrong_requests_are_refused(lab: Lab) -> None:
    name = (await lab.run()).name
    stub = control(lab)
    for call, request, field in (
        (stub.ListLogs, cpb.ListLogsRequest(name=name, page_size=-1), "page_size"),
        (stub.ListLogs, cpb.ListLogsRequest(name=name, level=9), "level"),  # type: ignore[arg-type]
        (stub.ListLogs, cpb.ListLogsRequest(name=name, page_token="no"), "page_token"),
        (stub.ListLogs, cpb.ListLogsRequest(name="jobs/x"), "name"),
        (stub.ListSteps, cpb.ListStepsRequest(name=name, page_size=-1), "page_size"),
        (stub.ListSteps, cpb.ListStepsRequest(name=name, page_token="no"), "page_token"),
    ):
        code, _, status = await refused(call(request))
        assert (code, fields_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    for call, request in (
        (stub.ListLogs, cpb.ListLogsRequest(name="operations/none")),
        (stub.ListSteps, cpb.ListStepsRequest(name="operations/none")),
    ):
        code, reason, _ = await refused(call(request))
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "OPERATION_NOT_FOUND")
