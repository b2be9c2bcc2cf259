"""`op.log`: private, structured lines for the operators of the service."""

from __future__ import annotations

import logging
from typing import Any

from longshore_server.store.record import OperationRecord

_logger = logging.getLogger("longshore.handler")


class OperationLog:
    """Logs `message` with `data` as fields: `op.log.info("charged", amount=1200)`."""

    __slots__ = ("_record", "_type")

    def __init__(self, type: str, record: OperationRecord) -> None:
        self._type = type
        self._record = record

    def info(self, message: str, **data: Any) -> None:
        """Something worth knowing."""
        self._write(logging.INFO, message, data)

    def warn(self, message: str, **data: Any) -> None:
        """Something that someone should look at."""
        self._write(logging.WARNING, message, data)

    def error(self, message: str, **data: Any) -> None:
        """Something that went wrong."""
        self._write(logging.ERROR, message, data)

    def _write(self, level: int, message: str, data: dict[str, Any]) -> None:
        if _logger.isEnabledFor(level):
            extra = {"operation": self._record.name, "type": self._type, "attempt": self._record.attempt, "data": data}
            _logger.log(level, "%s", message, extra=extra)
