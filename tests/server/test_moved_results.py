"""Steps over deploys that move the classes of their results and arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lab.v1 import lab_pb2

from tests.conftest import Crash, Lab, State, reason_of_end
from tests.server.releasing import Releases

CLASSES = """
from dataclasses import dataclass
from pydantic import BaseModel

@dataclass
class Base:
    number: int = 0

@dataclass
class Offer(Base):
    price: int = 0

class Model(BaseModel):
    number: int = 0
    price: int = 0
"""
EXTENDED = CLASSES.replace("price: int = 0", "price: int = 0\n    note: str = 'none'")


class Handler:
    """A handler of two steps, of which the second takes what the first has returned."""

    def __init__(self, lab: Lab) -> None:
        self.crash, self.ran, self.got = Crash(lab), list[str](), list[Any]()
        lab.plays(self.play)

    def returns(self, value: Any, annotation: Any) -> None:
        def find() -> Any:
            self.ran.append("find")
            return value

        find.__annotations__["return"] = annotation
        self.find: Callable[[], Any] = find

    def take(self, offer: Any) -> None:
        self.ran.append("take")

    async def play(self, request: Any, op: Any) -> lab_pb2.PlayResult:
        offer = await op.step("find", self.find)
        self.got.append(offer)
        await op.step("take", self.take, offer)
        await self.crash.here(op)
        return lab_pb2.PlayResult()


@pytest.mark.parametrize("kind", ["Offer", "Model"])
@pytest.mark.parametrize("module", ["acme_trips", "__main__"])
@pytest.mark.parametrize("optional", [False, True])
async def test_a_class_that_has_moved_is_found_by_the_annotation_of_the_function(
    lab: Lab, release: Releases, kind: str, module: str, optional: bool
) -> None:
    handler, old = Handler(lab), getattr(release(module, CLASSES), kind)
    handler.returns(old(number=1, price=2), old)
    name = (await lab.begin()).operation.name
    await handler.crash.reached.wait()
    new = getattr(release("acme_hotels", CLASSES), kind)
    handler.returns(None, new | None if optional else new)
    await handler.crash.happen()
    assert (await lab.end(name)).state == State.STATE_COMPLETED
    assert handler.got == [old(number=1, price=2), new(number=1, price=2)]
    assert handler.ran == ["find", "take"], "the argument is the same, too"


async def test_a_class_that_has_a_new_field_is_read_where_it_was(lab: Lab, release: Releases) -> None:
    """Its annotation says no more than `Any`."""
    handler, old = Handler(lab), release("acme_trips", CLASSES)
    handler.returns(old.Offer(1, 2), Any)
    name = (await lab.begin()).operation.name
    await handler.crash.reached.wait()
    new = release("acme_trips", EXTENDED)
    await handler.crash.happen()
    assert (await lab.end(name)).state == State.STATE_COMPLETED
    assert handler.got == [old.Offer(1, 2), new.Offer(1, 2, "none")]
    assert handler.ran == ["find", "take"]


@pytest.mark.parametrize("annotation", ["Base", "nothing", "what raises"])
async def test_nothing_else_is_taken_for_it(lab: Lab, release: Releases, annotation: str) -> None:
    """Read as its base it would lose what that does not have."""
    handler, old = Handler(lab), release("acme_trips", CLASSES)
    handler.returns(old.Offer(1, 2), old.Base)
    name = (await lab.begin()).operation.name
    await handler.crash.reached.wait()
    new = release("acme_hotels", CLASSES)
    handler.returns(None, {"Base": new.Base, "nothing": Any, "what raises": "1 / 0"}[annotation])
    await handler.crash.happen()
    end = await lab.end(name)
    assert reason_of_end(end) == "NON_DETERMINISTIC"
    assert end.error.message == "step 'find': what attempt 1 recorded cannot be read any more."
    assert handler.got == [old.Offer(1, 2)]
