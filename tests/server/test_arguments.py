"""What the service's own code gives that is no argument: one sentence that names it, before anything is written."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bytes.v1.bytes_pb2 import BytesRequest
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult
from lab.v1.signals_pb2 import Approve

from longshore_server import Code, InstanceStatus, Job, JobState, OperationError
from longshore_server.instance_lifecycle import Kind
from longshore_server.job_lifecycle import Stand
from longshore_server.lifecycle import EventType, State, UploadState
from longshore_server.transfers.stores import LocalStore
from tests.conftest import Lab, result_of
from tests.server.signalling import LISTEN, SignalHandlers
from tests.server.transfers.bytes_service import BytesHandlers

REQUEST = PlayRequest(script="x")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A laboratory with signals, bytes and the queue `load`, whose jobs run what operations do."""
    stores = {"uploads": LocalStore(), "exports": LocalStore()}
    found = Lab(tmp_path / "data", services=[SignalHandlers, BytesHandlers], stores=stores)

    @found.server.job("load")
    async def load(payload: int, job: Job[int]) -> int:
        assert found.handlers.handler is not None
        await found.handlers.handler(payload, job)
        return payload

    await found.start()
    yield found
    await found.stop()


async def refused(call: Callable[[], Any], sentence: str, kind: type[Exception] = TypeError) -> None:
    """See that a call, or what it returns, raises exactly this."""

    async def made() -> None:
        answer = call()
        await (anext(answer) if inspect.isasyncgen(answer) else answer)

    with pytest.raises(kind, match=f"^{re.escape(sentence)}$"):
        await made()


async def waiting(lab: Lab) -> Any:
    """The name of an operation that nobody works on."""

    @lab.plays
    async def handler(request, op):
        return await op.defer()

    name = (await lab.begin(LISTEN)).operation.name
    await lab.catch_up()
    return name


PLAY = Lab.TYPE
HANDLER = "is no handler of this server: pass a method like OrdersService.process"
OPERATIONS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda operations: operations.find(5), "name: 5 is no text"),
    (lambda operations: operations.control(None), "name: None is no text"),
    (lambda operations: operations.start(5, REQUEST), "type: 5 is no text"),
    (lambda operations: operations.start(PLAY, 5), f"{PLAY} takes lab.v1.PlayRequest, not int"),
    (lambda operations: operations.start(PLAY, REQUEST, request_id=5), "request_id: 5 is no text"),
    (lambda operations: operations.start(PLAY, REQUEST, labels="a=b"), "labels: 'a=b' is no dict of texts"),
    (lambda operations: operations.start(PLAY, REQUEST, labels={5: "b"}), "a key of labels: 5 is no text"),
    (lambda operations: operations.start(PLAY, REQUEST, labels={"a": 5}), "labels['a']: 5 is no text"),
    (lambda operations: operations.accept(5, REQUEST), f"5 {HANDLER}"),
    (lambda operations: operations.accept(None, REQUEST), f"None {HANDLER}"),
    (lambda operations: operations.accept(PLAY, REQUEST, owner=5), "owner: 5 is no text"),
]
REFS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda ref: ref.wait("5"), "timeout: '5' is no number of seconds"),
    (lambda ref: ref.wait(True), "timeout: True is no number of seconds"),
    (lambda ref: ref.wait(timedelta(1)), "timeout: datetime.timedelta(days=1) is no number of seconds"),
    (lambda ref: ref.watch("5"), "after: '5' is no whole number"),
    (lambda ref: ref.signal(5), "name: 5 is no text"),
    (lambda ref: ref.signal("approve", 5), "signal 'approve' takes lab.v1.Approve, not int"),
    (lambda ref: ref.signal("approve", Approve(), signal_id=5), "signal_id: 5 is no text"),
    (lambda ref: ref.cancel(5), "reason: 5 is no text"),
]
NO_ERROR = "is no exception: give OperationError(REASON, message) for the callers"
CONTROLS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda control: control.fail("out of stock"), f"error: 'out of stock' {NO_ERROR}"),
    (lambda control: control.fail(ValueError), f"error: <class 'ValueError'> {NO_ERROR}"),
    (lambda control: control.attach(5), "attach takes what can be awaited, not 5"),
    (lambda control: control.cancel(5), "reason: 5 is no text"),
    (lambda control: control.signals(5), "name: 5 is no text"),
    (lambda control: control.consume("approve"), "signal: 'approve' is none, nor the number of one"),
    (lambda control: control.progress(PlayProgress(), jobs=5), "jobs: give a list of those that are planned, not 5"),
]


async def test_operations_of_the_service_s_own_code(lab: Lab) -> None:
    name = await waiting(lab)
    operations = lab.server.operations
    ref, control, before = await operations.find(name), await operations.control(name), lab.tables()
    for subject, calls in ((operations, OPERATIONS), (ref, REFS), (control, CONTROLS)):
        for call, sentence in calls:
            await refused(lambda: call(subject), sentence)  # noqa: B023
    await refused(lambda: ref.wait(float("nan")), "timeout: NaN is no number of seconds", ValueError)
    assert control.state is State.RUNNING
    assert lab.tables() == before


