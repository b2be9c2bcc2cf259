"""The journal of one operation: what its durable awaits asked for and got, so that a re-run does nothing twice.

Entries are keyed (kind, name, occurrence) and carry a digest of what was asked. A re-run that asks for something else
under the same key has other code, or another course, than the run that recorded it: it fails with both sides shown.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from longshore_server.clock import resolve
from longshore_server.handler import codec
from longshore_server.handler.running import Running, running, running_step
from longshore_server.store.record import JournalEntry

SHOWN = 500
"""How many characters of what was asked are kept for people."""
MAX_NAME = 512
"""The longest name of a step, a job or a child, in characters."""

T = TypeVar("T")

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
        """Raises `ValueError` for what is nested without an end."""
        hasher = hashlib.sha256()
        for part in parts:
            try:
                data = _canonical(part)
            except RecursionError:
                raise ValueError(
                    f"a {type(part).__qualname__} is nested too deep to be compared, or holds itself: pass what tells "
                    "it from others"
                ) from None
            hasher.update(len(data).to_bytes(8, "big") + data)
        self.digest = hasher.digest()[:16]
        self.text = ", ".join(map(_shown, parts))[:SHOWN]


class _Claim:
    """The use of a name in this attempt."""

    __slots__ = ("by", "left", "place", "writing")

    def __init__(self, place: str) -> None:
        self.place = place
        self.by: Running | None = running.get()
        """The try of a step whose function it is in."""
        self.writing: asyncio.Future[Any] | None = None
        """What writes its entry."""
        self.left = False
        """Whether who awaited that was cancelled."""

    @property
    def free(self) -> bool:
        """Whether who asks for its name here asks for the same once more."""
        now = running.get()
        return self.left or (
            self.by is not None and now is not None and self.by.name == now.name and self.by is not now
        )


class Journal:
    """The entries of one attempt: those that earlier attempts recorded, and the keys that this one has used."""

    def __init__(self, entries: Iterable[JournalEntry] = ()) -> None:
        self._entries: dict[Key, JournalEntry] = {(e.kind, e.name, e.occurrence): e for e in entries}
        self._own: dict[Key, JournalEntry] = {}
        """Of this attempt's entries those that it may ask for once more."""
        self._claims: dict[tuple[str, str], _Claim] = {}
        self._occurrences: dict[tuple[str, str], int] = {}
        self.fatal: NonDeterministicError | None = None
        """Why the attempt cannot succeed any more: a handler that catches everything must not go on regardless."""

    async def claim(self, kind: str, name: str, place: str) -> Key:
        """The key of an await that has a name.

        Another try of a step may ask for what the one before it has asked for, and whoever was cancelled for what may
        be durable all the same: once that is known.

        Raises `DuplicateNameError` on any other second use in one attempt, `TypeError` or `ValueError` for what is no
        name.
        """
        if not isinstance(name, str):
            raise TypeError(f"{kind}: its name must be a text, not {name!r}")
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise ValueError(f"{kind} {name[:80]!r}: its name must have 1 to {MAX_NAME} printable characters")
        while (first := self._claims.get((kind, name))) is not None:
            if not first.free:
                raise DuplicateNameError(
                    f"{kind} {name!r} is used at {first.place} and again at {place}: give each a name of its own"
                )
            if first.writing is None or first.writing.done():
                break
            await asyncio.wait([first.writing])
        self._claims[kind, name] = _Claim(place)
        return (kind, name, 0)

    def release(self, key: Key) -> None:
        """Forget a claim whose await failed and recorded nothing: the handler may try again under the same name."""
        self._claims.pop(key[:2], None)

    async def write(self, key: Key, change: Awaitable[T], made: Callable[[T], JournalEntry | None]) -> T:
        """Make the change that writes the entry of a claim, which `made` tells of what it brings; None: it wrote none,
        and the name is free again, as where it raises."""
        claim, writing = self._claims[key[:2]], asyncio.ensure_future(change)
        over = writing.get_loop().create_future()

        def settle(_: object) -> None:
            entry = None if writing.cancelled() or writing.exception() is not None else made(writing.result())
            if entry is None:
                if self._claims.get(key[:2]) is claim:
                    self.release(key)
            elif claim.left or claim.by is not None:
                self._own[key] = entry
            resolve(over)

        claim.writing = writing
        writing.add_done_callback(settle)
        try:
            await over
        except asyncio.CancelledError:
            claim.left = True
            if writing.done():
                settle(writing)
            raise
        return writing.result()

    def entry(
        self, key: Key, attempt: int, asked: Asked, codec: str, outcome: bytes = b"", started: int | None = None
    ) -> JournalEntry:
        """What a durable await is about to record."""
        return JournalEntry(*key, attempt, asked.digest, asked.text, codec, outcome, started, within=running_step())

    def count(self, kind: str, name: str) -> Key:
        """The key of the next await of a kind that is told apart by order alone."""
        occurrence = self._occurrences.get((kind, name), 0)
        self._occurrences[kind, name] = occurrence + 1
        return (kind, name, occurrence)

    def found(self, key: Key) -> JournalEntry | None:
        """What was recorded before, whatever it had asked for."""
        return self._entries.get(key) or self._own.get(key)

    def recorded(self, key: Key, asked: Asked) -> JournalEntry | None:
        """The outcome that was recorded before. Raises `NonDeterministicError` when it was asked otherwise."""
        entry = self.found(key)
        if entry is not None and entry.digest != asked.digest:
            which, before, now = _which(key), _recorder(entry), "this attempt"
            if key in self._own:
                before, now = "its first try", "another one"
            raise self.fail(
                f"{which}: {before} asked for ({entry.asked}), {now} asks for ({asked.text})",
                f"{which}: {now} asks for something else than {before} did.",
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
        return sorted(name for found, name, _ in self._entries if found == kind and (found, name) not in self._claims)

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


def _shown(part: Any) -> str:
    """For people. Arguments are of any class, also of one that cannot say what it is at any time."""
    try:
        return f"{part.DESCRIPTOR.name}({str(part).strip()})" if isinstance(part, Message) else repr(part)
    except Exception:  # noqa: BLE001 - whatever it is, it is not worth the step
        return f"<{type(part).__qualname__}>"


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
