"""`lab.v1.RetryService` for a process of its own: the attempts up to `count` fail.

`FAULTS_AHEAD` puts the time of the process forward, by so many seconds.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

# The server is started with this file alone on its path.
sys.path += [str(Path(__file__).parents[1] / "contracts"), str(Path(__file__).parents[2])]

from lab.v1.lab_pb2 import PlayProgress, PlayResult

from longshore_server import OperationError, Server
from tests.conftest import LabHandlers
from tests.server.retrying import RetryHandlers

ahead = round(float(os.environ.get("FAULTS_AHEAD", "0")) * 1e9)
machine = time.time_ns
setattr(time, "time_ns", lambda: machine() + ahead)  # noqa: B010 - mypy would not have it assigned


async def play(request: Any, op: Any) -> PlayResult:
    """The progress says when an attempt began."""
    await op.progress(PlayProgress(number=op.attempt))
    if op.attempt <= request.count:
        raise OperationError("BUSY", "not yet")
    return PlayResult(number=op.attempt, text="stopped" if op.stopping else "done")


handlers = LabHandlers()
handlers.handler = play
server = Server(RetryHandlers(handlers))
