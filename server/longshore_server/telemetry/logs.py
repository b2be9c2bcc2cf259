"""Structured logs: every line that belongs to an operation, a job or an instance names it."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from longshore_server.handler.durable import handling
from longshore_server.instances.run import running_fields

_FIELDS = ("operation", "type", "job", "queue", "instance", "definition", "attempt", "step", "data")
_WHOSE = ("operation", "job", "instance")
"""The fields that name what a line belongs to; it has one of them."""


class _Context(logging.Filter):
    """Adds whose handler logs, so that plain `logging` calls of user code carry it too."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "attempt"):
            handler = handling.get()
            record.__dict__.update(running_fields.get() if handler is None else handler.fields)
        return True


class _Gone(logging.Filter):
    """Leaves out what gRPC says, as an error with a trace, of a caller who goes while it is sent something."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name != "grpc._cython.cygrpc" or "ExecuteBatchError raised in core" not in record.getMessage()


class _Json(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the fields of the operation."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, getattr(record, name)) for name in _FIELDS if hasattr(record, name))
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=repr)


class _Text(logging.Formatter):
    """A line for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name for all but the trace
        text = super().formatMessage(record)
        data = getattr(record, "data", None)
        if data:
            text += "  " + " ".join(f"{key}={value!r}" for key, value in data.items())
        whose = next((getattr(record, field) for field in _WHOSE if hasattr(record, field)), None)
        return f"{text}  [{whose}]" if whose else text


def configure(format: str, level: str) -> None:
    """Send all logs to standard error. For the command line; an embedding program configures its own.

    As `json`, what Python would write there by itself is a line too: warnings, and the error that ends the program.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format == "json" else _Text())
    handler.addFilter(_Context())
    handler.addFilter(_Gone())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It prints the arguments of every statement at DEBUG: inputs and results of operations.
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    if format == "json":
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger(__name__).critical("the program ends: %s", error, exc_info=(kind, error, trace))
