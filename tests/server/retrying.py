"""What the tests of retries, stops and retention share: a laboratory that serves `lab.v1.RetryService` too."""

from __future__ import annotations

from typing import Any

from lab.v1 import retry_longshore

from tests.conftest import LabHandlers


class RetryHandlers(retry_longshore.RetryService):
    """Every operation runs what the test has written for the laboratory."""

    def __init__(self, lab: LabHandlers) -> None:
        self._lab = lab

    async def try_(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def try_steadily(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def try_for_a_minute(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def try_at_once(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def try_later(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def try_unless(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def try_fixed(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def keep(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)

    async def keep_for_ever(self, request: Any, op: Any, /) -> Any:
        return await self._lab._play(request, op)
