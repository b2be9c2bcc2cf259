"""Bytes sent and fetched through google.bytestream, by a client in Go of what stock protoc plugins write."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from lab.v1.lab_pb2 import PlayResult

from longshore_client.codegen.export import export_protos
from tests.polyglot import clients
from tests.server.transfers.bytes_service import BytesLab
from tests.server.transfers.fetching import pattern

SOURCE = Path(__file__).with_name("go")
SIZE = (5 << 20) + 7

pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="needs go"),
    # The first build takes its time.
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def client() -> Path:
    """The client, built."""
    place = clients.TOOLS / "bytestream"
    shutil.copytree(SOURCE, place, dirs_exist_ok=True)
    export_protos([clients.ROOT / "protos"], place / "protos")
    # The Go packages of the others are modules of their own.
    return clients.build_go(place, "google/bytestream")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[BytesLab]:
    found = BytesLab(tmp_path / "data")
    await found.start()
    yield found
    await found.stop()


async def test_a_client_in_go_sends_and_fetches_by_bytestream(client: Path, lab: BytesLab, tmp_path: Path) -> None:
    sent, offered = pattern(SIZE), pattern(SIZE + 1)[::-1]
    (tmp_path / "sent").write_bytes(sent)

    @lab.plays
    async def handler(request: Any, op: Any) -> PlayResult:
        if request.key != "offered":
            await op.transfer.completed()
        return PlayResult()

    await lab.server.stores["exports"].put("offered", offered)
    process = await asyncio.create_subprocess_exec(
        client, lab.harness.address, tmp_path / "sent", "offered", stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    outcomes: dict[str, Any] = json.loads(out)
    written, read = outcomes["Write"], outcomes["Read"]
    assert SIZE // 3 <= written["resumed"] <= 2 * SIZE // 3
    assert written["refused"] == "WRONG_OFFSET"
    assert written["committed"] == str(written["resumed"])
    assert (written["size"], written["sha256"]) == (SIZE, hashlib.sha256(sent).hexdigest())
    assert (lab.data / "stores" / "uploads" / "by" / "write").read_bytes() == sent
    assert 0 < read["resumed"] < len(offered)
    assert (read["size"], read["sha256"]) == (len(offered), hashlib.sha256(offered).hexdigest())
