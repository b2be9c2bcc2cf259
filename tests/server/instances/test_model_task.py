"""Task against a simple model: the state is the history of all that was handled, so a lost or doubled event shows."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from longshore_server import ErrorContext, ExecuteContext, IdleContext, Task, TaskContext, TaskEventContext
from longshore_server.errors import Reason, ServiceError
from tests.server.instances.modelling import FUSES, LONG, MAX_CRASHES, RETRY, Machine, Model, Work, case

TIDY = 40
"""Seconds after which `on_idle` has it execute once more, where it does."""
EVENTS = st.one_of(
    st.just(["note", "", 0]),
    st.tuples(st.just("schedule"), st.sampled_from(["", "x"]), st.sampled_from([0, 5, 60])).map(list),
    st.tuples(st.just("cancel"), st.sampled_from(["", "x", "tidy"]), st.just(0)).map(list),
)  # fmt: skip


class TaskModel(Model):
    def __init__(self, *, tidies: bool, rescues: bool) -> None:
        self.tidies = tidies
        super().__init__(rescues=rescues)

    def begin(self) -> None:
        super().begin()
        self.ids: dict[str, Work] = {}

    # Verbs.

    def send(self, event: list[Any], event_id: str, expected: int | None) -> Any:
        there = self.lives and self.status != "TERMINATED"
        if there and event_id in self.ids:
            before = self.ids[event_id]
            if before.value != event:
                return Reason.EVENT_ID_REUSED
            if any(work is before for work in self.queue):
                self.ask(before)
            return False, True
        busy = there and (self.queue or self.work)
        if expected is not None and (busy or expected != (self.version if there else 0)):
            return Reason.VERSION_MISMATCH
        created = self.open()
        self.queue.append(Work("event", self.now, event))
        if event_id:
            self.ids[event_id] = self.queue[-1]
        self.ask(self.queue[-1])
        self.commit()
        return created, False

    def trigger(self) -> bool:
        if not self.lives or self.status != "ACTIVE":
            return False
        self.queue.append(Work("trigger", self.now))
        self.ask(self.queue[-1])
        self.commit()
        return True

    # Runs.

    def take(self) -> Work:
        name, due = min(self.timers.items(), key=lambda timer: timer[1], default=("", self.now + 1))
        if due > self.now or (self.queue and due > self.queue[0].planned):
            return self.queue[0]
        del self.timers[name]
        return Work("timer", due, name=name)

    def sight(self) -> tuple[Any, ...]:
        work = self.work
        assert work is not None
        if work.what == "event":
            return ("event", work.value, self.events + 1, self.state is None)
        return ("execute", work.name if work.what == "timer" else None, self.events, self.runs + 1)

    def act(self) -> None:
        assert self.work is not None
        self.state = [*(self.state or []), self.sight()[1]]
        self.version += 1
        if self.work.what == "event":
            what, name, delay = self.work.value
            if what == "schedule":
                self.timers[name] = self.now + delay
            elif what == "cancel":
                self.timers.pop(name, None)
        if self.mode != "ends":
            self.idle()
        self.finish()
        if self.mode == "ends":
            self.end("over")

    def idle(self) -> None:
        assert self.work is not None
        if not self.timers and len(self.queue) == self.work.queued:
            self.state = [*(self.state or []), "idle"]
            if self.tidies and self.work.what == "event":
                self.timers["tidy"] = self.now + TIDY

    def rescue(self) -> None:
        assert self.work is not None
        self.state = [*(self.state or []), "sorry"]
        self.version += 1
        self.timers["sorry"] = self.now + 15
        self.idle()
        self.finish(error="HANDLER_ERROR")

    def finish(self, *, run: bool = True, error: str = "") -> None:
        assert self.work is not None
        self.events += self.work.what == "event"
        self.runs += run and self.work.what != "event"
        self.done(error)


def note(ctx: TaskContext[list[Any]], what: Any) -> None:
    ctx.state = [*(ctx.state or []), what]


class TaskMachine(Machine):
    @initialize(tidies=st.booleans(), rescues=st.booleans())
    def begin(self, tidies: bool, rescues: bool) -> None:
        self.model = TaskModel(tidies=tidies, rescues=rescues)
        machine = self

        class Plain(Task[list[Any], list[Any]]):
            async def on_event(self, event: list[Any], ctx: TaskEventContext[list[Any]]) -> None:
                note(ctx, event)
                if machine.is_beside(ctx):
                    return
                await machine.behave(ctx, "event", event, ctx.event_count, ctx.is_first_event)
                what, name, delay = event
                if what == "schedule":
                    ctx.schedule(delay, name=name)
                elif what == "cancel":
                    ctx.cancel_schedule(name=name)
                if machine.mode == "ends":
                    ctx.terminate("over")

            async def execute(self, ctx: ExecuteContext[list[Any]]) -> None:
                note(ctx, ctx.timer)
                if machine.is_beside(ctx):
                    return
                await machine.behave(ctx, "execute", ctx.timer, ctx.event_count, ctx.execute_count)
                if machine.mode == "ends":
                    ctx.terminate("over")

            async def on_idle(self, ctx: IdleContext[list[Any]]) -> None:
                note(ctx, "idle")
                if tidies and ctx.idle_reason == "on_event":
                    ctx.schedule(TIDY, name="tidy")

        class Careful(Plain):
            async def on_error(self, error: BaseException, ctx: ErrorContext[list[Any]]) -> None:
                assert ctx.error_source in ("on_event", "execute")
                note(ctx, "sorry")
                ctx.schedule(15, name="sorry")

        self.definition = self.server.task(
            "order", Careful if rescues else Plain, retry=RETRY, max_crashes=MAX_CRASHES, timeout=LONG
        )  # fmt: skip
        self.serve()

    @rule(
        event=EVENTS, event_id=st.sampled_from(["", "", "", "x", "y"]), fuse=FUSES,
        expected=st.sampled_from([None, None, None, 0, 1, 2]), wait=st.booleans(),
    )  # fmt: skip
    def send(
        self, event: list[Any], event_id: str, expected: int | None, fuse: int, wait: bool = False
    ) -> None:  # fmt: skip
        async def send() -> Any:
            try:
                sent = await self.definition.send(
                    "a", event, event_id=event_id, expected_version=expected, no_wait=not wait
                )  # fmt: skip
            except ServiceError as error:
                return error.reason
            return sent.created, sent.duplicate

        answer, expectation = self.both(send(), self.model.send, event, event_id, expected, fuse=fuse, wait=wait)
        assert answer is None or answer == expectation

    @rule(fuse=FUSES, wait=st.booleans())
    def trigger(self, fuse: int, wait: bool = False) -> None:
        verb = self.definition.trigger("a", no_wait=not wait)
        answer, triggered = self.both(verb, self.model.trigger, fuse=fuse, wait=wait)
        assert answer is None or answer.triggered == triggered

    async def beside(self, number: int) -> None:
        await self.definition.send("b", ["note", "", number], event_id=str(number))

    def came_beside(self, state: Any) -> list[int]:
        return [note[2] for note in state if isinstance(note, list)]


TestTask = case(TaskMachine)


def test_what_waits_is_handled_in_the_order_of_its_times() -> None:
    with TaskMachine.playing(tidies=False, rescues=False) as machine:
        machine.send(["schedule", "x", 5], "", None, fuse=0)
        machine.pause(fuse=0)
        machine.advance(10, fuse=0)
        for _ in range(2):
            machine.send(["note", "", 0], "", None, fuse=0)
        machine.resume(fuse=0)
        assert machine.model.state == [["schedule", "x", 5], "x", ["note", "", 0], ["note", "", 0], "idle"]


def test_who_waits_behind_what_fails_for_good_is_told() -> None:
    with TaskMachine.playing(tidies=False, rescues=False) as machine:
        machine.change_mode("fails")
        for event_id in ("x", "x", "y", "y"):
            machine.send(["note", "", 0], event_id, None, fuse=0, wait=True)
        machine.agrees()
        # The first one has failed, and is tried again later: who sends it again is told just that.
        assert len(machine.waiting) == 2
        machine.advance(10, fuse=0)
        assert machine.model.status == "FAILED"
        machine.agrees()
        assert machine.waiting == []
