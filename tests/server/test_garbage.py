"""What has ended is gone: nothing of it is left in a cycle, which only a collection ends that stops everything."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab.v1 import lab_pb2

from tests.conftest import Lab

COUNT = 20


@dataclass
class Token:
    """A state."""

    value: int = 0


async def do(context: Any) -> int:
    """What a handler does with an attempt of whatever kind."""
    context.log.info("here")
    number: int = await context.step("one", int, "1")
    return number


@pytest.fixture
async def work(tmp_path: Path) -> AsyncIterator[dict[str, Callable[[int], Awaitable[object]]]]:
    """By the kind of work, what does one of it."""
    lab = Lab(tmp_path / "data")

    @lab.plays
    async def handler(request: Any, op: Any) -> Any:
        await op.progress(lab_pb2.PlayProgress(number=await do(op)))
        return lab_pb2.PlayResult()

    @lab.server.job("count")
    async def count(payload: int, job: Any) -> int:
        return await do(job)

    @lab.server.recurring("rounds", every="1h", state=Token)
    async def rounds(ctx: Any) -> None:
        ctx.state.value += 1

    await lab.start()

    async def job(number: int) -> None:
        await (await count.create(number)).wait()

    async def instance(number: int) -> None:
        await rounds.start(f"r{number}", Token())
        await rounds.trigger(f"r{number}")

    yield {"operation": lambda _: lab.run(), "job": job, "instance": instance}
    await lab.stop()


@pytest.fixture
def garbage() -> Iterator[Callable[[], list[str]]]:
    """The types of ours that are found to be unreachable."""

    def found() -> list[str]:
        gc.collect()
        left = [type(item).__name__ for item in gc.garbage if str(type(item).__module__).startswith("longshore_server")]
        gc.garbage.clear()
        return left

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield found
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.parametrize("kind", ["operation", "job", "instance"])
async def test_nothing_is_left_for_the_collector(
    work: dict[str, Callable[[int], Awaitable[object]]], garbage: Callable[[], list[str]], kind: str
) -> None:
    await work[kind](0)
    garbage()
    for number in range(1, COUNT):
        await work[kind](number)
    left = garbage()
    assert len(left) < COUNT, sorted(set(left))
