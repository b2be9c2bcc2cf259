"""Debounce against a simple model: no event is lost, counted twice or handled in another batch than the model's."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from longshore_server import FlushReason
from longshore_server.errors import Reason, ServiceError
from tests.server.instances.modelling import FUSES, LONG, MAX_CRASHES, RETRY, Machine, Model, Work, case

FLUSH_AFTER, MAX_WAIT, MAX_EVENTS = 20, 45, 3


class DebounceModel(Model):
    """Its state is the list of the open batch's events."""

    def __init__(self, *, trailing: bool, rescues: bool) -> None:
        self.trailing = trailing
        self.sealed = 0
        super().__init__(rescues=rescues)

    def begin(self) -> None:
        super().begin()
        self.ids: dict[str, tuple[int, int]] = {}
        """Each event, and the number of its batch."""
        self.started = 0

    def facts(self) -> dict[str, Any] | None:
        facts = super().facts()
        return facts and {
            **facts,
            "open": self.count(),
            "held": [len(w.value["events"]) for w in self.all_held()],
        }

    def count(self) -> int:
        """How many events the open batch has; a tombstone shows its last state, and has none open."""
        return 0 if self.status == "TERMINATED" else len(self.state or [])

    def all_held(self) -> list[Work]:
        """Batches that wait, and dead ones, in the order in which they were sealed."""
        return sorted(self.queue + self.dead, key=lambda work: int(work.value["number"]))

    # Verbs.

    def add(self, event: int, event_id: str) -> Any:
        if self.lives and self.status != "TERMINATED" and event_id in self.ids:
            before, number = self.ids[event_id]
            if before != event:
                return Reason.EVENT_ID_REUSED
            for work in self.queue:
                if work.value["number"] == number:
                    self.ask(work)
            return False, True
        created = self.open()
        if event_id:
            self.ids[event_id] = event, self.sealed + 1
        if not self.state:
            self.state, self.started = [], self.now
        self.state = [*self.state, event]
        self.version += 1
        self.events += 1
        due = self.now + FLUSH_AFTER if self.trailing else self.started + FLUSH_AFTER
        self.timers = {"": min(due, self.started + MAX_WAIT)}
        if len(self.state) == MAX_EVENTS:
            self.seal("MAX_EVENTS")
            self.ask(self.queue[-1])
        self.commit()
        return created, False

    def seal(self, why: str) -> None:
        self.sealed += 1
        batch = {"number": self.sealed, "events": self.state, "started": self.started, "why": why}
        self.queue.append(Work("batch", self.now, batch))
        self.state, self.timers = None, {}

    def flush(self) -> int | None:
        if not self.lives or self.status != "ACTIVE":
            return None
        changes = self.retry_at is not None or bool(self.state)
        self.retry_at = None
        if self.state:
            self.seal("MANUAL")
        events = None
        if self.queue:
            events = len(self.queue[-1].value["events"])
            self.ask(self.queue[-1])
        if changes:
            self.commit()
        return events

    def clear(self) -> int:
        if not self.lives or self.status == "TERMINATED":
            return 0
        kept = [self.work] if self.work and self.under_way else []
        gone = len(self.state or []) + sum(len(w.value["events"]) for w in self.all_held() if w not in kept)
        self.queue, self.dead, self.state, self.timers = kept, [], None, {}
        self.version += 1
        if not kept:
            self.work, self.retry_at, self.attempt = None, None, 0
        self.commit()
        return gone

    def revive(self) -> None:
        self.queue, self.dead = self.all_held(), []

    # Runs.

    def take(self) -> Work:
        if self.timers.get("", self.now + 1) <= self.now:
            self.seal("FLUSH_AFTER")
        return self.queue[0]

    def sight(self) -> tuple[Any, ...]:
        assert self.work is not None
        batch = self.work.value
        return (batch["events"], len(batch["events"]), batch["started"], batch["why"])

    def act(self) -> None:
        self.finish()

    def finish(self, *, run: bool = True, error: str = "") -> None:
        self.runs += run
        self.done(error)

    def rescue(self) -> None:
        assert self.work is not None
        self.dead.append(self.work)
        self.finish(error="HANDLER_ERROR")

    def exhaust(self, reason: str) -> None:
        assert self.work is not None
        self.dead.append(self.work)
        self.done(reason)
        self.status = "FAILED"


class DebounceMachine(Machine):
    @initialize(trailing=st.booleans(), rescues=st.booleans())
    def begin(self, trailing: bool, rescues: bool) -> None:
        self.model = DebounceModel(trailing=trailing, rescues=rescues)

        async def sorry(error: BaseException, ctx: Any) -> None: ...

        options: dict[str, Any] = {"mode": "trailing", "max_wait": MAX_WAIT} if trailing else {}

        @self.server.debounce(
            "numbers", event=int, state=list, initial=list, on_event=lambda ctx: [*ctx.state, ctx.event],
            flush_after=FLUSH_AFTER, max_events=MAX_EVENTS, retry=RETRY, max_crashes=MAX_CRASHES, timeout=LONG,
            on_error=sorry if rescues else None, **options,
        )  # fmt: skip
        async def numbers(ctx: Any) -> None:
            assert isinstance(ctx.flush_reason, FlushReason)
            if self.is_beside(ctx):
                self.batches[ctx.key] = ctx.state
                return
            started = round(ctx.started_at.timestamp()) - 1_767_225_600
            await self.behave(ctx, ctx.state, ctx.event_count, started, ctx.flush_reason.name)

        self.definition = numbers
        self.batches: dict[str, list[int]] = {}
        """Those of the instance beside that were handled."""
        self.serve()

    def facts(self, record: Any, stored: Any) -> dict[str, Any]:
        sql = "SELECT events FROM instance_entries WHERE uid = ? ORDER BY abs(number)"
        held = self.file.execute(sql, (record.uid,)).fetchall()
        return {
            **super().facts(record, stored), "open": record.batch_events, "held": [events for (events,) in held]
        }  # fmt: skip

    @rule(event=st.integers(0, 2), event_id=st.sampled_from(["", "", "", "x", "y"]), fuse=FUSES, wait=st.booleans())
    def add(self, event: int, event_id: str, fuse: int, wait: bool = False) -> None:
        async def add() -> Any:
            try:
                added = await self.definition.add("a", event, event_id=event_id, no_wait=not wait)
            except ServiceError as error:
                return error.reason
            return added.created, added.duplicate

        answer, expected = self.both(add(), self.model.add, event, event_id, fuse=fuse, wait=wait)
        assert answer is None or answer == expected

    @rule(fuse=FUSES, wait=st.booleans())
    def flush(self, fuse: int, wait: bool = False) -> None:
        verb = self.definition.flush("a", no_wait=not wait)
        answer, events = self.both(verb, self.model.flush, fuse=fuse, wait=wait)
        assert answer is None or (answer.flushed, answer.event_count) == (events is not None, events or 0)

    @rule(fuse=FUSES)
    def clear(self, fuse: int) -> None:
        answer, gone = self.both(self.definition.clear("a"), self.model.clear, fuse=fuse)
        assert answer is None or answer.discarded_events == gone

    async def beside(self, number: int) -> None:
        await self.definition.add("b", number, event_id=str(number))

    def came_beside(self, state: Any) -> list[int]:
        """In handled batches, and in the open one."""
        return sorted([event for batch in self.batches.values() for event in batch] + (state or []))


TestDebounce = case(DebounceMachine)
