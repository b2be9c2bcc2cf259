"""Steps that are tried again, and steps that may take only so long: all of it by the server's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server import DuplicateNameError, OperationError, StepRetry, StepTimeoutError, step
from tests.conftest import Crash, Lab, State, reason_of_end, result_of
from tests.server.retrying import RetryHandlers


class Flaky:
    """A function that fails so often, and then returns how often it was called."""

    def __init__(self, failures: int, error: Callable[[], Exception] = ConnectionError) -> None:
        self.failures, self.error = failures, error
        self.calls, self.keys = 0, set[str]()

    async def __call__(self) -> int:
        self.calls += 1
        self.keys.add(step.key)
        if self.calls <= self.failures:
            raise self.error()
        return self.calls


def playing(lab: Lab, work: Any, retry: StepRetry | None = None, timeout: float | timedelta | None = None) -> None:
    @lab.plays
    async def handler(request, op):
        return lab_pb2.PlayResult(number=await op.step("work", work, retry=retry, timeout=timeout))


@pytest.mark.parametrize(
    ("retry", "delays"),
    [
        (StepRetry(4), [1, 2, 4]),
        (StepRetry(4, backoff="linear", initial_delay=timedelta(seconds=3)), [3, 6, 9]),
        (StepRetry(4, backoff="constant", initial_delay=0.5), [0.5, 0.5, 0.5]),
        (StepRetry(4, initial_delay=10, max_delay=15), [10, 15, 15]),
    ],
    ids=["exponential", "linear", "constant", "capped"],
)
async def test_a_step_is_tried_again_after_the_delays_of_its_policy(
    lab: Lab, retry: StepRetry, delays: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    work = Flaky(3)
    playing(lab, work, retry)
    name = (await lab.begin()).operation.name
    for number, delay in enumerate(delays, 1):
        await lab.clock.armed(delay)
        assert work.calls == number
        assert f"step 'work' of {name} failed, try {number} of 4; the next one comes in {delay:g} s" in caplog.text
        lab.clock.advance(delay)
    end = await lab.end(name)
    assert (result_of(end).number, end.attempt, len(work.keys)) == (4, 1, 1)
    assert len(lab.tables()["journal"]) == 1


async def test_the_jitter_stays_within_its_share(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)
    playing(lab, Flaky(1), StepRetry(2, initial_delay=10, jitter=0.2))
    name = (await lab.begin()).operation.name
    await lab.clock.armed(8)
    lab.clock.advance(8)
    assert result_of(await lab.end(name)).number == 2


async def test_the_last_error_is_the_steps(lab: Lab) -> None:
    errors = iter([OperationError("FIRST"), OperationError("SECOND"), OperationError("THIRD")])
    work = Flaky(9, lambda: next(errors))
    playing(lab, work, StepRetry(3, initial_delay=0))
    end = await lab.run()
    assert (end.state, reason_of_end(end), work.calls) == (State.STATE_FAILED, "THIRD", 3)
    assert lab.tables()["journal"] == []


FINAL: dict[str, tuple[Callable[[], Exception], StepRetry]] = {
    "an error that says so": (lambda: OperationError("GONE", final=True), StepRetry(9, initial_delay=0)),
    "a reason that the policy names": (
        lambda: OperationError("GONE"), StepRetry(9, initial_delay=0, non_retryable_reasons=["GONE"]),
    ),
    "any other exception, where the policy names them": (
        ConnectionError, StepRetry(9, initial_delay=0, non_retryable_reasons=["HANDLER_ERROR"]),
    ),
    "a mistake in the code": (lambda: DuplicateNameError("x"), StepRetry(9, initial_delay=0)),
    "a delay that ends after the deadline": (ConnectionError, StepRetry(9, initial_delay=timedelta(days=3000))),
}  # fmt: skip


@pytest.mark.parametrize("case", FINAL)
async def test_what_is_final_is_not_tried_again(lab: Lab, case: str) -> None:
    error, retry = FINAL[case]
    work = Flaky(99, error)
    playing(lab, work, retry)
    assert (await lab.run()).state == State.STATE_FAILED
    assert work.calls == 1


async def test_a_try_that_would_come_after_the_longest_duration_is_not_made(lab: Lab) -> None:
    work = Flaky(99)
    playing(lab, work, StepRetry(9, initial_delay=2, max_duration=5))
    name = (await lab.begin()).operation.name
    await lab.clock.armed(2)
    lab.clock.advance(2)
    assert (await lab.end(name)).state == State.STATE_FAILED
    assert work.calls == 2


async def test_a_final_error_ends_the_operation_whatever_its_contract_would_retry(make_lab: Any) -> None:
    lab: Lab = await make_lab(services=[RetryHandlers])
    playing(lab, Flaky(9, lambda: OperationError("GONE", final=True)))
    end = await lab.run("RetryService/Try")
    assert (reason_of_end(end), end.attempt) == ("GONE", 1)


async def test_no_try_is_waited_for_that_would_come_after_the_attempts_own_time(make_lab: Any) -> None:
    """Its error says more than ATTEMPT_TIMEOUT would: that contract gives an attempt 5 s."""
    lab: Lab = await make_lab(services=[RetryHandlers])
    playing(lab, Flaky(9, lambda: OperationError("CARD_DECLINED")), StepRetry(9, initial_delay=5))
    assert reason_of_end(await lab.run("RetryService/TryUnless")) == "CARD_DECLINED"


async def test_after_a_crash_the_tries_count_from_one_again(lab: Lab) -> None:
    work = Flaky(99)
    playing(lab, work, StepRetry(3, initial_delay=10))
    name = (await lab.begin()).operation.name
    await lab.clock.armed(10)
    lab.clock.advance(10)
    await lab.clock.armed(20)
    assert work.calls == 2
    await lab.restart()
    for delay in (10, 20):
        await lab.clock.armed(delay)
        lab.clock.advance(delay)
    end = await lab.end(name)
    assert (end.state, end.attempt, work.calls, len(work.keys)) == (State.STATE_FAILED, 2, 5, 1)


@pytest.mark.parametrize(("type", "end"), [("Play", "CANCELLED"), ("PlayOn", "FAILED")])
async def test_a_cancel_request_ends_the_waiting_for_a_try(lab: Lab, type: str, end: str) -> None:
    """The step fails with its last error; what becomes of the operation then is for its contract to say."""
    work = Flaky(99)
    playing(lab, work, StepRetry(9, initial_delay=3600))
    name = (await lab.begin(type)).operation.name
    await lab.clock.armed(3600)
    await lab.operations.Cancel(pb.CancelRequest(name=name))
    assert (await lab.end(name)).state == State.Value(f"STATE_{end}")
    assert (work.calls, lab.clock.timers(3600)) == (1, 0)


async def test_after_a_stop_request_there_is_one_last_try_and_it_comes_at_once(lab: Lab) -> None:
    work = Flaky(99, lambda: OperationError("BUSY"))
    playing(lab, work, StepRetry(9, initial_delay=3600))
    name = (await lab.begin()).operation.name
    await lab.clock.armed(3600)
    await lab.operations.Stop(pb.StopRequest(name=name))
    assert reason_of_end(await lab.end(name)) == "BUSY"
    assert work.calls == 2


@pytest.mark.parametrize("timeout", [5, 5.0, timedelta(seconds=5)], ids=repr)
async def test_a_step_that_takes_too_long_is_cancelled_and_named(lab: Lab, timeout: float | timedelta) -> None:
    ended, caught = [], []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(lab.clock.now())

    @lab.plays
    async def handler(request, op):
        try:
            await op.step("slow", work, timeout=timeout)
        except StepTimeoutError as error:
            caught.append(error)
            raise

    begun = lab.clock.now()
    name = (await lab.begin()).operation.name
    await lab.clock.armed(5)
    lab.clock.advance(5)
    end = await lab.end(name)
    assert (end.state, reason_of_end(end)) == (State.STATE_FAILED, "STEP_TIMEOUT")
    assert ended == [begun + 5_000_000]
    (error,) = caught
    assert (error.step, error.seconds, str(error)) == ("slow", 5, "step 'slow' took longer than 5 s")
    assert isinstance(error, TimeoutError)
    assert "slow" not in end.error.message, "callers do not know the steps"


async def test_a_timeout_is_a_failed_try_and_each_try_has_its_own(lab: Lab) -> None:
    calls = []

    async def work() -> int:
        calls.append(lab.clock.now())
        if len(calls) < 3:
            await asyncio.Event().wait()
        return len(calls)

    playing(lab, work, StepRetry(3, backoff="constant", initial_delay=2), 5)
    begun = lab.clock.now()
    name = (await lab.begin()).operation.name
    for delay in (5, 2, 5, 2):
        await lab.clock.armed(delay)
        lab.clock.advance(delay)
    assert result_of(await lab.end(name)).number == 3
    assert [(when - begun) / 1_000_000 for when in calls] == [0, 7, 14]
    assert lab.clock.timers(5) == 0, "the timer of a try that ended in time is gone"


async def test_a_policy_may_name_the_timeout(lab: Lab) -> None:
    playing(lab, asyncio.Event().wait, StepRetry(3, non_retryable_reasons=["STEP_TIMEOUT"]), 5)
    name = (await lab.begin()).operation.name
    await lab.clock.armed(5)
    lab.clock.advance(5)
    assert reason_of_end(await lab.end(name)) == "STEP_TIMEOUT"


async def test_a_timeout_of_the_functions_own_is_its_error(lab: Lab) -> None:
    work = Flaky(1, TimeoutError)
    playing(lab, work, None, 5)
    assert reason_of_end(await lab.run()) == "HANDLER_ERROR"


async def test_a_result_that_comes_in_spite_of_the_cancellation_counts(lab: Lab) -> None:
    async def work() -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return 7
        return 0

    playing(lab, work, None, 5)
    name = (await lab.begin()).operation.name
    await lab.clock.armed(5)
    lab.clock.advance(5)
    assert result_of(await lab.end(name)).number == 7


async def test_a_recorded_step_asks_neither_its_policy_nor_its_timeout(lab: Lab) -> None:
    crash, work = Crash(lab), Flaky(1)

    @lab.plays
    async def handler(request, op):
        number = await op.step("work", work, retry=StepRetry(2, initial_delay=0), timeout=5)
        await crash.here(op)
        return lab_pb2.PlayResult(number=number)

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert result_of(await lab.end(name)).number == 2
    assert work.calls == 2


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")], ids=str)
async def test_a_timeout_that_means_nothing_is_refused(lab: Lab, timeout: float) -> None:
    work = Flaky(0)

    @lab.plays
    async def handler(request, op):
        with pytest.raises(ValueError, match="timeout"):
            await op.step("work", work, timeout=timeout)
        return lab_pb2.PlayResult(number=work.calls)

    assert result_of(await lab.run()).number == 0


MEANINGLESS: dict[str, tuple[dict[str, Any], str]] = {
    "no tries": ({"max_attempts": 0}, "max_attempts: it must be between 1 and"),
    "another backoff": ({"max_attempts": 2, "backoff": "random"}, "backoff: 'random' is none of 'exponential', 'li"),
    "a negative delay": ({"max_attempts": 2, "initial_delay": -1}, "initial_delay: it must not be negative"),
    "a delay that is no number": ({"max_attempts": 2, "initial_delay": float("nan")}, "initial_delay: nan is no dur"),
    "an endless delay": ({"max_attempts": 2, "max_delay": float("inf")}, "max_delay: inf is no duration"),
    "a delay that is a text": ({"max_attempts": 2, "initial_delay": "10s"}, "initial_delay: '10s' is no duration"),
    "tries that are a text": ({"max_attempts": "2"}, "max_attempts: '2' is no whole number"),
    "jitter that is a text": ({"max_attempts": 2, "jitter": "0.5"}, "jitter: '0.5' is no number"),
    "a cap below the delay": ({"max_attempts": 2, "initial_delay": 9, "max_delay": 1}, "max_delay: it is shorter than"),
    "no time": ({"max_attempts": 2, "max_duration": 0}, "max_duration: it must be longer than zero"),
    "less time than the first delay": ({"max_attempts": 2, "max_duration": 0.5}, "max_duration: it is shorter than"),
    "too much jitter": ({"max_attempts": 2, "jitter": 2}, "jitter: it is 2, and must be a share between 0 and 1"),
    "a reason that is no word": (
        {"max_attempts": 2, "non_retryable_reasons": ["card declined"]},
        "non_retryable_reasons[0]: 'card declined' is no reason",
    ),
}


@pytest.mark.parametrize("case", MEANINGLESS)
def test_a_policy_that_means_nothing_is_refused_where_it_is_made(case: str) -> None:
    arguments, problem = MEANINGLESS[case]
    with pytest.raises((ValueError, TypeError)) as caught:
        StepRetry(**arguments)
    assert str(caught.value).startswith(problem)
