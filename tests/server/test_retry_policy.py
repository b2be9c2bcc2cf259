"""The delays of a retry policy, whatever its numbers."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from longshore.v1 import annotations_pb2
from longshore_server.contract import retry
from longshore_server.contract.retry import RetryPolicy

SECOND = 1_000_000
EXPONENTIAL, LINEAR, CONSTANT = (
    annotations_pb2.BACKOFF_EXPONENTIAL,
    annotations_pb2.BACKOFF_LINEAR,
    annotations_pb2.BACKOFF_CONSTANT,
)


@pytest.mark.parametrize(
    ("backoff", "seconds"),
    [(EXPONENTIAL, [2, 4, 8, 16, 32, 60, 60]), (LINEAR, [2, 4, 6, 8, 10, 12, 14]), (CONSTANT, [2] * 7)],
)
def test_how_a_delay_grows(backoff: annotations_pb2.Backoff.ValueType, seconds: list[int]) -> None:
    policy = RetryPolicy(99, backoff=backoff, initial_delay=2 * SECOND, max_delay=60 * SECOND)
    assert [policy.delay(failures, 0.5) / SECOND for failures in range(1, 8)] == seconds


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 1.5), (0.25, 1.75), (0.5, 2.0), (0.75, 2.2), (1.0, 2.2)])
def test_the_jitter_goes_both_ways_and_the_cap_comes_after_it(chance: float, seconds: float) -> None:
    policy = RetryPolicy(99, initial_delay=2 * SECOND, max_delay=2_200_000, jitter=0.25)
    assert policy.delay(1, chance) / SECOND == seconds


@given(
    backoff=st.sampled_from([EXPONENTIAL, LINEAR, CONSTANT]),
    initial=st.integers(0, 10**15),
    longest=st.integers(0, 10**15),
    jitter=st.floats(0, 1),
    failures=st.integers(1, retry.MOST_ATTEMPTS),
    chance=st.floats(0, 1),
)
def test_a_delay_is_never_negative_and_never_longer_than_the_longest(
    backoff: annotations_pb2.Backoff.ValueType, initial: int, longest: int, jitter: float, failures: int, chance: float
) -> None:
    policy = RetryPolicy(99, backoff=backoff, initial_delay=initial, max_delay=longest, jitter=jitter)
    assert 0 <= policy.delay(failures, chance) <= longest


def read(text: str) -> RetryPolicy | None:
    contract = text_format.Parse(text, annotations_pb2.OperationContract())
    return retry.read(contract, lambda option, problem: AssertionError(f"{option}: {problem}"))


def test_what_a_contract_leaves_out() -> None:
    assert read("") is None
    assert read("retry { max_attempts: 3 }") == RetryPolicy(
        3, backoff=EXPONENTIAL, initial_delay=SECOND, max_delay=3600 * SECOND, jitter=0.0, max_duration=None
    )
    patient = read("retry { max_attempts: 3 initial_delay { seconds: 7200 } }")
    assert patient is not None
    assert patient.max_delay == 7200 * SECOND, "the default never cuts what is written"


def test_what_a_contract_says() -> None:
    policy = read(
        "retry { max_attempts: 1 backoff: BACKOFF_LINEAR initial_delay {} max_delay { nanos: 5000 } jitter: 1 "
        'max_duration { seconds: 9 } non_retryable_reasons: "CARD_DECLINED" non_retryable_reasons: "NEW_TO_US" }'
    )
    assert policy == RetryPolicy(
        1, backoff=LINEAR, initial_delay=0, max_delay=5, jitter=1.0, max_duration=9 * SECOND,
        non_retryable=frozenset({"CARD_DECLINED", "NEW_TO_US"}),
    )  # fmt: skip
