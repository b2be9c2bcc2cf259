"""Callers and controllers that have a say in running operations: they signal, control, stop, retry and delete."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import status_pb2
from torture.v1.torture_pb2 import WorkProgress, WorkRequest, WorkResult

from longshore.v1 import channels_pb2
from longshore.v1 import operation_control_service_pb2 as control_pb2
from longshore.v1 import operations_service_pb2 as pb
from tests.faults.calls import Calls
from tests.faults.history import Ended, Signalled
from tests.faults.process import STEERED

KINDS = {"listen": 3, "defer": 4, "falter": 3, "endure": 2, "keep": 2}
NAMES = 40
"""How many names operations share that are kept for a second: few enough that each is used again and again."""
Session = Callable[[random.Random, str], Awaitable[None]]


class Steering:
    """Sessions with one operation each, from its start to its end or to its deletion."""

    def __init__(self, calls: Calls, seed: str) -> None:
        self._calls = calls
        self._history = calls.history
        self._seed = seed

    async def session(self, rng: random.Random, id: str) -> None:
        """One operation that is steered. `id` is the session's alone."""
        sessions: list[Session] = [self._listen, self._defer, self._falter, self._endure, self._keep]
        await rng.choices(sessions, list(KINDS.values()))[0](rng, id)

    async def afterwards(self, rng: random.Random, type: str, request: WorkRequest, uid: str, id: str) -> None:
        """What may be done to an operation that has ended: nothing changes it, but it can be retried and deleted."""
        what = rng.choices(["nothing", "disturb", "retry", "delete"], [3, 2, 2, 2])[0]
        again = rng.random() < 0.5
        if what == "disturb":
            await self._disturb(uid)
        elif what == "retry":
            await self._retry(type, uid, id)
        elif what == "delete":
            await self._delete(uid)
            if again:
                started = await self._start(type, request, id)
                if started == uid:
                    self._history.wrong(f"{uid}: started again by its key after it was deleted")
                await self._calls.follow(f"operations/{started}", started, 0)

    # Signals.

    async def _listen(self, rng: random.Random, id: str) -> None:
        script, count, more = rng.choice(["any", "each", "timed"]), rng.randint(1, 5), rng.randint(0, 3)
        request = WorkRequest(script=script, count=count, text=id)
        uid = await self._start(f"{STEERED}/Listen", request, id)
        watching = asyncio.create_task(self._calls.follow(f"operations/{uid}", uid, 0))
        for number in range(count + more):
            await self._signal(uid, ("word", "shout")[number % 2], f"{id}/{number}", number, rng.choice([1, 1, 2, 3]))
            await asyncio.sleep(rng.random() * 0.3)
            if rng.random() < 0.3:
                # Once more, when it has perhaps been consumed, and by another server.
                before = rng.randint(0, number)
                await self._signal(uid, ("word", "shout")[before % 2], f"{id}/{before}", before, 1)
            if rng.random() < 0.2:
                await self._signal(uid, ("word", "shout")[number % 2], f"{id}/{number}", number + 1000, 1)
        if rng.random() < 0.1:
            await self._calls.cancel(f"operations/{uid}", uid)
        await watching
        if rng.random() < 0.3:
            await self._disturb(uid)

    async def _signal(self, uid: str, name: str, id: str, number: int, times: int) -> None:
        """Send one signal so many times at once. A number of 1000 and more: another signal with an id that is taken."""
        payload = packed(WorkProgress(number=number, text=id))
        request = pb.SignalRequest(name=f"operations/{uid}", signal=name, payload=payload, signal_id=id)
        self._history.signal_ids[uid].add(id)

        send = self._calls.operations.Signal
        for answer, reason in await asyncio.gather(*(self._calls.ask(send, request) for _ in range(times))):
            if answer is not None:
                self._history.snapshot(answer.operation)
                signal = Signalled(uid, answer.number, name, id, payload.SerializeToString(), answer.duplicate)
                self._history.signals.append(signal)
            elif reason == "SIGNAL_ID_REUSED" and number >= 1000:
                self._history.counts["signals with a used id refused"] += 1
            elif reason != "OPERATION_ENDED":
                self._history.wrong(f"{uid}: signal {id} was refused: {reason}")
            elif number < 1000:
                self._history.refused_signals[uid].add(id)

    # Deferral and control.

    async def _defer(self, rng: random.Random, id: str) -> None:
        request = WorkRequest(script=rng.choice(["defer", "defer", "attach"]), text=id)
        uid = await self._start(f"{STEERED}/Defer", request, id)
        name = f"operations/{uid}"
        # Accepted, started, and the handler's own report.
        sequence = await self._calls.follow(name, uid, 0, leave_after=3)
        watching = asyncio.create_task(self._calls.follow(name, uid, sequence))
        for number in range(rng.randint(0, 2)):
            await self._signal(uid, "word", f"{id}/{number}", number, rng.randint(1, 2))
        if rng.random() < 0.4:
            await self._calls.serving.another()
            self._history.counts["controls right after a restart"] += 1
        else:
            await asyncio.sleep(rng.random() * 0.6)
        for number in range(rng.randint(0, 3)):
            await self._report(uid, f"{id}/report {number}", output=rng.random() < 0.3)
        await self._take_signals(uid)
        how = rng.choices(
            ["complete", "fail", "cancel", "acknowledge", "grace", "deadline", "race"], [4, 2, 1, 2, 1, 1, 2]
        )[0]
        if how in ("acknowledge", "grace"):
            await self._calls.cancel(name, uid)
        if how in ("complete", "fail", "cancel", "acknowledge"):
            await self._end(uid, how, id)
        elif how == "race":
            await asyncio.gather(self._end(uid, "complete", id), self._end(uid, "fail", id))
        await watching
        if rng.random() < 0.3:
            await self._disturb(uid)

    async def _report(self, uid: str, text: str, *, output: bool) -> None:
        """Progress, or output that says the same."""
        control, name = self._calls.control, f"operations/{uid}"
        method: Callable[..., Awaitable[Any]] = control.ReportProgress
        request: Message = control_pb2.ReportProgressRequest(name=name, progress=packed(WorkProgress(text=text)))
        if output:
            said = packed(channels_pb2.DiagnosticOutput(message=text))
            method, request = control.ReportOutput, control_pb2.ReportOutputRequest(name=name, output=said)

        async def send(request: Message, *, wait_for_ready: bool) -> Any:
            self._history.reports[uid][text] += 1
            return await method(request, wait_for_ready=wait_for_ready)

        snapshot, reason = await self._calls.ask(send, request)
        if snapshot is not None:
            self._history.snapshot(snapshot)
            self._history.reported.append((uid, text))
        elif reason != "OPERATION_ENDED":
            self._history.wrong(f"{uid}: a controller's report was refused: {reason}")

    async def _take_signals(self, uid: str) -> None:
        """Read the signals that wait, and consume them."""
        name = f"operations/{uid}"
        listed = await self._calls.insist(
            partial(self._calls.control.ListSignals, control_pb2.ListSignalsRequest(name=name), wait_for_ready=True)
        )
        for signal in listed.signals:
            self._history.consumed[uid].add(signal.number)
            consume = control_pb2.ConsumeSignalRequest(name=name, number=signal.number)
            snapshot, reason = await self._calls.ask(self._calls.control.ConsumeSignal, consume)
            if snapshot is not None:
                self._history.snapshot(snapshot)
                self._history.consumptions.append((uid, signal.number))
            elif reason not in ("OPERATION_ENDED", "SIGNAL_CONSUMED"):
                self._history.wrong(f"{uid}: signal {signal.number} was not to be consumed: {reason}")

    async def _end(self, uid: str, verb: str, id: str) -> None:
        """End it as its controller."""
        control, name, text = self._calls.control, f"operations/{uid}", f"{verb} {id}"
        method: Callable[..., Awaitable[Any]]
        request: Message
        match verb:
            case "complete":
                result = packed(WorkResult(text=text))
                method, request = control.Complete, control_pb2.CompleteRequest(name=name, result=result)
            case "fail":
                error = status_pb2.Status(code=9, message=text)
                method, request = control.Fail, control_pb2.FailRequest(name=name, error=error)
            case "cancel":
                method, request = control.CancelOperation, control_pb2.CancelOperationRequest(name=name, reason=text)
            case _:
                method, request = control.AcknowledgeCancel, control_pb2.AcknowledgeCancelRequest(name=name)
        self._history.endings[uid].add((verb, text))
        snapshot, reason = await self._calls.ask(method, request)
        if snapshot is not None:
            self._history.snapshot(snapshot)
            self._history.ended.append(Ended(uid, verb, text, snapshot.state))
        elif reason != "OPERATION_ENDED":
            self._history.wrong(f"{uid}: its controller could not {verb}: {reason}")

    # Retries, stops.

    async def _falter(self, rng: random.Random, id: str) -> None:
        request = WorkRequest(script=rng.choice(["", "", "broken"]), count=rng.randint(0, 5), text=id)
        uid = await self._start(f"{STEERED}/Falter", request, id)
        watching = asyncio.create_task(self._calls.follow(f"operations/{uid}", uid, 0))
        what = rng.choices(["nothing", "cancel", "stop"], [5, 1, 1])[0]
        await asyncio.sleep(rng.random())
        if what == "cancel":
            await self._calls.cancel(f"operations/{uid}", uid)
        elif what == "stop":
            await self._calls.stop(f"operations/{uid}", uid)
        await self._calls.get(uid)
        await watching
        await self.afterwards(rng, f"{STEERED}/Falter", request, uid, id)

    async def _endure(self, rng: random.Random, id: str) -> None:
        uid = await self._start(f"{STEERED}/Endure", WorkRequest(text=id), id)
        name = f"operations/{uid}"
        watching = asyncio.create_task(self._calls.follow(name, uid, 0))
        if rng.random() < 0.3:
            await self._calls.serving.another()
        else:
            await asyncio.sleep(rng.random() * 0.8)
        await asyncio.gather(*(self._calls.stop(name, uid) for _ in range(rng.randint(1, 2))))
        if rng.random() < 0.15:
            await self._calls.cancel(name, uid)
        await watching
        if rng.random() < 0.3:
            await self._disturb(uid)

    # Deletion and retention.

    async def _keep(self, rng: random.Random, id: str) -> None:
        """Some operations of one name, one after the other has been deleted or swept away."""
        key = f"{self._seed}-{rng.randrange(NAMES)}"
        for _ in range(rng.randint(1, 3)):
            uid = await self._start(f"{STEERED}/Keep", WorkRequest(key=key, text=key), "")
            await self._calls.follow(f"operations/{uid}", uid, 0)
            if rng.random() < 0.4:
                await self._delete(uid)
            else:
                await asyncio.sleep(rng.uniform(0.5, 3))
                await self._calls.get(uid)

    async def _delete(self, uid: str) -> None:
        """Delete what has ended."""
        request = pb.DeleteRequest(name=f"operations/{uid}")
        self._history.deletes.add(uid)
        answer, reason = await self._calls.ask(self._calls.operations.Delete, request)
        if answer is not None:
            self._history.deleted.add(uid)
        elif reason != "OPERATION_NOT_FOUND":
            self._history.wrong(f"{uid}: could not be deleted: {reason}")
        if await self._calls.get(uid) is not None:
            self._history.wrong(f"{uid}: was deleted, and is there")

    # What belongs to several.

    async def _start(self, type: str, request: WorkRequest, id: str) -> str:
        """Start it, insisting: its uid."""
        service, _, method = type.rpartition("/")
        if request.key:
            self._history.keys.add(request.key)
        else:
            self._history.request_ids.add(id)
        response = await self._calls.insist(
            lambda: self._calls.caller.start(method, request, service, request_id=id, labels={"session": id[:9]})
        )
        self._history.started(type, response, request_id=id, key=request.key)
        return str(response.operation.uid)

    async def _retry(self, type: str, uid: str, id: str) -> None:
        """Retry it twice at once by the same key: one new operation, which is followed to its end."""
        again = f"{id}/again"
        self._history.request_ids.add(again)
        request = pb.RetryRequest(name=f"operations/{uid}", request_id=again)

        retry = partial(self._calls.operations.Retry, request, wait_for_ready=True)
        responses = await asyncio.gather(self._calls.insist(retry), self._calls.insist(retry))
        for response in responses:
            self._history.started(type, response, request_id=again, retried=uid)
        new = responses[0].operation
        await self._calls.follow(new.name, new.uid, 0)

    async def _disturb(self, uid: str) -> None:
        """Ask everything of what has ended. It stays as it is."""
        before = await self._calls.get(uid)
        if before is None or not before.HasField("end_time"):
            self._history.wrong(f"{uid}: has ended, and its snapshot does not say so: {before}")
            return
        name = f"operations/{uid}"
        await self._calls.cancel(name, uid)
        await self._calls.stop(name, uid)
        complete = control_pb2.CompleteRequest(name=name, result=packed(WorkResult(text="too late")))
        answer, reason = await self._calls.ask(self._calls.control.Complete, complete)
        if answer is not None or reason != "OPERATION_ENDED":
            self._history.wrong(f"{uid}: completed after its end: {reason} {answer}")
        after = await self._calls.get(uid)
        if before != after:
            self._history.wrong(f"{uid}: had ended as {before}, and is {after}")
        self._history.counts["ended ones disturbed"] += 1


def packed(message: Message) -> AnyMessage:
    """As it is sent."""
    found = AnyMessage()
    found.Pack(message)
    return found
