"""The journal: steps and sleeps are done once in the life of an operation, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore_server import DuplicateNameError, NestedStepError, NonDeterministicError, OperationError, step
from tests.conftest import Crash, Lab, State, reason_of_end, result_of


async def test_two_steps_of_one_name_are_refused_with_both_places(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.step("work", int)
        with pytest.raises(DuplicateNameError) as caught:
            await op.step("work", int)
        places = [part for part in str(caught.value).split() if "test_journal.py:" in part]
        assert len(set(places)) == 2
        return lab_pb2.PlayResult()

    assert (await lab.run()).state == State.STATE_COMPLETED


@pytest.mark.parametrize("name", ["", "x" * 513, "a\nb", "\ud800", 5, None], ids=ascii)
async def test_what_is_no_name_of_a_step_or_a_child_is_refused_before_any_write(lab: Lab, name: Any) -> None:
    @lab.plays
    async def handler(request, op):
        with pytest.raises((TypeError, ValueError), match=r"^step.*its name must (be a text|have 1 to 512 printable)"):
            await op.step(name, int)
        if name:
            with pytest.raises((TypeError, ValueError), match=r"^child.*its name must"):
                await lab.server.operations.start(lab.TYPE, lab_pb2.PlayRequest(), name=name)
        return lab_pb2.PlayResult()

    assert (await lab.run()).state == State.STATE_COMPLETED
    assert lab.tables()["journal"] == []
    assert len(lab.tables()["operations"]) == 1


@pytest.mark.parametrize("group", [False, True], ids=["gather", "TaskGroup"])
async def test_two_parallel_steps_of_one_name_are_refused_with_both_places(lab: Lab, group: bool) -> None:
    async def in_group(*calls: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            for call in calls:
                tasks.create_task(call)

    @lab.plays
    async def handler(request, op):
        one = op.step("work", int)
        two = op.step("work", int)
        error: Any
        if group:
            with pytest.raises(ExceptionGroup) as found:
                await in_group(one, two)
            (error,) = found.value.exceptions
        else:
            _, error = await asyncio.gather(one, two, return_exceptions=True)
        assert isinstance(error, DuplicateNameError)
        places = [part for part in str(error).split() if "test_journal.py:" in part]
        assert len(set(places)) == 2
        return lab_pb2.PlayResult()

    assert (await lab.run()).state == State.STATE_COMPLETED


async def test_a_step_in_a_loop_needs_a_name_each_time(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        for number in range(3):
            assert await op.step(f"work-{number}", abs, -number) == number
        ran: list[int] = []
        with contextlib.suppress(DuplicateNameError):
            for number in range(3):
                await op.step("again", ran.append, number)
        assert ran == [0]
        return lab_pb2.PlayResult()

    assert (await lab.run()).state == State.STATE_COMPLETED


async def test_a_failed_step_records_nothing_and_may_be_tried_again(lab: Lab) -> None:
    tries = []

    def work() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("no")
        return 9

    @lab.plays
    async def handler(request, op):
        while True:
            try:
                return lab_pb2.PlayResult(number=await op.step("work", work))
            except ConnectionError:
                assert lab.tables()["journal"] == []

    assert result_of(await lab.run()).number == 9
    assert len(tries) == 3


async def test_an_error_of_a_step_reaches_callers_like_any_other(lab: Lab) -> None:
    def work() -> None:
        raise OperationError("CARD_DECLINED", "The card was declined.")

    @lab.plays
    async def handler(request, op):
        await op.step("charge", work)

    snapshot = await lab.run()
    assert (snapshot.state, reason_of_end(snapshot)) == (State.STATE_FAILED, "CARD_DECLINED")


async def test_steps_run_in_parallel_and_not_inside_one_another(lab: Lab) -> None:
    together = asyncio.Barrier(3)

    async def meet(number: int) -> int:
        await together.wait()
        return number

    @lab.plays
    async def handler(request, op):
        got = await asyncio.gather(*(op.step(f"meet-{n}", meet, n) for n in range(3)))

        async def outer() -> None:
            await op.step("inner", int)

        async def spawning() -> None:
            await asyncio.create_task(outer())

        for work in (outer, spawning):
            with pytest.raises(NestedStepError, match="step 'inner' is inside step 'outer': steps cannot be nested"):
                await op.step("outer", work)
        return lab_pb2.PlayResult(number=sum(got))

    assert result_of(await lab.run()).number == 3


@pytest.mark.parametrize("group", [False, True], ids=["gather", "TaskGroup"])
async def test_after_a_crash_each_parallel_step_gets_its_own_result_in_whatever_order(lab: Lab, group: bool) -> None:
    """And only those are run again whose result was not recorded."""
    ran: list[tuple[int, str]] = []
    recorded, two = set[str](), asyncio.Event()

    @lab.plays
    async def handler(request, op):
        async def work(name: str) -> str:
            ran.append((op.attempt, name))
            if name == "c" and op.attempt == 1:
                await asyncio.Event().wait()
            return f"{name} done"

        async def one(name: str) -> str:
            got = await op.step(name, work, name)
            recorded.add(name)
            if {"a", "b"} <= recorded:
                two.set()
            return str(got)

        names = ["a", "b", "c"] if op.attempt == 1 else ["c", "b", "a"]
        if group:
            async with asyncio.TaskGroup() as tasks:
                made = [tasks.create_task(one(name)) for name in names]
            done = [task.result() for task in made]
        else:
            done = await asyncio.gather(*(one(name) for name in names))
        return lab_pb2.PlayResult(text=", ".join(done))

    name = (await lab.begin()).operation.name
    await two.wait()
    await lab.restart()
    assert result_of(await lab.end(name)).text == "c done, b done, a done"
    assert ran == [(1, "a"), (1, "b"), (1, "c"), (2, "c")]


async def test_the_key_of_a_step_is_stable_and_its_own(lab: Lab) -> None:
    crash, keys = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        def work() -> None:
            keys.append((op.attempt, step.key))
            if op.attempt == 1:
                raise ConnectionError

        try:
            await op.step("a", work)
        except ConnectionError:
            await crash.here(op)
        await op.step("b", work)
        with pytest.raises(RuntimeError):
            step.key  # noqa: B018
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert (await lab.end(name)).state == State.STATE_COMPLETED
    (first, one), (second, again), (third, other) = keys
    assert (first, second, third) == (1, 2, 2)
    assert one == again != other


@pytest.mark.parametrize(
    ("before", "after"),
    [((1,), (2,)), (("a", "b"), ("ab",)), ((b"x",), ("x",)), (([1],), ([1, 1],)), ((), (None,))],
    ids=str,
)
async def test_other_arguments_in_a_rerun_are_reported_with_both_sides(
    lab: Lab, before: tuple[Any, ...], after: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Both sides to the operators; to callers only which step it was, for arguments may hold secrets."""
    crash, ran = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        await op.step("work", lambda *a: ran.append(len(a)), *(before if op.attempt == 1 else after))
        await crash.here(op)
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    snapshot = await lab.end(name)
    assert (snapshot.state, reason_of_end(snapshot)) == (State.STATE_FAILED, "NON_DETERMINISTIC")
    assert snapshot.error.message == "step 'work': this attempt asks for something else than attempt 1 did."
    assert f"attempt 1 asked for ({', '.join(map(repr, before))})" in caplog.text
    assert f"this attempt asks for ({', '.join(map(repr, after))})" in caplog.text
    assert len(ran) == 1


