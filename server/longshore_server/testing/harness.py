"""A server for tests: a real SQLite file, a clock that the test moves, and crashes where the test wants them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import longshore_client
from longshore_client.credentials import Token
from longshore_server.auth.identity import Principal, capabilities_problem, name_problem
from longshore_server.clock import SECOND
from longshore_server.config import Config
from longshore_server.contract import loading
from longshore_server.server import Running, Server
from longshore_server.store.database import outlives_power
from longshore_server.testing.client import LocalClient
from longshore_server.testing.clock import ManualClock
from longshore_server.testing.crash import Crash, When
from longshore_server.testing.port import LocalChannel, Port
from longshore_server.testing.reservation import Reservation
from longshore_server.testing.rest import at_rest

ClientT = TypeVar("ClientT")

OWN: Final = object()
"""In the place of services: those of the server's own lifespan."""


class Harness:
    """One server on one data directory, through any number of starts.

    It is reached without a network by `client`, `connect` and `channel`, and over one at `address`.

    Args:
        server: what to serve.
        data: a directory of the test's own.
        clock: default a `ManualClock`.
        services: what handlers get as `op.services`, in place of what the server's lifespan yields; that is not run
            then. Default: the lifespan.
        settings: further fields of `Config`.
    """

    def __init__(self, server: Server, data: Path, *, clock: Any = None, services: Any = OWN, **settings: Any) -> None:
        self.clock = clock or ManualClock()
        self.server = server
        # Seeded, so that a test meets the same delays between attempts every time.
        self._chance = random.Random(0).random  # noqa: S311
        self._services = services
        defaults: dict[str, Any] = {"listen": ("127.0.0.1:0",), "metrics": "", "drain": 0.0}
        self._config = dataclasses.replace(Config(data=data), **{**defaults, **settings})
        self._running: Running | None = None
        self._reserved: list[Reservation] = []
        self._port = Port(self.clock)
        self._clients: dict[tuple[Principal | None, Token | None], longshore_client.Channel] = {}
        self._crash: Crash | None = None
        self._told_apart = False

    # Its life.

    @property
    def running(self) -> Running:
        """The server that runs now. Raises `RuntimeError` when none does."""
        if self._running is None:
            raise RuntimeError("the server does not run")
        return self._running

    @property
    def address(self) -> str:
        """Where it listens. The same over all starts of one harness."""
        return self.running.addresses[0]

    def configure(self, **settings: Any) -> None:
        """Change fields of `Config`, from the next start on. Raises `ConfigError`."""
        self._config = dataclasses.replace(self._config, **settings)

    async def start(self) -> None:
        """Start, or start again on the same address and the same data."""
        self.configure(listen=tuple(map(self._fixed, self._config.listen)))
        running = Running(self.server, self._config, self.clock, self._chance)
        with self._stand_ins():
            await running.start()
        self._running = running
        if self._crash is not None:
            self._crash.arm(running.engine.store.writer)
        self._port.open(running.listener)

    async def stop(self) -> None:
        """Stop in good order. Repeatable."""
        if self._running is not None:
            running, self._running = self._running, None
            if self._crash is not None:
                self._crash.disarm()
            await running.stop()
            self._port.close()

    async def crash(self) -> None:
        """Stop as SIGKILL would, as far as one process can: nothing further is written, handlers just end.

        Calls under way see their connection break. What was being committed at this moment is on the disk or not: for
        a test that always sees the same, `settle` before, or let `crash_after` say when.
        """
        await self._die().abandon()

    async def crash_and_restart(self) -> None:
        """`settle`, `crash`, `start`, and `settle` again: every handler has gone as far as it can, both times."""
        await self.settle()
        await self._revive(self._die())
        await self.settle()

    async def restart(self) -> None:
        """`stop`, then `start`, then `settle`."""
        await self.stop()
        await self.start()
        await self.settle()

    def crash_after(self, *, commits: int = 1, when: When | None = None) -> Crash:
        """Have the server die right after a change is durable and before anybody hears of it, and start again.

        From here on each change is committed alone. Callers of this process go on with the next server.

        Args:
            commits: after how many of the changes that `when` takes, counted from now.
            when: which changes count. Default: all. They are those of `longshore_server.store.mutations`.

        Raises:
            ValueError: `commits` is less than 1.
            RuntimeError: the server does not run, or is to crash already.
        """
        writer = self.running.engine.store.writer
        if self._crash is not None and not self._crash.over:
            raise RuntimeError("a crash is planned already: await it, or cancel it")
        self._crash = Crash(commits, when, lambda: self._revive(self._die()))
        self._crash.arm(writer)
        return self._crash

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Harness]:
        """Started inside the block, stopped after it, and nothing that was made here is left open."""
        await self.start()
        try:
            yield self
        finally:
            if self._crash is not None and self._crash.under_way:
                await self._crash
            await self.stop()
            for client in self._clients.values():
                await client.close()
            self._clients.clear()

    # Its callers.

    def client(
        self, kind: Callable[[longshore_client.Channel], ClientT], *, principal: str | None = None,
        capabilities: Collection[str] = (), token: Token | None = None,
    ) -> ClientT:  # fmt: skip
        """A generated client of this process, for example `client(OrdersClient)`. Arguments and errors are those of
        `connect`; equal ones share a channel, which ends with `serve`."""
        caller = self._caller(principal, capabilities)
        channel = self._clients.get((caller, token))
        if channel is None:
            channel = self._clients[caller, token] = LocalClient(self._port, caller, token=token)
        return kind(channel)

    def connect(
        self, *, principal: str | None = None, capabilities: Collection[str] = (), token: Token | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> longshore_client.Channel:  # fmt: skip
        """A channel of the client library to this server, without a network.

        Args:
            principal: who makes the calls, whatever the server's authenticators say. Default: as over a network, which
                is who `token` says or, without authentication, the local principal, who may do everything.
            capabilities: what `principal` may do.
            token: sent with every call, for servers with authenticators.
            metadata: sent with every call.

        Raises:
            ValueError: The name or a capability cannot be one, or there are capabilities of nobody.
            ContractError: The contracts cannot be served to callers who are told apart: a method says nothing of who
                may call it, for example.
        """
        return LocalClient(self._port, self._caller(principal, capabilities), token=token, metadata=metadata)

    def channel(self, *, principal: str | None = None, capabilities: Collection[str] = ()) -> LocalChannel:
        """A channel of `grpc.aio` to this server, without a network, for stubs that protoc makes. Arguments and errors
        are those of `connect`."""
        return LocalChannel(self._port, self._caller(principal, capabilities))

    # Its time.

    async def settle(self) -> None:
        """Return once everything has gone as far as it can without the clock: every change is committed and visible,
        no handler, no call and no task of this event loop can go on.

        Who waits for the clock, a caller, a network, a thread of its own or the machine's time is not waited for.

        Raises:
            RuntimeError: The event loop does not come to rest, or is none of asyncio's own.
        """
        while True:
            await at_rest(self._running.engine.store if self._running is not None else None)
            if self._crash is None or not self._crash.under_way:
                return
            await self._crash

    async def advance(
        self, seconds: float = 0.0, *, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0
    ) -> None:
        """Move the clock forward, and let everything happen that is due on the way, each at its time.

        The clock stops at every time at which a timer is due; all that are due then fire in the order in which they
        were set, and what follows from them is over (`settle`) before it goes on.

        Raises:
            TypeError: One of these is no number.
            ValueError: The time is negative, or has no end.
            RuntimeError: As for `settle`.
        """
        for unit, count in {"seconds": seconds, "minutes": minutes, "hours": hours, "days": days}.items():
            if not isinstance(count, int | float):
                raise TypeError(
                    f"{unit}: {count!r} is no number: write advance(90) for 90 seconds, advance(minutes=5), hours= or"
                    " days="
                )
            if not math.isfinite(count):
                raise ValueError(f"{unit}: {count!r} is no time that the clock can be moved by")
        span = seconds + 60 * minutes + 3600 * hours + 86_400 * days
        if span < 0:
            raise ValueError(f"the clock would go back by {-span:g} s")
        await self._advance_to(self.clock.now() + round(span * SECOND))

    async def advance_to(self, when: datetime) -> None:
        """`advance` to a time.

        Raises:
            TypeError: It is none.
            ValueError: The time is past, or has no zone.
            RuntimeError: As for `settle`.
        """
        if not isinstance(when, datetime):
            raise TypeError(f"{when!r} is no datetime: `advance` moves the clock by a number of seconds")
        if when.tzinfo is None:
            raise ValueError(f"{when} has no zone: give datetime a tzinfo")
        target = round(when.timestamp() * SECOND)
        if target < self.clock.now():
            raise ValueError(f"the clock would go back: {when} is past")
        await self._advance_to(target)

    async def _advance_to(self, target: int) -> None:
        await self.settle()
        while (due := self.clock.next_timer) is not None and due <= target:
            self.clock.advance_to(due)
            await self.settle()
        self.clock.advance_to(target)

    def _caller(self, principal: str | None, capabilities: Collection[str]) -> Principal | None:
        if principal is None:
            if capabilities:
                raise ValueError("capabilities belong to somebody: say whose, with principal=")
            return None
        if isinstance(capabilities, str):
            raise TypeError(f"capabilities: {capabilities!r} is a text; write [{capabilities!r}]")
        problem = name_problem(principal) or capabilities_problem(list(capabilities))
        if problem is not None:
            raise ValueError(f"{principal!r} cannot call: {problem}")
        if not self._told_apart:
            # A contract may leave unsaid who may call it as long as nobody is told apart.
            loading.load(
                self.server.services, default_timeout=int(self._config.default_timeout * SECOND), authenticated=True,
                stores=self.running.stores,
            )  # fmt: skip
            self._told_apart = True
        return Principal(principal, frozenset(capabilities), method="test")

    @contextlib.contextmanager
    def _stand_ins(self) -> Iterator[None]:
        """Inside the block the server has the test's services instead of its lifespan, and a file that is written
        without waiting for the disk."""
        own = self.server.lifespan
        token = outlives_power.set(False)
        if self._services is not OWN:
            self.server.lifespan = lambda _: contextlib.nullcontext(self._services)
        try:
            yield
        finally:
            outlives_power.reset(token)
            self.server.lifespan = own

    def _fixed(self, address: str) -> str:
        """Where to listen now and at every later start."""
        if address.startswith("unix:") or not address.endswith(":0"):
            return address
        self._reserved.append(Reservation(address))
        return self._reserved[-1].address

    def _die(self) -> Running:
        """In one step: from here on nothing is written, and no caller hears anything."""
        running, self._running = self.running, None
        self._port.close()
        running.engine.abandon()
        return running

    async def _revive(self, running: Running) -> None:
        await running.abandon()
        await self.start()
