"""Who gets a slot: callers take turns, none has more than its share, and nothing that has begun is refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from lab.v1 import lab_pb2

from longshore.v1 import operations_service_pb2 as pb
from longshore_server.auth.identity import LOCAL
from longshore_server.engine.quotas import Quota, Shares
from longshore_server.engine.waiting import Waiting
from longshore_server.reasons import Reason
from tests.conftest import State, refused
from tests.server.conftest import Callers
from tests.server.test_quotas import TOO_MANY, facts

TRY = "lab.v1.RetryService/Try"


class Begun:
    """Who has begun, in order. Each goes on until the test lets it end, or all of them."""

    def __init__(self, lab: Callers) -> None:
        self.owners: list[str] = []
        self.names: list[str] = []
        self._lab = lab
        self._gates: dict[str, asyncio.Event] = {}
        self._more = asyncio.Event()
        self._open = False
        lab.plays(self._run)

    async def _run(self, request: Any, op: Any) -> lab_pb2.PlayResult:
        self.owners.append(op.caller.principal)
        self.names.append(op.name)
        self._more.set()
        if not self._open:
            await self._gates.setdefault(op.name, asyncio.Event()).wait()
        return lab_pb2.PlayResult()

    async def reach(self, count: int) -> list[str]:
        """The names of those that have begun, once these are so many and whoever has a slot could begin, too."""
        while len(self.names) < count:
            self._more.clear()
            await self._more.wait()
        await self._lab.catch_up()
        assert len(self.names) == count
        return self.names

    async def end(self, name: str) -> None:
        """Let one end; returns once it has."""
        self._gates[name].set()
        await ended(self._lab, name)

    async def end_all(self, count: int) -> None:
        """Let each end as soon as it begins, until so many have begun."""
        self._open = True
        for gate in self._gates.values():
            gate.set()
        await self.reach(count)


async def ended(lab: Callers, name: str) -> Any:
    owner = (await lab.engine.find(name)).record.owner
    return await lab.operations.Wait(pb.WaitRequest(name=name), metadata=lab.who(owner))


async def started(lab: Callers, *owners: str) -> list[str]:
    return [(await lab.start(owner)).operation.name for owner in owners]


async def test_callers_take_turns(make_callers: Any) -> None:
    lab = await make_callers(concurrency=1)
    begun = Begun(lab)
    names = await started(lab, "ada", "ada", "ada", "ada", "bob", "bob", "cid")
    await begun.end_all(7)
    assert begun.owners == ["ada", "ada", "bob", "cid", "ada", "bob", "ada"]
    assert begun.names == [names[number] for number in (0, 1, 4, 6, 2, 5, 3)], "first come, first served in each"


async def test_a_caller_who_comes_late_waits_for_one_of_each_other(make_callers: Any) -> None:
    lab = await make_callers(concurrency=1)
    begun = Begun(lab)
    names = await started(lab, "ada", "bob", "bob", "ada", "ada", "ada")
    await begun.reach(1)
    await begun.end(names[0])
    await begun.reach(2)
    await started(lab, "cid")
    await begun.end_all(7)
    assert begun.owners == ["ada", "bob", "ada", "bob", "cid", "ada", "ada"]


async def test_a_caller_has_its_share_of_the_slots_at_most(make_callers: Any) -> None:
    lab = await make_callers(concurrency=4, concurrency_per_owner=2)
    begun = Begun(lab)
    names = await started(lab, "ada", "ada", "ada", "ada")
    states = [(await lab.engine.find(name)).record.state.name for name in names]
    assert states == ["RUNNING", "RUNNING", "PENDING", "PENDING"]
    bobs, cids = [(await lab.start(owner)).operation for owner in ("bob", "cid")]
    assert (bobs.state, cids.state) == (State.STATE_RUNNING, State.STATE_RUNNING), "past those who have their share"
    await begun.reach(4)
    await begun.end(bobs.name)
    await begun.reach(4)  # a slot of another is none for whoever has its share
    await begun.end(names[1])
    assert (await begun.reach(5))[4:] == [names[2]]
    await begun.end(names[0])
    assert (await begun.reach(6))[5:] == [names[3]]


async def test_each_type_has_slots_of_its_own(make_callers: Any) -> None:
    lab = await make_callers(concurrency=4, concurrency_per_owner=1)
    for type in ("Try", "TrySteadily"):
        assert (await lab.start("ada", type)).operation.state == State.STATE_RUNNING


async def test_the_local_principal_has_no_bound_of_its_own(make_lab: Any) -> None:
    lab = await make_lab(concurrency=2, concurrency_per_owner=1)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    states = [(await lab.begin()).operation.state for _ in range(3)]
    assert states == [State.STATE_RUNNING, State.STATE_RUNNING, State.STATE_PENDING]
    gate.set()


async def test_who_has_its_share_is_refused_beyond_its_places_and_nobody_else(make_callers: Any) -> None:
    lab = await make_callers(concurrency=3, concurrency_per_owner=1, queue=9, queue_per_owner=1)
    await started(lab, "ada", "ada")
    code, reason, status = await refused(lab.start("ada"))
    assert (code, reason) == TOO_MANY
    assert facts(status) == {"limit": "1", "scope": "caller", "type": TRY}
    assert (await lab.start("bob")).operation.state == State.STATE_RUNNING


async def test_what_is_cancelled_while_it_is_passed_over_gives_its_place(make_callers: Any) -> None:
    lab = await make_callers(concurrency=3, concurrency_per_owner=1, queue=9, queue_per_owner=1)
    begun = Begun(lab)
    first, second = await started(lab, "ada", "ada")
    await lab.operations.Cancel(pb.CancelRequest(name=second), metadata=lab.who("ada"))
    (third,) = await started(lab, "ada")
    await begun.reach(1)
    await begun.end(first)
    assert await begun.reach(2) == [first, third]


async def test_what_a_crash_interrupts_waits_in_turn_and_is_not_refused(make_callers: Any) -> None:
    lab = await make_callers(concurrency=9)
    begun = Begun(lab)
    names = await started(lab, "ada", "ada", "ada", "bob", "bob")
    await begun.reach(5)
    await lab.restart(concurrency=2, concurrency_per_owner=1, queue=0, queue_per_owner=1)
    assert {*(await begun.reach(7))[5:]} == {names[0], names[3]}
    assert lab.engine.executor.waiting_of(TRY) == 3
    await begun.end(names[0])
    assert (await begun.reach(8))[7:] == [names[1]], "bob has his share"
    await begun.end_all(10)
    for name in names:
        assert (await ended(lab, name)).state == State.STATE_COMPLETED


async def test_children_wait_in_their_caller_s_turn_and_are_not_refused(make_callers: Any) -> None:
    lab = await make_callers(concurrency=9, concurrency_per_owner=1, queue=0, queue_per_owner=1)
    type, running = "lab.v1.RetryService/TrySteadily", []

    @lab.plays
    async def handler(request, op):
        if request.key == "child":
            running.append(lab.engine.executor.running_of(type))
            return lab_pb2.PlayResult()
        start, child = lab.server.operations.start, lab_pb2.PlayRequest(key="child")
        for ref in [await start(type, child, name=str(number)) for number in range(3)]:
            await ref.wait()
        return lab_pb2.PlayResult()

    name = (await lab.start("ada")).operation.name
    assert (await ended(lab, name)).state == State.STATE_COMPLETED
    assert running == [1, 1, 1]


@dataclass(eq=False)
class Waiter:
    """All of a `Live` that matters here."""

    owner: str

    @property
    def record(self) -> Waiter:
        return self


OWNERS = ("ada", "bob", "cid", LOCAL.name)
CALLS = st.tuples(st.sampled_from(["start", "add", "remove", "next", "give"]), st.integers(0, 11))


@given(st.integers(1, 5), st.integers(1, 3), st.lists(CALLS, max_size=100))
def test_the_line_against_its_rules(total: int, share: int, calls: list[tuple[str, int]]) -> None:
    slots = Shares(total=total, share=share)
    places = Quota(Reason.TOO_MANY_OPERATIONS, "wait", total=0, share=0, retry_after=1.0)
    waiting = Waiting(slots, places)
    line: list[Any] = []
    running: list[str] = []
    passed: dict[str, Counter[str]] = {owner: Counter() for owner in OWNERS}

    def may(owner: str) -> bool:
        return len(running) < total and (owner == LOCAL.name or running.count(owner) < share)

    for call, number in calls:
        owner = OWNERS[number % len(OWNERS)]
        if call == "start":
            assert waiting.free(owner) <= may(owner)
            if waiting.free(owner):
                slots.take(owner)
                running.append(owner)
        elif call == "add":
            if owner not in {waiter.owner for waiter in line}:
                passed[owner].clear()
            line.append(Waiter(owner))
            waiting.add(line[-1])
            waiting.add(line[-1])
        elif call == "remove" and line:
            waiter = line.pop(number % len(line))
            waiting.remove(waiter)
            waiting.remove(waiter)
        elif call == "give" and running:
            owner = running.pop(number % len(running))
            passed[owner].clear()
            waiting.give(owner)
        elif call == "next":
            able = {waiter.owner for waiter in line if may(waiter.owner)}
            found: Any = waiting.next()
            assert (found is None) == (not able), "a slot that is free for somebody who waits is given"
            if found is not None:
                assert found.owner in able, "none has more than its share"
                assert found is next(waiter for waiter in line if waiter.owner == found.owner), (
                    "first come, first served"
                )
                line.remove(found)
                running.append(found.owner)
                passed[found.owner].clear()
                for other in able - {found.owner}:
                    passed[other][found.owner] += 1
                    assert passed[other][found.owner] == 1, "nobody has two turns before another has one"
        assert (len(waiting), places.count, slots.count) == (len(line), len(line), len(running))
        if not any(may(waiter.owner) for waiter in line):
            assert waiting.next() is None
            assert all(waiting.free(owner) == may(owner) for owner in OWNERS), "past those who have their share"
