"""Jobs over deploys that move, rename or extend the classes of their payloads and results: none is lost by it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from lab.v1 import lab_pb2

from longshore_server import Job, JobRequest, JobState, Rejected, ServiceError
from longshore_server.errors import Reason
from longshore_server.handler import codec
from longshore_server.store import job_rows
from tests.conftest import Crash, State, reason_of_end
from tests.server.jobs.conftest import Yard, failed
from tests.server.releasing import Releases

CLASSES = """
from dataclasses import dataclass
from pydantic import BaseModel

@dataclass
class Order:
    sku: str
    count: int = 1

@dataclass(eq=False)
class Parcel:
    sku: str
    count: int = 1

@dataclass
class Return:
    sku: str
    count: int = 1

class Invoice(BaseModel):
    sku: str
    count: int = 1
"""
ADDED = "    gift: bool = False\n    tags: frozenset[str] = frozenset()\n"
EXTENDED = CLASSES.replace("    count: int = 1\n", "    count: int = 1\n" + ADDED)
UNREADABLE = CLASSES.replace("    count: int = 1\n", "    weight: int\n")
KINDS = ["Order", "Parcel", "Invoice"]


def declare(yard: Yard, kind: Any, function: Callable[..., Any], **options: Any) -> Any:
    """The queue `work` of payloads of a type, in place of the one that there was."""
    yard.server.queues.pop("work", None)
    function.__annotations__ = {"payload": kind, "return": kind}
    return yard.job("work", **options)(function)


async def work(payload: Any, job: Job[Any]) -> Any:
    return payload


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", ["acme_orders", "__main__"])
async def test_payload_and_result_are_read_as_the_queue_declares_them_today(
    yard: Yard, release: Releases, kind: str, module: str
) -> None:
    old = getattr(release(module, CLASSES), kind)
    queue = declare(yard, old, work)
    await yard.start()
    name = (await queue.create(old(sku="kettle", count=7), delay=10)).name

    new = getattr(release("acme_shop", EXTENDED), kind)
    queue = declare(yard, new, work)
    await yard.restart()
    yard.clock.advance(10)
    result = await queue.job(name).wait()
    assert (type(result), result.sku, result.count, result.gift) == (new, "kettle", 7, False)

    newest = release("acme", EXTENDED.replace(kind, "Purchase")).Purchase
    queue = declare(yard, newest, work)
    await yard.restart()
    result = await queue.job(name).wait()
    assert (type(result), result.sku, result.count) == (newest, "kettle", 7)


async def test_of_several_classes_it_is_the_one_of_that_name(yard: Yard, release: Releases) -> None:
    old = release("acme_orders", CLASSES)
    queue = declare(yard, old.Order | old.Return, work)
    await yard.start()
    names = [(await queue.create(kind("kettle"), delay=10)).name for kind in (old.Order, old.Return)]
    new = release("acme_shop", EXTENDED)
    queue = declare(yard, new.Order | new.Return | None, work)
    await yard.restart()
    yard.clock.advance(10)
    assert [await queue.job(name).wait() for name in names] == [new.Order("kettle"), new.Return("kettle")]


async def test_one_of_a_class_that_is_still_there_is_not_read_as_another(yard: Yard, release: Releases) -> None:
    classes = release("acme_orders", CLASSES)
    queue = declare(yard, classes.Order | classes.Return, work)
    await yard.start()
    name = (await queue.create(classes.Return("kettle"), delay=10)).name
    queue = declare(yard, classes.Order, work)
    await yard.restart()
    yard.clock.advance(10)
    assert (await failed(queue.job(name))).reason == "PAYLOAD_UNREADABLE"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_payload_that_the_class_of_today_cannot_read_is_a_dead_letter(
    yard: Yard, release: Releases, kind: str
) -> None:
    old = getattr(release("acme_orders", CLASSES), kind)
    queue = declare(yard, old, work)
    await yard.start()
    name = (await queue.create(old(sku="kettle"), delay=10)).name
    queue = declare(yard, getattr(release("acme_orders", UNREADABLE), kind), work)
    await yard.restart()
    yard.clock.advance(10)
    error = await failed(queue.job(name))
    assert (error.state, error.reason) == (JobState.DEAD, "PAYLOAD_UNREADABLE")
    assert "weight" in (await queue.job(name).get()).problem


class Shop:
    """An operation that creates jobs, is interrupted, and made again by a later version of the code."""

    def __init__(self, yard: Yard, release: Releases, kind: str) -> None:
        self.yard, self.release, self.kind = yard, release, kind
        self.crash = Crash(yard)
        self.asked: Callable[[Any], Any] = lambda queue: queue.create(self.make(1))
        self.names: list[Any] = []
        yard.plays(self.play)

    def make(self, count: int) -> Any:
        return self.payload(sku="kettle", count=count)

    def deploy(self, module: str, source: str, name: str = "") -> Any:
        self.payload = getattr(self.release(module, source), name or self.kind)
        self.queue = declare(
            self.yard, self.payload, work, key="{sku}", max_active=9, max_queued=0, when_full="coalesce"
        )
        return self.queue

    async def play(self, request: Any, op: Any) -> lab_pb2.PlayResult:
        self.names.append(await self.asked(self.queue))
        await self.crash.here(op)
        return lab_pb2.PlayResult()

    async def interrupted(self) -> str:
        """The name of the operation; its handler has asked."""
        name = (await self.yard.begin()).operation.name
        await self.crash.reached.wait()
        await self.yard.catch_up()
        return name


@pytest.fixture
async def shop(yard: Yard, release: Releases, kind: str) -> Shop:
    found = Shop(yard, release, kind)
    found.deploy("acme_orders", CLASSES)
    await yard.start()
    return found


async def one(shop: Shop, queue: Any) -> Any:
    return (await queue.create(shop.make(1))).name


async def several(shop: Shop, queue: Any) -> Any:
    return [ref.name for ref in await queue.create_many([shop.make(count) for count in (1, 2, 3)])]


async def submitted(shop: Shop, queue: Any) -> Any:
    return (await queue.submit(shop.make(1), priority=3)).job.name


async def with_a_key(shop: Shop, queue: Any) -> Any:
    return (await queue.create(shop.make(1), idempotency_key="k")).name


VERBS = [one, several, submitted, with_a_key]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
async def test_a_re_run_finds_the_jobs_whose_payloads_are_the_same_to_the_class_of_today(shop: Shop, verb: Any) -> None:
    shop.asked = lambda queue: verb(shop, queue)
    name = await shop.interrupted()
    shop.deploy("acme_shop", EXTENDED.replace(shop.kind, "Purchase"), "Purchase")
    await shop.crash.happen()
    assert (await shop.yard.end(name)).state == State.STATE_COMPLETED
    assert shop.names[0] == shop.names[1]
    assert len(await shop.yard.jobs()) == (3 if verb is several else 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_re_run_is_given_the_result_that_it_has_waited_for_as_the_class_of_today(shop: Shop) -> None:
    async def wait(queue: Any) -> Any:
        return await (await queue.create(shop.make(7))).wait()

    shop.asked = wait
    name = await shop.interrupted()
    shop.deploy("acme_shop", EXTENDED)
    await shop.crash.happen()
    assert (await shop.yard.end(name)).state == State.STATE_COMPLETED
    assert (type(shop.names[1]), shop.names[1].count, shop.names[1].gift) == (shop.payload, 7, False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
async def test_another_payload_is_non_deterministic_however_it_is_written(
    shop: Shop, verb: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shop.asked = lambda queue: verb(shop, queue)
    name = await shop.interrupted()
    shop.deploy("acme_orders", EXTENDED)
    make = shop.make
    shop.make = lambda count: make(count + 1)  # type: ignore[method-assign]
    await shop.crash.happen()
    assert reason_of_end(await shop.yard.end(name)) == "NON_DETERMINISTIC"
    assert "count=1" in caplog.text
    assert "count=2" in caplog.text


@pytest.mark.parametrize("kind", ["Order"])
@pytest.mark.parametrize("change", ["a priority", "another class", "a new field that is not as by default", "one more"])
async def test_what_else_is_asked_for_is_compared_as_ever(shop: Shop, change: str) -> None:
    asked: dict[str, Any] = {}
    count = 1

    async def ask(queue: Any) -> None:
        await queue.create_many([JobRequest(shop.make(1), **asked)] * count)

    shop.asked = ask
    name = await shop.interrupted()
    shop.deploy("acme_orders", EXTENDED, "Invoice" if change == "another class" else "")
    if change == "a priority":
        asked["priority"] = 1
    elif change == "one more":
        count = 2
    elif change != "another class":
        payload = shop.payload("kettle", 1, True)
        shop.make = lambda count: payload  # type: ignore[method-assign]
    await shop.crash.happen()
    assert reason_of_end(await shop.yard.end(name)) == "NON_DETERMINISTIC"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["coalesce", "reject"])
@pytest.mark.parametrize("same", [True, False])
async def test_what_made_no_job_is_compared_too(shop: Shop, policy: Any, same: bool) -> None:
    """The job that stands for it has another payload, or there is none."""

    async def hold(payload: Any, job: Job[Any]) -> Any:
        await shop.crash.reached.wait()
        await job.sleep(60)
        return payload

    async def submit(queue: Any) -> Any:
        return await queue.submit(shop.make(2))

    def deploy(module: str, source: str) -> None:
        shop.payload = getattr(shop.release(module, source), shop.kind)
        shop.queue = declare(shop.yard, shop.payload, hold, key="{sku}", when_full=policy)

    deploy("acme_orders", CLASSES)
    await shop.yard.restart()
    shop.asked = submit
    first = await shop.queue.create(shop.make(1))
    name = await shop.interrupted()
    deploy("acme_shop", EXTENDED)
    if not same:
        make = shop.make
        shop.make = lambda count: make(count + 1)  # type: ignore[method-assign]
    await shop.crash.happen()
    end = await shop.yard.end(name)
    if same:
        assert end.state == State.STATE_COMPLETED
        if policy == "coalesce":
            assert [outcome.job.name for outcome in shop.names] == [first.name] * 2
        else:
            assert shop.names[0] == shop.names[1]
            assert isinstance(shop.names[1], Rejected)
    else:
        assert reason_of_end(end) == "NON_DETERMINISTIC"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_idempotency_key_finds_its_job_by_the_same_payload(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await shop.queue.create(shop.make(1), idempotency_key="k")
    await first.wait()
    queue = shop.deploy("acme_shop", EXTENDED)
    await shop.yard.restart()
    threads, same = set(), codec.same

    def noted(*args: Any) -> bool:
        threads.add(threading.current_thread())
        return same(*args)

    monkeypatch.setattr(codec, "same", noted)
    again = await queue.create(shop.make(1), idempotency_key="k")
    assert (again.name, again.created) == (first.name, False)
    with pytest.raises(ServiceError) as caught:
        await queue.create(shop.make(2), idempotency_key="k")
    assert caught.value.reason is Reason.REQUEST_ID_REUSED
    assert threads == {threading.current_thread()}, "code of the service never runs where others wait to be written"


@pytest.mark.parametrize("kind", KINDS)
async def test_so_it_does_where_a_change_of_an_operation_creates_the_job(shop: Shop) -> None:
    first = await shop.queue.create(shop.make(1), idempotency_key="k")
    await first.wait()
    queue = shop.deploy("acme_shop", EXTENDED)
    planned: list[Any] = []

    async def play(request: Any, op: Any) -> None:
        planned.append(queue.plan(shop.make(len(planned) + 1), idempotency_key="k"))
        await op.defer(jobs=planned[-1:])

    shop.yard.plays(play)
    await shop.yard.restart()
    same, other = [(await shop.yard.begin()).operation.name for _ in range(2)]
    assert reason_of_end(await shop.yard.end(other)) == "HANDLER_ERROR"
    await shop.yard.catch_up()
    assert (planned[0].job.name, planned[0].job.created) == (first.name, False)
    assert planned[1].job is None
    assert (await shop.yard.get(same)).state == State.STATE_RUNNING


@pytest.mark.parametrize("kind", ["Parcel", "Invoice"])
async def test_it_is_compared_as_it_is_read(shop: Shop) -> None:
    """The 1 of a float comes back as 1.0, and the keys of what JSON calls an object are texts there."""
    fields = "    weight: float\n    labels: dict[int, str]\n"

    def payload(weight: float) -> Any:
        return shop.payload(sku="kettle", weight=weight, labels={10: "a", 9: "b"})

    queue = shop.deploy("acme_orders", CLASSES.replace("    count: int = 1\n", fields))
    await shop.yard.restart()
    first = await queue.create(payload(1), idempotency_key="k")
    queue = shop.deploy("acme_orders", CLASSES.replace("    count: int = 1\n", fields + ADDED))
    await shop.yard.restart()
    assert (await queue.create(payload(1), idempotency_key="k")).name == first.name
    with pytest.raises(ServiceError) as caught:
        await queue.create(payload(2), idempotency_key="k")
    assert caught.value.reason is Reason.REQUEST_ID_REUSED


@pytest.mark.parametrize("kind", ["Order"])
@pytest.mark.parametrize("changed", [False, True])
async def test_what_a_job_was_about_is_known_for_as_long_as_that_is_kept(shop: Shop, changed: bool) -> None:
    yard = shop.yard
    shop.queue.definition.retention = 60_000_000
    await yard.restart()
    name = await shop.interrupted()
    yard.clock.advance(60)
    await yard.catch_up()
    assert await yard.jobs() == []
    shop.deploy("acme_shop", EXTENDED if changed else CLASSES)
    await shop.crash.happen()
    assert ((await yard.end(name)).state == State.STATE_COMPLETED) is not changed


async def test_of_a_batch_only_payloads_in_other_bytes_are_read(
    yard: Yard, release: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = release("acme_orders", CLASSES).Order
    queue = declare(yard, old, work)
    await yard.start()

    def requests(kind: Any, first: int) -> list[JobRequest[Any]]:
        return [JobRequest(kind("kettle", number), idempotency_key=f"{number}") for number in range(first, first + 3)]

    await queue.create_many(requests(old, 0))
    new = release("acme_orders", EXTENDED).Order
    queue = declare(yard, new, work)
    await yard.restart()
    await queue.create_many(requests(new, 3))
    # Jobs that begin read their payloads, too: they have all begun, and ended, before any are counted.
    await yard.catch_up()
    assert not await yard.jobs("ended IS NULL"), "a job is yet to read its payload"
    read: list[bytes] = []
    payloads = job_rows.payloads

    def counted(connection: Any, uids: Any) -> Any:
        read.extend(uids)
        return payloads(connection, uids)

    monkeypatch.setattr(job_rows, "payloads", counted)
    again = await queue.create_many(requests(new, 2))
    assert not any(ref.created for ref in again)
    assert [UUID(bytes=uid) for uid in read] == [UUID(again[0].id)]
