"""What Prometheus reads of bytes."""

from __future__ import annotations

from pathlib import Path

from tests.server.test_metrics import settled
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.fetching import fetch, offering
from tests.server.transfers.sender import chunk, header, send, upload


async def test_bytes_are_counted_by_their_direction_and_their_store(tmp_path: Path) -> None:
    lab = BytesLab(tmp_path / "data", metrics="127.0.0.1:0")
    await lab.start()
    try:
        await lab.server.stores["exports"].put("key", bytes(700_000))
        name = await offering(lab)  # from here on every handler waits
        done, left = (await lab.begin(key="a")).operation, (await lab.begin(key="b")).operation
        await upload(lab.transfers, done.upload.name, bytes(5000))
        await send(lab.transfers, header(left.upload.name), chunk(0, bytes(300)))
        await fetch(lab, name, offset=100_000)
        found = await settled(lab)
        counted = {
            (direction, store): found.of("longshore_transfer_bytes_total", None, direction=direction, store=store)
            for direction in ("upload", "download") for store in ("uploads", "exports")
        }  # fmt: skip
        assert counted == {
            ("upload", "uploads"): 5300, ("upload", "exports"): 0,
            ("download", "uploads"): 0, ("download", "exports"): 600_000,
        }  # fmt: skip
        assert found.of("longshore_uploads_open", None) == 1
        assert found.of("longshore_transfers_open", None) == 0
    finally:
        await lab.stop()
