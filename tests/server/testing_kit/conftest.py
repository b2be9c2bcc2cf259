"""The laboratory's contract under the testing kit's own fixtures."""

from __future__ import annotations

import pytest

from longshore_server import Server
from longshore_server.testing import plugin
from tests.conftest import LabHandlers

longshore = plugin.longshore
longshore_services = plugin.longshore_services
longshore_settings = plugin.longshore_settings


@pytest.fixture
def handlers() -> LabHandlers:
    """Runs what the test writes."""
    return LabHandlers()


@pytest.fixture
def longshore_server(handlers: LabHandlers) -> Server:
    """What the fixture `longshore` serves."""
    return Server(handlers)
