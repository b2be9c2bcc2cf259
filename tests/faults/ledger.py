"""Where handlers write down what they do, outside of the server's store: a file, which outlives a SIGKILL."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

from longshore_server import step


class Ledger:
    """Every run of an effect and every note, as a line: key, uid, name, attempt, token."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def enter(self, uid: str, name: str, attempt: int) -> str:
        """Write one line, at once; returns its token, which is another one at every run."""
        token = uuid.uuid4().hex
        self._write(step.key, uid, name, attempt, token)
        return token

    def note(self, uid: str, name: str, attempt: int, token: str = "-") -> None:
        """A line that is no step's: the handler came by here."""
        self._write("-", uid, name, attempt, token)

    def effect(self, uid: str, name: str, attempt: int) -> Callable[[], str]:
        """A step's function: one line."""
        return lambda: self.enter(uid, name, attempt)

    def close(self) -> None:
        """Nothing is buffered."""
        os.close(self._file)

    def _write(self, *fields: object) -> None:
        os.write(self._file, ("\t".join(map(str, fields)) + "\n").encode())
