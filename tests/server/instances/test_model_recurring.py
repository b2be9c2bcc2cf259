"""Recurring against a simple model: any verbs in any order, any behaviour of the handler, a crash after any commit."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.server.instances.modelling import FUSES, LONG, MAX_CRASHES, RETRY, Machine, Model, Work, case

EVERY = 60


class RecurringModel(Model):
    """Its state is the history of its runs: number and planned time of each."""

    def __init__(self, schedule: str, misfire: str, overlap: str, *, immediately: bool, rescues: bool) -> None:
        self.schedule, self.misfire, self.overlap, self.immediately = schedule, misfire, overlap, immediately
        super().__init__(rescues=rescues)

    # The schedule.

    def after(self, time: int, planned: int) -> int:
        """The first time of the schedule after `time`."""
        if self.schedule == "delay":
            return time + EVERY
        base = planned if self.schedule == "rate" else 0
        return base + ((time - base) // EVERY + 1) * EVERY

    def following(self, first: int) -> int:
        times = [first]
        while times[-1] <= self.now:
            times.append(self.after(times[-1], first))
        if len(times) == 1:
            return first
        if first <= max(self.began, self.since):
            return first if self.misfire == "all" else times[-1]
        return times[-1] if self.overlap == "skip" else times[-2]

    # Verbs.

    def start(self) -> bool:
        if not self.open():
            for work in self.queue:
                if work.what == "start":
                    self.ask(work)
            return False
        self.state, self.version = [], self.version + 1
        if self.immediately:
            self.queue.append(Work("start", self.now))
            self.ask(self.queue[-1])
        else:
            self.timers = {"": self.after(self.now, self.now)}
        self.commit()
        return True

    def trigger(self) -> bool:
        if not self.lives or self.status != "ACTIVE":
            return False
        self.queue.append(Work("trigger", self.now))
        self.ask(self.queue[-1])
        self.commit()
        return True

    def catch_up(self) -> None:
        if self.misfire == "skip" and self.timers.get("", self.now + 1) <= self.now:
            self.timers = {"": self.after(self.now, self.timers[""])}

    # Runs.

    @property
    def overtaken(self) -> bool:
        return self.work is not None and self.retry_at is not None and len(self.queue) > self.work.queued

    def take(self) -> Work:
        if self.work is not None and self.work.queued:
            self.queue = [work for work in self.queue if work is not self.work]
        due = self.timers.get("", self.now + 1)
        if self.queue and not due <= self.queue[0].planned:
            return self.queue[0]
        self.timers = {}
        return Work("timer", due)

    def left_out(self) -> bool:
        assert self.work is not None
        return (
            self.misfire == "skip" and self.work.what == "timer" and self.attempt == 1
            and self.work.planned < self.since
        )  # fmt: skip

    def sight(self) -> tuple[Any, ...]:
        assert self.work is not None
        return (self.runs + 1, self.work.planned)

    def act(self) -> None:
        self.note("run")
        self.finish()
        if self.mode == "ends":
            self.end("over")

    def rescue(self) -> None:
        self.note("sorry")
        self.finish(error="HANDLER_ERROR")

    def note(self, what: str) -> None:
        assert self.work is not None
        self.state = [*self.state, [what, self.runs + 1, self.work.planned]]
        self.version += 1

    def finish(self, *, run: bool = True, error: str = "") -> None:
        work = self.work
        assert work is not None
        if work.what == "trigger" and self.timers and self.schedule != "delay":
            first = self.timers[""]
        else:
            first = self.after(self.now if self.schedule == "delay" else work.planned, work.planned)
        self.timers = {"": self.following(first)}
        self.runs += run
        self.done(error)


class RecurringMachine(Machine):
    @initialize(
        schedule=st.sampled_from(["delay", "rate", "cron"]), misfire=st.sampled_from(["once", "skip", "all"]),
        overlap=st.sampled_from(["skip", "queue"]), immediately=st.booleans(), rescues=st.booleans(),
    )  # fmt: skip
    def begin(self, schedule: str, misfire: Any, overlap: Any, immediately: bool, rescues: bool) -> None:
        self.model = RecurringModel(schedule, misfire, overlap, immediately=immediately, rescues=rescues)

        async def sorry(error: BaseException, ctx: Any) -> None:
            ctx.state.append(["sorry", *self.sight(ctx)])

        timings: dict[str, dict[str, Any]] = {
            "delay": {"every": EVERY}, "rate": {"every": EVERY, "rate": "fixed_rate"}, "cron": {"cron": "* * * * *"}
        }  # fmt: skip

        @self.server.recurring(
            "refresh", state=list, misfire=misfire, overlap=overlap, start_immediately=immediately, retry=RETRY,
            max_crashes=MAX_CRASHES, timeout=LONG, on_error=sorry if rescues else None, **timings[schedule],
        )  # fmt: skip
        async def refresh(ctx: Any) -> None:
            ctx.state.append(["run", *self.sight(ctx)])
            if self.is_beside(ctx):
                return
            await self.behave(ctx, *self.sight(ctx))
            if self.mode == "ends":
                ctx.terminate("over")

        self.definition = refresh
        self.serve()

    def sight(self, ctx: Any) -> tuple[Any, ...]:
        return ctx.run_count, round(ctx.planned_at.timestamp()) - 1_767_225_600

    @rule(fuse=FUSES, wait=st.booleans())
    def start(self, fuse: int, wait: bool = False) -> None:
        verb = self.definition.start("a", [], no_wait=not wait)
        answer, created = self.both(verb, self.model.start, fuse=fuse, wait=wait)
        assert answer is None or answer.created == created

    @rule(fuse=FUSES, wait=st.booleans())
    def trigger(self, fuse: int, wait: bool = False) -> None:
        verb = self.definition.trigger("a", no_wait=not wait)
        answer, triggered = self.both(verb, self.model.trigger, fuse=fuse, wait=wait)
        assert answer is None or answer.triggered == triggered

    async def beside(self, number: int) -> None:
        await self.definition.start("b", [])

    def came_beside(self, state: Any) -> list[int]:
        """As many runs as it likes, but each once and in order."""
        runs = [run for _, run, _ in state]
        assert runs == list(range(1, len(runs) + 1))
        return list(range(1, self.sent + 1))


TestRecurring = case(RecurringMachine)


def test_a_run_that_its_servers_die_of_is_given_up() -> None:
    with RecurringMachine.playing(
        schedule="delay", misfire="once", overlap="skip", immediately=True, rescues=True
    ) as machine:  # fmt: skip
        machine.change_mode("hangs")
        machine.start(fuse=0)
        machine.end_the_server(crash=True, seconds=0, times=MAX_CRASHES)
        assert machine.model.error == "CRASH_LOOP"


def test_what_passes_while_an_instance_has_failed_is_missed() -> None:
    with RecurringMachine.playing(
        schedule="rate", misfire="all", overlap="skip", immediately=False, rescues=False
    ) as machine:  # fmt: skip
        machine.start(fuse=0)
        machine.change_mode("fails")
        machine.advance(250, fuse=0)
        assert machine.model.status == "FAILED"
        machine.change_mode("works")
        machine.resume(fuse=0)
        assert machine.model.state[-1] == ["run", 4, 240]


def test_what_comes_during_a_run_out_of_turn_is_skipped() -> None:
    with RecurringMachine.playing(
        schedule="rate", misfire="once", overlap="skip", immediately=False, rescues=False
    ) as machine:  # fmt: skip
        machine.start(fuse=0)
        machine.change_mode("slow")
        machine.trigger(fuse=0)
        assert machine.model.timers == {"": 180}
