"""What starting an operation with bytes answers, and what it refuses."""

from __future__ import annotations

from longshore.v1.operation_pb2 import UploadGrant
from tests.server.transfers.bytes_service import BytesLab


async def test_a_snapshot_shows_the_upload_from_the_start_on(lab: BytesLab) -> None:
    operation = (await lab.begin(content_type="application/pdf", metadata={"by": "ada"})).operation
    assert operation.upload.name == f"uploads/{operation.uid}"
    assert operation.upload.state == UploadGrant.STATE_OPEN
