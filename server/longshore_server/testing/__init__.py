"""For tests of services: a clock that is moved by hand, and a server that can crash and start again."""

from __future__ import annotations

from longshore_server.testing.clock import ManualClock
from longshore_server.testing.harness import Harness

__all__ = ["Harness", "ManualClock"]
