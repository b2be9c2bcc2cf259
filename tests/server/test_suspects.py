"""Suspects of a crash that wait for a retry: run apart when it is due, so that a crash counts against them alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from lab.v1 import lab_pb2

from longshore.v1 import operation_control_service_pb2 as control_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore.v1.operation_control_service_pb2_grpc import OperationControlServiceStub
from longshore.v1.operations_service_pb2_grpc import OperationsServiceStub
from longshore_server import OperationError, Server
from longshore_server.store.mutations import RunApart
from tests.conftest import Lab, State, turns
from tests.server.retrying import RetryHandlers


class Scene:
    """One operation that kills its server, unless it is told to fail, and one that only runs beside it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.fails = False
        self.begun = {"poison": asyncio.Event(), "long": asyncio.Event()}

        @lab.plays
        async def handler(request, op):
            if request.script in self.begun:
                self.begun[request.script].set()
                if request.script == "poison" and self.fails:
                    raise OperationError("BUSY")
                await asyncio.Event().wait()
            return lab_pb2.PlayResult()

    async def start(self) -> None:
        self.poison = (await self.lab.begin("RetryService/Try", script="poison")).operation.name
        self.long = (await self.lab.begin("PlayMinute", script="long")).operation.name
        await self.both()

    async def both(self) -> None:
        """Return once both have begun."""
        await self.next("poison")
        await self.next("long")

    async def next(self, script: str) -> None:
        await self.begun[script].wait()
        self.begun[script].clear()

    async def come_back_late(self) -> None:
        """Kill the server, and start the next one after the poison's retry has become due."""
        await self.lab.harness.crash()
        self.lab.clock.advance(30)
        await self.lab.harness.start()
        await self.lab.connect()

    async def crashes(self) -> tuple[int, int]:
        return (await self.lab.get(self.poison)).crashes, (await self.lab.get(self.long)).crashes


@pytest.fixture
async def scene(make_lab: Any) -> Scene:
    """Two crashes, after which the poison has failed and waits, and a third one, while it does."""
    lab: Lab = await make_lab(services=[RetryHandlers])
    found = Scene(lab)
    await found.start()
    await lab.restart()
    await found.both()
    found.fails = True
    await lab.restart()
    await found.both()
    await lab.reached(found.poison, "attempt_failed", 3)
    found.fails = False
    return found


async def test_a_suspect_that_is_due_later_is_run_apart_then(scene: Scene) -> None:
    lab = scene.lab
    await lab.restart()
    await scene.next("long")
    await lab.clock.armed(1)
    lab.clock.advance(1)
    assert (await lab.run()).state == State.STATE_COMPLETED, "meanwhile everything goes on"
    assert await scene.crashes() == (2, 3)
    lab.clock.advance(8.5)
    late = (await lab.begin("PlayMinute", script="long")).operation
    await scene.next("long")
    lab.clock.advance(0.5)
    new = (await lab.begin()).operation
    assert new.state == State.STATE_PENDING, "nothing begins beside it"
    await lab.clock.armed(1)
    lab.clock.advance(1)
    await scene.next("poison")
    await lab.restart()
    assert await scene.crashes() == (3, 3), "only it is to blame"
    assert (await lab.get(late.name)).crashes == 0, "nor is what began a moment before"
    told = (await lab.reached(late.name, "attempt_failed")).attempt_failed.error
    assert told.message.startswith("The server crashed"), "though that is what has interrupted it"


async def test_a_suspect_that_was_due_while_the_server_was_down_is_run_apart_at_once(scene: Scene) -> None:
    lab = scene.lab
    await scene.come_back_late()
    await scene.next("poison")
    await lab.catch_up()
    assert not scene.begun["long"].is_set(), "the more suspect one comes after it"
    await lab.restart()
    assert await scene.crashes() == (3, 3), "only it is to blame"


@contextlib.asynccontextmanager
async def starting(lab: Lab, folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the next server while that starts; it has started when the block is left."""
    begins, may_begin = asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifespan(server: Server) -> AsyncIterator[None]:
        begins.set()
        await may_begin.wait()
        yield

    lab.server.lifespan = lifespan
    lab.harness.configure(listen=(address := f"unix:{folder}/socket",))
    start = asyncio.create_task(lab.harness.start())
    await begins.wait()
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel
    await turns()
    may_begin.set()
    await start
    await lab.connect()


async def test_a_suspect_that_a_caller_stops_while_the_server_starts_is_run_apart(scene: Scene, tmp_path: Path) -> None:
    """That makes it due at once."""
    lab = scene.lab
    await lab.harness.crash()
    async with starting(lab, tmp_path) as channel:
        await OperationsServiceStub(channel).Stop(pb.StopRequest(name=scene.poison))
    await lab.catch_up()
    assert [script for script in scene.begun if scene.begun[script].is_set()] == ["poison"]
    await lab.restart()
    assert await scene.crashes() == (3, 3), "only it is to blame"


async def test_nobody_is_blamed_in_place_of_what_ends_while_the_server_starts(scene: Scene, tmp_path: Path) -> None:
    lab = scene.lab
    await scene.come_back_late()
    await scene.next("poison")
    await lab.clock.armed(1)
    lab.clock.advance(1)
    await scene.next("long")
    await lab.harness.crash()
    async with starting(lab, tmp_path) as channel:
        request = control_pb2.CompleteRequest(name=scene.long)
        request.result.Pack(lab_pb2.PlayResult())
        await OperationControlServiceStub(channel).Complete(request)
    assert await scene.crashes() == (2, 3)


async def test_a_start_that_fails_after_a_crash_leaves_suspects_suspect(scene: Scene) -> None:
    lab = scene.lab

    @contextlib.asynccontextmanager
    async def lifespan(server: Server) -> AsyncIterator[None]:
        raise ConnectionError
        yield

    await lab.harness.crash()
    lab.clock.advance(30)
    lab.server.lifespan = lifespan
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await lab.harness.start()
    lab.server.lifespan = None
    await lab.harness.start()
    await lab.connect()
    await lab.catch_up()
    assert [script for script in scene.begun if scene.begun[script].is_set()] == ["poison"]
    await lab.restart()
    assert await scene.crashes() == (3, 3), "only it is to blame"


async def test_what_waited_beside_a_suspect_goes_on_after_it(scene: Scene) -> None:
    lab = scene.lab
    await lab.restart()
    await scene.next("long")
    await lab.clock.armed(1)
    lab.clock.advance(1)
    await lab.run()
    scene.fails = True
    lab.clock.advance(9)
    new = (await lab.begin()).operation
    await lab.clock.armed(1)
    lab.clock.advance(1)
    await lab.reached(scene.poison, "attempt_failed", 4)
    await lab.clock.armed(1)
    lab.clock.advance(1)
    assert (await lab.end(new.name)).state == State.STATE_COMPLETED


async def test_suspects_whose_mark_cannot_be_stored_are_run_all_the_same(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = scene.lab
    await lab.restart()
    await scene.next("long")
    await lab.clock.armed(1)
    lab.clock.advance(1)
    await lab.run()

    def broken(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(RunApart, "apply", broken)
    lab.clock.advance(9)
    await scene.next("poison")
    assert (await lab.run()).state == State.STATE_COMPLETED, "nothing waits any more"
