"""`op.log`: structured lines for the operators of the service, in the log of its process and durable beside the work.

Whoever logs never waits and is never told that something is wrong: a line that is too large is cut, values that are no
JSON are shown as text, and lines that come faster than the store writes are left out; each says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from longshore_server.clock import Clock
from longshore_server.handler.running import running_step
from longshore_server.handler.texts import data_of, text_of
from longshore_server.store.logs import Level, LogLine
from longshore_server.store.mutations import AddLine, Owner

if TYPE_CHECKING:
    from longshore_server.store.writer import Writer

_logger = logging.getLogger("longshore.handler")
_LEVELS = {Level.INFO: logging.INFO, Level.WARN: logging.WARNING, Level.ERROR: logging.ERROR}

LogLevel = Literal["debug", "info", "warning", "error", "off"]


def level_of(word: LogLevel) -> int:
    """The least that a definition has logged, as a level of `logging`. Raises `ValueError` for another word."""
    if word not in _WORDS:
        raise ValueError(f"log_level: {word!r} is none of {', '.join(map(repr, _WORDS))}")
    return _WORDS[word]


_WORDS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR, "off": 99}

MAX_WAITING = 1000
"""How many lines of one attempt may wait to be durable."""
WAITING_BYTES = 1 << 20
"""How many bytes of them."""


class AttemptLog:
    """Logs `message` with `data` as fields: `op.log.info("charged", amount=1200)`.

    A line is durable no later than what the attempt records after it: the result of a step for example.
    """

    __slots__ = ("_bytes", "_clock", "_fields", "_left_out", "_owner", "_run", "_waiting", "_writer")

    def __init__(self, owner: Owner, fields: Mapping[str, Any], writer: Writer, clock: Clock, run: str = "") -> None:
        """`fields`: what tells of the attempt in the log of the process. `run`: as of `LogLine`."""
        self._owner = owner
        self._run = run
        self._fields = fields
        self._writer = writer
        self._clock = clock
        self._waiting = 0
        self._bytes = 0
        self._left_out = 0

    def info(self, message: str, /, **data: Any) -> None:
        """Something worth knowing."""
        self._write(Level.INFO, message, data)

    def warn(self, message: str, /, **data: Any) -> None:
        """Something that someone should look at."""
        self._write(Level.WARN, message, data)

    def error(self, message: str, /, **data: Any) -> None:
        """Something that went wrong."""
        self._write(Level.ERROR, message, data)

    def _write(self, level: Level, message: str, data: dict[str, Any]) -> None:
        step = running_step()
        self._show(_LEVELS[level], message, step, data)
        line = self._line(level, step, text_of(message), data_of(data))
        if _running_loop() is self._writer.loop:
            self._take(line)
        else:
            # From a thread that a step has begun. One that outlives the server has nobody to tell it to.
            with contextlib.suppress(RuntimeError):
                self._writer.loop.call_soon_threadsafe(self._take, line)

    def _show(self, level: int, message: str, step: str, data: Mapping[str, Any]) -> None:
        """Write it to the log of the process; `level` as of `logging`."""
        if _logger.isEnabledFor(level):
            self._tell(_logger, level, message, step, data)

    def _tell(self, logger: logging.Logger, level: int, message: str, step: str, data: Mapping[str, Any]) -> None:
        logger.log(level, "%s", message, extra={**self._fields, **({"step": step} if step else {}), "data": data})

    def _line(self, level: Level, step: str, message: str, data: str) -> LogLine:
        return LogLine(self._clock.now(), self._owner.attempt, int(level), step, message, data, self._run)

    def _take(self, line: LogLine) -> None:
        if self._left_out or self._waiting >= MAX_WAITING or self._bytes >= WAITING_BYTES:
            # From the first that is left out on, until all that wait are durable: one gap, told of where it is.
            self._left_out += 1
        else:
            self._keep(line)

    def _keep(self, line: LogLine) -> None:
        size = line.size
        self._waiting += 1
        self._bytes += size
        self._writer.submit(AddLine(self._owner, line), lambda _: self._kept(size))

    def _kept(self, size: int) -> None:
        self._waiting -= 1
        self._bytes -= size
        if self._left_out and not self._waiting:
            said = f"{self._left_out} lines are left out here: they came faster than they could be stored"
            self._left_out = 0
            self._keep(self._line(Level.WARN, "", said, "{}"))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
