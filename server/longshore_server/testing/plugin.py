"""The fixtures of pytest: `longshore`, a server that has started, and the two that say which.

One line in the conftest.py of the project brings them:

    pytest_plugins = ["longshore_server.testing.plugin"]

A fixture `longshore_server` of the project's own says what is served.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from longshore_server.server import Server
from longshore_server.testing.harness import OWN, Harness


@pytest.fixture
def longshore_server() -> Server:
    """The server under test. Every project has its own."""
    raise pytest.UsageError(
        "longshore does not know which server to test: write a fixture named longshore_server that returns it, for "
        "example in conftest.py"
    )


@pytest.fixture
def longshore_services() -> Any:
    """What handlers get as `op.services`. A fixture of this name puts fakes in the place of the server's lifespan."""
    return OWN


@pytest.fixture
def longshore_settings() -> dict[str, Any]:
    """Fields of `longshore_server.config.Config` that differ from their defaults."""
    return {}


@pytest_asyncio.fixture
async def longshore(
    longshore_server: Server, longshore_services: Any, longshore_settings: dict[str, Any], tmp_path: Path
) -> AsyncIterator[Harness]:
    """The server under test, which has started on a file below `tmp_path`."""
    harness = Harness(longshore_server, tmp_path / "longshore", services=longshore_services, **longshore_settings)
    async with harness.serve():
        yield harness
