"""What is traced, told by every floor and recorded by none of them: telemetry gives a `Tracer` its backend.

Without one nothing is recorded, and to ask costs a fraction of a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeAlias

Metadata: TypeAlias = Callable[[], Iterable[tuple[str, str | bytes]] | None]
"""Gives what a caller sent beside its request."""


class Span:
    """Something that is under way. This one is not recorded."""

    __slots__ = ()

    def note(self, error: BaseException) -> None:
        """An error that operators will want to see, whatever becomes of it."""

    def end(self, outcome: str, problem: str = "") -> None:
        """It is over. `problem`: why it failed; empty: it did not."""


UNRECORDED = Span()
_NOTHING = nullcontext()


class Backend(Protocol):
    """What records. Its methods are those of `Tracer`."""

    def call(self, path: str, metadata: Metadata) -> Span: ...
    def attempt(self, operation: str, type: str, number: int, trace: str) -> Span: ...
    def step(self, name: str) -> AbstractContextManager[object]: ...
    def traceparent(self) -> str: ...


class Tracer:
    """The calls, attempts and steps of one server."""

    def __init__(self) -> None:
        self.backend: Backend | None = None
        """Set once, before operations run."""

    def call(self, path: str, metadata: Metadata) -> Span:
        """A call has come in, and is now what the task does in whose name it came."""
        return UNRECORDED if self.backend is None else self.backend.call(path, metadata)

    def attempt(self, operation: str, type: str, number: int, trace: str) -> Span:
        """An attempt begins, and is now what the task does in which it runs. `trace`: stored with the operation."""
        return UNRECORDED if self.backend is None else self.backend.attempt(operation, type, number, trace)

    def step(self, name: str) -> AbstractContextManager[object]:
        """A step of the attempt that runs here, for as long as the block lasts."""
        return _NOTHING if self.backend is None else self.backend.step(name)

    def traceparent(self) -> str:
        """What is under way here, as the W3C writes it or the backend, to be stored with an operation that it starts.
        Empty: its attempts are not to be traced."""
        return "" if self.backend is None else self.backend.traceparent()
