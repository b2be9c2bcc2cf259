"""What tests of several callers at one server share, and of several versions of its code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import Server
from longshore_server.testing import Harness
from tests.conftest import Lab, LabClock
from tests.server.auth.identities import bearer
from tests.server.releasing import Releases
from tests.server.retrying import RetryHandlers


class Callers(Lab):
    """A laboratory of `RetryService` alone, whose callers say who they are. Until `end` nothing ends."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder / "data")
        self.tokens = {name: bearer(folder / "tokens", name) for name in ("ada", "bob", "cid")}
        self.server = Server(RetryHandlers(self.handlers))
        self.harness = Harness(
            self.server, folder / "data", clock=LabClock(), tokens=folder / "tokens", reflection="off", **settings
        )
        self.ended = asyncio.Event()
        self.plays(self._hold)

    async def _hold(self, request: Any, op: Any) -> lab_pb2.PlayResult:
        await self.ended.wait()
        return lab_pb2.PlayResult()

    def who(self, name: str) -> tuple[tuple[str, str]]:
        return (("authorization", f"Bearer {self.tokens[name]}"),)

    async def start(self, name: str = "", type: str = "Try", request_id: str = "") -> Any:
        """With a name: an operation of that caller."""
        if not name:
            return await super().start()
        request = pb.StartRequest(type=f"lab.v1.RetryService/{type}", request_id=request_id)
        request.input.Pack(lab_pb2.PlayRequest())
        return await self.operations.Start(request, metadata=self.who(name))


@pytest.fixture
async def make_callers(tmp_path: Path) -> AsyncIterator[Any]:
    made: list[Callers] = []

    async def make(**settings: Any) -> Callers:
        found = Callers(tmp_path, **settings)
        made.append(found)
        await found.start()
        return found

    yield make
    for found in made:
        found.ended.set()
        await found.stop()


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Releases:
    """Releases a version of a module."""
    return Releases(monkeypatch)