async def test_a_wait_may_be_longer_than_there_are_times(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        return PlayResult(text="played")

    ref = await lab.server.operations.start(PLAY, REQUEST)
    assert (await ref.wait(float("inf"))).text == "played"


async def test_a_handler_that_attaches_nothing_has_handed_nothing_over(lab: Lab) -> None:
    async def work() -> PlayResult:
        raise AssertionError

    @lab.plays
    async def handler(request, op):
        takes = "attach takes a job, or what can be awaited, not"
        await refused(lambda: op.attach(5), f"{takes} 5")
        await refused(lambda: op.attach(None), f"{takes} None")
        await refused(lambda: op.attach(work), f"{takes} {work!r}: call it")
        await refused(lambda: op.defer(jobs=5), "jobs: give a list of those that are planned, not 5")
        return PlayResult(text="its own")

    assert result_of(await lab.run()).text == "its own"


async def test_steps_are_functions(lab: Lab) -> None:
    async def work() -> int:
        raise AssertionError

    @lab.plays
    async def handler(request, op):
        function = "pass the function itself, and its arguments after it, not"
        nameless = f"step: its name must be a text, and come before its function, not {work!r}"
        await refused(lambda: op.step(work, 5), nameless)
        await refused(lambda: op.step("a", 5), f"step 'a': {function} 5")
        await refused(lambda: op.step("a", work()), f"step 'a': {function} its result")
        retry = "step 'a': retry: 3 is no StepRetry: write retry=StepRetry(max_attempts=3)"
        await refused(lambda: op.step("a", work, retry=3), retry)
        return PlayResult(text=str(await op.step("a", lambda: 7)))

    assert result_of(await lab.run()).text == "7"


async def test_progress_in_numbers_is_of_numbers(lab: Lab) -> None:
    told = []

    async def report(request, op):
        for given, problem in (
            ((1, "2"), "the total of progress is a whole number, not str"),
            ((1, 2, 5), "the message of progress is a text, not int"),
        ):
            with pytest.raises(TypeError, match=f"^{op.name}: {problem}$"):
                op.progress(*given)
        with pytest.raises(ValueError, match=rf"^{op.name}: progress: .*out of range"):
            op.progress(1 << 80)
        told.append(op.name)

    lab.plays(report)
    await lab.end((await lab.begin("Count")).operation.name)
    load = lab.server.queues["load"]
    await (await load.create(1)).wait()
    assert [name.partition("/")[0] for name in told] == ["operations", "jobs"]


async def test_jobs(lab: Lab) -> None:
    load = lab.server.queues["load"]
    for wrong in (5, None):
        with pytest.raises(TypeError, match=f"^id: {wrong} is no text$"):
            load.job(wrong)  # type: ignore[arg-type]

    @lab.plays
    async def handler(payload, job):
        await refused(lambda: job.attach(5), "attach takes a job, not 5")

    assert await (await load.create(1)).wait() == 1


async def test_offers(lab: Lab) -> None:
    @lab.plays
    async def handler(request, op):
        offer = op.transfer.offer
        await refused(lambda: offer("a", filename=5), "filename: 5 is no text")
        await refused(lambda: offer("a", content_type=5), "content_type: 5 is no text")
        times = "cannot offer 'a' for 1h seconds: more than 0, at most 1,000,000,000"
        await refused(lambda: offer("a", expires_in="1h"), times, ValueError)
        return PlayResult()

    ref = await lab.server.operations.start("bytes.v1.BytesService/Export", BytesRequest(key="a"))
    assert await ref.wait() == PlayResult()


ERRORS: list[tuple[Callable[[], Any], str]] = [
    (lambda: OperationError(5, "sold out"), "reason: 5 is no text"),  # type: ignore[arg-type]
    (lambda: OperationError("OUT_OF_STOCK", KeyError("tea")), "message: KeyError('tea') is no text"),  # type: ignore[arg-type]
    (lambda: OperationError("OUT_OF_STOCK", metadata="a=b"), "metadata: 'a=b' is no dict of texts"),  # type: ignore[arg-type]
    (
        lambda: OperationError("OUT_OF_STOCK", details=PlayResult()),  # type: ignore[arg-type]
        "details: give a list of protobuf messages, not PlayResult",
    ),
]


@pytest.mark.parametrize(("call", "sentence"), ERRORS)
def test_an_error_for_callers_is_told_where_it_is_made(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        call()


@pytest.mark.parametrize("kind", [State, EventType, UploadState, JobState, Stand, InstanceStatus, Kind, Code])
def test_enums_are_their_names_for_people_and_their_numbers_for_programs(kind: Any) -> None:
    for member in kind:
        assert (str(member), f"{member}", f"{member:d}") == (member.name, member.name, str(member.value))
