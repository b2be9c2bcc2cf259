"""Who waits for which entries of instances, until their handlers have run or are known not to run now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from longshore_server.errors import ServiceError
from longshore_server.handler.lending import lent
from longshore_server.instance_lifecycle import Status
from longshore_server.instances.answers import Answer
from longshore_server.store.instances import Handled, InstanceRecord
from longshore_server.store.ledger import Published
from longshore_server.store.mutations.instance import Taken


class Waiter:
    """One verb, from the moment at which the writer has its change.

    Args:
        waiters: where it waits.
        waits: whether it does, or only hands something over.
        begun: called once there is something to wait for.
        left: called once it waits no more, or there is nothing to wait for.
        inside: whether a handler waits that is not told by an error when the server stops.
    """

    outcome: asyncio.Future[Taken | None]
    """What became of the change; set by who has submitted it."""

    def __init__(
        self, waiters: Waiters, waits: bool, begun: Callable[[], object], left: Callable[[], object], *,
        inside: bool,
    ) -> None:  # fmt: skip
        self.waits = waits
        self.inside = inside
        self.told: asyncio.Future[Answer] | None = None
        """None: there is nothing to wait for."""
        self._waiters = waiters
        self._place: tuple[bytes, int] | None = None
        self._beginning = begun
        self._leaving = left
        self._left = False

    def accepted(self, taken: Taken | Exception | None) -> None:
        """In the step that publishes the change."""
        if self._left:
            return
        if not isinstance(taken, Taken) or taken.entry is None or taken.record.status is not Status.ACTIVE:
            self.leave()
            return
        self._beginning()
        self._place = taken.record.uid, taken.entry
        self.told = asyncio.get_running_loop().create_future()
        self._waiters.add(self, taken.record, taken.entry)

    async def answer(self) -> tuple[Taken | None, Answer | None]:
        """What became of the change, and of what it waits for; None: there was nothing to wait for.

        Raises `ServiceError`: the change's own refusal, or UNAVAILABLE.
        """
        try:
            taken = await self.outcome
            if self.told is None:
                return taken, None
            async with lent():
                answer = await self.told
                self.leave()  # waiting for a slot it waits for nobody else
            return taken, answer
        finally:
            self.leave()

    def leave(self) -> None:
        """Wait no more. Repeatable."""
        if not self._left:
            self._left = True
            self._leaving()
            if self._place is not None:
                self._waiters.leave(self, *self._place)


class Waiters:
    """All that wait. Used in the event loop alone."""

    def __init__(self) -> None:
        # By instance, and by the number of the entry. All of an instance are of its current generation.
        self._waiting: dict[bytes, dict[int, dict[Waiter, None]]] = {}
        self._generations: dict[bytes, int] = {}
        self._latest: Mapping[bytes, Published] = {}
        self._refusal: ServiceError | None = None

    def publish(self, changes: Mapping[bytes, Published]) -> None:
        """What a commit has brought. Before `add` of what the same commit has accepted."""
        self._latest = changes
        for uid, (record, handled) in changes.items():
            waiting = self._waiting.get(uid)
            if waiting is None:
                continue
            end = _end(record, self._generations[uid])
            for one in handled:
                _tell(waiting.pop(one.number, ()), _answer(record, one, end))
            while end is not None and waiting:
                _tell(waiting.popitem()[1], end)
            if not waiting:
                del self._waiting[uid], self._generations[uid]

    def add(self, waiter: Waiter, record: InstanceRecord, entry: int) -> None:
        """Let one wait. `record`: as its change has left it; the same commit may have changed it further."""
        if self._refusal is not None and not waiter.inside:
            _refuse(waiter, self._refusal)
            return
        latest, handled = self._latest.get(record.uid, (record, []))
        answer = end = _end(latest, record.generation)
        for one in handled:
            if one.number == entry:
                answer = _answer(latest, one, end)
        if answer is None and latest is not None and latest.work_entry == entry and latest.retry_at is not None:
            answer = Answer(latest, Handled(entry, latest.retry_at))  # its handler has failed before
        if answer is not None:
            _tell([waiter], answer)
            return
        self._waiting.setdefault(record.uid, {}).setdefault(entry, {})[waiter] = None
        self._generations[record.uid] = record.generation

    def leave(self, waiter: Waiter, uid: bytes, entry: int) -> None:
        """One has its answer, or has left without it."""
        waiting = self._waiting.get(uid, {})
        waiters = waiting.get(entry, {})
        if waiter in waiters:
            del waiters[waiter]
            if not waiters:
                del waiting[entry]
            if not waiting:
                del self._waiting[uid], self._generations[uid]

    def drain(self, refusal: ServiceError) -> None:
        """Tell those who wait outside of handlers, from now on too, that they ask the next server."""
        self._refusal = refusal
        for waiting in self._waiting.values():
            for waiters in waiting.values():
                for waiter in waiters:
                    if not waiter.inside:
                        _refuse(waiter, refusal)


def _answer(record: InstanceRecord | None, one: Handled, end: Answer | None) -> Answer:
    return (end or Answer(record, None)) if one.dropped else Answer(record, one)


def _end(record: InstanceRecord | None, generation: int) -> Answer | None:
    """What all are told who wait for something of a generation, where nothing of it runs now; None: it may run."""
    if record is None or record.generation != generation:
        return Answer(None, None)
    # Who waits need not wait for somebody to resume it.
    return None if record.status is Status.ACTIVE or record.under_way else Answer(record, None)


def _tell(waiters: Iterable[Waiter], answer: Answer) -> None:
    for waiter in waiters:
        if waiter.told is not None and not waiter.told.done():
            waiter.told.set_result(answer)


def _refuse(waiter: Waiter, refusal: ServiceError) -> None:
    if waiter.told is not None and not waiter.told.done():
        waiter.told.set_exception(refusal)
