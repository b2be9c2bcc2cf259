"""The scheduler by itself: what is due is not forgotten, whoever takes the slots while the store is read."""

from __future__ import annotations

from typing import Any

from longshore_server.handler.lending import Slot, Slots
from longshore_server.instances.scheduler import Scheduler
from longshore_server.testing import ManualClock
from tests.conftest import turns
from tests.server.instances.laboratory import Gate


async def test_what_was_read_while_others_took_the_slots_is_begun_later() -> None:
    gate, begun, clock = Gate(), [], ManualClock()
    busy: dict[bytes, Slot] = {}
    slots = Slots(3, lambda: scheduler.go_on())  # noqa: PLW0108 - it is made after these

    class Store:
        async def read(self, query: Any) -> Any:
            await gate.hold()
            return [uid for uid in (b"a", b"b") if uid not in begun], None

    def begin(uid: bytes) -> None:
        begun.append(uid)
        busy[uid] = slots.take()

    store: Any = Store()
    scheduler = Scheduler(store, clock, begin, lambda: busy, slots)
    scheduler.start()
    await gate.reached.wait()
    for uid in (b"c", b"d", b"e"):
        scheduler.note(uid, clock.now())
    gate.opened.set()
    await turns()
    assert begun == [b"c", b"d", b"e"]
    while busy:
        busy.popitem()[1].end()
    await turns()
    assert begun == [b"c", b"d", b"e", b"a", b"b"]
    scheduler.stop()


async def test_a_look_that_failed_is_taken_again() -> None:
    begun: list[bytes] = []
    clock, broken = ManualClock(), [OSError("the disk")]

    class Store:
        async def read(self, query: Any) -> Any:
            if broken:
                raise broken.pop()
            return [uid for uid in (b"a",) if uid not in begun], None

    store: Any = Store()
    scheduler = Scheduler(store, clock, begun.append, lambda: begun, Slots(3, lambda: None))
    scheduler.start()
    await turns()
    assert begun == []
    clock.advance(60)
    await turns()
    assert begun == [b"a"]
    scheduler.stop()
