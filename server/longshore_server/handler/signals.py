"""What callers send to a running operation, as its handler receives it: each signal once, in one order, durably."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol

from google.protobuf.any_pb2 import Any as AnyMessage
from typing_extensions import TypeVar

from longshore_server.clock import SECOND, Clock, resolve
from longshore_server.contract.durations import span
from longshore_server.handler.durable import outlasting
from longshore_server.handler.journal import Asked, Journal, Key, NonDeterministicError
from longshore_server.handler.running import Running, apart, running
from longshore_server.store.mutations import ConsumeNext, OperationAttempt, Record
from longshore_server.store.queries import StoredSignal
from longshore_server.store.record import JournalEntry, OperationRecord

if TYPE_CHECKING:
    from longshore_server.contract.types import OperationType
    from longshore_server.store.store import Store

PayloadT_co = TypeVar("PayloadT_co", covariant=True)

KIND, UNTIL = "signal", "signal_timeout"
"""The kinds of journal entries: what a wait got, and when it ends."""


@dataclass(frozen=True)
class Signal(Generic[PayloadT_co]):
    """One signal."""

    name: str
    payload: PayloadT_co
    """The message that the contract declares for this name."""
    id: str
    """The idempotency key that it was sent with, or that the server made."""
    number: int
    """Position among all signals of the operation, from 1."""
    sender: str
    """The principal that sent it."""
    time: datetime
    """When it was accepted, in UTC."""


class Published(Protocol):
    """An operation as everybody sees it, and a way to wait for the next change."""

    record: OperationRecord

    def changed(self) -> asyncio.Future[None]:
        """A future that is done at the next publication."""

    def forget(self, future: asyncio.Future[None]) -> None:
        """Let go of a future that nobody waits for any more."""


class SignalStream(Generic[PayloadT_co]):
    """The signals of some names, one after the other: `async for signal in op.signals(): ...`. Never ends by itself."""

    def __init__(self, inbox: Inbox, names: tuple[str, ...]) -> None:
        self._inbox = inbox
        self._names = names

    def __aiter__(self) -> SignalStream[PayloadT_co]:
        return self

    async def __anext__(self) -> Signal[PayloadT_co]:
        return await self._inbox.next(self._names, None)


class _Line:
    """The waits for the same names, told apart by their order. One that is cancelled counts: a re-run makes it, too."""

    __slots__ = ("_by", "_given", "ahead", "count", "left")

    def __init__(self) -> None:
        self.count = 0
        self._by: Running | None = None
        self._given: list[StoredSignal] = []
        """What the try of a step has got that waits here."""
        self.ahead: set[int] = set()
        """The waits that earlier attempts have an outcome for, and that this one has not come to yet."""
        self.left: deque[asyncio.Future[StoredSignal | None]] = deque()
        """What was on its way to waits when they were cancelled, or went to a try that failed: it is for the next."""

    def give(self, signal: StoredSignal) -> None:
        """The wait has got a signal. Another try of the step that it is in gets it again."""
        if self._by is not None:
            self._given.append(signal)

    async def left_over(self) -> StoredSignal | None:
        """A signal that came to a wait which had been cancelled, or to a try before this one, if there is one."""
        by = running.get()
        if by is not self._by:
            for given in reversed(self._given):
                future: asyncio.Future[StoredSignal | None] = asyncio.get_running_loop().create_future()
                future.set_result(given)
                self.left.appendleft(future)
            self._by, self._given = by, []
        while self.left:
            first = self.left[0]
            await asyncio.wait([first])
            if self.left and self.left[0] is first:
                self.left.popleft()
                if first.exception() is None and (signal := first.result()) is not None:
                    return signal
        return None


class Inbox:
    """The signals of one operation, as one attempt consumes them."""

    def __init__(
        self, type: OperationType, record: OperationRecord, source: Published, journal: Journal, store: Store,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._type = type
        self._source = source
        self._uid, self._attempt = record.uid, record.attempt
        self._author = OperationAttempt(record.uid, record.attempt)
        self._journal = journal
        self._store = store
        self._clock = clock
        self._waiting: set[asyncio.Future[None]] = set()
        self._lines: defaultdict[str, _Line] = defaultdict(_Line)
        for kind, label, occurrence in journal.recorded_keys():
            if kind == KIND:
                self._lines[label].ahead.add(occurrence)

    def check(self, names: Iterable[str]) -> None:
        """Raises `ValueError` for a name that the contract does not declare."""
        declared = self._type.signals
        if not declared:
            raise ValueError(f"the contract of {self._type.name} declares no signals")
        for name in names:
            if name not in declared:
                raise ValueError(f"{name!r} is no signal of {self._type.name}: they are {', '.join(declared)}")

    async def next(self, names: tuple[str, ...], timeout: float | timedelta | None) -> Signal[Any]:
        """The next signal of one of these names; none given: of any. See `Operation.next_signal`."""
        self.check(names)
        try:
            seconds = None if timeout is None else span(timeout, zero=True) / SECOND
        except (TypeError, ValueError) as error:
            raise type(error)(f"cannot wait {timeout}: {error}") from None
        wanted = ",".join(sorted(names))
        label = apart(wanted)
        line = self._lines[label]
        found = await line.left_over()
        if found is None:
            key = (KIND, label, line.count)
            line.count += 1
            found = await self._wait(line, key, names, seconds)
        if found is None:
            raise TimeoutError(f"no signal{f' {wanted!r}' if wanted else ''} came within {seconds:g} seconds")
        line.give(found)
        return received(self._type, found, self._journal.fail)

    async def _wait(self, line: _Line, key: Key, names: tuple[str, ...], seconds: float | None) -> StoredSignal | None:
        """The signal of one wait; None: its time is up."""
        asked = Asked(*sorted(names), seconds)
        entry = self._journal.recorded(key, asked)
        if entry is not None:
            return await self._again(line, entry)
        wanted, outcome = frozenset(names), self._entry(key, asked)
        until: int | None = None
        while True:
            late = until is not None and self._clock.now() >= until
            # Later waits got something in an earlier attempt, and this one did not: it gets nothing before they do.
            held = any(other > key[2] for other in line.ahead)
            if late and held:
                await self._store.writer.submit(Record(self._author, outcome))
                return None
            if late or (self._comes(wanted) and not held):
                under_way = self._store.writer.submit(ConsumeNext(self._uid, wanted, outcome, late))
                try:
                    await asyncio.wait([under_way])
                except asyncio.CancelledError:
                    line.left.append(under_way)
                    # Looked at, in case that no other wait will: the operation may be over.
                    under_way.add_done_callback(lambda future: future.cancelled() or future.exception())
                    raise
                signal = under_way.result()
                if signal is not None or late:
                    return signal
            elif until is None and seconds is not None:
                until = await self._until(key, asked, seconds)
            else:
                await self._change(until)

    async def _again(self, line: _Line, entry: JournalEntry) -> StoredSignal | None:
        """What an earlier attempt got."""
        line.ahead.discard(entry.occurrence)
        for future in self._waiting:
            resolve(future)
        if not entry.outcome:
            return None
        return await self._store.signal(self._uid, int(entry.outcome))

    async def _until(self, key: Key, asked: Asked, seconds: float) -> int:
        """When the wait ends, recorded at its first call: a re-run waits only what is left."""
        _, label, occurrence = key
        kept = self._journal.recorded((UNTIL, label, occurrence), asked)
        if kept is not None:
            return int(kept.outcome)
        until = self._clock.now() + int(seconds * SECOND)
        entry = self._entry((UNTIL, label, occurrence), asked)._replace(outcome=str(until).encode())
        await self._store.writer.submit(Record(self._author, entry))
        return until

    async def _change(self, until: int | None) -> None:
        """Return when something has changed, or at `until`."""
        future = self._source.changed()
        self._waiting.add(future)
        timer = None if until is None else self._clock.call_at(until, partial(resolve, future))
        try:
            with outlasting():
                await future
        finally:
            if timer is not None:
                timer.cancel()
            self._waiting.discard(future)
            self._source.forget(future)

    def _comes(self, names: frozenset[str]) -> bool:
        return any(not names or waiting.name in names for waiting in self._source.record.pending)

    def _entry(self, key: Key, asked: Asked) -> JournalEntry:
        return self._journal.entry(key, self._attempt, asked, key[0])


def received(
    type: OperationType, stored: StoredSignal, fail: Callable[[str, str], NonDeterministicError]
) -> Signal[Any]:
    """A signal as the service's code sees it. Raises what `fail` makes where today's contract has another type for it,
    or no such signal."""
    declared, packed = type.signals.get(stored.name), AnyMessage.FromString(stored.payload)
    payload = None if declared is None else declared.payload()
    if payload is None or not packed.Unpack(payload):
        now = "no signal of this name" if payload is None else f"{payload.DESCRIPTOR.full_name} for it"
        problem = (
            f"signal {stored.name!r} cannot be read any more: a {packed.TypeName()} was sent, and {type.name} declares "
            f"{now} now"
        )
        raise fail(problem, f"{problem}.")
    time = datetime.fromtimestamp(stored.accepted / SECOND, UTC)
    return Signal(stored.name, payload, stored.id, stored.number, stored.sender, time)
