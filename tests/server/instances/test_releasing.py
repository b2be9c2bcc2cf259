"""A server that stops just as a handler is about to begin: in the store it has begun, and no crash has ended it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from longshore_server.store.mutations import Mutation, Nothing
from longshore_server.store.mutations.instance_run import BeginRun
from longshore_server.store.transaction import Transaction
from longshore_server.store.writer import Writer
from tests.server.instances.laboratory import Token, World


@dataclass(slots=True)
class Hold(Mutation[None]):
    """Keeps the writer from its next turn."""

    opened: threading.Event

    def apply(self, tx: Transaction) -> None:
        self.opened.wait()


async def test_what_had_not_begun_yet_is_no_crash(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    @world.server.recurring("rounds", every="1h", state=Token, max_crashes=1)
    async def rounds(ctx: Any) -> None:
        ran.append(ctx.attempt)

    await world.start()
    await rounds.start("x", Token(), no_wait=True)
    await world.settled()
    ran.clear()

    submitted: dict[type, asyncio.Event] = {BeginRun: asyncio.Event(), Nothing: asyncio.Event()}
    submit = Writer.submit

    def noted(self: Writer, mutation: Any, *rest: Any) -> Any:
        future = submit(self, mutation, *rest)
        if type(mutation) in submitted:
            submitted[type(mutation)].set()
        return future

    monkeypatch.setattr(Writer, "submit", noted)
    opened = threading.Event()
    world.engine.store.writer.submit(Hold(opened))
    world.clock.advance(3600)
    await submitted[BeginRun].wait()
    stop = asyncio.ensure_future(world.harness.stop())
    # That of the release, or that which comes after it and is too late.
    await submitted[Nothing].wait()
    opened.set()
    await stop
    assert world.rows("SELECT under_way FROM instances") == [(0,)]
    await world.harness.start()
    await world.settled()
    assert ran
    assert (await rounds.status("x")).status.name == "ACTIVE"
