"""Instances over deploys that move, rename or extend the classes of their states and events: all go on."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from longshore_server import ServiceError, Task
from longshore_server.errors import Reason
from longshore_server.instance_lifecycle import Status
from tests.server.instances.laboratory import World
from tests.server.releasing import Releases

CLASSES = """
from dataclasses import dataclass
from pydantic import BaseModel

@dataclass
class Placed:
    number: int

@dataclass
class Paid:
    number: int

class Model(BaseModel):
    number: int
"""
EXTENDED = CLASSES.replace("number: int", "number: int\n    note: str = 'none'")
UNREADABLE = CLASSES.replace("number: int", "note: str")
KINDS = ["Placed", "Model"]


class Deploys:
    """Definitions of types of their module's, of which each version takes the place of the one before."""

    def __init__(self, world: World, release: Releases) -> None:
        self.world, self.release = world, release
        self.seen: list[Any] = []

    def recurring(self, state: Any) -> Any:
        @self.world.server.recurring("refresh", every=60, state=state)
        async def refresh(ctx: Any) -> None:
            self.seen.append(ctx.state)

        return refresh

    def debounce(self, state: Any) -> Any:
        @self.world.server.debounce("tell", flush_after=60, state=state)
        async def tell(ctx: Any) -> None:
            self.seen.append(ctx.state)

        return tell

    def task(self, state: Any, event: Any) -> Any:
        seen = self.seen

        class Chase(Task[state, event]):
            async def on_event(self, event: Any, ctx: Any) -> None:
                seen.append((ctx.state, event))
                ctx.state = event if ctx.state is None else ctx.state

            async def execute(self, ctx: Any) -> None:
                raise AssertionError

        return self.world.server.task("chase", Chase)

    async def deploy(self, module: str, source: str) -> ModuleType:
        """A module in place of the one before; the next definitions are of its types, on the same data."""
        await self.world.stop()
        self.world.server.definitions.clear()
        return self.release(module, source)


@pytest.fixture
def deploys(world: World, release: Releases) -> Deploys:
    return Deploys(world, release)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", ["acme_orders", "__main__"])
@pytest.mark.parametrize("name", ["", "Renamed"])
async def test_a_recurring_goes_on_with_its_state(
    world: World, deploys: Deploys, kind: str, module: str, name: str
) -> None:
    old = getattr(await deploys.deploy(module, CLASSES), kind)
    refresh = deploys.recurring(old)
    await world.start()
    await refresh.start("a", old(number=7))
    new = getattr(
        await deploys.deploy("acme_shop", EXTENDED.replace(f"class {kind}", f"class {name or kind}")), name or kind
    )
    refresh = deploys.recurring(new)
    await world.start()
    await world.advance(60)
    assert deploys.seen == [old(number=7), new(number=7)]
    assert await refresh.get_state("a") == new(number=7)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_debounce_goes_on_with_its_batch_and_knows_its_events(
    world: World, deploys: Deploys, kind: str
) -> None:
    old = getattr(await deploys.deploy("acme_orders", CLASSES), kind)
    tell = deploys.debounce(old)
    await world.start()
    await tell.add("a", old(number=7), event_id="seven")
    moved = getattr(await deploys.deploy("acme_shop", CLASSES), kind)
    tell = deploys.debounce(moved)
    await world.start()
    assert (await tell.add("a", moved(number=7), event_id="seven")).duplicate
    with pytest.raises(ServiceError) as caught:
        await tell.add("a", moved(number=8), event_id="seven")
    assert caught.value.reason is Reason.EVENT_ID_REUSED
    new = getattr(await deploys.deploy("acme", EXTENDED), kind)
    deploys.debounce(new)
    await world.start()
    await world.advance(60)
    assert deploys.seen == [new(number=7)]


async def test_a_task_goes_on_with_its_state_and_with_the_events_that_wait_each_of_its_class(
    world: World, deploys: Deploys
) -> None:
    old = await deploys.deploy("acme_orders", CLASSES)
    chase = deploys.task(old.Placed, old.Placed | old.Paid)
    await world.start()
    await chase.send("a", old.Placed(1))
    await chase.pause("a")
    for event in (old.Paid(2), old.Placed(3)):
        await chase.send("a", event, no_wait=True)
    new = await deploys.deploy("acme_shop", EXTENDED)
    chase = deploys.task(new.Placed, new.Placed | new.Paid)
    await world.start()
    await chase.resume("a")
    await world.settled()
    assert deploys.seen[1:] == [(new.Placed(1), new.Paid(2)), (new.Placed(1), new.Placed(3))]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_class_of_today_cannot_read_is_kept(world: World, deploys: Deploys, kind: str) -> None:
    old = getattr(await deploys.deploy("acme_orders", CLASSES), kind)
    refresh = deploys.recurring(old)
    await world.start()
    await refresh.start("a", old(number=7))
    refresh = deploys.recurring(getattr(await deploys.deploy("acme_orders", UNREADABLE), kind))
    await world.start()
    await world.advance(60)
    status = await refresh.status("a")
    assert (status.status, status.last_error.reason) == (Status.FAILED, "STATE_UNREADABLE")
    again = getattr(await deploys.deploy("acme_shop", EXTENDED), kind)
    refresh = deploys.recurring(again)
    await world.start()
    await refresh.resume("a")
    await world.settled()
    assert deploys.seen[-1] == again(number=7)
