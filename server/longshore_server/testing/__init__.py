"""For tests of services: a server on a real file, without a network, whose clock and whose crashes are the test's.

With pytest, `pytest_plugins = ["longshore_server.testing.plugin"]` brings the fixture `longshore`.
"""

from __future__ import annotations

from longshore_server.testing.clock import ManualClock
from longshore_server.testing.crash import Crash
from longshore_server.testing.harness import Harness

__all__ = ["Crash", "Harness", "ManualClock"]
