"""docs/guides/cancellation.md, done as it says: compiled, served, called, stopped, and cancelled by its provider."""

from __future__ import annotations

import ast
import asyncio
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import longshore_client as lc
from longshore_client.codegen.compile import compile_protos
from longshore_server.testing import Harness
from tests.conftest import Lab, State
from tests.tooling.test_guides_of_ends import Guide, blocks

CONTRACT, SERVICE, CLIENT, PRINTED, SHELL, GRPCURL, PROVIDER = blocks("cancellation.md")
STAND_IN = f"{sys.executable} {Path(__file__).with_name('grpcurl.py')}"


async def test_it_prints_what_it_says(tmp_path: Path) -> None:
    guide = Guide(tmp_path, CONTRACT, SERVICE)
    async with guide.served():
        assert await guide.run(CLIENT) == PRINTED.text


async def test_its_commands_cancel(tmp_path: Path) -> None:
    guide = Guide(tmp_path, CONTRACT, SERVICE)
    async with guide.served():
        said = await guide.shell("; ".join([*SHELL.commands, "longshore wait $NAME; echo exit $?"]))
        assert said.endswith("is asked to cancel: CANCELLING\nexit 3\n")
        assert len(GRPCURL.commands) == 2
        for command in GRPCURL.commands:
            name = (await guide.shell("longshore call LedgersService/Export -d '{\"pages\": 1000000}'")).strip()
            await guide.shell(_here(command.replace("operations/NAME", name)))
            assert await guide.shell(f"longshore wait {name}; echo exit $?") == "exit 3\n"
            get = f'grpcurl -plaintext -d \'{{"name":"{name}"}}\' localhost:50051 '
            operation = json.loads(await guide.shell(_here(f"{get} google.longrunning.Operations/GetOperation")))
            assert (operation["done"], operation["error"]["code"]) == (True, 1)


def _here(command: str) -> str:
    """With the address of the server, and the stand-in for grpcurl."""
    return command.replace("localhost:50051", "$LONGSHORE_SERVER").replace("grpcurl", STAND_IN, 1)


async def test_a_stop_of_the_server_is_no_reason_to_undo_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = tmp_path / "protos" / "acme" / "ledgers" / "v1" / "ledgers.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text(CONTRACT.text)
    compile_protos([tmp_path / "protos"], tmp_path / "out", stubs="none")
    monkeypatch.syspath_prepend(tmp_path / "out")
    module = types.ModuleType("guide")
    exec(SERVICE.text, vars(module))
    server, files = vars(module)["server"], vars(module)["files"]
    from acme.ledgers.v1.ledgers_longshore import LedgersClient  # type: ignore[import-not-found]
    from acme.ledgers.v1.ledgers_pb2 import ExportRequest  # type: ignore[import-not-found]

    async def under_way(export: Any) -> None:
        async for event in export.watch(types=[lc.Progress], conflate=True):
            if isinstance(event, lc.Progress):
                return

    async with Harness(server, tmp_path / "data").serve() as harness, lc.connect(harness.address) as channel:
        export = await LedgersClient(channel).export(ExportRequest(pages=1_000_000))
        await under_way(export)
        await harness.stop()
        assert len(files) == 1
        await harness.start()
        await export.cancel()
        with pytest.raises(lc.OperationCancelled):
            await export.wait()
        assert not files
        assert (await export.get()).attempt == 2


async def test_the_provider_cancels_whatever_the_contract_allows_callers(lab: Lab) -> None:
    @lab.plays
    async def handler(request: Any, op: Any) -> None:
        await op.cancelled.wait()
        raise asyncio.CancelledError

    name = (await lab.begin("PlayThrough")).operation.name
    await lab.reached(name, "started")
    code = compile(PROVIDER.text, "cancellation.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(code, {"server": lab.server, "name": name})
    snapshot = await lab.end(name)
    assert (snapshot.state, snapshot.error.message) == (State.STATE_CANCELLED, "the ledger is closed")
