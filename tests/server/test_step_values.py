"""What steps may return: each kind comes back the same, live and in a re-run; all else is refused with a remedy."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import math
import sys
import uuid
from typing import Any

import pydantic
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from lab.v1 import lab_pb2

from longshore_server.handler import codec
from tests.conftest import Crash, Lab, State, reason_of_end, result_of


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Receipt:
    number: int
    lines: list[str]
    paid: bool = False


@dataclasses.dataclass
class Order:
    """With everything that a field may hold."""

    receipt: Receipt
    receipts: list[Receipt]
    by_name: dict[str, Receipt]
    pair: tuple[int, str]
    nothing: Receipt | None
    data: bytes
    tags: frozenset[str]
    colour: Colour
    at: dt.datetime
    key: uuid.UUID
    price: decimal.Decimal


@dataclasses.dataclass
class Untyped:
    value: Any


@dataclasses.dataclass
class Wrong:
    number: int


class Item(pydantic.BaseModel):
    number: int
    pair: tuple[int, str] = (1, "a")


class Basket(pydantic.BaseModel):
    """With what models have and dataclasses have not."""

    items: list[Item]
    first: Item | None = None
    owner: str = pydantic.Field(alias="ownerName")
    at: dt.datetime
    price: decimal.Decimal
    key: uuid.UUID = pydantic.Field(default_factory=uuid.uuid4)
    raw: pydantic.Json[list[int]]


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Hiding(pydantic.BaseModel):
    shown: int = 0
    hidden: int = pydantic.Field(default=0, exclude=True)


class Strange(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    thing: object


NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
VALUES: dict[str, Any] = {
    "nothing": None,
    "a number": 7,
    "a large number": 10**40,
    "a float": 0.1,
    "a text": "Grüße \0 \U0001f6a2 \ud800",
    "a list": [1, "two", None, [True, {}]],
    "an object": {"a": {"b": [1.5]}, "": None},
    "a message": lab_pb2.PlayResult(text="x", number=2),
    "a message of another package": Timestamp(seconds=5),
    "a dataclass": Receipt(7, ["a", "b"], True),
    "a dataclass of dataclasses": Order(
        Receipt(1, []),
        [Receipt(2, ["x"])],
        {"a": Receipt(3, [])},
        (1, "a"),
        None,
        b"\0\xff",
        frozenset({"t"}),
        Colour.RED,
        NOON,
        uuid.UUID(int=7),
        decimal.Decimal("1.10"),
    ),
    "a model": Item(number=7),
    "a model of models": Basket(
        items=[Item(number=1, pair=(2, "b"))],
        first=Item(number=3),
        ownerName="x",
        at=NOON,
        price=decimal.Decimal("1.10"),
        raw="[1]",  # type: ignore[arg-type]
    ),
    "a model of a list": Numbers([1, 2]),
}


@pytest.mark.parametrize("case", VALUES)
async def test_a_step_runs_once_and_gives_the_same_value_of_the_same_type_ever_after(lab: Lab, case: str) -> None:
    crash, ran, got = Crash(lab), [], []

    async def work() -> Any:
        ran.append(1)
        return VALUES[case]

    @lab.plays
    async def handler(request, op):
        got.append(await op.step("work", work))
        await crash.here(op)
        return lab_pb2.PlayResult(number=op.attempt)

    name = (await lab.begin()).operation.name
    await crash.happen()
    assert result_of(await lab.end(name)).number == 2
    assert ran == [1]
    assert got == [VALUES[case]] * 2
    assert {type(value) for value in got} == {type(VALUES[case])}


async def test_the_live_run_gets_what_was_stored_and_not_the_object_itself(lab: Lab) -> None:
    original = ["a"]

    @lab.plays
    async def handler(request, op):
        got = await op.step("work", lambda: original)
        assert got == original
        assert got is not original
        return lab_pb2.PlayResult()

    assert (await lab.run()).state == State.STATE_COMPLETED


IN_A_FIELD = "or put it into a dataclass or a pydantic model, in a field of that type"
NOT_STORABLE: dict[str, tuple[Any, str]] = {
    "a tuple": ((1, 2), f"the value is a builtins.tuple, which is no JSON: make it a list, {IN_A_FIELD}"),
    "a set": ({1}, f"the value is a builtins.set, which is no JSON: make it a list, {IN_A_FIELD}"),
    "bytes": (
        b"x", f"the value is a builtins.bytes, which is no JSON: make it a text, in base64 for example, {IN_A_FIELD}",
    ),
    "a number as a key": ({1: "a"}, "the value has the key 1: keys must be strings"),
    "not a number": (math.nan, "the value is nan, which JSON cannot hold"),
    "infinity": (math.inf, "the value is inf, which JSON cannot hold"),
    "an object of a class": (
        object(),
        "object, which is no JSON: return a protobuf message, a JSON value, a dataclass or a pydantic model",
    ),
    "an enum": (Colour.RED, "Colour, which is no JSON: return a"),
    "a time": (NOON, "the value is a datetime.datetime, which is no JSON: return a"),
    "a tuple inside": ({"a": [(1,)]}, "the value['a'][0] is a builtins.tuple, which is no JSON: make it a list"),
    "a dataclass in a list": ([Receipt(1, [])], "Receipt, which is no JSON: return a"),
    "a class of dataclasses": (Receipt, "the value is a builtins.type, which is no JSON: return a"),
    "a dataclass whose field lies": (Wrong("seven"), "Wrong cannot be stored: Expected `int`"),  # type: ignore[arg-type]
    "a dataclass whose field says nothing": (
        Untyped((1, 2)), "Untyped would come back changed: annotate its fields with the types that they hold",
    ),
    "a dataclass that holds a message": (Untyped(lab_pb2.PlayResult()), "Untyped cannot be stored: Encoding objects"),
    "a model that hides a field": (Hiding(hidden=7), "Hiding would come back changed: its own JSON must hold all that"),
    "a model of things": (Strange(thing=object()), "Strange cannot be stored: Unable to serialize"),
    "a model that was never checked": (Item.model_construct(number="seven"), "Item cannot be stored: 1 validation err"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_STORABLE)
async def test_a_value_that_would_come_back_changed_is_refused(lab: Lab, case: str) -> None:
    value, problem = NOT_STORABLE[case]
    errors = []

    @lab.plays
    async def handler(request, op):
        try:
            await op.step("work", lambda: value)
        except TypeError as error:
            errors.append(str(error))
        return lab_pb2.PlayResult()

    await lab.run()
    assert len(errors) == 1
    assert errors[0].startswith("step 'work': ")
    assert problem in errors[0]
    assert lab.tables()["journal"] == []


async def test_a_class_inside_a_function_is_refused(lab: Lab) -> None:
    @dataclasses.dataclass
    class Local:
        number: int

    class LocalModel(pydantic.BaseModel):
        number: int

    @lab.plays
    async def handler(request, op):
        with pytest.raises(TypeError, match=r"Local cannot be .*: define the dataclass at the top of a module"):
            await op.step("work", lambda: Local(1))
        with pytest.raises(TypeError, match=r"LocalModel cannot be .*: define the model at the top of a module"):
            await op.step("other", lambda: LocalModel(number=1))
        return lab_pb2.PlayResult()

    assert (await lab.run()).state == State.STATE_COMPLETED


@pytest.mark.parametrize("value", [Receipt(7, []), Item(number=7)], ids=["a dataclass", "a model"])
@pytest.mark.parametrize("change", ["another field", "gone"])
async def test_what_the_code_of_today_cannot_read_any_more_is_reported(
    lab: Lab, value: Any, change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And neither run again, nor made again for ever."""
    crash, ran = Crash(lab), []

    async def work() -> Any:
        ran.append(1)
        return value

    @lab.plays
    async def handler(request, op):
        await op.step("work", work)
        await crash.here(op)
        return lab_pb2.PlayResult()

    name = (await lab.begin()).operation.name
    await crash.reached.wait()
    module, kind = sys.modules[__name__], type(value).__qualname__
    if change == "gone":
        monkeypatch.delattr(module, kind)
    else:
        monkeypatch.setattr(module, kind, Order if kind == "Receipt" else Basket)
    await crash.happen()
    end = await lab.end(name)
    assert (end.state, reason_of_end(end)) == (State.STATE_FAILED, "NON_DETERMINISTIC")
    assert end.error.message == "step 'work': what attempt 1 recorded cannot be read any more."
    assert f":{kind}): " in caplog.text
    assert ran == [1]


def test_bytes_fit_into_a_text() -> None:
    """As the refusal of bytes says."""
    kept = codec.encode(base64.b64encode(b"\0\xff").decode())
    assert base64.b64decode(codec.decode(kept)) == b"\0\xff"


def test_pydantic_is_asked_only_where_somebody_has_imported_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pydantic")
    with pytest.raises(codec.NotStorableError, match="which is no JSON"):
        codec.encode(Item(number=1))
    assert "pydantic" not in sys.modules
