"""One server and the callers that send it whatever hypothesis makes up; what they are told is judged."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from longshore.v1 import operation_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_server.errors import DOMAIN, Reason
from tests.fuzz.inputs import Call, Known, Metadata, Method, Requests
from tests.fuzz.server import GATED, OPEN

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
HANG = 30.0
"""Seconds after which something hangs, however busy the machine is."""
UNSERVED = ("grpc.health.v1.Health.List",)
"""Methods of the services of others that the lowest versions of their packages do not know."""
NO_ANSWER = "no answer"
"""The outcome of a call whose caller did not wait for it."""
CONTRACTS = {base.DESCRIPTOR.full_name for base in (*GATED, *OPEN)}


class World:
    """A server process, the channel to it, and what is known of it. All of it blocks: hypothesis knows no asyncio."""

    def __init__(self, *, authenticated: bool) -> None:
        self._authenticated = authenticated
        self._runner = asyncio.Runner()
        self._broken = False
        self.inputs = 0
        """How many calls were made."""
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """How many of them there were of each method and outcome."""
        self.unwritten = 0
        """How many refused calls are known to have written nothing."""
        self.memory: list[int] = []
        """The server's resident memory, in bytes, after each sequence."""
        self.requests: Requests
        self._version = 0

    def __enter__(self) -> Self:
        self._runner.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._stop())
        self._runner.close()

    def begin(self) -> None:
        """A new sequence of calls: nothing is known. After a failure it has a server of its own."""
        if self._broken:
            self._run(self._stop())
            self._run(self._start())
            self._broken = False
        self.requests.known.clear()
        self.requests.page_tokens.clear()
        self.requests.jobs = self._run(self._command("begin"))["jobs"]

    def burst(self, calls: Sequence[Call], seconds: float) -> None:
        """Make the calls, all at once; those that wait are answered after `seconds`, or their callers go away."""
        self._run(self._burst(calls, seconds))

    def advance(self, seconds: float) -> None:
        """Let time pass on the server."""
        self._run(self._advance(seconds))

    def rest(self) -> None:
        """The end of a sequence: every operation ends, and nothing of any call may be left."""
        self._run(self._rest())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._runner.run(work)
        except BaseException:
            self._broken = True
            raise

    # The process.

    async def _start(self) -> None:
        folders = [str(ROOT), str(ROOT / "tests" / "contracts"), os.environ.get("PYTHONPATH", "")]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.fuzz.server", "authenticated" if self._authenticated else "open",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}, cwd=ROOT,
        )  # fmt: skip
        ready = await self._answer()
        self._metadata = _bearer(ready["callers"])
        self._channel: Any = grpc.aio.insecure_channel(ready["address"])
        if self._broken:
            # Hypothesis holds on to the requests that it has begun with.
            self.requests.callers = ready["callers"]
        else:
            types = await self._call("/longshore.v1.OperationsService/ListTypes", pb.ListTypesRequest())
            methods = await self._methods()
            self.requests = Requests(methods, ready["callers"], pb.ListTypesResponse.FromString(types).types)
        await self._healthy()
        await self._command("quiet", HANG)

    async def _stop(self) -> None:
        await self._channel.close()
        assert self._process.stdin is not None
        if self._broken:
            self._process.kill()
        self._process.stdin.close()
        await self._process.wait()

    async def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 2 * HANG)
        assert line, "the server has ended"
        return json.loads(line)

    async def _advance(self, seconds: float) -> None:
        await self._command("advance", seconds)

    async def _command(self, word: str, number: float = 0) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word} {number}\n".encode())
        state: dict[str, Any] = await self._answer()
        assert state["errors"] == [], "\n".join(state["errors"])
        self._version = state["version"]
        return state

    async def _call(self, path: str, request: Message) -> bytes:
        """A call of our own, which has to succeed."""
        found: bytes = await self._channel.unary_unary(path)(
            request.SerializeToString(), metadata=self._metadata, timeout=HANG
        )
        return found

    async def _methods(self) -> list[Method]:
        """Every RPC of every service that the server says it has."""
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = self._channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        answers = [data async for data in call(iter([request.SerializeToString()]), metadata=self._metadata)]
        listed = reflection_pb2.ServerReflectionResponse.FromString(answers[0]).list_services_response.service
        pool, found = descriptor_pool.Default(), []
        for name in sorted(service.name for service in listed):
            # The library knows the older name only; both have the same messages.
            service = pool.FindServiceByName(name.replace("reflection.v1.", "reflection.v1alpha."))
            found += [
                Method.of(f"/{name}/{method.name}", method, contract=name in CONTRACTS)
                for method in service.methods
                if method.full_name not in UNSERVED
            ]
        return found

    async def _healthy(self) -> None:
        request = health_pb2.HealthCheckRequest(service="longshore.v1.OperationsService")
        answer = health_pb2.HealthCheckResponse.FromString(await self._call("/grpc.health.v1.Health/Check", request))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    # Calls.

    async def _rest(self) -> None:
        if self._broken:
            return
        state = await self._command("rest", HANG)
        assert state["leaked"] == [], state["leaked"]
        assert set(state["left"].values()) == {0}, state["left"]
        self.memory.append(state["memory"])
        await self._healthy()

    async def _burst(self, calls: Sequence[Call], seconds: float) -> None:
        before = self._version
        tasks = {asyncio.ensure_future(self._send(call)): call for call in calls}
        await self._ended([task for task, call in tasks.items() if call.waits() == 0], tasks)
        # On the same connection: what was sent before has come in before.
        await self._healthy()
        await self._command("settle")
        outcomes = [task.result() if task.done() else NO_ANSWER for task in tasks]
        refused = [outcome not in ("OK", NO_ANSWER) for outcome in outcomes]
        if all((no and not call.method.sends) or call.method.reads for no, call in zip(refused, calls, strict=True)):
            assert self._version == before, f"a refused call has written: {[*zip(outcomes, calls, strict=True)]}"
            self.unwritten += sum(refused)
        if not all(task.done() for task in tasks):
            await self._bounded(tasks, seconds)
            leaving = [task for task in tasks if not task.done()]
            for task in leaving:
                task.cancel()
            if leaving:
                await asyncio.wait(leaving)
            await self._healthy()
        state = await self._command("quiet", HANG)
        assert state["leaked"] == [], state["leaked"]
        assert state["left"]["watches"] == state["left"]["starts"] == 0, state["left"]
        for task, call in tasks.items():
            self.outcomes[call.method.path, NO_ANSWER if task.cancelled() else task.result()] += 1
        self.inputs += len(calls)

    async def _bounded(self, tasks: dict[asyncio.Task[str], Call], seconds: float) -> None:
        """Let `seconds` pass, after which some calls have to be answered."""
        due = [task for task, call in tasks.items() if (bound := call.waits()) is not None and bound <= seconds]
        for _ in range(3):
            # Again, if a call had come so far only after the clock was moved.
            await self._command("advance", seconds)
            if due:
                await asyncio.wait(due, timeout=HANG / 6)
        await self._ended(due, tasks)

    async def _ended(self, tasks: Sequence[asyncio.Task[str]], calls: dict[asyncio.Task[str], Call]) -> None:
        if tasks:
            _, hanging = await asyncio.wait(tasks, timeout=HANG)
            assert not hanging, f"no answer to {[calls[task] for task in hanging]}"

    async def _send(self, call: Call) -> str:
        """Make a call and judge what comes back: OK, or the reason of the refusal."""
        method = call.method
        kind = f"{'stream' if method.takes_stream else 'unary'}_{'stream' if method.gives_stream else 'unary'}"
        request = (iter(call.requests),) if method.sends else () if method.takes_stream else (call.requests[0],)
        rpc = getattr(self._channel, kind)(method.path)(*request, metadata=call.metadata, timeout=call.timeout)
        if call.leave:
            await asyncio.sleep(0)
            rpc.cancel()
        try:
            if method.takes_stream and method.gives_stream:
                await self._converse(call, rpc)
            elif method.gives_stream:
                async for data in rpc:
                    self._note(call, method.output.FromString(data))
            else:
                self._note(call, method.output.FromString(await rpc))
        except grpc.aio.AioRpcError as error:
            return self._refusal(call, error)
        except asyncio.CancelledError:
            if not call.leave:
                raise
            return NO_ANSWER
        finally:
            rpc.cancel()
        return "OK"

    async def _converse(self, call: Call, rpc: Any) -> None:
        """In turns: a client of grpc.aio that is refused while it sends tells of a broken call instead."""
        for data in call.requests:
            await rpc.write(data)
            answer = await rpc.read()
            assert answer is not grpc.aio.EOF, f"{call}: no answer"
            self._note(call, call.method.output.FromString(answer))
        await rpc.done_writing()
        assert await rpc.read() is grpc.aio.EOF, f"{call}: one answer too many"

    def _refusal(self, call: Call, error: grpc.aio.AioRpcError) -> str:
        details = None
        for key, value in error.trailing_metadata() or ():
            details = value if key == "grpc-status-details-bin" else details
        if details is None:
            # Nobody but the caller's own library has said so.
            mine = call.timeout is not None and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            # A client of grpc.aio that is refused while it sends.
            mine = mine or (call.method.sends and error.code() is grpc.StatusCode.INTERNAL)
            assert mine, f"{call}: {error.code()} without details: {error.details()}"
            return NO_ANSWER
        assert isinstance(details, bytes)
        status = status_pb2.Status.FromString(details)
        info = error_details_pb2.ErrorInfo()
        assert status.details, f"{call}: {status}"
        assert status.details[0].Unpack(info), f"{call}: {status}"
        reason = Reason[info.reason]
        told = f"{call}: {status}"
        assert info.domain == DOMAIN, told
        assert error.code().value[0] == status.code == reason.code, told
        assert error.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), told
        assert {detail.type_url.rpartition(".")[2] for detail in status.details} >= {*reason.details}, told
        assert status.message, told
        return reason.name

    def _note(self, call: Call, message: Any) -> None:
        """Remember what the server tells of its operations."""
        known = self.requests.known
        fields = message.DESCRIPTOR.fields_by_name
        if isinstance(message, operations_pb2.Operation) and call.method.contract:
            target = call.method.path.removeprefix("/").removesuffix("AndWatch")
            found = Known(message.name, "", target)
        else:
            snapshot = message
            for field in ("operation", "snapshot"):
                if field in fields and fields[field].message_type and message.HasField(field):
                    snapshot = getattr(message, field)
            if "next_page_token" in fields and message.next_page_token:
                self.requests.page_tokens.append(message.next_page_token)
            if not isinstance(snapshot, operation_pb2.OperationSnapshot):
                return
            found = Known(snapshot.name, snapshot.uid, snapshot.type)
        if found not in known:
            known.append(found)


def _bearer(callers: Mapping[str, str]) -> Metadata:
    """What our own calls carry."""
    return (("authorization", f"Bearer {callers['ada']}"),) if callers else ()
