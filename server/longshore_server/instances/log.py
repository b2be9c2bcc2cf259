"""`ctx.log`: structured lines for the operators of the service, in the log of its process, and durable."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longshore_server.clock import Clock
from longshore_server.handler.log import AttemptLog
from longshore_server.store.instances import InstanceRecord
from longshore_server.store.logs import Level
from longshore_server.store.mutations.log import InstanceOwner

if TYPE_CHECKING:
    from longshore_server.store.writer import Writer

_logger = logging.getLogger("longshore.instances")


class InstanceLog(AttemptLog):
    """Logs `message` with `data` as fields: `ctx.log.info("refreshed", seconds=3)`.

    A line is durable no later than what the handler has done, and stays where that fails.

    Args:
        record: whose handler logs.
        run: which of its runs, for those who read the line.
        level: of the least line that the log of the process gets, as a level of `logging`; where that is none at all,
            nothing is kept either.
        fields: what tells of the run in the log of the process.
    """

    __slots__ = ("_level",)

    def __init__(
        self, record: InstanceRecord, run: str, level: int, fields: Mapping[str, Any], writer: Writer, clock: Clock
    ) -> None:
        super().__init__(InstanceOwner(record.uid, record.attempt), fields, writer, clock, run)
        self._level = level

    def debug(self, message: str, /, **data: Any) -> None:
        """Something for those who look for a fault: for the log of the process alone."""
        self._show(logging.DEBUG, message, "", data)

    def _write(self, level: Level, message: str, data: dict[str, Any]) -> None:
        if self._level <= logging.ERROR:
            super()._write(level, message, data)

    def _show(self, level: int, message: str, step: str, data: Mapping[str, Any]) -> None:
        if level >= self._level and _logger.isEnabledFor(level):
            self._tell(_logger, level, message, step, data)
