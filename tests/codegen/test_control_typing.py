"""What the type checker says about code that drives operations: a handler passed along gives the control its types."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = """
from __future__ import annotations
import asyncio
from typing import Any, assert_type
from google.protobuf.empty_pb2 import Empty
from lab.v1.control_longshore import ControlService, JudgeOperation
from lab.v1.control_pb2 import Hearing, Verdict
from lab.v1.lab_longshore import FireOperation, LabService, PlayOperation
from lab.v1.lab_pb2 import PlayProgress, PlayRequest, PlayResult
from longshore_server import OperationControl, Server

class Lab(ControlService):
    async def judge(self, request: PlayRequest, op: JudgeOperation) -> Verdict:
        if request.count:
            return await op.attach(work())
        return await op.defer()

async def fire(op: FireOperation) -> None:
    if op.attempt:
        return await op.attach(asyncio.sleep(0))
    return await op.defer()

async def work() -> Verdict | None: ...

async def right(server: Server, keep: OperationControl[PlayOperation]) -> None:
    play = await server.operations.control("operations/x", LabService.play)
    assert_type(await play.input(), PlayRequest)
    await play.progress(PlayProgress())
    await play.complete(PlayResult())
    judge = await server.operations.control("operations/x", ControlService.judge)
    await judge.output(Hearing())
    await judge.attach(work())
    await (await server.operations.control("operations/x", LabService.fire)).complete()
    keep = await server.operations.accept(LabService.play, PlayRequest())
    anything = await server.operations.control("operations/x")
    await anything.complete(Verdict())
    keep = anything

async def wrong(server: Server) -> None:
    play = await server.operations.control("operations/x", LabService.play)
    await play.progress(PlayResult())  # wrong
    await play.complete(PlayProgress())  # wrong
    await play.complete()  # wrong
    judge = await server.operations.control("operations/x", ControlService.judge)
    await judge.complete(PlayResult())  # wrong
    await judge.attach(asyncio.sleep(0, PlayResult()))  # wrong
    await server.operations.accept(LabService.play, PlayResult())  # wrong
    await server.operations.control("operations/x", Server.run)  # wrong

class Wrong(ControlService):
    async def judge(self, request: PlayRequest, op: JudgeOperation) -> Verdict:
        return await op.attach(asyncio.sleep(0, PlayResult()))  # wrong
"""


def test_a_wrong_message_is_an_error_where_the_handler_is_passed_along(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(CODE)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {int(number) for number in re.findall(rf"^{re.escape(str(file))}:(\d+): error:", done.stdout, re.MULTILINE)}
    wanted = {number for number, line in enumerate(CODE.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wanted, done.stdout + done.stderr
