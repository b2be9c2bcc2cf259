"""A server that is killed at each point on an upload's way to its place, and what its successor makes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from longshore.v1 import operation_pb2
from tests.faults.carried import POINTS
from tests.faults.carrying import Body, Carrier, History, State, Told, result_of
from tests.faults.process import HERE, ServerProcess, Supervisor

Ended = operation_pb2.OperationSnapshot.State
FIRST = 100_000
"""How many bytes of each part are acknowledged before the process dies."""
PARTED = {"in the join of parts", "joined, not committed"}
WHOLE = {"complete, digests not known"}
OF_BOTH = set(POINTS) - PARTED - WHOLE
CASES = sorted([(point, 1) for point in OF_BOTH | WHOLE] + [(point, 3) for point in OF_BOTH | PARTED])


@pytest.mark.parametrize(("point", "parts"), CASES)
async def test_killed_when(tmp_path: Path, point: str, parts: int) -> None:
    """Nothing that was acknowledged is lost, the object is what was sent, and of the upload no file is left."""
    data, armed = tmp_path / "data", tmp_path / "armed"
    server = deadly(data, point, armed)
    body = Body(point, 1_000_000)
    told = Told("only", "a/b/c", body, splits=(300_000, 600_000) if parts > 1 else (), chunk=64 << 10)
    history = History()
    try:
        await server.start()
        async with Carrier(server.address, history) as caller:
            await caller.start(told)
            for part in range(parts):
                await caller.send(told, part, FIRST)
            before = told.durable.copy()
            assert before == dict.fromkeys(range(parts), FIRST)
            armed.touch()
            async with Supervisor(server) as supervisor:
                sizes = [end - start for start, end in told.parts]
                await asyncio.gather(*(caller.send(told, part, size) for part, size in enumerate(sizes)))
                await caller.commit(told)
                snapshot = await caller.end(told)
                await supervisor.restarts(1)
            await caller.fetch(told)
            await caller.commit(told)
        assert await server.stop() == 0
    finally:
        await server.close()
    assert history.wrong == []
    assert snapshot.state == Ended.STATE_COMPLETED, snapshot
    assert snapshot.upload.state == State.STATE_COMMITTED
    assert result_of(told).sha256 == body.sha256.hexdigest()
    assert left(data) == {"a/b/c": body.read(0, body.size)}
    with server.database() as database:
        kinds = [row["body"] for row in database.execute("SELECT body FROM events ORDER BY sequence")]
    events = [operation_pb2.OperationEvent.FromString(kind) for kind in kinds]
    done = [event for event in events if event.HasField("transfer") and event.transfer.upload.digests.sha256]
    assert len(done) == 1, "the end of the upload is told once"


def deadly(data: Path, point: str, armed: Path) -> ServerProcess:
    """A server whose process dies at a point, once it is armed."""
    environment = {"FAULTS_POINT": point, "FAULTS_ARMED": str(armed)}
    return ServerProcess(data, "--drain", "0.5", service=HERE / "carried.py", environment=environment, warm=True)


def left(data: Path) -> dict[str, bytes]:
    """The objects; fails the test where anything else is left of uploads."""
    root = data / "stores" / "uploads"
    own = root / ".longshore"
    for folder in (own / "staging", own / "incoming"):
        assert list(folder.iterdir()) == []
    files = [path for path in root.rglob("*") if path.is_file() and own not in path.parents]
    assert len(list((own / "meta").iterdir())) == len(files)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.parametrize("fate", ["abort", "cancel"])
async def test_killed_when_given_up_and_not_cleared(tmp_path: Path, fate: str) -> None:
    """Its bytes go with the next start."""
    data, armed = tmp_path / "data", tmp_path / "armed"
    armed.touch()
    server = deadly(data, "finished, not cleared", armed)
    told, history = Told("only", "key", Body("any", 300_000), fate=fate), History()
    try:
        await server.start()
        async with Carrier(server.address, history) as caller, Supervisor(server) as supervisor:
            await caller.start(told)
            await caller.send(told, 0, FIRST)
            await (caller.abort(told) if fate == "abort" else caller.cancel(told))
            snapshot = await caller.end(told)
            await supervisor.restarts(1)
            grant = await caller.query(told)
        assert (grant.state, grant.reason) == (State.STATE_FAILED, "UPLOAD_ABORTED")
        assert snapshot.state == (Ended.STATE_FAILED if fate == "abort" else Ended.STATE_CANCELLED)
        assert await server.stop() == 0
    finally:
        await server.close()
    assert history.wrong == []
    assert left(data) == {}
