"""Objects that are deleted with their operations, and those that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lab.v1.lab_pb2 import PlayResult

from longshore.v1 import operations_service_pb2 as pb
from longshore_server.reasons import Reason
from longshore_server.transfers.objects import ObjectError
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.sender import upload


def stored(lab: BytesLab) -> Path:
    return lab.data / "stores" / "uploads" / "files/report.pdf"


async def ended(lab: BytesLab, type: str, data: bytes) -> str:
    """The name of an operation that has ended with these bytes."""
    operation = (await lab.begin(type)).operation
    await upload(lab.transfers, operation.upload.name, data)
    return str((await lab.end(operation.name)).name)


async def delete(lab: BytesLab, name: str) -> None:
    """Delete an operation, and return once nothing follows from that any more."""
    await lab.operations.Delete(pb.DeleteRequest(name=name))
    await collected(lab)


async def collected(lab: BytesLab) -> None:
    while (task := lab.engine.transfers.collector._task) is not None:
        await task


@pytest.fixture(autouse=True)
def waits(lab: BytesLab) -> None:
    """Every handler waits for its bytes."""

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        return PlayResult(text=(await op.transfer.completed()).key)


async def test_an_object_is_kept_when_its_operation_is_deleted(lab: BytesLab) -> None:
    await delete(lab, await ended(lab, "Upload", b"kept"))
    assert stored(lab).read_bytes() == b"kept"


async def test_an_object_is_deleted_with_its_operation_where_the_contract_says_so(lab: BytesLab) -> None:
    name = await ended(lab, "Owned", b"gone")
    assert stored(lab).read_bytes() == b"gone"
    await delete(lab, name)
    assert not stored(lab).exists()
    assert lab.tables()["garbage"] == []


async def test_the_sweeper_deletes_it_too(lab: BytesLab) -> None:
    await ended(lab, "Owned", b"gone")
    lab.clock.advance(31 * 24 * 3600)
    while lab.tables()["operations"]:
        await lab.catch_up()
    await collected(lab)
    assert not stored(lab).exists()


@pytest.mark.parametrize("second", ["Owned", "Upload"])
async def test_another_object_that_has_taken_the_key_stays(lab: BytesLab, second: str) -> None:
    first = await ended(lab, "Owned", b"first")
    await ended(lab, second, b"second")
    await delete(lab, first)
    assert stored(lab).read_bytes() == b"second"


async def test_what_the_service_itself_has_put_there_stays(lab: BytesLab) -> None:
    name = await ended(lab, "Owned", b"first")
    await lab.server.stores["uploads"].put("files/report.pdf", b"the service's own")
    await delete(lab, name)
    assert stored(lab).read_bytes() == b"the service's own"


async def test_a_crash_before_the_deletion_leaves_it_to_the_next_server(lab: BytesLab) -> None:
    name = await ended(lab, "Owned", b"gone")
    lab.engine.transfers.collector.stop()
    await lab.operations.Delete(pb.DeleteRequest(name=name))
    assert stored(lab).exists()
    await lab.restart()
    await collected(lab)
    assert not stored(lab).exists()


async def test_a_store_that_is_away_is_tried_again(lab: BytesLab, monkeypatch: pytest.MonkeyPatch) -> None:
    name = await ended(lab, "Owned", b"gone")

    async def away(key: str, **_: Any) -> bool:
        raise ObjectError(Reason.STORE_UNAVAILABLE, "away")

    with monkeypatch.context() as patch:
        patch.setattr(lab.server.stores["uploads"], "delete", away)
        await delete(lab, name)
    assert stored(lab).exists()
    await lab.clock.armed(60)
    lab.clock.advance(60)
    await collected(lab)
    assert not stored(lab).exists()
