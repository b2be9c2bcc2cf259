"""What tests of instances share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.server.instances.laboratory import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A server that a test declares definitions on, starts, kills and starts again."""
    found = World(tmp_path / "data")
    try:
        yield found
    finally:
        await found.stop()
