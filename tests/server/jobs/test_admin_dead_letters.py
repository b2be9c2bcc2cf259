"""JobsService over the wire: dead letters in bulk."""

from __future__ import annotations

from typing import Any

import pytest

from longshore.v1 import jobs_service_pb2 as pb
from longshore_server import JobRetry
from longshore_server.rpc import jobs as rpc
from tests.server.jobs.conftest import Yard
from tests.server.jobs.operating import Load, admin, buried, ended, failing, names


async def test_dead_letters_are_replayed_in_bulk_by_filter_a_bounded_number_a_call(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "MAX_DEAD", 4)
    load, other = (failing(yard, name, retry=JobRetry(max_attempts=1)) for name in ("load", "other"))
    await yard.start()
    refs, others = await buried(yard, load, 5), await buried(yard, other, 1)
    request, counts = pb.ReplayDeadLettersRequest(filter="queue=load", page_size=1000), []
    while True:
        answer = await admin(yard).ReplayDeadLetters(request)
        counts.append(answer.count)
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            break
    assert counts == [4, 1]
    assert [await ref.wait() for ref in refs] == list("01234")
    request.page_token = ""
    assert (await admin(yard).ReplayDeadLetters(request)).count == 0, "repeated, there is nothing left"
    assert await names(yard, "state=DEAD") == [others[0].name]
    answer = await admin(yard).DismissDeadLetters(pb.DismissDeadLettersRequest(filter="reason=HANDLER_ERROR"))
    assert answer.count == 1
    assert await names(yard, "state=DISMISSED") == [others[0].name]


async def test_a_replay_of_all_ends_though_they_die_again(yard: Yard) -> None:
    load = failing(yard, retry=JobRetry(max_attempts=1))
    await yard.start()
    refs = await load.create_many([Load(fails=99)] * 3)
    await ended(yard, *refs)
    request, count = pb.ReplayDeadLettersRequest(filter="state=DEAD", page_size=1), 0
    while True:
        answer = await admin(yard).ReplayDeadLetters(request)
        count += answer.count
        await ended(yard, *refs)
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            break
    assert count == 3
    assert [job.attempt for job in await yard.jobs()] == [2, 2, 2]


async def test_a_dead_letter_that_changes_meanwhile_is_left_alone(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    load = failing(yard, retry=JobRetry(max_attempts=1))
    await yard.start()
    first, second = await buried(yard, load, 2)
    service = yard.engine.jobs.store
    read = service.read

    async def slow(query: Any) -> Any:
        found = await read(query)
        monkeypatch.undo()
        await admin(yard).DismissJob(pb.DismissJobRequest(name=first.name))
        return found

    monkeypatch.setattr(service, "read", slow)
    answer = await admin(yard).ReplayDeadLetters(pb.ReplayDeadLettersRequest(filter="state=DEAD"))
    assert answer.count == 1
    assert await names(yard, "state=DISMISSED") == [first.name]
    assert await second.wait() == "1"
