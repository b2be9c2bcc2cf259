"""The laboratory of the tests of bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.server.transfers.bytes_service import BytesLab


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[BytesLab]:
    """A laboratory that has started, with a manual clock."""
    found = BytesLab(tmp_path / "data")
    await found.start()
    try:
        yield found
    finally:
        await found.stop()
