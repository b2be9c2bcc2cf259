"""The journal of one operation: what its durable awaits asked for and got, so that a re-run does nothing twice.

Entries are keyed (kind, name, occurrence) and carry a digest of what was asked. A re-run that asks for something else
under the same key has other code, or another course, than the run that recorded it: it fails with both sides shown.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.message import Message

from longshore_server.handler import codec
from longshore_server.store.record import JournalEntry

SHOWN = 500
"""How many characters of what was asked are kept for people."""
MAX_NAME = 512
"""The longest name of a step, a job or a child, in characters."""

Key = tuple[str, str, int]


class DuplicateNameError(RuntimeError):
    """Two durable awaits of one attempt have the same name: the second would be given the outcome of the first."""


class NonDeterministicError(Exception):
    """A re-run does not fit what was recorded. The operation fails with reason NON_DETERMINISTIC.

    Attributes:
        public: what callers are told: which await, and the attempt that recorded it. Arguments may hold secrets.
    """

    def __init__(self, message: str, public: str) -> None:
        super().__init__(message)
        self.public = public


class Asked:
    """What a durable await asks for: a digest for machines and a text for people."""

    __slots__ = ("digest", "text")

    def __init__(self, *parts: Any) -> None:
        hasher = hashlib.sha256()
        shown = []
        for part in parts:
            data = _canonical(part)
            hasher.update(len(data).to_bytes(8, "big") + data)
            shown.append(
                repr(part) if not isinstance(part, Message) else f"{part.DESCRIPTOR.name}({str(part).strip()})"
            )
        self.digest = hasher.digest()[:16]
        self.text = ", ".join(shown)[:SHOWN]


class Journal:
    """The entries of one attempt: those that earlier attempts recorded, and the keys that this one has used."""

    def __init__(self, entries: Iterable[JournalEntry] = ()) -> None:
        self._entries: dict[Key, JournalEntry] = {(e.kind, e.name, e.occurrence): e for e in entries}
        self._used: dict[tuple[str, str], str] = {}
        self._occurrences: dict[tuple[str, str], int] = {}
        self.fatal: NonDeterministicError | None = None
        """Why the attempt cannot succeed any more: a handler that catches everything must not go on regardless."""

    def claim(self, kind: str, name: str, place: str) -> Key:
        """The key of an await that has a name.

        Raises `DuplicateNameError` on its second use in one attempt, `TypeError` or `ValueError` for what is no name.
        """
        if not isinstance(name, str):
            raise TypeError(f"{kind}: its name must be a text, not {name!r}")
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise ValueError(f"{kind} {name[:80]!r}: its name must have 1 to {MAX_NAME} printable characters")
        first = self._used.setdefault((kind, name), place)
        if first is not place:
            raise DuplicateNameError(
                f"{kind} {name!r} is used at {first} and again at {place}: give each a name of its own"
            )
        return (kind, name, 0)

    def release(self, key: Key) -> None:
        """Forget a claim whose await failed and recorded nothing: the handler may try again under the same name."""
        self._used.pop(key[:2], None)

    def count(self, kind: str, name: str) -> Key:
        """The key of the next await of a kind that is told apart by order alone."""
        occurrence = self._occurrences.get((kind, name), 0)
        self._occurrences[kind, name] = occurrence + 1
        return (kind, name, occurrence)

    def found(self, key: Key) -> JournalEntry | None:
        """What an earlier attempt recorded, whatever it had asked for."""
        return self._entries.get(key)

    def recorded(self, key: Key, asked: Asked) -> JournalEntry | None:
        """The outcome that an earlier attempt recorded. Raises `NonDeterministicError` when it was asked otherwise."""
        entry = self._entries.get(key)
        if entry is not None and entry.digest != asked.digest:
            which, attempt = _which(key), _recorder(entry)
            raise self.fail(
                f"{which}: {attempt} asked for ({entry.asked}), this attempt asks for ({asked.text})",
                f"{which}: this attempt asks for something else than {attempt} did.",
            )
        return entry

    def decode(self, key: Key, entry: JournalEntry, function: Callable[..., Any] | None = None) -> Any:
        """The value of an outcome. Raises `NonDeterministicError` where the code of today cannot read it any more.

        `function`: what has returned it. Its annotation says what has become of a class that has moved.
        """
        stored = codec.Encoded(entry.codec, entry.outcome)
        try:
            try:
                return codec.decode(stored)
            except (ImportError, AttributeError):
                return codec.decode(stored, codec.namesake(entry.codec, function))
        except Exception as error:
            problem = f"{_which(key)}: what {_recorder(entry)} recorded cannot be read any more"
            raise self.fail(f"{problem} ({entry.codec}): {error}", f"{problem}.") from error

    def fail(self, message: str, public: str) -> NonDeterministicError:
        """The error that says why the attempt cannot succeed any more: its first one is the one that counts."""
        error = NonDeterministicError(message, public)
        self.fatal = self.fatal or error
        return error

    def missed(self, kind: str) -> list[str]:
        """The names of what is recorded and this attempt has not asked for."""
        if not self._entries:
            return []
        return sorted(name for found, name, _ in self._entries if found == kind and (found, name) not in self._used)

    def recorded_keys(self) -> Iterable[Key]:
        """The keys of what earlier attempts recorded."""
        return self._entries.keys()


def _which(key: Key) -> str:
    kind, name, occurrence = key
    return f"{kind} {name!r}{f' ({occurrence + 1}.)' if occurrence else ''}"


def _recorder(entry: JournalEntry) -> str:
    return f"attempt {entry.attempt}{' of the operation that it repeats' if entry.kept else ''}"


def place(depth: int) -> str:
    """`file:line` of the caller's caller, `depth` frames above this function."""
    frame = sys._getframe(depth)  # noqa: SLF001 - inspect.stack() reads source files on the hot path
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _canonical(part: Any) -> bytes:
    """Bytes that are the same in every run for the same argument; what cannot be stored counts by its type alone.

    What is stored counts as its value.
    """
    if isinstance(part, str):
        return b"s" + part.encode("utf-8", "surrogatepass")
    if isinstance(part, bytes):
        return b"b" + part
    if isinstance(part, Sequence) and type(part) in (list, tuple):
        return b"l" + b"".join(len(c).to_bytes(8, "big") + c for c in map(_canonical, part))
    if isinstance(part, codec.Encoded):
        return part.identity
    try:
        return codec.encode(part).identity
    except (codec.NotStorableError, TypeError):
        return f"o{type(part).__qualname__}".encode()