async def test_a_handler_that_swallows_the_mismatch_still_fails(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        with contextlib.suppress(NonDeterministicError):
            await op.step("work", abs, op.attempt)
        await crash.here(op)
        return lab_pb2.PlayResult(text="as if nothing had happened")

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert reason_of_end(await lab.end(name)) == "NON_DETERMINISTIC"


async def test_arguments_that_cannot_be_stored_do_not_count(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        await op.step("work", lambda _: None, object())
        await crash.here(op)
        return lab_pb2.PlayResult(text="fine")

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert result_of(await lab.end(name)).text == "fine"


async def test_a_sleep_is_only_slept_to_its_end(lab: Lab) -> None:
    woke = []

    @lab.plays
    async def handler(request, op):
        await op.sleep(100)
        woke.append((op.attempt, lab.clock.now()))
        await op.sleep(50)
        return lab_pb2.PlayResult()

    begun = lab.clock.now()
    name = (await lab.begin()).operation.name
    await lab.clock.armed(100)
    lab.clock.advance(60)
    await lab.restart()
    await lab.clock.armed(40)
    lab.clock.advance(40)
    await lab.clock.armed(50)
    assert woke == [(2, begun + 100_000_000)]
    await lab.restart()
    await lab.clock.armed(50)
    lab.clock.advance(50)
    assert (await lab.end(name)).state == State.STATE_COMPLETED
    assert [attempt for attempt, _ in woke] == [2, 3]


async def test_a_sleep_that_is_over_after_the_crash_returns_at_once(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.sleep(100)
        return lab_pb2.PlayResult(number=op.attempt)

    name = (await lab.begin()).operation.name
    await lab.clock.armed(100)
    await lab.harness.crash()
    lab.clock.advance(1000)
    await lab.harness.start()
    await lab.connect()
    assert result_of(await lab.end(name)).number == 2


async def test_a_sleep_cannot_be_negative_and_its_change_is_noticed(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        with pytest.raises(ValueError, match="cannot sleep -1: it must not be negative"):
            await op.sleep(-1)
        for endless in (float("inf"), float("nan"), timedelta.max):
            with pytest.raises(ValueError, match=f"cannot sleep {endless}: it must not be longer than 1,000,000,000"):
                await op.sleep(endless)
        await op.sleep(0)
        await op.sleep(0 if op.attempt == 1 else 1)
        await crash.here(op)
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert reason_of_end(await lab.end(name)) == "NON_DETERMINISTIC"


async def test_arguments_that_cannot_be_shown_or_compared_are_no_riddle(lab: Lab) -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("not now")

    loop: list[Any] = []
    loop.append(loop)

    @lab.plays
    async def handler(request, op):
        for _ in range(2):
            with pytest.raises(ValueError, match="a list is nested too deep to be compared, or holds itself"):
                await op.step("look", len, loop)
        return lab_pb2.PlayResult(number=await op.step("look", lambda _: 3, Shy()))

    assert result_of(await lab.run()).number == 3
    (entry,) = lab.tables()["journal"]
    assert any(str(field).endswith("Shy>") for field in entry)
