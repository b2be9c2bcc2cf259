"""The handlers of torture/v1/carried.proto, served by `python -m longshore_server` and killed there.

`FAULTS_POINT` names the point at which the process dies, see `POINTS`: once, while there is the file `FAULTS_ARMED`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The server is started with this file alone on its path.
sys.path += [str(Path(__file__).parents[1] / "contracts"), str(Path(__file__).parents[2])]

from torture.v1.carried_longshore import CarriedService, CarryOperation, LapseOperation, LendOperation
from torture.v1.carried_pb2 import CarryRequest, CarryResult

from longshore_server import LocalStore, Server
from longshore_server.transfers import staging
from longshore_server.transfers.sending import Sending
from longshore_server.transfers.stores import local, sidecars


class Carried(CarriedService):
    """Waits for the object and offers it again."""

    async def carry(self, request: CarryRequest, op: CarryOperation[None]) -> CarryResult:
        return await offered(op)

    async def lend(self, request: CarryRequest, op: LendOperation[None]) -> CarryResult:
        return await offered(op)

    async def lapse(self, request: CarryRequest, op: LapseOperation[None]) -> CarryResult:
        return await offered(op)


async def offered(op: Any) -> CarryResult:
    """What has come, once it can be fetched."""
    received = await op.transfer.completed()
    await op.transfer.offer(received.key)
    return CarryResult(sha256=received.sha256, size=received.size)


# The points at which it dies: what is patched, and whether it dies before the call or after it.
POINTS: dict[str, tuple[Any, str, str]] = {
    "written, not synced": (staging.StagedPart, "sync", "before"),
    "synced, not recorded": (staging.StagedPart, "sync", "after"),
    "recorded, not answered": (Sending, "settle", "after"),
    "complete, digests not known": (staging.StagedPart, "digests", "before"),
    "in the join of parts": (staging, "sync_folder", "join"),
    "joined, not committed": (staging, "join", "after"),
    "committed, not adopted": (local.LocalStore, "adopt", "before"),
    "described, not moved": (sidecars.Sidecars, "write", "after"),
    "moved, not synced": (local.LocalStore, "_move", "after"),
    "adopted, not finished": (local.LocalStore, "adopt", "after"),
    "finished, not cleared": (staging, "remove", "before"),
}


def arm(point: str, armed: Path) -> None:
    """Die at a point as soon as `armed` is there, and take that away."""
    owner, name, when = POINTS[point]
    real: Callable[..., Any] = getattr(owner, name)

    def reached() -> None:
        if armed.exists():
            armed.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def plain(*arguments: Any, **options: Any) -> Any:
        if when == "before":
            reached()
        result = real(*arguments, **options)
        if when == "after" or (when == "join" and list(arguments[0].glob("*.whole"))):
            reached()
        return result

    async def awaited(*arguments: Any, **options: Any) -> Any:
        if when == "before":
            reached()
        result = await real(*arguments, **options)
        reached()
        return result

    setattr(owner, name, awaited if name in ("adopt", "settle") else plain)


if point := os.environ.get("FAULTS_POINT"):
    arm(point, Path(os.environ["FAULTS_ARMED"]))

server = Server(Carried(), stores={"uploads": LocalStore()})
