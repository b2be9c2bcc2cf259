"""Whatever callers send: an answer or a precise refusal, nothing written by a refusal, nothing left, no growth.

`make fuzz` runs the long form; `FUZZ_INPUTS` and `FUZZ_SEED` in the environment make it longer or another one. A seed
fixes what is sent, not how calls that are made at once meet. What hypothesis prints of a failure is all that was sent;
`FUZZ_SHRINK=1` lets it look for less, for minutes.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.fuzz.inputs import Call
from tests.fuzz.world import NO_ANSWER, World

INPUTS = 52_000
"""How many calls the long form makes to each of its two servers, at least."""
ROUND = 60
"""How many sequences of calls hypothesis keeps in mind."""
SLACK = 24 << 20
"""Bytes by which the server's memory may grow after the first third: what it keeps of ended operations is bounded, and
not all of it is there by then."""
TIMES = (0.5, 1.0, 5.0, 20.0, 120.0, 4000.0, 31 * 86_400.0)
SETTINGS = settings(
    stateful_step_count=24, deadline=None, database=None, print_blob=False, suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, *([Phase.shrink] if os.environ.get("FUZZ_SHRINK") else [])],
)  # fmt: skip


def fuzz(world: World, sequences: int, number: int) -> None:
    """So many sequences of calls; each number has its own, always the same."""
    requests = world.requests

    class Calls(RuleBasedStateMachine):
        """Good starts, good calls about what was started, anything at all, and time that passes, in any order."""

        @initialize(calls=st.lists(requests.starts(), min_size=2, max_size=6))
        def begin(self, calls: list[Call]) -> None:
            world.begin()
            world.burst(calls, 1)

        @rule(calls=st.lists(requests.starts(), min_size=1, max_size=6))
        def start(self, calls: list[Call]) -> None:
            world.burst(calls, 1)

        @rule(calls=st.lists(requests.steers(), min_size=1, max_size=12))
        def steer(self, calls: list[Call]) -> None:
            world.burst(calls, 1)

        @rule(calls=st.lists(requests.calls(), min_size=1, max_size=24), seconds=st.sampled_from([1.0, 20.0]))
        def call(self, calls: list[Call], seconds: float) -> None:
            world.burst(calls, seconds)

        @rule(seconds=st.sampled_from(TIMES))
        def wait(self, seconds: float) -> None:
            world.advance(seconds)

        def teardown(self) -> None:
            world.rest()

    machine: Any = seed(number)(Calls)
    run_state_machine_as_test(machine, settings=settings(SETTINGS, max_examples=sequences))


@pytest.mark.parametrize("authenticated", [False, True], ids=["open", "authenticated"])
def test_calls_of_every_kind_in_sequences(authenticated: bool) -> None:
    with World(authenticated=authenticated) as world:
        fuzz(world, 12, 0)
        assert world.inputs > 500
        assert world.unwritten > 50


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("authenticated", [False, True], ids=["open", "authenticated"])
def test_a_hundred_thousand_calls(authenticated: bool) -> None:
    wanted, first = int(os.environ.get("FUZZ_INPUTS", INPUTS)), int(os.environ.get("FUZZ_SEED", "0")) * 1000
    began, third = time.monotonic(), 0
    with World(authenticated=authenticated) as world:
        for number in itertools.count(first):
            fuzz(world, ROUND, number)
            if not third and world.inputs >= wanted / 3:
                third = max(world.memory)
            if world.inputs >= wanted:
                break
    last = max(world.memory[-ROUND:])
    outcomes: Counter[str] = Counter()
    answered: set[str] = set()
    refused: set[str] = set()
    # A stream need not end to have been answered; of other calls only their callers know why they have gone.
    streams = {method.path for method in world.requests.methods if method.gives_stream}
    for (path, outcome), count in world.outcomes.items():
        outcomes[outcome] += count
        if outcome == "OK" or (outcome == NO_ANSWER and path in streams):
            answered.add(path)
        elif outcome != NO_ANSWER:
            refused.add(path)
    print(
        f"\n{world.inputs} calls of {len(answered | refused)} methods in {time.monotonic() - began:.0f} s, "
        f"{world.unwritten} refusals seen to write nothing; "
        f"memory {third >> 20} MiB after a third, {last >> 20} MiB at the end"
    )
    print(", ".join(f"{outcome} {count}" for outcome, count in outcomes.most_common()))
    methods = world.requests.methods
    assert answered == {method.path for method in methods}
    # Of what has no fields little can be wrong.
    assert refused >= {method.path for method in methods if method.input.DESCRIPTOR.fields}
    assert world.unwritten > world.inputs / 20
    assert last < third + SLACK
