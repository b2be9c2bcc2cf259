"""Files that say who may call: read at start-up, and again when they change. A broken new one changes nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import tomllib
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
_NEWLINE = b"\n"
_Mark: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class FileError(Exception):
    """A file cannot be used; the message names it, the key and the reason."""

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class Watched(Generic[T]):
    """What some files say together, as it was when they could last be read.

    Args:
        paths: the files.
        read: reads and checks them; raises `FileError`.

    Raises `FileError` when they cannot be used at once.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths = tuple(paths)
        self._read = read
        # gRPC asks for certificates in threads of its own.
        self._lock = threading.Lock()
        self._mark = self._look()
        self.value = read()

    def update(self, *, force: bool = False) -> bool:
        """Read the files again if they have changed, or in any case with `force`. True: `value` is new."""
        with self._lock:
            mark = self._look()
            if mark == self._mark and not force:
                return False
            # Noted before reading: a change during it is seen by the next look.
            self._mark = mark
            try:
                self.value = self._read()
            except FileError as error:
                log.error("%s; going on with what it said before", error)
                return False
            log.info("read %s again", ", ".join(str(path) for path in self._paths))
            return True

    async def refresh(self, *, force: bool) -> bool:
        """`update`, with the reading in a thread."""
        if not force and self._look() == self._mark:
            return False
        return await asyncio.to_thread(self.update, force=force)

    def _look(self) -> _Mark:
        return tuple(_mark(path) for path in self._paths)


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Differs when the file does. The inode too: most programs replace a file instead of writing into it."""
    try:
        found = os.stat(path)  # noqa: PTH116 - Path.stat makes the same call and takes twice as long
    except (OSError, ValueError):  # the latter for a path that cannot be one
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_bytes(path: Path) -> bytes:
    """The content. Raises `FileError`."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise FileError(path, getattr(error, "strerror", None) or str(error)) from None


def warn_of_unknown(path: Path, granted: Iterable[Collection[str]], known: Collection[str] | None) -> None:
    """Log the capabilities that a file grants and no contract knows: most are slips. None: they are not known here."""
    if known is not None:
        for name in sorted({name for names in granted for name in names if name not in known}):
            log.warning("%s: no contract of this server declares the capability %r", path, name)


def read_toml(path: Path) -> dict[str, Any]:
    """The content as TOML. Raises `FileError`."""
    content = read_bytes(path)
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(_NEWLINE, 0, error.start) + 1
        raise FileError(path, f"it is not UTF-8 (at line {line}): save it as such") from None
    except ValueError as error:
        last = f"(at line {content.count(_NEWLINE) + 1}, where the file ends)"
        raise FileError(path, str(error).replace("(at end of document)", last)) from None
    except RecursionError:
        raise FileError(path, "it is nested too deeply") from None


def read_tables(path: Path, key: str, fields: Sequence[str], required: Sequence[str]) -> list[dict[str, Any]]:
    """The tables `[[key]]` of a TOML file that holds nothing else, each with no other fields than `fields`.

    Raises `FileError`.
    """
    document = read_toml(path)
    for name in document:
        if name != key:
            raise FileError(path, f"{name}: there is no such key; the file holds [[{key}]]")
    tables = document.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise FileError(path, f"{key}: it must be written as [[{key}]]")
    for position, table in enumerate(tables):
        for name in table:
            if name not in fields:
                raise FileError(path, f"{key}[{position}].{name}: there is no such key; there are {', '.join(fields)}")
        for name in required:
            if name not in table:
                raise FileError(path, f"{key}[{position}].{name}: it is missing")
    return tables
