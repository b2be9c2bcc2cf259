"""Bytes go up and come down through a proxy that breaks, to a server that is killed; then every object is compared.

`TORTURE_SEED` in the environment repeats a run: what the callers do, what the proxy breaks and when the server is
killed, not how these meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import re
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from longshore.v1 import operation_pb2
from longshore_server.config import Config
from tests.conftest import reason_of_end
from tests.faults import carried
from tests.faults.carrying import Body, Carrier, History, State, Told, result_of
from tests.faults.places import Bucket, Folder, Place
from tests.faults.process import HERE, ServerProcess
from tests.faults.stored import uid_text
from tests.proxy import Damage, How, Proxy, always
from tests.server.transfers.buckets import LocalS3, local_s3

Ended = operation_pb2.OperationSnapshot.State
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
Moment = float | int | Callable[[], Coroutine[object, object, None]]
COMMITTED = ("commit", "twice", "preempt", "lend")


class Torturer:
    """One run: a server, what stands before it, its callers, and the moments at which it dies."""

    def __init__(self, data: Path, seed: str, most: int, place: Place) -> None:
        """`most`: about how many bytes a connection lives for, at most."""
        self.place = place
        self.server = ServerProcess(data, "--drain", "0.5", *place.flags(data), service=HERE / "carried.py")
        self.history = History()
        self.peak = 0
        self.kills = 0
        self._over = asyncio.Event()
        self.rng = random.Random(seed)
        plans = random.Random(f"{seed}/proxy")

        def damage() -> Damage | None:
            after = int(KIB * math.exp(plans.random() * math.log(most / KIB)))
            return Damage(plans.choice(list(How)), after, plans.random() < 0.3) if plans.random() < 0.8 else None

        self.proxy = Proxy(self.server.address, always(damage))

    async def kill(self) -> None:
        """SIGKILL, and a successor that serves."""
        self._remember()
        await self.server.kill()
        self.kills += 1
        await self.server.start()

    async def run(self, uploads: Sequence[Sequence[Told]], kills: Sequence[Moment], limit: float) -> None:
        """Do all of it, in `limit` seconds at the usual pace of servers.

        Args:
            uploads: by caller, one after the other.
            kills: after so many bytes were sent (int), so many seconds after the last one (float; more where servers
                are slow: in one life they have to get through what each begins anew), or when it says.
        """
        await self.server.start()
        async with self.proxy, asyncio.timeout(limit * self.server.pace):
            releasing = asyncio.create_task(self._release())
            killing = asyncio.create_task(self._kill(kills))
            try:
                await asyncio.gather(*(self._carry(each) for each in uploads))
                self._over.set()
                await killing
            except asyncio.CancelledError:
                print("\n".join([*self.history.wrong[:20], *self.server.said[-30:]]))
                raise
            finally:
                for helper in (releasing, killing):
                    helper.cancel()
                await asyncio.gather(releasing, killing, return_exceptions=True)
        self._remember()
        assert await self.server.stop() == 0, "\n".join(self.server.said[-50:])
        await self._collect()

    async def _collect(self) -> None:
        """What a server has still to delete when it ends, the next one deletes."""
        config = Config(data=self.server.data, listen=(self.server.address,), metrics="", stores=self.place.stores)
        async with carried.server.run(config) as last:
            while task := last.engine.transfers.collector._task:
                await task

    async def _release(self) -> None:
        while True:
            await self.proxy.stalled.wait()
            self.proxy.stalled.clear()
            await asyncio.sleep(0.3)
            self.proxy.go_on()

    async def _kill(self, moments: Sequence[Moment]) -> None:
        for moment in moments:
            if isinstance(moment, int):
                await self.history.reached(moment)
            elif callable(moment):
                waiting = [asyncio.create_task(moment()), asyncio.create_task(self._over.wait())]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for each in waiting:
                    each.cancel()
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), moment * self.server.pace**0.5)
            if self._over.is_set():
                return
            await self.kill()

    def _remember(self) -> None:
        assert self.server.process is not None
        status = Path(f"/proc/{self.server.process.pid}/status").read_text("ascii")
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        self.peak = max(self.peak, int(found[1]) * KIB)

    async def _carry(self, uploads: Sequence[Told]) -> None:
        async with (
            Carrier(self.proxy.address, self.history) as one,
            Carrier(self.proxy.address, self.history) as other,
        ):
            for told in uploads:
                await one.start(told)
                await self._send(told, one, other)
                await one.end(told)
                assert told.end is not None
                if told.end.state == Ended.STATE_COMPLETED:
                    await one.fetch(told)
                if told.fate == "twice":
                    await one.commit(told)
                if told.fate == "lend":
                    await one.delete(told)

    async def _send(self, told: Told, one: Carrier, other: Carrier) -> None:
        sizes = [end - start for start, end in told.parts]
        match told.fate:
            case "commit" | "lend" | "rival" if len(sizes) == 1:
                await one.send(told, 0, sizes[0], commit=True)
            case "twice":
                await gather_parts(told, sizes, one, other)
                await asyncio.gather(one.commit(told), other.commit(told))
            case "preempt":
                stale = asyncio.create_task(other.send(told, 0, sizes[0], stale=True))
                await self.history.reached(self.history.sent + sizes[0] // 3)
                await asyncio.gather(stale, one.send(told, 0, sizes[0], commit=True))
            case "abort" | "cancel":
                sending = asyncio.create_task(one.send(told, 0, sizes[0]))
                await self.history.reached(self.history.sent + sizes[0] // 2)
                await (other.abort(told) if told.fate == "abort" else other.cancel(told))
                await sending
            case "lapse":
                await one.send(told, 0, sizes[0] // 2)
            case _:
                await gather_parts(told, sizes, one, other)
                await one.commit(told)


async def gather_parts(told: Told, sizes: Sequence[int], *carriers: Carrier) -> None:
    """Send all parts at the same time, over several connections."""
    await asyncio.gather(
        *(carriers[part % len(carriers)].send(told, part, size) for part, size in enumerate(sizes))
    )  # fmt: skip


def judge(torturer: Torturer) -> None:
    """Hold what is stored against what the callers were told."""
    history, server = torturer.history, torturer.server
    wrong, counts = history.wrong, history.counts
    with server.database() as database:
        assert [row[0] for row in database.execute("PRAGMA integrity_check")] == ["ok"]
        rows = {uid_text(row["uid"]): row for row in database.execute("SELECT * FROM uploads")}
        running = database.execute("SELECT count(*) FROM operations WHERE ended IS NULL").fetchone()[0]
        garbage = database.execute("SELECT count(*) FROM garbage").fetchone()[0]
    objects = torturer.place.objects(server.data)
    if running or garbage:
        wrong.append(f"{running} operations have not ended, {garbage} objects wait to be deleted")
    if left := torturer.place.left(server.data):
        wrong.append(f"left: {left}")
    expected = set()
    for told in history.uploads:
        counts[f"uploads: {told.fate}"] += 1
        row, end = rows.get(told.uid), told.end
        assert end is not None
        if any(grant.digests.sha256 != told.body.sha256.digest() for grant in told.grants):
            wrong.append(f"{told.name}: committed with another digest")
        if told.fate == "lend":
            if row is not None:
                wrong.append(f"{told.name}: its operation was deleted, and it is there")
        elif row is None:
            wrong.append(f"{told.name} is lost")
            continue
        if told.fate in COMMITTED or (row is not None and row["state"] == State.STATE_COMMITTED):
            if end.state != Ended.STATE_COMPLETED or not told.grants:
                wrong.append(f"{told.name} {told.fate}: {MessageToDict(end)}")
            elif result_of(told).sha256 != told.body.sha256.hexdigest():
                wrong.append(f"{told.name}: its handler got other bytes")
        elif told.fate == "cancel":
            if end.state != Ended.STATE_CANCELLED:
                wrong.append(f"{told.name} was cancelled, and ended as {end.state}")
        elif row is not None and (end.state != Ended.STATE_FAILED or reason_of_end(end) != row["reason"]):
            wrong.append(f"{told.name} {told.fate} ended as {end.state}, its upload with {row['reason']!r}")
        if row is not None and row["state"] == State.STATE_COMMITTED:
            expected.add(told.key)
            sha256 = objects.get(told.key, "none")
            counts["bytes compared"] += told.body.size
            if sha256 != told.body.sha256.hexdigest():
                wrong.append(f"{told.name} of {told.body.size} bytes is another object: {sha256}")
    if set(objects) != expected:
        wrong.append(f"the objects are {set(objects) ^ expected} too many or too few")
    if torturer.peak > torturer.place.memory:
        wrong.append(f"the server has had {torturer.peak // MIB} MiB")
    counts["kills"] = torturer.kills
    counts["connections"] = torturer.proxy.connections
    counts["MiB sent"] = history.sent // MIB
    counts["most MiB of the server"] = torturer.peak // MIB
    for how, count in torturer.proxy.counts.items():
        counts[f"connections: {how.value}"] = count
    print("\n".join(f"{name:>46} {count:>14,}" for name, count in sorted(counts.items())))
    assert not wrong, f"{len(wrong)} findings:\n" + "\n".join(wrong[:40])


def upload(seed: str, number: int, size: int, fate: str = "commit", parts: int = 1, chunk: int = 256 * KIB) -> Told:
    """What one caller is to do."""
    id = f"{seed}-{number}"
    cuts = random.Random(f"{id}/parts")
    splits = tuple(sorted(cuts.randint(0, size) for _ in range(parts - 1)))
    type = {"lend": "Lend", "lapse": "Lapse", "rival": "Lapse"}.get(fate, "Carry")
    # Two rivals that follow one another want the same key.
    key = f"r/{number // 2}" if fate == "rival" else f"{number % 7}/{number}"
    return Told(id, key, Body(id, size), type, splits, fate, chunk)


def seeded() -> str:
    seed = os.environ.get("TORTURE_SEED") or f"{time.time_ns():x}"
    print(f"\nTORTURE_SEED={seed}")
    return seed


@pytest.mark.timeout(900)
async def test_no_byte_is_lost_in_a_few_kills(tmp_path: Path) -> None:
    """The short form. The server dies by how much has been sent, so that it always dies amid uploads."""
    seed = seeded()
    plan: list[list[tuple[Any, ...]]] = [
        [(0, "commit"), (3 * MIB, "commit", 3)],
        [(1, "commit"), (6 * MIB, "preempt")],
        [(64 * KIB, "twice"), (4 * MIB, "abort")],
        [(5 * MIB, "twice"), (64 * KIB + 1, "lend")],
        [(3 * MIB, "cancel"), (2 * MIB, "lapse")],
        [(2 * MIB, "rival"), (16 * MIB, "commit", 1, MIB)],
        [(2 * MIB, "rival"), (2 * MIB, "lend", 2, 1000)],
    ]
    total = sum(each[0] for uploads in plan for each in uploads)
    torturer = Torturer(tmp_path, seed, 4 * MIB, Folder())
    uploads = [
        [upload(seed, turn * 10 + caller + 1, *each) for turn, each in enumerate(line)]
        for caller, line in enumerate(plan)
    ]
    began = time.monotonic()
    try:
        await torturer.run(uploads, [total * part // 10 for part in (1, 3, 5, 7)], 60)
    finally:
        await torturer.server.close()
    print(f"{time.monotonic() - began:.1f} s")
    judge(torturer)
    assert torturer.kills == 4


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalS3]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with local_s3() as found:
        yield found


@pytest.mark.timeout(900)
async def test_no_byte_is_lost_on_its_way_to_s3(tmp_path: Path, s3: LocalS3) -> None:
    """The server dies amid uploads, and amid pushes in parts, which the next one goes on with."""
    seed, loop, arrived = seeded(), asyncio.get_running_loop(), asyncio.Event()
    s3.on_part = lambda: loop.call_soon_threadsafe(arrived.set)

    async def pushing() -> None:
        arrived.clear()
        await arrived.wait()

    # One large one after the other: while one begins none is killed.
    large: list[tuple[Any, ...]] = [(34 * MIB, "commit"), (26 * MIB, "twice", 3), (18 * MIB, "lend")]
    plan: list[list[tuple[Any, ...]]] = [
        large,
        [(0, "commit"), (64 * KIB, "preempt"), (3 * MIB, "abort"), (5 * MIB, "commit")],
        [(2 * MIB, "rival"), (1, "twice")],
        [(2 * MIB, "rival"), (MIB, "cancel"), (2 * MIB, "lapse")],
    ]
    torturer = Torturer(tmp_path / "data", seed, 16 * MIB, Bucket(s3))
    uploads = [
        [upload(seed, turn * 10 + caller, *each) for turn, each in enumerate(line)] for caller, line in enumerate(plan)
    ]
    try:
        await torturer.run(uploads, [5 * MIB, pushing, pushing, pushing], 120)
    finally:
        await torturer.server.close()
    judge(torturer)
    assert torturer.kills >= 2
    assert s3.begun == len(large), "a push was begun anew"


@pytest.mark.torture
@pytest.mark.timeout(900)
async def test_no_byte_is_lost_of_a_gibibyte(tmp_path: Path) -> None:
    """The long form: up to 1 GiB, in one part and in eight, and what chance brings."""
    seed = seeded()
    rng = random.Random(seed)
    fates = ["commit", "twice", "preempt", "lend", "abort", "cancel", "lapse"]

    def some() -> tuple[Any, ...]:
        size = rng.choice([0, 1, 64 * KIB, 64 * KIB + 1, MIB, rng.randrange(8 * MIB), rng.randrange(64 * MIB)])
        fate = rng.choice(fates) if size > MIB else rng.choice(["commit", "twice", "lend"])
        return size, fate, rng.choice([1, 1, 2, 5]) if fate in ("commit", "twice", "lend") else 1

    plan: list[list[tuple[Any, ...]]] = [[(GIB, "commit")], [(GIB // 2, "twice", 8)]]
    plan += [[some() for _ in range(45)] for _ in range(5)]
    uploads = [
        [upload(seed, turn * 10 + caller, *each) for turn, each in enumerate(line)] for caller, line in enumerate(plan)
    ]
    # Chance decides how often these meet: a run that has seen less has seen too little.
    enough = {"kills": 10, "uploads gone on with": 40, "downloads gone on with": 5, "UPLOAD_PREEMPTED": 5}
    torturer = Torturer(tmp_path, seed, 64 * MIB, Folder())
    began = time.monotonic()
    try:
        await torturer.run(uploads, [rng.uniform(0.3, 4.0) for _ in range(200)], 600)
    finally:
        await torturer.server.close()
    print(f"{time.monotonic() - began:.1f} s")
    judge(torturer)
    too_little = {
        name: torturer.history.counts[name] for name, least in enough.items() if torturer.history.counts[name] < least
    }
    assert not too_little, f"too little was seen: {too_little}, wanted {enough}"
