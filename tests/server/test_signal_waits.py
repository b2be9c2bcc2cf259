"""How a handler waits for signals: each once, in order, with a timeout that outlives the server, in every re-run."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from lab.v1.lab_pb2 import PlayResult
from lab.v1.signals_pb2 import Approve, Reject

from longshore_server import NonDeterministicError
from longshore_server.store.mutations import ConsumeNext, SendSignal
from tests.conftest import Crash, Lab, State, reason_of_end, result_of, turns
from tests.server.signalling import AGAIN, LISTEN, lab, packed, pending, send

__all__ = ["lab"]


def told(numbers: list[Any]) -> PlayResult:
    """A result that says what a handler got."""
    return PlayResult(text=json.dumps(numbers))


async def outcome(lab: Lab, name: str) -> list[Any]:
    found: list[Any] = json.loads(result_of(await lab.end(name)).text)
    return found


async def amounts(op: Any, count: int) -> list[int]:
    return [(await op.next_signal("approve")).payload.amount for _ in range(count)]


# Order.


async def test_signals_come_in_the_order_of_their_acceptance(lab: Lab) -> None:
    go = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await go.wait()
        return told(await amounts(op, 4))

    name = (await lab.begin(LISTEN)).operation.name
    for amount in (1, 2):
        await send(lab, name, amount=amount)
    go.set()
    await lab.catch_up()
    for amount in (3, 4):
        await send(lab, name, amount=amount)
    assert await outcome(lab, name) == [1, 2, 3, 4]


async def test_a_wait_leaves_the_signals_of_other_names(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        no = await op.next_signal("reject")
        return told([no.payload.why, *await amounts(op, 1)])

    name = (await lab.begin(LISTEN)).operation.name
    await send(lab, name, amount=1)
    await lab.catch_up()
    assert await pending(lab, name) == [1]
    await send(lab, name, "reject", Reject(why="late"))
    assert await outcome(lab, name) == ["late", 1]


async def test_an_iterator_gives_all_names_in_one_order(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        got = []
        async for signal in op.signals("approve", "reject"):
            got.append([signal.number, signal.name])
            if signal.name == "reject" and signal.payload.why == "end":
                break
        rest = [signal.name async for signal in first(op.signals(), 2)]
        return told([got, rest])

    name = (await lab.begin(LISTEN)).operation.name
    await send(lab, name)
    await send(lab, name, "poke", Empty())
    await send(lab, name, "reject")
    await send(lab, name)
    await send(lab, name, "reject", Reject(why="end"))
    await send(lab, name)
    got, rest = await outcome(lab, name)
    assert got == [[1, "approve"], [3, "reject"], [4, "approve"], [5, "reject"]]
    assert rest == ["poke", "approve"]


async def first(signals: Any, count: int) -> Any:
    for _ in range(count):
        yield await anext(signals)


async def test_waits_at_the_same_time_get_one_signal_each(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        waits = [op.next_signal("approve", timeout=None if n % 2 else 60) for n in range(5)]
        got = await asyncio.gather(*waits)
        return told([signal.payload.amount for signal in got])

    name = (await lab.begin(LISTEN)).operation.name
    for amount in range(5):
        await send(lab, name, amount=amount)
    assert sorted(await outcome(lab, name)) == [0, 1, 2, 3, 4]


async def test_a_signal_wakes_only_whom_it_is_for(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        yes, no = await asyncio.gather(op.next_signal("approve"), op.next_signal("reject"))
        return told([yes.number, no.number])

    name = (await lab.begin(LISTEN)).operation.name
    await send(lab, name, "reject")
    await send(lab, name, "approve")
    assert await outcome(lab, name) == [2, 1]


# What cannot be waited for.


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (
            lambda op: op.next_signal("aprove"),
            "'aprove' is no signal of lab.v1.SignalsService/Listen: they are approve,",
        ),
        (lambda op: op.next_signal("approve", timeout=-1), "cannot wait -1 seconds"),
        (lambda op: op.next_signal("approve", timeout=timedelta(seconds=-2)), r"cannot wait -2\.0 seconds"),
    ],
)
async def test_a_wait_that_makes_no_sense_is_an_error(lab: Lab, ask: Any, words: str) -> None:
    @lab.plays
    async def handler(request, op):
        with pytest.raises(ValueError, match=words):
            await ask(op)
        with pytest.raises(ValueError, match="'aprove' is no signal"):
            op.signals("approve", "aprove")
        return PlayResult()

    assert (await lab.run(LISTEN)).state == State.STATE_COMPLETED


async def test_a_type_without_signals_says_so(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        for ask in (op.signals, lambda: op.signals("x")):
            with pytest.raises(ValueError, match=r"the contract of lab\.v1\.LabService/Play declares no signals"):
                ask()
        return PlayResult()

    assert (await lab.run()).state == State.STATE_COMPLETED


# Timeouts.


async def test_a_timeout_is_an_error_and_consumes_nothing(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        with pytest.raises(TimeoutError, match="no signal 'approve' came within 60 seconds"):
            await op.next_signal("approve", timeout=60)
        return told(await amounts(op, 1))

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(60)
    lab.clock.advance(60)
    await lab.catch_up()
    await send(lab, name, amount=1)
    assert await outcome(lab, name) == [1]


@pytest.mark.parametrize("timeout", [60, 60.0, timedelta(minutes=1)])
async def test_a_signal_that_comes_in_time_ends_the_wait(lab: Lab, timeout: Any) -> None:
    @lab.plays
    async def handler(request, op):
        return told([(await op.next_signal("approve", timeout=timeout)).payload.amount])

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(60)
    lab.clock.advance(59)
    await send(lab, name, amount=1)
    assert await outcome(lab, name) == [1]
    assert lab.clock.timers(1) == 0, "the timer is gone with its wait"


async def test_a_timeout_of_nothing_takes_what_is_there(lab: Lab) -> None:
    go = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await go.wait()
        got = [(await op.next_signal("approve", timeout=0)).payload.amount]
        with pytest.raises(TimeoutError):
            await op.next_signal("approve", timeout=0)
        return told(got)

    name = (await lab.begin(LISTEN)).operation.name
    await send(lab, name, amount=1)
    go.set()
    assert await outcome(lab, name) == [1]


async def test_a_rerun_waits_only_what_is_left(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        try:
            await op.next_signal("approve", timeout=100)
        except TimeoutError:
            return told(["timeout", op.attempt])

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(100)
    lab.clock.advance(70)
    await lab.restart()
    await lab.clock.armed(30)
    lab.clock.advance(30)
    assert await outcome(lab, name) == ["timeout", 2]


async def test_a_timeout_that_passed_while_no_server_ran_is_over_at_once(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        with contextlib.suppress(TimeoutError):
            return told([(await op.next_signal("approve", timeout=100)).number])
        return told(["timeout"])

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(100)
    await lab.harness.crash()
    lab.clock.advance(1000)
    await lab.harness.start()
    await lab.connect()
    assert await outcome(lab, name) == ["timeout"]


async def test_a_signal_that_comes_as_the_time_is_up_comes_again_in_a_rerun(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        if op.attempt == 1:
            # On its way when the wait begins, which finds its time to be up before it finds the signal.
            payload = packed(Approve(amount=7)).SerializeToString()
            lab.engine.store.writer.submit(SendSignal(op.uid_bytes, "approve", "one", payload, "local", 9))
        got = (await op.next_signal("approve", timeout=0)).payload.amount
        await crash.here(op)
        return told([got])

    name = (await lab.begin(LISTEN)).operation.name
    await crash.happen()
    assert await outcome(lab, name) == [7]


async def test_a_recorded_timeout_is_one_again_though_a_signal_has_come(lab: Lab) -> None:
    crash, seen = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        try:
            await op.next_signal("approve", timeout=100)
        except TimeoutError:
            seen.append(op.attempt)
        await crash.here(op)
        return told(await amounts(op, 1))

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(100)
    lab.clock.advance(100)
    await crash.reached.wait()
    await send(lab, name, amount=7)
    await crash.happen()
    assert await outcome(lab, name) == [7]
    assert seen == [1, 2]


# Re-runs.


async def test_a_rerun_gets_the_same_signals_from_the_same_calls_then_new_ones(lab: Lab) -> None:
    crash, seen = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        got = await amounts(op, 2)
        got.append((await op.next_signal("reject", timeout=60)).payload.why)
        async for signal in op.signals("approve", "reject"):
            got.append(signal.number)
            break
        seen.append(got)
        await crash.here(op)
        return told([*got, *await amounts(op, 2)])

    name = (await lab.begin(LISTEN)).operation.name
    for amount in (1, 2):
        await send(lab, name, amount=amount)
    await send(lab, name, "reject", Reject(why="no"))
    for amount in (3, 4):
        await send(lab, name, amount=amount)
    await crash.reached.wait()
    await send(lab, name, amount=5)
    await crash.happen()
    assert await outcome(lab, name) == [1, 2, "no", 4, 4, 5]
    assert seen == [[1, 2, "no", 4]] * 2
    assert await pending(lab, name) == []


async def test_a_failed_attempt_is_made_again_with_the_same_signals(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        got = await amounts(op, 1)
        if op.attempt < 3:
            raise RuntimeError("again")
        return told([*got, op.attempt])

    name = (await lab.begin(AGAIN)).operation.name
    await send(lab, name, amount=3)
    for attempt in (1, 2):
        await lab.reached(name, "attempt_failed", attempt)
        await lab.clock.armed(60)
        lab.clock.advance(60)
    assert await outcome(lab, name) == [3, 3]


@pytest.mark.parametrize("recorded", ["a signal", "a timeout", "an end of the waiting"])
async def test_another_timeout_in_a_rerun_is_non_deterministic(lab: Lab, recorded: str) -> None:
    crash, errors = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        try:
            with contextlib.suppress(TimeoutError):
                await op.next_signal("approve", timeout=50 + op.attempt)
        except NonDeterministicError as error:
            errors.append(str(error))
        await crash.here(op)
        return PlayResult()

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(51)
    if recorded == "a signal":
        await send(lab, name)
    elif recorded == "a timeout":
        lab.clock.advance(51)
    if recorded == "an end of the waiting":
        await lab.restart()
    else:
        await crash.happen()
    assert reason_of_end(await lab.end(name)) == "NON_DETERMINISTIC"
    kind = "signal_timeout" if recorded == "an end of the waiting" else "signal"
    assert errors == [
        f"{kind} 'approve': attempt 1 asked for ('approve', 51.0), this attempt asks for ('approve', 52.0)"
    ]


async def test_concurrent_waits_get_their_own_signals_again(lab: Lab) -> None:
    crash, seen = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        async def wait(n: int) -> Any:
            await asyncio.sleep(0)
            return (await op.next_signal("approve", timeout=n * 1000 or None)).payload.amount

        got = await asyncio.gather(*(wait(n) for n in range(4)))
        seen.append(got)
        await crash.here(op)
        return told([*got, *await amounts(op, 1)])

    name = (await lab.begin(LISTEN)).operation.name
    for amount in range(5):
        await send(lab, name, amount=amount)
    await crash.happen()
    *got, last = await outcome(lab, name)
    assert seen == [got, got]
    assert (sorted(got), last) == ([0, 1, 2, 3], 4)


# Cancellation of a wait.


async def test_a_wait_that_is_cancelled_consumes_nothing(lab: Lab) -> None:
    cancelled = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        wait = asyncio.ensure_future(op.next_signal("approve"))
        await turns()
        wait.cancel()
        await asyncio.wait([wait])
        cancelled.set()
        return told(await amounts(op, 2))

    name = (await lab.begin(LISTEN)).operation.name
    await cancelled.wait()
    for amount in (1, 2):
        await send(lab, name, amount=amount)
    assert await outcome(lab, name) == [1, 2]


@pytest.mark.parametrize("timeout", [None, 1000])
async def test_what_was_on_its_way_to_a_cancelled_wait_is_for_the_next(lab: Lab, timeout: float | None) -> None:
    crash = Crash(lab)
    seen: list[int] = []

    @lab.plays
    async def handler(request, op):
        wait = asyncio.ensure_future(op.next_signal("approve", timeout=timeout))
        if op.attempt == 1:
            await consuming.wait()
            wait.cancel()
            await asyncio.wait([wait])
            assert wait.cancelled()
        else:
            seen.append((await wait).payload.amount)
        got = await amounts(op, 2 if op.attempt == 1 else 1)
        seen.extend(got)
        await crash.here(op)
        return told([*seen, *await amounts(op, 1)])

    consuming = asyncio.Event()
    submit = lab.engine.store.writer.submit

    def spy(mutation: Any, *rest: Any) -> Any:
        if isinstance(mutation, ConsumeNext):
            # Once this step of the loop is over, the change is with the writer and the wait is not done.
            asyncio.get_running_loop().call_soon(consuming.set)
        return submit(mutation, *rest)

    lab.engine.store.writer.submit = spy
    name = (await lab.begin(LISTEN)).operation.name
    await lab.catch_up()
    for amount in (1, 2, 3):
        await send(lab, name, amount=amount)
    await crash.happen()
    assert await outcome(lab, name) == [1, 2, 1, 2, 3]


@pytest.mark.parametrize("timeout", [None, 1000])
async def test_a_wait_that_was_given_up_is_given_up_again(lab: Lab, timeout: float | None) -> None:
    """It gets nothing that later ones got, nor what is new: those come first, in the order of the calls."""
    crash, seen, given_up = Crash(lab), [], asyncio.Event()

    @lab.plays
    async def handler(request, op):
        wait = asyncio.ensure_future(op.next_signal("approve", timeout=timeout))
        await lab.catch_up()
        wait.cancel()
        await asyncio.wait([wait])
        assert wait.cancelled()
        given_up.set()
        got = [(await op.next_signal("approve", timeout=2000)).payload.amount, *await amounts(op, 1)]
        seen.append(got)
        await crash.here(op)
        return told([*got, *await amounts(op, 2)])

    name = (await lab.begin(LISTEN)).operation.name
    await given_up.wait()
    for amount in (1, 2):
        await send(lab, name, amount=amount)
    await crash.reached.wait()
    for amount in (3, 4):
        await send(lab, name, amount=amount)
    await crash.happen()
    assert await outcome(lab, name) == [1, 2, 3, 4]
    assert seen == [[1, 2], [1, 2]]


async def test_a_wait_that_went_on_while_others_got_something_goes_on_again(lab: Lab) -> None:
    crash = Crash(lab)

    @lab.plays
    async def handler(request, op):
        # The end of the first one's waiting is recorded first: the second comes before it.
        patient = asyncio.ensure_future(op.next_signal("approve", timeout=1000))
        await turns()
        eager = await op.next_signal("approve")
        await crash.here(op)
        return told([eager.payload.amount, (await patient).payload.amount])

    name = (await lab.begin(LISTEN)).operation.name
    taken: list[Any] = []
    submit = lab.engine.store.writer.submit

    def spy(mutation: Any, *rest: Any) -> Any:
        if isinstance(mutation, ConsumeNext):
            taken.append(mutation.entry.occurrence)
            if mutation.entry.occurrence == 0 and lab.engine.table.named(name.partition("/")[2]).record.attempt == 1:
                return asyncio.get_running_loop().create_future()  # the first one is held up on its way
        return submit(mutation, *rest)

    lab.engine.store.writer.submit = spy
    await send(lab, name, amount=1)
    await crash.reached.wait()
    assert 1 in taken
    await send(lab, name, amount=2)
    await crash.happen()
    assert await outcome(lab, name) == [1, 2]


@pytest.mark.parametrize("late", [False, True])
async def test_a_wait_whose_time_is_up_in_the_rerun_leaves_what_others_got(lab: Lab, late: bool) -> None:
    """The first wait was given up with its end recorded; the re-run waits it out, and takes nothing from the second."""
    crash, seen = Crash(lab), []

    @lab.plays
    async def handler(request, op):
        wait = asyncio.ensure_future(op.next_signal("approve", timeout=100))
        if op.attempt == 1:
            await lab.catch_up()
            wait.cancel()
        await asyncio.wait([wait])
        seen.append(wait.cancelled() or type(wait.exception()).__name__)
        got = await amounts(op, 1)
        await crash.here(op)
        return told([*got, *await amounts(op, 1)])

    name = (await lab.begin(LISTEN)).operation.name
    await lab.clock.armed(100)
    await lab.catch_up()
    await send(lab, name, amount=1)
    await crash.reached.wait()
    await send(lab, name, amount=2)
    if late:
        lab.clock.advance(1000)
    await crash.happen()
    if not late:
        await lab.clock.armed(100)
        lab.clock.advance(100)
    assert await outcome(lab, name) == [1, 2]
    assert seen == [True, "TimeoutError"]


async def test_a_wait_ends_with_its_operation(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        await op.next_signal("approve", timeout=3600)

    name = (await lab.begin(AGAIN)).operation.name
    await lab.clock.armed(3600)
    lab.engine._overdue(lab.engine.table.named(name.partition("/")[2]))
    assert reason_of_end(await lab.end(name)) == "DEADLINE_EXCEEDED"
    await lab.catch_up()
    assert lab.engine.executor.running == 0
    assert lab.clock.timers(3600) == 0


async def test_nothing_is_asked_of_the_store_while_nothing_comes(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        return told(await amounts(op, 1))

    name = (await lab.begin(LISTEN)).operation.name
    await lab.catch_up()
    batches = lab.engine.store.writer.committing
    lab.clock.advance(10_000)
    await turns(100)
    assert lab.engine.store.writer.committing == batches
    assert lab.clock.pending == 0
    await send(lab, name, amount=1)
    assert await outcome(lab, name) == [1]
